"""The agents of Stable-Baselines3: their run folders, their policies, and their interrupted runs."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from envs.gym import make as gym_tasks
from experiments import evaluate, export
from experiments.compare import find_runs
from experiments.runner.experiment import parse
from experiments.runner.launch import main
from experiments.runner.sb3 import SB3_AGENTS, make_model
from experiments.suites import PLAYABLE
from experiments.train_sb3 import SB3Suite
from rlzoo.errors import UserError
from rlzoo.policy import load_policy
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.seeding import EVALUATION, derived_seed
from rlzoo.train import TrainConfig
from rlzoo.types import Spaces

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SHORT = ["--task", "Reacher-v5", "--steps", "240", "--num-envs", "2", "--batch-size", "16", "--threads", "1"]
SHORT += ["--eval-every", "100", "--eval-episodes", "2", "--log-every", "50", "--agent.hidden", "8", "8"]
SHORT += ["--device", "cpu", "--seed", "7"]
OFF_POLICY = ["--warmup-steps", "40", "--buffer-capacity", "1000"]


def own_flags(agent: str) -> list[str]:
    return ["--agent.n-steps", "50"] if agent in ("sb3-ppo", "sb3-trpo") else OFF_POLICY


def train(agent: str, runs_dir: Path, *flags: str) -> Path:
    before = set(runs_dir.rglob("run.json"))
    assert main(SB3Suite, [agent, *SHORT, *own_flags(agent), "--runs-dir", str(runs_dir), *flags]) == 0
    (info,) = set(runs_dir.rglob("run.json")) - before
    return info.parent


def rows(run_dir: Path) -> list[tuple[str, str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        found = [(row["step"], row["tag"], row["value"]) for row in csv.DictReader(file)]
    return [row for row in found if not row[1].startswith("time/")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short run of each agent."""
    folder = tmp_path_factory.mktemp("runs")
    return {agent: train(agent, folder) for agent in SB3_AGENTS}


@pytest.mark.parametrize("agent", SB3_AGENTS)
def test_every_agent_leaves_the_run_folder_of_our_own(agent: str, runs: dict[str, Path]) -> None:
    run_dir = runs[agent]
    assert run_dir.parent.parts[-3:] == ("mujoco", "Reacher-v5", agent)
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert (config["suite"], config["agent_name"], config["agent"]["hidden"]) == ("sb3", agent, [8, 8])
    assert {"command", "git", "versions", "hardware"} <= set(json.loads((run_dir / "run.json").read_text()))
    tags = {tag for _, tag, _ in rows(run_dir)}
    assert {"eval/return", "eval/return_std", "eval/best_return", "eval/episode_length"} <= tags
    assert {"train/episode_return", "train/episode_length", "loss/critic"} <= tags
    assert {"loss/actor", "policy/objective"} & tags
    events = EventAccumulator(str(run_dir)).Reload()
    assert tags <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("eval/return")] == [100, 200, 240]
    best = load_checkpoint(run_dir / "checkpoints" / "best.pt")
    assert (best["agent_name"], best["task"]) == (agent, "Reacher-v5")


@pytest.mark.parametrize("agent", SB3_AGENTS)
def test_the_policy_is_rebuilt_and_plays_the_last_evaluation_again(
    agent: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations = load_checkpoint(runs[agent] / "checkpoints" / "latest.pt")["trainer"]["evaluations"]
    seed = derived_seed(7, EVALUATION, evaluations[-1]["step"])
    output = tmp_path / "returns.csv"
    flags = [str(runs[agent]), "--episodes", "2", "--seed", str(seed), "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["evaluate.py", *flags, "--threads", "1"])
    assert evaluate.main() == 0
    with output.open() as file:
        returns = [float(row["return"]) for row in csv.DictReader(file)]
    assert np.mean(returns) == pytest.approx(evaluations[-1]["eval/return"], abs=1e-2)


@pytest.mark.parametrize("agent", SB3_AGENTS)
def test_the_policy_is_exported(agent: str, runs: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    policy = load_policy(runs[agent], agents=PLAYABLE)
    assert export.export(policy, tmp_path).action < 1e-4
    inputs = export.random_observations(policy, 7, seed=3)
    (action,) = export.session(str(tmp_path / "model.onnx"))(**inputs)
    written = load_policy(tmp_path, agents=PLAYABLE)
    np.testing.assert_allclose(action, written.act(inputs["state"]), atol=1e-4)
    assert np.ptp(action) > 0


def test_compare_and_the_settings_of_a_run_see_no_difference(runs: dict[str, Path]) -> None:
    found = find_runs([runs["sb3-ppo"].parents[1]])
    assert {run.agent for run in found} == set(SB3_AGENTS)
    assert all(list(run.curve("eval/return")) == [100, 200, 240] for run in found)
    copied = parse(SB3Suite, ["--config", str(runs["sb3-tqc"])], "rlzoo train sb3")
    assert (copied.agent, copied.asked.train.steps) == ("sb3-tqc", 240)


@pytest.mark.parametrize("agent", ["sb3-ppo", "sb3-td3"])
def test_equal_seeds_make_equal_runs(agent: str, runs: dict[str, Path], tmp_path: Path) -> None:
    assert rows(train(agent, tmp_path)) == rows(runs[agent])
    assert rows(train(agent, tmp_path, "--seed", "8")) != rows(runs[agent])


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    train("sb3-sac", tmp_path / "runs")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("agent", SB3_AGENTS)
def test_the_policy_acts_as_the_algorithm_predicts(agent: str) -> None:
    """On observations as the task has them: the running statistics are the policy's own."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    config = SB3_AGENTS[agent].Config(hidden=(8,), normalize=True)
    ours = SB3_AGENTS[agent](Spaces(10, 2), config, CPU)
    env = VecNormalize(make_vec_env("Reacher-v5", 2, seed=0))
    model = make_model(ours, env, TrainConfig(num_envs=2, batch_size=16), seed=0, device=CPU)
    model.learn(100)
    ours.obs_mean.copy_(torch.from_numpy(env.obs_rms.mean))
    ours.obs_var.copy_(torch.from_numpy(env.obs_rms.var))
    obs = np.random.default_rng(0).normal(0, 30, (5, 10)).astype(np.float32)
    expected, _ = model.predict(env.normalize_obs(obs), deterministic=True)
    action = ours.act({"state": torch.from_numpy(obs)}, deterministic=True)
    np.testing.assert_allclose(action.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(action, ours.act({"state": torch.from_numpy(obs)}, deterministic=False))


@pytest.mark.parametrize(
    ("utd", "num_envs", "every", "updates"), [(1, 1, 1, 1), (1 / 20, 20, 1, 1), (0.25, 2, 2, 1), (2, 3, 1, 6)]
)
def test_updates_per_step(utd: float, num_envs: int, every: int, updates: int) -> None:
    from stable_baselines3.common.env_util import make_vec_env

    agent = SB3_AGENTS["sb3-sac"](Spaces(10, 2), SB3_AGENTS["sb3-sac"].Config(hidden=(8,)), CPU)
    config = TrainConfig(utd=utd, num_envs=num_envs, buffer_capacity=100)
    model = make_model(agent, make_vec_env("Reacher-v5", num_envs), config, seed=0, device=CPU)
    assert (model.train_freq.frequency, model.gradient_steps) == (every, updates)


def test_an_interrupted_run_starts_anew_in_its_folder_and_says_so(
    runs: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = [*SHORT, *OFF_POLICY, "--runs-dir", str(tmp_path), "--steps", "1000000"]
    process = subprocess.Popen(
        [sys.executable, "experiments/train_sb3.py", "sb3-sac", *flags],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not list(tmp_path.rglob("best.pt")):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "start anew with" in output
    (info,) = tmp_path.rglob("run.json")
    run_dir = info.parent
    assert main(SB3Suite, ["--resume", str(run_dir), "--steps", "240"]) == 0
    assert "starts anew" in capfd.readouterr().out
    assert rows(run_dir) == rows(runs["sb3-sac"])
    assert len(json.loads(info.read_text())["sessions"]) == 2


def test_a_run_without_a_checkpoint_starts_anew_and_a_finished_one_is_kept(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    run_dir = train("sb3-trpo", tmp_path)
    with pytest.raises(UserError, match=r"has done its 240 steps, .* --config .* begins a longer run"):
        main(SB3Suite, ["--resume", str(run_dir)])
    with pytest.raises(UserError, match=r"has done its 240 steps"):
        main(SB3Suite, ["--resume", str(run_dir), "--steps", "480"])
    (run_dir / "checkpoints" / "latest.pt").unlink()
    assert main(SB3Suite, ["--resume", str(run_dir)]) == 0
    assert rows(run_dir) == rows(runs["sb3-trpo"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sb3-a2c"], "no agent called 'sb3-a2c'"),
        (["sac"], "no agent called 'sac'; did you mean sb3-sac"),
        (["sb3-sac", "--dataset", "data.hdf5"], "learn online alone, without recorded data"),
        (["sb3-ppo", "--offline"], "learn online alone, without recorded data"),
        (["sb3-tqc", "--preset", "dsac-t-paper"], "is for sb3-ddpg, sb3-td3, sb3-sac, not for sb3-tqc"),
        (["sb3-sac", "--agent.tau", "2"], "--agent.tau is 2"),
        (["sb3-sac", "--agent.ent-coef", "auto_x"], "--agent.ent-coef is auto_x, expected auto, auto_0.1 or"),
        (["sb3-tqc", "--agent.ent-coef", "-1"], "--agent.ent-coef is -1, expected auto, auto_0.1 or"),
        (["sb3-sac", "--task", "Hoper-v5"], "did you mean Hopper-v5"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        main(SB3Suite, [*arguments, "--runs-dir", str(tmp_path), "--device", "cpu"])


@pytest.mark.parametrize("package", ["stable_baselines3", "sb3_contrib"])
def test_a_missing_package_is_one_line_that_names_the_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} is not installed: pip install 'rlzoo\[sb3\]' brings it"):
        main(SB3Suite, ["sb3-ppo", *SHORT, "--runs-dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("agent", "flags"),
    [
        ("sb3-ppo", ["--batch-size", "1"]),
        ("sb3-ppo", ["--num-envs", "1", "--agent.n-steps", "1"]),
        ("sb3-trpo", ["--num-envs", "1", "--agent.n-steps", "1"]),
    ],
)
def test_settings_that_it_refuses_are_one_line(agent: str, flags: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Stable-Baselines3 refuses these settings: .* greater than 1"):
        train(agent, tmp_path, *flags)


def test_settings_without_effect_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("sb3-ppo", tmp_path, "--utd", "0.5", "--agent.n-steps", "200")
    shown = capsys.readouterr().out
    assert "warning: --utd has no effect on sb3-ppo" in shown
    assert "warning: no update will be made: one takes 400 steps, and --steps is 240" in shown
    train("sb3-sac", tmp_path, "--demo-fraction", "0.25")
    assert "warning: --demo-fraction has no effect on sb3-sac" in capsys.readouterr().out


class Breaking(gym.Wrapper):
    """Fails at its hundredth step."""

    steps = itertools.count(1)

    def step(self, action):
        obs, *others = super().step(action)
        if next(Breaking.steps) == 100:
            if Breaking.raises:
                raise RuntimeError("bus error")
            obs = obs * np.nan
        return obs, *others


@pytest.mark.parametrize(("raises", "cause"), [(True, "bus error"), (False, "is not finite")])
def test_a_simulator_that_fails_ends_the_run_with_a_checkpoint(
    raises: bool, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaking, "raises", raises, raising=False)
    monkeypatch.setattr(Breaking, "steps", itertools.count(1))
    own = gym.envs.registration.EnvSpec(
        "Breaking-v0", lambda: Breaking(gym.make("InvertedPendulum-v5")), max_episode_steps=50
    )
    monkeypatch.setitem(gym.registry, own.id, own)
    with pytest.raises(UserError, match=rf"Breaking-v0.*{cause}"):
        train("sb3-sac", tmp_path, "--task", own.id, "--eval-every", "1000")
    (latest,) = tmp_path.rglob("latest.pt")
    assert load_checkpoint(latest)["trainer"]["counters"]["env_steps"] == 98


def test_weights_that_are_not_finite_end_the_run_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="became not finite"):
        train("sb3-ppo", tmp_path, "--agent.learning-rate", "1e30", "--agent.max-grad-norm", "1e30")


@pytest.mark.parametrize("agent", ["sb3-ddpg", "sb3-td3", "sb3-sac"])
def test_the_baselines_are_as_dsac_ts_paper_ran_them(agent: str) -> None:
    made = parse(SB3Suite, [agent, "--preset", "dsac-t-paper"], "rlzoo train sb3").asked
    assert (made.agent.hidden, made.agent.activation) == ((256, 256, 256), "gelu")
    assert (made.agent.learning_rate, made.agent.tau) == (1e-4, 0.005)
    assert (made.train.num_envs, made.train.utd * made.train.num_envs, made.train.batch_size) == (20, 1, 256)


def test_an_agent_of_another_shape_is_not_loaded(runs: dict[str, Path]) -> None:
    policy = load_policy(runs["sb3-ddpg"], agents=SB3_AGENTS)
    task = gym_tasks.make("Hopper-v5", 1)
    with pytest.raises(UserError, match="Reacher-v5 has"):
        policy.check_fits(task.spaces)
    task.close()
    policy.check_fits(Spaces(10, 2))


@pytest.mark.learning
def test_sac_swings_the_pendulum_up(tmp_path: Path) -> None:
    flags = ["--task", "Pendulum-v1", "--steps", "10000", "--num-envs", "1", "--warmup-steps", "500"]
    flags += ["--eval-every", "5000", "--eval-episodes", "10", "--log-every", "1000", "--batch-size", "128"]
    flags += ["--agent.hidden", "64", "64", "--agent.learning-rate", "1e-3", "--utd", "0.5"]
    run_dir = train("sb3-sac", tmp_path, *flags, "--buffer-capacity", "20000")
    returns = [float(value) for _, tag, value in rows(run_dir) if tag == "eval/return"]
    assert returns[-1] > -400  # doing nothing is worth about -1,200
