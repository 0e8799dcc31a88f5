"""A policy to take away: from a run or an export to actions in the task's own units, without the task."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import safetensors.torch
import torch
from gymnasium.spaces import Box

import rlzoo
from algos import AGENTS
from envs.gym import make as gym_tasks
from envs.rlbench import protocol
from experiments.runner.launch import main
from experiments.train_d4rl import D4RLSuite
from experiments.train_mujoco import MujocoSuite
from rlzoo.actions import ActionRange
from rlzoo.data.scaling import ObservationScaling, Scaling
from rlzoo.errors import UserError
from rlzoo.evaluate import policy_action
from rlzoo.interface import Interface
from rlzoo.policy import Policy
from rlzoo.replay import FrameStacker
from rlzoo.run.checkpoint import load_checkpoint, save_checkpoint
from rlzoo.run.folder import plain
from rlzoo.types import Spaces
from tests.helpers.agent_checks import CPU, PIXELS, SPACES

INTERFACE = Interface(
    ActionRange(np.array([-2, 0, 1], np.float32), np.array([2, 1, 5], np.float32)),
    limits=ActionRange(np.array([-1.5, 0, 1], np.float32), np.array([1.5, 1, 5], np.float32)),
    control_rate=20.0,
)


def small(name: str, spaces: Spaces, **settings: object) -> Policy:
    """An untrained agent's policy with everything there can be between it and its task."""
    torch.manual_seed(0)
    config = AGENTS[name].Config(hidden=(16, 16), encoder_channels=(4, 8, 8), feature_dim=6, **settings)
    agent = AGENTS[name](spaces, config, CPU)
    with torch.no_grad():
        for key, parameter in agent.named_parameters():
            if "weight" in key:  # with heads that start at zero, every action would be the same
                parameter += 0.3 * torch.randn_like(parameter)
    scaling = Scaling(
        ObservationScaling(np.arange(5, dtype=np.float32), np.array([1, 2, 3, 0.1, 5], np.float32)),
        ActionRange(np.full(3, -0.8, np.float32), np.full(3, 0.9, np.float32)),
    )
    about = {"agent_name": name, "task": "a task", "step": 7, "agent_config": plain(config)}
    about |= {"spaces": vars(spaces).copy(), **scaling.metadata(), **INTERFACE.metadata()}
    return Policy(about, {k: v for k, v in agent.state_dict().items() if isinstance(v, torch.Tensor)}, CPU)


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a task whose actions are in [-2, 2], 20 of its steps in a second."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["td3", "--task", "Pendulum-v1", "--steps", "60", "--warmup-steps", "20", "--eval-every", "30"]
    flags += ["--eval-episodes", "1", "--batch-size", "8", "--buffer-capacity", "500", "--threads", "1"]
    flags += ["--agent.hidden", "8", "--device", "cpu", "--runs-dir", str(folder)]
    assert main(MujocoSuite, flags) == 0
    (info,) = folder.rglob("run.json")
    return info.parent


def test_a_run_plays_in_the_environments_own_units(pendulum: Path) -> None:
    """Reset, act, step: what the README shows, with Gymnasium's own environment."""
    policy = rlzoo.load_policy(pendulum)
    assert policy.interface.control_rate == 20
    assert policy.about["task"] == "Pendulum-v1"
    assert policy.about["step"] == 60
    env, task = gym_tasks.make_env("Pendulum-v1"), gym_tasks.make("Pendulum-v1", 1)
    raw, _ = env.reset(seed=3)
    actions = []
    for _ in range(5):
        action = policy.act(raw)
        actions.append(action)
        assert action.shape == (1,)
        assert action in env.action_space
        unit = policy_action(policy.agent, {"state": raw[None]}, CPU, deterministic=True)
        np.testing.assert_allclose(action, 2 * unit[0], rtol=1e-6)  # as rlzoo's own environments map it
        raw, *_ = env.step(action)
    assert np.ptp(actions) > 0
    task.close()


def test_the_best_policy_is_another_file(pendulum: Path, tmp_path: Path) -> None:
    run = shutil.copytree(pendulum, tmp_path / "run")
    best = load_checkpoint(run / "checkpoints" / "best.pt")
    best["agent"] = {k: v * 0 if isinstance(v, torch.Tensor) else v for k, v in best["agent"].items()}
    save_checkpoint(run / "checkpoints" / "best.pt", best)
    state = np.ones(3, np.float32)
    assert rlzoo.load_policy(run, checkpoint="best").act(state) == 0
    assert rlzoo.load_policy(run).act(state) != 0


def test_no_environment_is_imported(pendulum: Path) -> None:
    code = f"import sys, rlzoo; rlzoo.load_policy({str(pendulum)!r}).act([0, 0, 0]); print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                            cwd=Path(__file__).parents[1]).stdout  # fmt: skip
    loaded = {name.partition(".")[0] for name in output.split()}
    assert "torch" in loaded
    assert not loaded & {"envs", "experiments", "gymnasium", "mujoco", "onnx", "onnxruntime"}


@pytest.mark.parametrize("name", sorted(AGENTS))
@pytest.mark.parametrize("spaces", [SPACES, PIXELS], ids=["states", "pixels"])
def test_what_was_saved_acts_alike(name: str, spaces: Spaces, tmp_path: Path) -> None:
    policy = small(name, spaces)
    policy.save(tmp_path)
    loaded = rlzoo.load_policy(tmp_path)
    assert loaded.about == {**plain(policy.about)}
    generator = np.random.default_rng(0)
    obs = {"state": policy.scaling.obs.mean + policy.scaling.obs.std * generator.normal(size=(30, 5))}
    if spaces.pixels is not None:
        obs["pixels"] = generator.integers(256, size=(30, 2, 3, 24, 24), dtype=np.uint8)
    for _ in range(3):
        action = policy.act(obs)
        assert action.shape == (30, 3)
        assert action.dtype == np.float32
        assert np.array_equal(action, loaded.act(obs))
    low, high = np.array([-1.5, 0, 1]), np.array([1.5, 1, 5])  # `INTERFACE.limits`
    assert ((action >= low) & (action <= high)).all()
    assert np.ptp(action, axis=0).max() > 0.01
    sampled = []
    for each in (policy, loaded):
        each.reset()
        torch.manual_seed(1)
        sampled.append(each.act(obs, deterministic=False))
    assert np.array_equal(*sampled)
    assert not np.array_equal(sampled[0], action)


@pytest.mark.parametrize(
    ("name", "left_out"), [("sac", "critic."), ("arsq", "value."), ("cqn", "critic."), ("td3", "target_")]
)
def test_networks_that_no_action_depends_on_are_not_saved(name: str, left_out: str, tmp_path: Path) -> None:
    policy = small(name, SPACES)
    policy.save(tmp_path)
    saved = set(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    known = set(policy.agent.state_dict())
    assert saved < known
    assert any(each.startswith(left_out) for each in known)
    assert not any(each.startswith(left_out) for each in saved)
    lacking = safetensors.torch.load_file(tmp_path / "model.safetensors")
    about = {key: value for key, value in policy.about.items() if key != "format"}
    del lacking[min(lacking)]
    with pytest.raises(UserError, match="is missing or surplus"):
        Policy(about, lacking, CPU, acting_alone=True)


def test_the_units_are_mapped_one_after_another() -> None:
    policy = small("sac", SPACES)
    state = np.array([[1.0, -2, 3, 4, 5]])
    seen = (state - np.arange(5)) / np.array([1, 2, 3, 0.1, 5])
    unit = policy.agent.act({"state": torch.tensor(seen, dtype=torch.float32)}, deterministic=True).numpy()
    unit = 0.05 + 0.85 * unit  # rescaled actions: from -0.8 to 0.9
    expected = np.clip(np.array([0, 0.5, 3]) + unit * np.array([2, 0.5, 2]), [-1.5, 0, 1], [1.5, 1, 5])
    np.testing.assert_allclose(policy.act(state), expected, rtol=1e-5)
    np.testing.assert_allclose(policy.act({"state": state[0]}), expected[0], rtol=1e-5)


def test_a_dict_is_observed_as_the_task_flattens_it() -> None:
    policy = small("sac", SPACES)
    policy.interface = dataclasses.replace(INTERFACE, parts={"where": (2, 2), "to": (1,)})
    where, to = np.arange(8.0).reshape(2, 2, 2), np.array([[4.0], [5.0]])
    batch = policy.act({"to": to, "where": where})
    np.testing.assert_array_equal(batch, policy.act(np.hstack([where.reshape(2, 4), to])))
    np.testing.assert_allclose(policy.act({"where": where[1], "to": to[1]}), batch[1], rtol=1e-5)
    np.testing.assert_allclose(policy.act({"where": where[:1], "to": to[:1]}), batch[:1], rtol=1e-5)
    with pytest.raises(ValueError, match="where, to are not of the same number of observations"):
        policy.act({"where": where, "to": to[:1]})
    with pytest.raises(ValueError, match=r"to is \(2, 2\), expected \(1,\) or a batch of them"):
        policy.act({"where": where[0], "to": np.zeros((2, 2))})
    with pytest.raises(ValueError, match=r"observation of \['to'\], expected state"):
        policy.act({"to": to})


def test_a_policy_of_a_task_that_observes_a_dict_takes_what_the_task_shows(tmp_path: Path) -> None:
    flags = ["--task", "PointMaze_UMaze-v3", "--steps", "8", "--warmup-steps", "4", "--num-envs", "2"]
    flags += ["--batch-size", "4", "--device", "cpu"]
    flags += ["--agent.hidden", "8", "--eval-episodes", "1", "--run-dir", str(tmp_path / "run")]
    assert main(MujocoSuite, ["sac", *flags, "--threads", "1"]) == 0
    policy = rlzoo.load_policy(tmp_path / "run")
    policy.save(tmp_path / "export")
    env = gymnasium.make("PointMaze_UMaze-v3")
    observation, _ = env.reset(seed=1)
    expected = policy.act(gymnasium.spaces.flatten(env.observation_space, observation))
    for each in (policy, rlzoo.load_policy(tmp_path / "export")):
        np.testing.assert_array_equal(each.act(observation), expected)


@pytest.mark.parametrize("saturated", [-1.0, 1.0])
def test_no_action_leaves_bounds_that_float32_cannot_say(saturated: float) -> None:
    low, high = np.array([-0.3, -0.7, 0.1]), np.array([0.1, 0.9, 0.7])
    for interface in (
        Interface(ActionRange(low, high)),
        Interface(ActionRange(low - 1, high + 1), ActionRange(low, high)),
    ):
        action = interface.to_task(np.full((1, 3), saturated, np.float32))
        assert action.dtype == np.float32
        assert Box(low, high, dtype=np.float64).contains(action[0])
        np.testing.assert_allclose(action[0], low if saturated < 0 else high, rtol=1e-6)


def test_other_bounds_of_actions_are_refused() -> None:
    policy = small("sac", SPACES)
    policy.check_fits(SPACES, INTERFACE)
    other = dataclasses.replace(INTERFACE, actions=ActionRange(np.array([-2, 0, 1.0]), np.array([2, 1, 6.0])))
    with pytest.raises(
        UserError, match=r"a task: actions lie between .* 6\.\], and lay between .* 5\.\] when"
    ):
        policy.check_fits(SPACES, other)


def test_images_are_stacked_as_in_training() -> None:
    policy = small("td3", PIXELS)
    generator = np.random.default_rng(0)
    frames = generator.integers(256, size=(5, 2, 2, 3, 24, 24), dtype=np.uint8)  # [time, N, V, C, H, W]
    states = generator.normal(size=(5, 2, 5)).astype(np.float32)
    begins = np.array([[1, 1], [0, 0], [0, 1], [0, 0], [1, 0]], bool)
    stacker = FrameStacker(PIXELS)
    for step in range(5):
        stacked = stacker({"state": states[step], "pixels": frames[step]}, begins[step])
        seen = policy.scaling.scale_obs(stacked)
        unit = policy_action(policy.agent, seen, CPU, deterministic=True)
        expected = policy.interface.to_task(policy.scaling.to_task(unit))
        policy.reset(begins[step]) if begins[step].any() and step else None
        found = policy.act({"state": states[step], "pixels": frames[step]})
        np.testing.assert_array_equal(found, expected)
    one = {"state": states[0, 0], "pixels": frames[0, 0]}
    with pytest.raises(ValueError, match=r"1 observations after 2: .* reset\(\)"):
        policy.act(one)
    policy.reset()
    first, second = policy.act(one), policy.act({**one, "pixels": frames[1, 0]})
    policy.reset()
    np.testing.assert_array_equal(policy.act(one), first)
    policy.reset()
    assert not np.array_equal(policy.act({**one, "pixels": frames[1, 0]}), second)  # no earlier image


def test_rows_begin_anew_one_call_after_another() -> None:
    policy, other = small("td3", PIXELS), small("td3", PIXELS)
    frames = np.random.default_rng(0).integers(256, size=(3, 2, 2, 3, 24, 24), dtype=np.uint8)
    seen = [{"state": np.zeros((2, 5), np.float32), "pixels": frame} for frame in frames]
    for each in (policy, other):
        each.act(seen[0])
    policy.reset([True, False])
    policy.reset([False, True])
    other.reset()
    np.testing.assert_array_equal(policy.act(seen[1]), other.act(seen[1]))
    for wrong in ([True], [True] * 3, 1):
        with pytest.raises(ValueError, match="expected a flag for each of the last observations"):
            policy.reset(wrong)
    np.testing.assert_array_equal(policy.act(seen[2]), other.act(seen[2]))  # what failed left no trace


def test_without_stacked_frames_any_number_of_rows_may_follow() -> None:
    spaces = dataclasses.replace(PIXELS, pixels=(2, 3, 24, 24), frame_stack=1)
    policy = small("td3", spaces)
    frames = np.zeros((3, 2, 3, 24, 24), np.uint8)
    policy.act({"state": np.zeros((3, 5), np.float32), "pixels": frames})
    policy.reset([True, False, False])
    assert policy.act({"state": np.zeros(5, np.float32), "pixels": frames[0]}).shape == (spaces.action_dim,)


def test_another_rule_for_the_deterministic_action(tmp_path: Path) -> None:
    policy = small("arsq", SPACES, levels=2, bins=5)
    policy.save(tmp_path)
    states = np.random.default_rng(0).normal(size=(50, 5))
    median = rlzoo.load_policy(tmp_path, greedy="median")
    assert (policy.rule, median.rule) == ("mode", "median")
    assert not np.array_equal(median.act(states), policy.act(states))
    median.save(tmp_path / "again")
    assert rlzoo.load_policy(tmp_path / "again").rule == "median"
    small("sac", SPACES).save(tmp_path / "sac")
    with pytest.raises(UserError, match="is not auto-regressive"):
        rlzoo.load_policy(tmp_path / "sac", greedy="median")
    with pytest.raises(UserError, match="'mean' is none of mode, median"):
        rlzoo.load_policy(tmp_path, greedy="mean")
    with pytest.raises(UserError, match="device 'cuda:99' is not available"):
        rlzoo.load_policy(tmp_path, device="cuda:99")


@pytest.mark.parametrize(
    ("spaces", "observation", "message"),
    [
        (SPACES, np.zeros(4), r"state is \(4,\), expected \(5,\)"),
        (SPACES, np.zeros((2, 3, 5)), r"state is \(2, 3, 5\)"),
        (SPACES, 1.0, r"state is \(\)"),
        (SPACES, {"state": np.zeros(5), "pixels": np.zeros((2, 3, 24, 24), np.uint8)}, "expected state"),
        (PIXELS, np.zeros(5), "expected state and pixels"),
        (PIXELS, {"state": np.zeros(5), "pixels": np.zeros((2, 3, 24, 24))}, "float64, expected uint8"),
        (
            PIXELS,
            {"state": np.zeros(5), "pixels": np.zeros((2, 6, 24, 24), np.uint8)},
            r"expected \(2, 3, 24",
        ),
        (PIXELS, {"state": np.zeros(5), "pixels": np.zeros((1, 2, 3, 24, 24), np.uint8)}, "the same number"),
    ],
)
def test_an_observation_of_another_kind_is_one_clear_line(
    spaces: Spaces, observation: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        small("td3", spaces).act(observation)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_what_is_no_policy_is_one_clear_line(pendulum: Path, tmp_path: Path) -> None:
    def fails(message: str, path: Path) -> None:
        with pytest.raises(UserError, match=message) as caught:
            rlzoo.load_policy(path)
        assert "\n" not in str(caught.value)

    fails("is neither a run folder", tmp_path / "nothing")
    small("sac", SPACES).save(tmp_path / "sac")
    small("td3", SPACES).save(tmp_path / "td3")
    mixed = shutil.copytree(tmp_path / "sac", tmp_path / "mixed")
    shutil.copy(tmp_path / "td3" / "model.safetensors", mixed)
    fails("model.safetensors is damaged, or not of the same export", mixed)
    (mixed / "model.safetensors").unlink()
    fails("model.safetensors cannot be read: No such file", mixed)
    config = json.loads((tmp_path / "sac" / "config.json").read_text())

    def edited(**changes: object) -> Path:
        folder = shutil.copytree(tmp_path / "sac", tmp_path / "edited", dirs_exist_ok=True)
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        return folder

    fails("'ppo', which is no agent here", edited(agent_name="ppo"))
    fails("does not fit td3", edited(agent_name="td3"))
    fails("does not fit sac: size mismatch|does not fit sac: Error", edited(agent_config={"hidden": [8]}))
    fails("does not fit sac: 1 validation error", edited(agent_config={"hidden": "many"}))
    fails("is not of an exported policy", edited(format="something else"))
    (tmp_path / "edited" / "config.json").write_bytes(b"\xff{")
    fails("is not of an exported policy", tmp_path / "edited")
    run = shutil.copytree(pendulum, tmp_path / "run")
    latest = run / "checkpoints" / "latest.pt"
    content = load_checkpoint(latest)
    del content["interface"], content["format"]
    save_checkpoint(latest, content)
    fails("is of an earlier rlzoo", run)
    latest.unlink()
    fails("no checkpoint at", run)


def test_a_full_disk_leaves_the_earlier_export_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small("sac", SPACES).save(tmp_path, {"model.onnx": b"old"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "config" in path.name:
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        small("td3", SPACES).save(tmp_path, {"model.onnx": b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_the_numbers_of_a_task_mean() -> None:
    """Of Gymnasium's tasks with a Dict of observations, of D4RL's and of RLBench's."""
    suites = [(MujocoSuite(), "FetchReach-v4"), (D4RLSuite(), "hopper-expert-v2")]
    fetch, hopper = (suite.interface(name, suite.make(name, 1)) for suite, name in suites)
    assert fetch.observation == (
        "Gymnasium's of FetchReach-v4, flattened: achieved_goal [3], desired_goal [3], observation [10]"
    )
    assert (fetch.control_rate, hopper.control_rate) == (25, 125)
    assert hopper.action == "the columns of D4RL's datasets of hopper-expert-v2"
    joints = ActionRange(np.full(8, -0.24, np.float32), np.full(8, 1, np.float32))
    panda = protocol.interface(joints, protocol.Images(cameras=("wrist",), size=32))
    assert panda.control_rate == 20
    assert panda.observation.endswith("RGB images 32 x 32 of wrist")
    expected = [*[-0.2] * 7, 0]  # demonstrations may have moved faster than the robot is let
    np.testing.assert_allclose(panda.to_task(np.full(8, -1, np.float32)), expected, rtol=1e-6)
    np.testing.assert_allclose(
        Interface.of_checkpoint(json.loads(json.dumps(panda.metadata()))).to_task(np.zeros((2, 8))),
        panda.to_task(np.zeros((2, 8), np.float32)),
    )


@pytest.mark.parametrize("damage", ["interface", "limits", "other"])
def test_an_export_without_its_interface_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    small("sac", SPACES).save(tmp_path)
    path = tmp_path / "config.json"
    about = json.loads(path.read_text())
    if damage == "interface":
        about["interface"] = None
    elif damage == "limits":
        del about["interface"]["limits"]
    else:
        about["interface"]["newer"] = 1
    path.write_text(json.dumps(about))
    with pytest.raises(UserError, match="does not fit sac: "):
        rlzoo.load_policy(tmp_path)
