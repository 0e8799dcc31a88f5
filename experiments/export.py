"""Write a run's policy as files to take away: model.safetensors, config.json and model.onnx.

python experiments/export.py RUN_DIR hopper/
python experiments/export.py RUN_DIR hopper/ --checkpoint best --greedy median

`rlzoo.load_policy("hopper/")` plays them in PyTorch (agents of Stable-Baselines3 with `agents=PLAYABLE` of
experiments.suites); any ONNX runtime plays model.onnx, whose metadata say what goes in and comes out. In
both, observations and actions are in the task's own units. Nothing is written before the ONNX model has been
compared with PyTorch on random observations.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import statistics
import timeit
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from experiments.runner.experiment import read_config
from experiments.suites import PLAYABLE
from rlzoo.actions import ActionRange
from rlzoo.errors import UserError
from rlzoo.policy import WEIGHTS_FILE, Policy, load_policy
from rlzoo.run.cli import parse_flags, run_main
from rlzoo.run.extras import load_extra
from rlzoo.run.files import check_writable
from rlzoo.run.folder import CONFIG_FILE, EXPORT_FILE
from rlzoo.run.machine import tune_cpu
from rlzoo.settings import Settings
from rlzoo.types import Array, FloatArray, Spaces

MODEL_FILE = "model.onnx"
TOLERANCE = 1e-4  # of logits, and of actions in units of half their range
LOGIT_ROWS = 32
BATCHES = (1, 5, 122)  # rows of the random observations that are compared
NEEDED = ("onnx", "onnxscript", "onnxruntime")
Run = Callable[..., list[Array]]  # an ONNX model: its inputs by name -> its outputs


@dataclasses.dataclass(frozen=True)
class Request(Settings):
    """What to export, and where to."""

    run: tyro.conf.Positional[Path]
    """Folder of a run."""
    output: tyro.conf.Positional[Path]
    """Folder to write to; an earlier export in it is replaced."""
    checkpoint: Literal["latest", "best"] = "latest"
    """The agent as the run left it, or at its best evaluation."""
    greedy: Literal["mode", "median"] | None = None
    """The action of an auto-regressive policy; None: what the run says."""


# ------------------------------------------------------------------------------------------------- graphs


class Graph(nn.Module):
    """A policy from the task's observations to its actions as one graph of tensors, float32 throughout."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.agent, obs = policy.agent, policy.scaling.obs
        zeros = torch.zeros(policy.spaces.state_dim)
        self.register_buffer("mean", zeros if obs is None else torch.from_numpy(obs.mean))
        self.register_buffer("std", zeros + 1 if obs is None else torch.from_numpy(obs.std))
        self.ranges = [each for each in (policy.scaling.action, policy.interface.actions) if each is not None]
        self.limits = policy.interface.limits

    def observe(self, state: Tensor, frames: Tensor | None = None) -> dict[str, Tensor]:
        """States [B, S] and frames u8 [B, F, V, C, H, W], oldest first, as the agent sees them."""
        obs = {"state": (state - self.mean) / self.std}
        return obs if frames is None else {**obs, "pixels": frames.transpose(1, 2).flatten(2, 3)}

    def forward(self, state: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The task's actions, and the agent's in [-1, 1], each [B, A]."""
        unit = action = self.agent.act(self.observe(state, frames), deterministic=True)
        for each in self.ranges:
            low, high = _bounds(each)
            action = (action * ((high - low) / 2) + (high + low) / 2).clamp(low, high)
        if self.limits is not None:
            action = action.clamp(*_bounds(self.limits))
        return action, unit


class Logits(nn.Module):
    """The logits behind a policy's actions, where these are sequences of codes."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.whole = Graph(policy)

    def forward(self, action: Tensor, state: Tensor, frames: Tensor | None = None) -> Tensor:
        """Actions [B, A] in [-1, 1] and observations -> [L, B, A, N]: see `Agent.code_logits`."""
        found = self.whole.agent.code_logits(self.whole.observe(state, frames), action)
        assert found is not None
        return found[0]


def _bounds(actions: ActionRange) -> tuple[Tensor, Tensor]:
    low, high = map(torch.as_tensor, actions.single)
    return low, high


def to_onnx(
    graph: nn.Module, inputs: Mapping[str, Tensor], outputs: list[str], *, any_rows: bool = True
) -> Any:
    """The graph as an ONNX model, for any number of rows or for as many as the example `inputs` have."""
    import onnx_ir.passes.common

    rows = torch.export.Dim("batch")
    shapes = tuple({0: rows} for _ in inputs) if any_rows else None
    with exporting(), torch.no_grad():
        program = torch.export.export(graph, tuple(inputs.values()), dynamic_shapes=shapes)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=shapes,
            verbose=False,
            optimize=False,
        )
        assert exported is not None
        # What every position of an unrolled loop computes anew; first, because it halves what is optimised.
        onnx_ir.passes.common.CommonSubexpressionEliminationPass()(exported.model)
        exported.optimize()
    model = exported.model_proto
    for node in model.graph.node:  # which lines of which files made each: as much again as all else
        node.ClearField("metadata_props")
    return model


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Without the exporter's remarks on what it skips and on packages that nothing here needs.

    Nor do distributions check their arguments' values, as in Stable-Baselines3's policies: no graph can.
    """
    logging.disable(logging.WARNING)
    checked = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(checked)
        logging.disable(logging.NOTSET)


# ------------------------------------------------------------------------------------------------- checks


def random_observations(policy: Policy, rows: int, seed: int) -> dict[str, Array]:
    """What the ONNX model takes, in the task's units: states as far spread as the data's, noise as images."""
    generator, spaces, obs = np.random.default_rng(seed), policy.spaces, policy.scaling.obs
    state = generator.standard_normal((rows, spaces.state_dim), np.float32)
    found: dict[str, Array] = {"state": state if obs is None else state * obs.std + obs.mean}
    if spaces.pixels is not None:
        frames = (rows, *frames_shape(spaces))
        found["frames"] = generator.integers(256, size=frames, dtype=np.uint8)
    return found


def as_tensors(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """The same names and values for PyTorch."""
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def frames_shape(spaces: Spaces) -> tuple[int, ...]:
    """[F, V, C, H, W] of the images that an agent sees at once."""
    assert spaces.pixels is not None
    views, channels, height, width = spaces.pixels
    return spaces.frame_stack, views, channels // spaces.frame_stack, height, width


def play(policy: Policy, inputs: dict[str, Array]) -> FloatArray:
    """The policy's actions [B, A] after it has seen the frames one by one."""
    policy.reset()
    if "frames" not in inputs:
        return policy.act(inputs["state"])
    for frame in inputs["frames"].swapaxes(0, 1):
        action = policy.act({"state": inputs["state"], "pixels": frame})
    return action


@dataclasses.dataclass
class Check:
    """What the comparison of ONNX and PyTorch came to.

    Attributes:
        action: the largest difference of actions, in halves of their range, but for rows at ties.
        logits: that of logits on forced prefixes, relative where they are above 1; None without codes.
        rows, ties: how many observations were compared, and at how many of them rounding decided a code.
    """

    action: float = 0.0
    logits: float | None = None
    rows: int = 0
    ties: int = 0


def compare(policy: Policy, run: Run) -> Check:
    """Compare ONNX with PyTorch on random observations, in batches of several sizes.

    Args:
        policy: in PyTorch.
        run: ONNX's action and the agent's own for what `random_observations` returns.
    """
    check, actions = Check(), policy.interface.actions
    half = (np.asarray(actions.high, np.float64) - actions.low) / 2
    for seed, rows in enumerate(BATCHES):
        inputs = random_observations(policy, rows, seed)
        action, unit = run(**inputs)
        apart = (np.abs(action - play(policy, inputs)) / np.where(half == 0, 1, half)).max(-1)  # [B]
        found = policy.agent.code_logits(Graph(policy).observe(**as_tensors(inputs)), torch.from_numpy(unit))
        if found is not None:
            at_ties = (apart > TOLERANCE) & is_chosen(*found, policy.rule).numpy()
            check.ties += int(at_ties.sum())
            apart[at_ties] = 0
        check.action = float(np.maximum(check.action, apart.max()))
        check.rows += rows
    return check


def compare_logits(policy: Policy) -> float | None:
    """The largest difference between ONNX's and PyTorch's logits on forced prefixes, relative above 1.

    The prefixes are those of sampled actions. None for an agent whose actions are no codes.
    """
    inputs = as_tensors(random_observations(policy, LOGIT_ROWS, seed=0))
    obs = Graph(policy).observe(**inputs)
    action = policy.agent.act(obs, deterministic=False)
    found = policy.agent.code_logits(obs, action)
    if found is None:
        return None
    inputs = {"action": action, **inputs}
    model = to_onnx(Logits(policy), inputs, ["logits"], any_rows=False)
    (logits,) = session(model.SerializeToString())(**{name: value.numpy() for name, value in inputs.items()})
    return float((torch.from_numpy(logits) - found[0]).abs().max() / found[0].abs().max().clamp(min=1))


def is_chosen(logits: Tensor, codes: Tensor, rule: str) -> Tensor:
    """Whether the rule chooses an action's codes, but for rounding of logits and probabilities: [B].

    Args:
        logits: [L, B, D, N], of each code after those before it.
        codes: the action's, [L, B, D].
        rule: "median"; any other stands for the codes with the largest logits.
    """
    taken = logits.gather(-1, codes[..., None])[..., 0]  # [L, B, D]
    if rule != "median":
        return (logits.amax(-1) - taken <= TOLERANCE * logits.abs().max().clamp(min=1)).all(2).all(0)
    probability = logits.softmax(-1)
    inside = probability.gather(-1, codes[..., None])[..., 0]
    below = probability.cumsum(-1).gather(-1, codes[..., None])[..., 0] - inside
    low, width = torch.zeros_like(inside[0]), torch.ones_like(inside[0])  # of the interval, in probability
    for level in range(len(codes)):
        low, width = low + width * below[level], width * inside[level]
    return ((low <= 0.5 + TOLERANCE) & (low + width >= 0.5 - TOLERANCE)).all(1)


# ------------------------------------------------------------------------------------------------- export


def export(policy: Policy, output: Path) -> Check:
    """Write the policy's three files, once the ONNX model has been compared with it.

    Raises:
        UserError: the model is not the same policy, or a file cannot be written.
    """
    import onnx

    inputs = as_tensors(random_observations(policy, 3, seed=0))
    model = to_onnx(Graph(policy), inputs, ["action", "unit_action"])
    check = compare(policy, session(model.SerializeToString()))
    check.logits = compare_logits(policy)
    if not (check.action <= TOLERANCE and (check.logits is None or check.logits <= TOLERANCE)):  # nor NaN
        logits = "" if check.logits is None else f", logits by {check.logits:.1e}"
        raise UserError(
            f"{MODEL_FILE} does not match the policy: actions differ by {check.action:.1e}{logits}, and "
            f"{TOLERANCE:g} is allowed; nothing was written"
        )
    del model.graph.output[1:]  # which the comparison alone needed
    onnx.helper.set_model_props(model, metadata(policy))
    policy.save(output, {MODEL_FILE: model.SerializeToString()})
    return check


def session(model: bytes | str) -> Run:
    """A function that runs an ONNX model, its bytes or its file, on arrays by name, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(**inputs: Array) -> list[Array]:
        outputs: list[Array] = found.run(None, inputs)
        return outputs

    return run


def metadata(policy: Policy) -> dict[str, str]:
    """What the ONNX model says of itself."""
    about, interface, spaces = policy.about, policy.interface, policy.spaces
    texts = {
        "agent": about["agent_name"],
        "task": about["task"],
        "step": about["step"],
        "observation": f"state f32 [batch, {spaces.state_dim}]: {interface.observation}",
        "action": f"f32 [batch, {spaces.action_dim}]: {interface.action}",
        "action_choice": policy.rule,
        "control_rate_hz": "unknown" if interface.control_rate is None else f"{interface.control_rate:g}",
        "agent_config": json.dumps(about["agent_config"]),
    }
    if spaces.pixels is not None:
        size = ", ".join(map(str, frames_shape(spaces)))
        texts["frames"] = (
            f"u8 [batch, {size}] (frames, cameras, colours, height, width): the latest, oldest first; where "
            "an episode is younger, its first one repeated"
        )
    return {name: str(text) for name, text in texts.items()}


def single_calls(run: Run, policy: Policy) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What acts on one observation: the ONNX model, and PyTorch."""
    inputs = random_observations(policy, 1, seed=0)
    observation = {"state": inputs["state"]}
    if "frames" in inputs:
        observation["pixels"] = inputs["frames"][:, 0]
    return lambda: run(**inputs), lambda: policy.act(observation)


def main() -> int:
    """Export, and say what was checked and how fast both are."""
    settings = parse_flags(Request, description=__doc__)
    tune_cpu()
    for package in NEEDED:
        load_extra(package, "export")
    torch.set_num_threads(1)
    policy = load_policy(
        settings.run, checkpoint=settings.checkpoint, greedy=settings.greedy, agents=PLAYABLE
    )
    if (settings.run / CONFIG_FILE).is_file():
        policy.about["settings"] = read_config(settings.run)  # with the suite, for `rlzoo evaluate`
    output = settings.output
    if output.is_dir() and any(output.iterdir()) and not (output / EXPORT_FILE).exists():
        raise UserError(f"{output} holds something else than an export: name another folder")
    check_writable(output / EXPORT_FILE)
    print("making the ONNX model; a loop over many codes takes a minute or two")
    torch.manual_seed(0)  # of the sampled actions whose logits are compared
    check = export(policy, output)
    about = policy.about
    print(f"{about['agent_name']} on {about['task']} at step {about['step']:,}, written to {output}")
    for name in (MODEL_FILE, WEIGHTS_FILE, EXPORT_FILE):
        print(f"  {name:<18} {(output / name).stat().st_size / 1e6:8.3f} MB")
    logits = "" if check.logits is None else f"logits on forced prefixes within {check.logits:.1e}, "
    ties = f", but for {check.ties} at ties" if check.ties else ""
    print(f"checked on {check.rows} observations: {logits}actions within {check.action:.1e}{ties}")
    calls = single_calls(session(str(output / MODEL_FILE)), load_policy(output, agents=PLAYABLE))
    times = [1000 * statistics.median(timeit.repeat(call, number=1, repeat=120)[20:]) for call in calls]
    print(f"one observation, one thread: {times[0]:.2f} ms in onnxruntime, {times[1]:.2f} ms in PyTorch")
    return 0


if __name__ == "__main__":
    run_main(main)
