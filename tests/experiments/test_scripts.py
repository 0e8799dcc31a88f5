"""The commands a user types, for about a hundred steps each."""

import csv
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from algos import AGENTS
from envs.d4rl import env as d4rl_env
from envs.d4rl.tasks import TASKS
from envs.gym.rendering import rendering_backend
from experiments import evaluate, make_dataset, quickstart
from experiments.compare import find_runs
from experiments.presets.mujoco import PAPER_RETURNS
from experiments.runner.data import Data, DataConfig, make_buffers, prepare
from experiments.runner.experiment import default_experiment
from experiments.runner.launch import main, resume_hint
from experiments.runner.suite import Suite
from experiments.suites import SUITES
from experiments.train_d4rl import D4RLSuite
from experiments.train_mujoco import MujocoSuite
from rlzoo.actions import ActionRange
from rlzoo.agent import Learning
from rlzoo.data.episodes import discounted_returns, identity, observation_statistics
from rlzoo.data.load import load_episodes
from rlzoo.data.write import write_d4rl
from rlzoo.errors import UserError
from rlzoo.policy import load_policy
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.run.folder import is_finished, lock_run
from rlzoo.seeding import EVALUATION, derived_seed
from rlzoo.train import TrainConfig
from rlzoo.types import Episode, Spaces
from tests.helpers.demo_files import real_file

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--num-envs", "4", "--warmup-steps", "40", "--utd", "0.25", "--batch-size", "16"]
SHORT += ["--buffer-capacity", "4000", "--eval-every", "60", "--eval-episodes", "2", "--log-every", "20"]
SHORT += ["--agent.hidden", "16", "16", "--threads", "1", "--device", "cpu"]


def run_in_process(agent: str, runs_dir: Path, *flags: str, task: str = "Reacher-v5") -> Path:
    """Train and return the run folder."""
    before = set(runs_dir.rglob("run.json"))
    assert main(MujocoSuite, [agent, "--task", task, *SHORT, "--runs-dir", str(runs_dir), *flags]) == 0
    (new,) = set(runs_dir.rglob("run.json")) - before
    return new.parent


def rows(run_dir: Path) -> list[tuple[str, str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        found = [(row["step"], row["tag"], row["value"]) for row in csv.DictReader(file)]
    return [row for row in found if not row[1].startswith("time/")]


def script(*arguments: str, **kwargs: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "experiments/train_mujoco.py", *arguments],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"}, **kwargs,  # type: ignore[call-overload]
    )  # fmt: skip


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_every_agent_trains_and_leaves_a_complete_run_folder(agent: str, tmp_path: Path) -> None:
    run_dir = run_in_process(agent, tmp_path, "--steps", "240")
    assert run_dir.parent == tmp_path / "mujoco" / "Reacher-v5" / agent
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["agent_name"] == agent
    assert config["agent"]["hidden"] == [16, 16]
    info = json.loads((run_dir / "run.json").read_text())
    assert {"command", "git", "versions", "hardware"} <= set(info)
    tags = {tag for _, tag, _ in rows(run_dir)}
    assert {"eval/return", "eval/return_std", "train/episode_return", "train/episode_length"} <= tags
    assert any(tag.startswith("loss/") for tag in tags)
    events = EventAccumulator(str(run_dir)).Reload()
    assert tags <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("eval/return")] == [60, 120, 180, 240]
    assert load_checkpoint(run_dir / "checkpoints" / "best.pt")["agent_name"] == agent


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_resume_continues_exactly(agent: str, tmp_path: Path) -> None:
    """2N steps, and N (in the middle of Reacher's 50-step episodes) then N more: equal to the bit."""
    straight = run_in_process(agent, tmp_path / "a", "--steps", "240")
    resumed = run_in_process(agent, tmp_path / "b", "--steps", "132")
    torch.manual_seed(1)
    assert main(MujocoSuite, ["--resume", str(resumed), "--steps", "240"]) == 0
    assert rows(resumed) == rows(straight)
    states = [load_checkpoint(d / "checkpoints" / "latest.pt")["trainer"] for d in (straight, resumed)]
    one, other = (state["agent"] for state in states)
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
    assert torch.equal(states[0]["replay"]["fields"]["state"], states[1]["replay"]["fields"]["state"])
    assert len(json.loads((resumed / "run.json").read_text())["sessions"]) == 2


def test_run_dir_holds_a_new_run_and_then_that_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Begun, killed before any checkpoint, resumed, finished: one command, and the same numbers."""
    straight = run_in_process("sac", tmp_path / "a", "--steps", "120")
    flags = ["sac", "--task", "Reacher-v5", *SHORT, "--run-dir", str(tmp_path / "b" / "c")]
    assert main(MujocoSuite, [*flags, "--steps", "60"]) == 0
    run_dir = tmp_path / "b" / "c"
    assert is_finished(run_dir)
    (run_dir / "checkpoints" / "latest.pt").unlink()
    assert main(MujocoSuite, [*flags, "--steps", "60"]) == 0
    assert "no checkpoint yet: the run starts from the beginning" in capsys.readouterr().out
    torch.manual_seed(5)
    assert main(MujocoSuite, [*flags, "--steps", "120"]) == 0
    assert rows(run_dir) == rows(straight)
    assert [path.parent for path in (tmp_path / "b").rglob("run.json")] == [run_dir]
    with pytest.raises(UserError, match="--seed cannot change"):
        main(MujocoSuite, [*flags, "--steps", "120", "--seed", "2"])
    with pytest.raises(UserError, match="is a run of sac, not of td3"):
        main(MujocoSuite, ["td3", *flags[1:]])


@pytest.fixture
def rounding() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("rounding")
def test_the_rounding_of_products_is_the_runs_own(tmp_path: Path) -> None:
    """Also when it is resumed; the next run in the process is not affected."""
    rounded = run_in_process("sac", tmp_path, "--steps", "80", "--matmul-precision", "medium")
    assert torch.get_float32_matmul_precision() == "medium"
    run_in_process("sac", tmp_path, "--steps", "80")
    assert torch.get_float32_matmul_precision() == "highest"
    assert main(MujocoSuite, ["--resume", str(rounded), "--steps", "100"]) == 0
    assert torch.get_float32_matmul_precision() == "medium"
    with pytest.raises(UserError, match="--matmul-precision cannot change"):
        main(MujocoSuite, ["--resume", str(rounded), "--steps", "120", "--matmul-precision", "highest"])


def test_sigterm_writes_a_checkpoint_and_resume_continues(tmp_path: Path) -> None:
    flags = ["--task", "HalfCheetah-v5", *SHORT, "--runs-dir", str(tmp_path), "--steps", "1000000"]
    process = script("sac", *flags, "--eval-every", "1000000")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        files = list(tmp_path.rglob("metrics.csv"))
        if files and files[0].stat().st_size > 200:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "--resume" in output
    (run_dir,) = [path.parent for path in tmp_path.rglob("run.json")]
    stopped_at = load_checkpoint(run_dir / "checkpoints" / "latest.pt")["trainer"]["counters"]["env_steps"]
    assert main(MujocoSuite, ["--resume", str(run_dir), "--steps", str(stopped_at + 40)]) == 0
    steps = [int(step) for step, tag, _ in rows(run_dir) if tag == "value/q"]
    assert steps == sorted(set(steps))
    assert steps[-1] > stopped_at


def test_the_script_itself_and_its_mistakes(tmp_path: Path) -> None:
    """One line and a non-zero code each."""
    cases = {
        ("sac", "--task", "HalfChetah-v5"): "HalfCheetah-v5",
        ("sac", "--task", "CartPole-v1"): "Discrete",
        ("sac", "--device", "cuda:99"): "cuda:99",
        ("sac", "--utd", "-1"): "--utd",
        ("dsac-t", "--agent.initial-temperature", "0"): "--agent.initial-temperature",
        ("td3", "--seed", "-1"): "--seed",
        ("sac", "--dataset", "missing.hdf5"): "missing.hdf5",
        ("sac", "--buffer-capacity", "1"): "too small",
        ("--resume", str(tmp_path / "nowhere")): "not a run folder",
        ("sac", "--runs-dir", "pyproject.toml"): "pyproject.toml",
    }
    processes = {arguments: script(*arguments) for arguments in cases}
    for arguments, process in processes.items():
        try:
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
        assert process.returncode != 0, arguments
        assert "Traceback" not in errors, errors
        assert errors.startswith("error: "), errors
        assert len(errors.splitlines()) == 1, errors
        assert cases[arguments] in errors, errors


def test_an_evaluation_is_filmed(tmp_path: Path) -> None:
    try:
        rendering_backend()
    except UserError as error:
        pytest.skip(str(error))
    run_dir = run_in_process("sac", tmp_path, "--steps", "60", "--video")
    (video,) = (run_dir / "videos").iterdir()
    assert video.name == "step-60.mp4"
    with imageio.get_reader(video) as frames:
        assert frames.count_frames() == 51  # Reacher's 50 steps and the first frame


def test_help_shows_the_defaults_of_the_chosen_task() -> None:
    process = script("td3", "--task", "Ant-v5", "--help")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "(default: Ant-v5)" in output
    assert "10000" in output[output.index("--warmup-steps") :][:200]
    assert "--agent.target-noise-clip" in output


def test_help_shows_each_example_on_a_line_of_its_own() -> None:
    command = [sys.executable, "experiments/evaluate.py", "--help"]
    shown = subprocess.run(command, cwd=ROOT, text=True, capture_output=True).stdout.splitlines()
    examples = [line for line in (evaluate.__doc__ or "").splitlines() if line.startswith("python ")]
    assert len(examples) > 1
    assert set(examples) <= set(shown)


def test_unknown_flags_are_refused_with_a_suggestion() -> None:
    process = script("sac", "--agent.hiden", "16")
    output, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "--agent.hidden" in output + errors


@pytest.mark.parametrize("preset", ["paper", "small"])
@pytest.mark.parametrize(("suite", "agent"), [(s, agent) for s in SUITES.values() for agent in s.agents])
def test_presets_name_existing_settings(agent: str, preset: str, suite: type[Suite]) -> None:
    for arguments in ([], ["--observations", "state"]):
        chosen = suite(arguments)
        for task in (*chosen.tasks(), *PAPER_RETURNS) if suite is MujocoSuite else chosen.tasks():
            experiment = default_experiment(chosen, agent, task, preset)
            assert experiment.preset == preset


# ARSQ's settings per D4RL task: levels, bins, temperature, demonstration loss, its rows, its weight on the
# mean, its floor (the authors' public code; its margin loss sums over a batch of 512).
ARSQ_SETTINGS = {
    "halfcheetah-medium-v2": (1, 41, 0.01, "cql", "demos", 1.0, -1),
    "halfcheetah-medium-replay-v2": (1, 41, 0.01, "margin", "all", 51.2, -1),
    "halfcheetah-medium-expert-v2": (1, 41, 0.01, "margin", "all", 51.2, -1),
    "hopper-medium-v2": (2, 7, 0.01, "cql", "demos", 0.5, -1),
    "hopper-medium-replay-v2": (2, 7, 0.01, "margin", "all", 15.36, 1),
    "hopper-medium-expert-v2": (2, 7, 0.01, "cql", "demos", 2.0, -1),
    "walker2d-medium-v2": (1, 41, 0.01, "cql", "demos", 10.0, 0),
    "walker2d-medium-replay-v2": (1, 41, 0.01, "margin", "all", 51.2, -1),
    "walker2d-medium-expert-v2": (1, 41, 0.01, "cql", "demos", 10.0, 0),
    "ant-medium-v2": (1, 41, 0.1, "cql", "demos", 5.0, -1),
    "door-human-v1": (1, 41, 0.1, "cql", "demos", 5.0, -1),
}


@pytest.mark.parametrize("task", ARSQ_SETTINGS)
def test_arsq_has_the_papers_settings_on_each_task(task: str) -> None:
    experiment = default_experiment(D4RLSuite(), "arsq", task)
    agent, loop = experiment.agent, experiment.train
    found = (agent.levels, agent.bins, agent.temperature, agent.demo_loss, agent.demo_rows)
    assert (*found, pytest.approx(agent.demo_weight), agent.demo_floor) == ARSQ_SETTINGS[task]
    assert (agent.td_weight, agent.act_with, agent.lr, agent.tau) == (1.0, "online", 3e-4, 0.005)
    assert (agent.hidden, agent.activation) == ((512, 512, 512), "tanh")
    assert (loop.steps, loop.batch_size, loop.demo_fraction, loop.utd) == (500_000, 512, 0.5, 1.0)
    assert (loop.warmup_steps, loop.offline_steps, loop.discount, loop.n_step) == (0, 0, 0.99, 1)


# CQN's settings per D4RL task: levels, bins, weights of the Q loss, the margin loss and the dominance loss
# (the same code, whose weight of the dominance loss counts twice).
CQN_SETTINGS = {
    **dict.fromkeys((task for task in ARSQ_SETTINGS if task.startswith(("half", "walk"))), (1, 41, 1, 1, 1)),
    "hopper-medium-v2": (2, 7, 1, 0.1, 0.01),
    "hopper-medium-replay-v2": (2, 7, 1, 1, 1),
    "hopper-medium-expert-v2": (2, 7, 1, 0.1, 0.01),
    "ant-medium-v2": (3, 5, 0.1, 1, 1),
    "door-human-v1": (3, 5, 0.1, 1, 1),
}


@pytest.mark.parametrize("task", CQN_SETTINGS)
def test_cqn_has_the_settings_that_arsqs_paper_compares_with(task: str) -> None:
    experiment = default_experiment(D4RLSuite(), "cqn", task)
    agent, loop = experiment.agent, experiment.train
    dominance = agent.demo_weight * agent.dominance_weight
    found = (agent.levels, agent.bins, agent.td_weight, agent.demo_weight, dominance)
    assert found == pytest.approx(CQN_SETTINGS[task])
    assert (agent.margin, agent.exploration_noise, agent.atoms) == (1, 0.1, 51)
    assert (agent.lr, agent.tau) == (1e-4, 0.005)
    assert (agent.hidden, agent.feature_dim) == ((512, 512), 64)
    assert (loop.batch_size, loop.demo_fraction, loop.utd, loop.warmup_steps) == (512, 0.5, 1.0, 0)


@pytest.mark.parametrize("task", ARSQ_SETTINGS)
def test_bcs_codes_are_cut_as_arsqs(task: str) -> None:
    agent = default_experiment(D4RLSuite(), "bc", task).agent
    assert (agent.levels, agent.bins) == ARSQ_SETTINGS[task][:2]


def test_cqns_atoms_reach_as_far_as_d4rls_experts() -> None:
    for name, task in TASKS.items():
        agent = default_experiment(D4RLSuite(), "cqn", name).agent
        horizon = (1 - 0.99**task.max_episode_steps) / 0.01
        expert = task.max_score / task.max_episode_steps * horizon
        assert agent.v_min <= min(0.0, task.min_score / task.max_episode_steps * horizon), name
        assert agent.v_max > expert, name


@pytest.mark.parametrize(("kind", "largest"), [("antmaze", 1), ("kitchen", 4), ("maze2d", 100)])
def test_cqns_atoms_and_margin_tell_small_returns_apart(kind: str, largest: float) -> None:
    for name in TASKS:
        if name.startswith(kind):
            agent = default_experiment(D4RLSuite(), "cqn", name).agent
            assert 0.25 <= largest / (agent.v_max - agent.v_min) <= 1
            assert agent.margin == pytest.approx((agent.v_max - agent.v_min) / 400)


def test_a_run_says_so_when_the_data_go_beyond_cqns_atoms(
    hopper_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_d4rl("cqn", tmp_path, hopper_data, "--offline", "--steps", "1", "--agent.v-max", "0.5")
    assert "CQN's atoms -10 to 0.5: what lies beyond is cut" in capsys.readouterr().out
    run_d4rl("cqn", tmp_path, hopper_data, "--offline", "--steps", "1", "--reward-scale", "1e4")
    assert "CQN's atoms -10 to 450: what lies beyond is cut" in capsys.readouterr().out
    run_d4rl("cqn", tmp_path, hopper_data, "--offline", "--steps", "1", "--agent.atoms", "1")
    assert "atoms" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "warns"), [([], True), (["--agent.v-min", "-100"], False), (["--agent.atoms", "1"], False)]
)
def test_a_run_without_data_says_what_cqns_atoms_stand_for(
    flags: list[str], warns: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in_process("cqn", tmp_path, "--steps", "8", "--agent.levels", "1", *flags)
    said = "CQN's atoms stand for discounted returns of 0 to 400" in capsys.readouterr().out
    assert said == warns


def test_cqns_atoms_have_to_reach_what_a_door_that_stays_open_is_worth() -> None:
    """20 a step for ever, 2,000, though 50 steps of it are 790; a tenth of the range beyond is let pass."""
    states, actions = {"state": np.zeros((51, 39), np.float32)}, np.zeros((50, 28), np.float32)
    episode = Episode(states, actions, np.full(50, 20, np.float32), terminated=False)
    preset = default_experiment(D4RLSuite(), "cqn", "door-human-v1")
    learning = Learning(256, True, 128, 0.5, lambda: discounted_returns([episode], preset.train.discount))
    for v_max, warns in ((preset.agent.v_max, False), (1_900.0, False), (1_500.0, True)):
        said = dataclasses.replace(preset.agent, v_max=v_max).remarks(learning)
        assert any("2,000.0, CQN's atoms" in line for line in said) == warns


@pytest.mark.parametrize(
    ("agent", "idle", "awake"),
    [
        ("arsq", ["--agent.advantage-tau", "0.001"], ["--agent.act-with", "target"]),
        ("bc", ["--agent.greedy", "median"], ["--agent.policy", "arsq"]),
        ("bc", ["--agent.bins", "9"], ["--agent.policy", "arsq"]),
        ("sac", ["--agent.target-entropy", "-1"], ["--agent.automatic-temperature"]),
        ("dsac-t", ["--agent.fixed-td-bound", "9"], ["--agent.no-variance-based-adjustment"]),
        ("dsac", ["--agent.running-std-rate", "0.1"], ["--agent.variance-based-adjustment"]),
    ],
)
def test_a_setting_that_does_nothing_beside_another_is_named(
    agent: str,
    idle: list[str],
    awake: list[str],
    hopper_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--offline", "--steps", "1", *idle]
    asleep = ["--agent.no-automatic-temperature"] if "--agent.automatic-temperature" in awake else []
    run_d4rl(agent, tmp_path / "idle", hopper_data, *flags, *asleep)
    assert f"warning: {idle[0]} has no effect without {' '.join(awake)}" in capsys.readouterr().out
    run_d4rl(agent, tmp_path / "awake", hopper_data, *flags, *awake)
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("agent", "flags", "said"),
    [
        ("bc", ["--discount", "0.5"], "--discount has no effect on bc, which learns no values"),
        ("bc", ["--reward-scale", "2"], "--reward-scale has no effect on bc, which learns no values"),
        (
            "bc",
            ["--agent.layer-norm"],
            "--agent.layer-norm has no effect without --agent.policy arsq",
        ),
        (
            "bc",
            ["--agent.policy", "arsq", "--agent.loss", "mse"],
            "--agent.loss has no effect without --agent.policy gaussian",
        ),
        (
            "bc",
            ["--agent.loss", "mse", "--agent.action-limit", "0.9"],
            "--agent.action-limit has no effect without --agent.loss likelihood",
        ),
        (
            "cqn",
            ["--agent.atoms", "1", "--agent.v-max", "9"],
            "--agent.v-max has no effect with --agent.atoms 1",
        ),
    ],
)
def test_settings_that_the_agent_makes_no_use_of_are_named(
    agent: str,
    flags: list[str],
    said: str,
    hopper_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_d4rl(agent, tmp_path, hopper_data, "--offline", "--steps", "1", *flags)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert lines == [f"warning: {said}"]


def test_demonstrations_that_take_longer_than_the_task_allows_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spaces = Spaces(state_dim=39, action_dim=28)

    def load(*lengths: int) -> str:
        episodes = [
            Episode(
                {"state": np.zeros((length + 1, 39), np.float32)},
                np.zeros((length, 28), np.float32),
                np.zeros(length, np.float32),
                terminated=False,
            )
            for length in lengths
        ]
        write_d4rl(tmp_path / "door.hdf5", episodes, {})
        found = D4RLSuite().load_data("door-human-v1", str(tmp_path / "door.hdf5"), spaces)
        assert [len(episode) for episode in found] == list(lengths)
        return capsys.readouterr().out

    assert load(150, 200) == ""
    assert "1 of the 2 episodes are longer than the 200 steps that door-human-v1 gives" in load(200, 201)


def test_kitchens_recorded_rewards_become_the_tasks_when_they_are_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D4RL's files count finished parts in every step; where each was paid once already nothing changes."""
    spaces = Spaces(state_dim=60, action_dim=9)
    states = np.zeros((7, 60), np.float32)
    states[3:, 22] = -0.75  # the microwave is open from step 2 on
    actions, path = np.zeros((6, 9), np.float32), str(tmp_path / "kitchen.hdf5")

    def load(*rewards: float) -> tuple[list[float], str]:
        write_d4rl(path, [Episode({"state": states}, actions, np.float32(rewards), terminated=True)], {})
        (found,) = D4RLSuite().load_data("kitchen-complete-v0", path, spaces)
        return found.reward.tolist(), capsys.readouterr().out

    rewards, said = load(0, 0, 1, 1, 2, 2)
    assert rewards == [0, 0, 1, 0, 0, 0]
    assert said.startswith("rewards: recorded for every finished part in every step")
    assert load(0, 0, 1, 0, 1, 0) == ([0, 0, 1, 0, 1, 0], "")


def test_few_human_door_demonstrations_succeed_in_the_tasks_time(capsys: pytest.CaptureFixture[str]) -> None:
    """The demonstrations of door, whose success rates results/findings.md explains."""
    spaces = Spaces(state_dim=39, action_dim=28)
    path = str(real_file("adroit/door-v0_demos.pickle"))
    angles = [episode.obs["state"][:, 28] for episode in D4RLSuite().load_data("door-human-v1", path, spaces)]
    assert "25 of the 25 episodes are longer than the 200 steps" in capsys.readouterr().out
    assert sum(angle.max() >= 1.35 for angle in angles) == 7
    assert sum(angle[:201].max() >= 1.35 for angle in angles) == 6


def test_settings_of_data_that_are_given_without_any_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--demo-count", "5", "--join-capacity", "100", "--demo-percentile", "50", "--no-standardize"]
    run_in_process("sac", tmp_path, "--steps", "60", *flags)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert said == [
        f"warning: --{name} has no effect without recorded data"
        for name in ("demo-count", "no-standardize", "join-capacity")
    ]


def test_steps_that_no_batch_would_hold_are_named(
    hopper_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    online, offline = ["--steps", "4", "--warmup-steps", "0"], ["--steps", "4", "--offline"]
    for agent, flags, warns in (("bc", online, True), ("bc", offline, False), ("cqn", online, False)):
        run_d4rl(agent, tmp_path / agent / str(warns), hopper_data, *flags)
        assert ("the environment steps teach nothing" in capsys.readouterr().out) == warns


def test_no_two_buffers_of_neighbouring_seeds_draw_the_same_rows(hopper_data: Path) -> None:
    episodes = load_episodes(hopper_data)
    drawn = []
    for seed in (1, 2, 3):
        buffers = make_buffers(
            Spaces(state_dim=11, action_dim=3),
            Data(episodes, episodes, episodes),
            TrainConfig(join_capacity=100),
            device=torch.device("cpu"),
            seed=seed,
            grows=False,
            saved=None,
        )
        drawn += [tuple(buffers[name].sample(64).reward.tolist()) for name in ("replay", "demos")]
    assert len(set(drawn)) == len(drawn)


def test_flags_of_online_steps_have_no_effect_offline(
    hopper_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_d4rl("td3", tmp_path, hopper_data, "--offline", "--steps", "1", "--utd", "3", "--join-capacity", "9")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert said == [f"warning: --{name} has no effect with --offline" for name in ("join-capacity", "utd")]


def test_too_little_room_for_episodes_that_join_names_its_flag(hopper_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--join-capacity is 2, expected 0 or at least 3"):
        run_d4rl("cqn", tmp_path, hopper_data, "--steps", "4", "--warmup-steps", "0", "--join-capacity", "2")


def test_an_offline_run_takes_no_room_beyond_its_data(hopper_data: Path, tmp_path: Path) -> None:
    lengths = [len(episode) + 1 for episode in load_episodes(hopper_data)]
    least = 3 + 1 + 1  # n-step, one frame, and one
    common = ["--offline", "--steps", "2", "--n-step", "3", "--join-capacity", "500"]
    for flags, rows_of_data in (([], sum(lengths) + max(lengths)), (["--no-seed-replay"], 0)):
        run_dir = run_d4rl("cqn", tmp_path / str(len(flags)), hopper_data, *common, *flags)
        saved = load_checkpoint(run_dir / "checkpoints" / "latest.pt")["trainer"]
        assert len(saved["replay"]["starts_in_row"]) == rows_of_data + least
        assert saved["joined"] is None


def test_the_best_episodes_alone_seed_the_replay_buffer(
    hopper_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes = load_episodes(hopper_data)
    config = DataConfig(replay_ratio=50.0, standardize=False)
    data = prepare(episodes, config, seed=0, normalized_score=None)
    assert f"replay\nepisodes           {len(data.replay)} of {len(episodes)}" in capsys.readouterr().out
    returns = sorted(episode.episode_return for episode in episodes)
    assert sorted(episode.episode_return for episode in data.replay) == returns[-len(data.replay) :]
    share = sum(map(len, data.replay)) / sum(map(len, episodes))
    assert abs(share - 0.5) <= max(map(len, episodes)) / sum(map(len, episodes))
    assert len(data.demos) == len(episodes)
    assert not prepare(
        episodes, dataclasses.replace(config, seed_replay=False), seed=0, normalized_score=None
    ).replay


def test_bc_without_demonstrations_in_its_batches(
    hopper_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="--demo-fraction 0 of --batch-size 16 is none"):
        run_d4rl("bc", tmp_path, hopper_data, "--demo-fraction", "0")
    run_in_process("bc", tmp_path, "--steps", "40")
    assert "there are none: it will learn nothing" in capsys.readouterr().out


def test_errors_in_the_selection_name_the_data(hopper_data: Path, tmp_path: Path) -> None:
    flags = ("--demo-percentile", "0", "--demo-ratio", "0.01", "--demo-count", "3")
    with pytest.raises(UserError, match=r"hopper\.hdf5: demo percentile 0 and ratio 0\.01 select none of 12"):
        run_d4rl("arsq", tmp_path, hopper_data, *flags)


def test_evaluations_see_observations_as_training_does(
    hopper_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the script's own benchmark: an acting agent sees what is standardised as the data are."""
    seen = []
    original = AGENTS["bc"].act

    def act(self, obs, *, deterministic):  # type: ignore[no-untyped-def]
        seen.append(obs["state"].clone())
        return original(self, obs, deterministic=deterministic)

    monkeypatch.setattr(AGENTS["bc"], "act", act)
    flags = ["--offline", "--steps", "2", "--eval-every", "2", "--eval-episodes", "3", "--device", "cpu"]
    flags += ["--task", "hopper-medium-v2", "--dataset", str(hopper_data), "--runs-dir", str(tmp_path)]
    assert main(D4RLSuite, ["bc", *flags]) == 0
    mean, std = observation_statistics(load_episodes(hopper_data))
    first = d4rl_env.make("hopper-medium-v2", 3).reset(derived_seed(1, EVALUATION, 2))["state"]
    np.testing.assert_allclose(seen[0].numpy(), (first - mean) / std, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["dsac-t", "--agent.hiden", "3"],
            "Unrecognized options: --agent.hiden, 3; did you mean --agent.hidden",
        ),
        (["dsac-t", "--steps", "1e6"], "Error parsing --steps: invalid literal for int"),
        (["dsact"], "no agent called 'dsact'; did you mean dsac-t?"),
        (["nothing"], "no agent called 'nothing'; there are arsq, "),
        (["--task", "Hopper-v5"], "which agent? python experiments/train_mujoco.py AGENT [flags]"),
        (["sac", "--preset", "smal"], "--preset is smal; there are paper, small"),
        (["sac", "--seed", str(2**64)], f"--seed is {2**64}, expected less than 9223372036854775808"),
        (
            ["sac", "--agent.log-std-range", "2", "-20"],
            "--agent.log-std-range is 2 to -20, expected",
        ),
        (["sac", "--resume", "/nowhere"], "/nowhere is not a run folder"),
        (["sac", "--offline", "--offline-steps", "3"], "--offline-steps has to be 0"),
        (["sac", "--rescale-actions"], "--rescale-actions takes the range from data: give --dataset FILE"),
    ],
)
def test_a_mistyped_command_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        main(MujocoSuite, arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_other_bounds_of_actions_than_before_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = run_in_process("sac", tmp_path, "--steps", "80")
    make = MujocoSuite.make

    def narrower(suite: MujocoSuite, *args: Any, **options: Any) -> Any:
        task = make(suite, *args, **options)
        task.interface = dataclasses.replace(task.interface, actions=ActionRange(-0.5, 0.5))
        return task

    monkeypatch.setattr(MujocoSuite, "make", narrower)
    refusal = r"Reacher-v5: actions lie between -0\.5 and 0\.5, and lay between \[-1\. -1\.\] and \[1\. 1\.\]"
    with pytest.raises(UserError, match=refusal):
        main(MujocoSuite, ["--resume", str(run_dir), "--steps", "120"])
    output = tmp_path / "none.hdf5"
    record = ["expert", "--expert", str(run_dir), "--steps", "50", "--output", str(output)]
    for script, flags in ((evaluate, [str(run_dir), "--episodes", "1"]), (make_dataset, record)):
        monkeypatch.setattr("sys.argv", [script.__name__, *flags])
        with pytest.raises(UserError, match=refusal):
            script.main()
    assert not output.exists()


def test_what_a_resumed_run_cannot_be(tmp_path: Path) -> None:
    run_dir = str(run_in_process("sac", tmp_path, "--steps", "80"))
    with pytest.raises(UserError, match=r"--steps is 30, but the run has done 80 already"):
        main(MujocoSuite, ["--resume", run_dir, "--steps", "30"])
    with pytest.raises(UserError, match="is a run of sac, not of td3"):
        main(MujocoSuite, ["td3", "--resume", run_dir])
    with pytest.raises(UserError, match="is a run of mujoco, not of d4rl"):
        main(D4RLSuite, ["--resume", run_dir])
    with lock_run(Path(run_dir)), pytest.raises(UserError, match="another process is training this run"):
        main(MujocoSuite, ["--resume", run_dir])
    assert main(MujocoSuite, ["sac", "--resume", run_dir, "--steps", "84"]) == 0


@pytest.mark.parametrize(
    "make",
    [
        "from envs.gym import make; make.make('Reacher-v5', 1)",
        "from envs.d4rl import env; env.make('hopper-medium-v2', 1)",
        "from envs.d4rl import env; env.make('door-human-v1', 1)",
        "from envs.panda import env; env.make('reach_target', 1)",
    ],
)
def test_a_library_that_draws_is_not_needed_to_train(make: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", f"{make}.reset(0)"],
        cwd=ROOT, text=True, capture_output=True, env={**os.environ, "MUJOCO_GL": "bogus"}, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr


def test_a_checkpoint_of_another_network_is_one_clear_error(tmp_path: Path) -> None:
    run_dir = run_in_process("sac", tmp_path, "--steps", "80")
    (run_dir / "config.yaml").write_text(
        (run_dir / "config.yaml").read_text().replace("hidden:\n  - 16\n", "hidden:\n  - 8\n")
    )
    with pytest.raises(UserError, match=r"agent\.hidden is \[8, 16\], but the run was begun with \[16, 16\]"):
        main(MujocoSuite, ["--resume", str(run_dir)])


def test_a_resumed_run_keeps_its_settings(tmp_path: Path) -> None:
    run_dir = run_in_process("sac", tmp_path, "--steps", "80")
    for flags in (["--agent.hidden", "8"], ["--task", "Hopper-v5"], ["--utd", "1"], ["--seed", "2"]):
        with pytest.raises(UserError, match=f"{flags[0]} cannot change"):
            main(MujocoSuite, ["--resume", str(run_dir), *flags])
    best, latest = (run_dir / "checkpoints" / name for name in ("best.pt", "latest.pt"))
    latest.write_bytes(best.read_bytes())
    with pytest.raises(UserError, match="policy alone"):
        main(MujocoSuite, ["--resume", str(run_dir)])


def test_quickstart_ends_with_the_data_and_both_agents_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--bc-updates", "10", "--arsq-steps", "10", "--runs-dir", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["quickstart.py", *flags])
    assert quickstart.main() == 0
    output = capsys.readouterr().out
    assert output.startswith(quickstart.INTRODUCTION)
    rows = [line.split("│")[1].partition(":")[0].strip() for line in output.splitlines() if "│" in line]
    assert rows[-3:] == ["the demonstrations", "BC", "ARSQ"]
    assert str(tmp_path / "curves.png") in output
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert f"tensorboard --logdir {os.path.relpath(tmp_path)}" in output
    assert {run.agent for run in find_runs([tmp_path])} == {"arsq", "bc"}
    assert quickstart.DATASET.stat().st_size < 5e6


def test_the_hint_after_an_interruption_names_a_script_that_resumes(tmp_path: Path) -> None:
    hint = resume_hint("experiments/train_d4rl.py", tmp_path)
    result = subprocess.run([*shlex.split(hint), "--help"], text=True, capture_output=True)
    assert "not a run folder" in result.stderr
    assert result.returncode != 0


@pytest.fixture
def hopper_data(tmp_path: Path) -> Path:
    """Twelve random episodes in D4RL's layout."""
    random = np.random.default_rng(0)
    episodes = [
        Episode(
            {"state": random.normal(3, 2, (length + 1, 11)).astype(np.float32)},
            random.uniform(-1, 1, (length, 3)).astype(np.float32),
            random.normal(size=length).astype(np.float32),
            terminated=bool(length % 2),
        )
        for length in range(15, 27)
    ]
    path = tmp_path / "hopper.hdf5"
    write_d4rl(path, episodes, {})
    return path


def run_d4rl(agent: str, runs_dir: Path, data: Path, *flags: str) -> Path:
    arguments = [agent, "--task", "hopper-medium-v2", "--dataset", str(data), "--runs-dir", str(runs_dir)]
    arguments += [
        "--batch-size",
        "16",
        "--buffer-capacity",
        "2000",
        "--eval-every",
        "40",
        "--log-every",
        "20",
    ]
    arguments += ["--eval-episodes", "2", "--agent.hidden", "16", "16", "--threads", "1", "--device", "cpu"]
    before = set(runs_dir.rglob("run.json"))
    assert main(D4RLSuite, [*arguments, *flags]) == 0
    (new,) = set(runs_dir.rglob("run.json")) - before
    return new.parent


@pytest.mark.parametrize("agent", sorted(AGENTS))
@pytest.mark.parametrize("mode", ["online", "offline", "offline then online"])
def test_every_agent_learns_from_a_dataset(agent: str, mode: str, hopper_data: Path, tmp_path: Path) -> None:
    flags = {
        "online": ["--steps", "40"],
        "offline": ["--offline", "--steps", "40"],
        "offline then online": ["--offline-steps", "20", "--steps", "20"],
    }[mode]
    run_dir = run_d4rl(agent, tmp_path, hopper_data, *flags, "--demo-ratio", "50", "--demo-percentile", "100")
    values = {tag: float(value) for step, tag, value in rows(run_dir) if step == "40"}
    assert {"eval/return", "eval/normalized_score"} <= set(values)
    checkpoint = load_checkpoint(run_dir / "checkpoints" / "latest.pt")
    counters = checkpoint["trainer"]["counters"]
    online = {"online": 40, "offline": 0, "offline then online": 20}[mode]
    assert (counters["env_steps"], counters["offline_updates"]) == (online, 40 - online)
    assert abs(checkpoint["scaling"]["mean"].mean() - 3) < 0.3
    states = checkpoint["trainer"]["demos"]["fields"]["state"]
    assert states.mean().abs() < 0.2
    assert abs(states.std() - 1) < 0.2


def test_a_run_with_data_resumes_exactly_without_the_data(hopper_data: Path, tmp_path: Path) -> None:
    straight = run_d4rl("arsq", tmp_path / "a", hopper_data, "--steps", "80")
    resumed = run_d4rl("arsq", tmp_path / "b", hopper_data, "--steps", "40")
    data = identity(load_episodes(hopper_data))
    hopper_data.unlink()
    assert main(D4RLSuite, ["--resume", str(resumed), "--steps", "80"]) == 0
    assert rows(resumed) == rows(straight)
    for run_dir in (straight, resumed):  # both say which data these were
        assert json.loads((run_dir / "run.json").read_text())["data"] == data
        assert load_policy(run_dir).about["data"] == data
    one, other = (load_checkpoint(d / "checkpoints" / "latest.pt")["trainer"] for d in (straight, resumed))
    for key, value in one["agent"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other["agent"][key]), key
