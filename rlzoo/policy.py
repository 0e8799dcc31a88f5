"""A policy to take away: a trained agent that acts in its task's own units, without the task.

    policy = rlzoo.load_policy("results/runs/mujoco/Hopper-v5/sac/s1-20260101-000000")
    action = policy.act(observation)

It is loaded from a run or from what `rlzoo export` wrote; nothing in the files is ever executed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic
import safetensors.torch
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from algos import AGENTS  # the one import upwards: an agent is built by its name
from rlzoo.agent import Agent
from rlzoo.data.scaling import Scaling
from rlzoo.errors import UserError, one_line
from rlzoo.evaluate import policy_action
from rlzoo.interface import Interface
from rlzoo.replay import FrameStacker
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.run.files import atomic_path, expand_user
from rlzoo.run.folder import EXPORT_FILE, plain
from rlzoo.run.machine import resolve_device
from rlzoo.types import Array, BoolArray, FloatArray, Spaces

FORMAT = "rlzoo policy 1"
WEIGHTS_FILE = "model.safetensors"


def load_policy(
    path: str | Path,
    *,
    checkpoint: Literal["latest", "best"] = "latest",
    greedy: Literal["mode", "median"] | None = None,
    device: str | torch.device = "cpu",
    agents: Mapping[str, type[Agent]] = AGENTS,
) -> Policy:
    """The policy of a run, or of what `rlzoo export` wrote.

    Args:
        path: the folder of either.
        checkpoint: of a run: the agent as the run left it, or at its best evaluation.
        greedy: the deterministic action of an auto-regressive policy; None: what the run says.
        device: where the networks are.
        agents: those that may have trained it, by name.

    Raises:
        UserError: there is nothing of the kind, it is damaged, an agent that is not known here left it, or
            there is no such device.
    """
    path = expand_user(Path(path))
    # Only of a GPU it is known beforehand, and without a traceback, whether it is there.
    where = resolve_device(str(device)) if str(device).startswith(("auto", "cuda")) else torch.device(device)
    exported = (path / EXPORT_FILE).is_file()
    if exported:
        about, weights = _read_export(path)
    elif (path / "checkpoints").is_dir():
        about, weights = _split(load_checkpoint(path / "checkpoints" / f"{checkpoint}.pt"))
    else:
        raise UserError(f"{path} is neither a run folder (with checkpoints/) nor an export ({EXPORT_FILE})")
    try:
        return Policy(about, weights, where, greedy=greedy, agents=agents, acting_alone=exported)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


class Policy:
    """An agent's policy, from observations to actions in the task's own units.

    Attributes:
        about: where it comes from: agent_name, task, step, agent_config, …
        agent: with its networks.
        spaces: the sizes of what it sees and does.
        scaling, interface: what lies between the agent and the task, and between the task and the outside.
    """

    def __init__(
        self,
        about: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        device: torch.device,
        *,
        greedy: str | None = None,
        agents: Mapping[str, type[Agent]] = AGENTS,
        acting_alone: bool = False,
    ) -> None:
        """Build the agent from what a checkpoint, or an export (`acting_alone`), holds.

        See `load_policy` for the errors.
        """
        name = about.get("agent_name")
        if not isinstance(name, str) or name not in agents:
            raise UserError(f"it was trained by {name!r}, which is no agent here")
        self.device = device
        try:
            self.interface = Interface.of_checkpoint(about)
            config = pydantic.TypeAdapter(agents[name].Config).validate_python(about["agent_config"])
            if greedy is not None:
                if not config.greedy_rules:
                    raise UserError(f"--greedy: the policy of this {name} is not auto-regressive")
                if greedy not in config.greedy_rules:
                    raise UserError(f"--greedy: {greedy!r} is none of {', '.join(config.greedy_rules)}")
                config = dataclasses.replace(config, greedy=greedy)  # type: ignore[call-arg]
            sizes = about["spaces"]
            self.spaces = Spaces(**{**sizes, "pixels": sizes["pixels"] and tuple(sizes["pixels"])})
            self.scaling = Scaling.of_checkpoint(about)
            self.agent: Agent = agents[name](self.spaces, config, device)
            missing, unknown = self.agent.load_state_dict(dict(weights), strict=False)
            if acting_alone:  # what no action depends on need not be there
                missing = sorted(self._acting_weights().keys() & missing)
            if wrong := [*(set(missing) - {"_extra_state"}), *unknown]:
                raise ValueError(f"{sorted(wrong)[0]} is missing or surplus")
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(f"it does not fit {name}: {one_line(error)}") from error
        self.config = config
        self.about = {**about, "agent_config": plain(config)}
        views, channels, *size = self.spaces.pixels or (0, 0)
        frame = (views, channels // self.spaces.frame_stack, *size)
        self._shapes: dict[str, tuple[int, ...]] = {"state": (self.spaces.state_dim,)}
        if self.spaces.pixels is not None:
            self._shapes["pixels"] = frame
        self.reset()

    @classmethod
    def of_checkpoint(
        cls,
        checkpoint: dict[str, Any],
        device: torch.device,
        agents: Mapping[str, type[Agent]] = AGENTS,
    ) -> Policy:
        """The policy in a checkpoint, of a whole run or of its best policy."""
        return cls(*_split(checkpoint), device, agents=agents)

    def act(self, observation: Array | Mapping[str, Array], *, deterministic: bool = True) -> FloatArray:
        """The actions for one observation, [A], or for N that are played side by side, [N, A].

        Args:
            observation: the state [S] or [N, S]; where the task observes a Dict, that, of arrays; with images
                {"state": …, "pixels": u8 [V, C, H, W] or [N, V, C, H, W]}, the latest frame of each camera:
                earlier ones are remembered.
            deterministic: False: a sample, by PyTorch's generator.

        Raises:
            ValueError: the observation is of another kind or shape.
        """
        given = observation if isinstance(observation, Mapping) else {"state": observation}
        if given.keys() == self.interface.parts.keys() and "pixels" not in self._shapes:
            given = {"state": _flat(given, self.interface.parts)}
        if given.keys() != self._shapes.keys():
            raise ValueError(f"observation of {sorted(given)}, expected {' and '.join(self._shapes)}")
        obs, leads = {}, set()
        for name, shape in self._shapes.items():
            array = np.asarray(given[name])
            if name == "pixels" and array.dtype != np.uint8:
                raise ValueError(f"pixels are {array.dtype}, expected uint8")
            lead = array.shape[: max(array.ndim - len(shape), 0)]
            if array.shape != (*lead, *shape) or len(lead) > 1:
                raise ValueError(f"{name} is {array.shape}, expected {shape} or a batch of them")
            obs[name] = array.reshape(-1, *shape).astype(np.uint8 if name == "pixels" else np.float32)
            leads.add(lead)
        if len(leads) > 1:
            raise ValueError("state and pixels are not of the same number of observations")
        action = self.interface.to_task(self.unit_action(obs, deterministic=deterministic))
        return action if leads.pop() else action[0]

    def reset(self, rows: npt.ArrayLike | None = None) -> None:
        """A new episode begins, and no earlier image counts: everywhere, or in the flagged rows [N]; of
        several calls before the next action, in all that one of them flagged.

        Raises:
            ValueError: the flags are not [N].
        """
        if rows is None:
            self._stacker = FrameStacker(self.spaces)
            self._begins: BoolArray | None = None
            return
        begins, frames = np.asarray(rows, np.bool_), self._stacker.frames
        if begins.ndim != 1 or (frames is not None and len(begins) != len(frames)):
            raise ValueError(f"rows are {begins.shape}, expected a flag for each of the last observations")
        if frames is not None:
            self._begins = begins if self._begins is None else self._begins | begins

    def unit_action(self, obs: dict[str, Array], *, deterministic: bool = True) -> FloatArray:
        """What a `VectorTask` takes for what it gives: obs [N, ...] -> actions [N, A] in [-1, 1]."""
        count = len(obs["state"])
        if self.spaces.frame_stack == 1:
            self.reset()  # nothing is remembered
        frames, begins = self._stacker.frames, self._begins
        if frames is not None and len(frames) != count:
            raise ValueError(f"{count} observations after {len(frames)}: a new episode begins with reset()")
        self._begins = None
        stacked = self._stacker(obs, np.zeros(count, np.bool_) if begins is None else begins)
        seen = self.scaling.scale_obs(stacked)
        action = policy_action(self.agent, seen, self.device, deterministic=deterministic)
        return self.scaling.to_task(action)

    @property
    def rule(self) -> str:
        """How the deterministic action is chosen."""
        return str(vars(self.config)["greedy"]) if self.config.greedy_rules else "deterministic"

    def check_fits(self, spaces: Spaces, interface: Interface | None = None) -> None:
        """Raise a UserError if a task has other spaces, or (if given) other bounds of actions."""
        if spaces != self.spaces:
            raise UserError(f"the policy is for {self.spaces}, and {self.about['task']} has {spaces}")
        if interface is not None:
            interface.check_same_actions(self.interface, self.about["task"])

    def save(self, folder: Path, others: Mapping[str, bytes] | None = None) -> None:
        """Write ``model.safetensors``, the networks that act, ``config.json``, all else, and `others`.

        Critics and targets are left out where no action depends on them.

        Raises:
            UserError: a file cannot be written; all that were there are then as they were.
        """
        weights = safetensors.torch.save(self._acting_weights())
        digest = hashlib.sha256(weights).hexdigest()
        about = {"format": FORMAT, **self.about, "weights_sha256": digest}
        config = json.dumps(plain(about), indent=2, ensure_ascii=False) + "\n"
        with contextlib.ExitStack() as stack:
            for name, data in {**(others or {}), WEIGHTS_FILE: weights, EXPORT_FILE: config.encode()}.items():
                stack.enter_context(atomic_path(folder / name)).write_bytes(data)

    def _acting_weights(self) -> dict[str, Tensor]:
        """The agent's parameters and buffers that its actions, sampled or not, are computed from."""
        obs = {"state": torch.zeros(1, self.spaces.state_dim, device=self.device)}
        if self.spaces.pixels is not None:
            obs["pixels"] = torch.zeros(1, *self.spaces.pixels, dtype=torch.uint8, device=self.device)
        with torch.random.fork_rng(), _Reads() as reads:
            for deterministic in (True, False):
                self.agent.act(obs, deterministic=deterministic)
        tensors = [
            (name, value) for name, value in self.agent.state_dict().items() if isinstance(value, Tensor)
        ]
        return {name: value.contiguous() for name, value in tensors if _memory(value) in reads.memory}


def _flat(observation: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Array:
    """A Dict's arrays of these shapes, or of [N, *shape], as one state [S] or [N, S]."""
    rows, leads = [], set()
    for name, shape in shapes.items():
        array = np.asarray(observation[name])
        lead = array.shape[: max(array.ndim - len(shape), 0)]
        if array.shape != (*lead, *shape):
            raise ValueError(f"{name} is {array.shape}, expected {shape} or a batch of them")
        rows.append(array.reshape(*lead, math.prod(shape)))
        leads.add(lead)
    if len(leads) > 1:
        raise ValueError(f"{', '.join(shapes)} are not of the same number of observations")
    return np.concatenate(rows, axis=-1)


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the memory of all tensors that operations are given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs))
        self.memory |= {_memory(value) for value in given if isinstance(value, Tensor)}
        return func(*args, **(kwargs or {}))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _split(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a checkpoint, of a whole run or of its best policy, says of its agent; and the weights."""
    about = {key: value for key, value in checkpoint.items() if key not in ("format", "agent", "trainer")}
    trainer = checkpoint.get("trainer")
    try:
        if trainer is not None:
            about["step"] = trainer["counters"]["env_steps"] + trainer["counters"]["offline_updates"]
        state = checkpoint["agent"] if trainer is None else trainer["agent"]
        return about, {name: value for name, value in state.items() if isinstance(value, Tensor)}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the checkpoint is not whole ({error} is missing or no part of one)") from error


def _read_export(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `Policy.save` wrote."""
    try:
        about = json.loads((folder / EXPORT_FILE).read_text())
        weights = (folder / WEIGHTS_FILE).read_bytes()
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error
    except ValueError:
        about = None
    if not isinstance(about, dict) or about.pop("format", None) != FORMAT:
        raise UserError(f"{folder / EXPORT_FILE} is not of an exported policy")
    if about.pop("weights_sha256", None) != hashlib.sha256(weights).hexdigest():
        raise UserError(f"{folder / WEIGHTS_FILE} is damaged, or not of the same export as {EXPORT_FILE}")
    return about, safetensors.torch.load(weights)
