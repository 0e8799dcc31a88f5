"""Playing the agents of finished runs."""

import csv
import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gymnasium.envs.classic_control import PendulumEnv
from rich.console import Console

from envs.gym.vector import GymVectorTask
from experiments import evaluate, export
from experiments.runner.launch import main
from experiments.runner.suite import Suite
from experiments.train_d4rl import D4RLSuite
from experiments.train_mujoco import MujocoSuite
from rlzoo.errors import UserError
from rlzoo.evaluate import Evaluation
from rlzoo.run.checkpoint import load_checkpoint, save_checkpoint
from rlzoo.seeding import EVALUATION, derived_seed
from rlzoo.types import Spaces, Step

FLAGS = ["--eval-every", "20", "--eval-episodes", "4", "--batch-size", "16", "--threads", "1"]
FLAGS += ["--agent.hidden", "16", "16", "--device", "cpu", "--seed", "7"]


@pytest.fixture(autouse=True)
def rounding() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="module")
def hopper_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BC on the project's own demonstrations: observations standardised, episodes of different lengths."""
    data = Path(__file__).parents[2] / "results" / "datasets" / "hopper-demos.hdf5"
    return train(tmp_path_factory.mktemp("d4rl"), D4RLSuite, "bc", "--task", "hopper-expert-v2", "--offline",
                 "--dataset", str(data), "--steps", "40")  # fmt: skip


@pytest.fixture(scope="module")
def reacher_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = ["--task", "Reacher-v5", "--steps", "40", "--warmup-steps", "10", "--buffer-capacity", "1000"]
    return train(tmp_path_factory.mktemp("mujoco"), MujocoSuite, "sac", *flags, "--num-envs", "1")


def train(folder: Path, suite: type[Suite], *flags: str) -> Path:
    assert main(suite, [*flags, *FLAGS, "--runs-dir", str(folder)]) == 0
    (info,) = folder.rglob("run.json")
    return info.parent


def play(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate.py", *flags])
    assert evaluate.main() == 0


def returns(monkeypatch: pytest.MonkeyPatch, folder: Path, run_dir: Path, *flags: str) -> np.ndarray:
    path = folder / "returns.csv"
    play(monkeypatch, str(run_dir), "--output", str(path), "--episodes", "4", *flags)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["episode"] for row in rows] == ["0", "1", "2", "3"]
    return np.array([float(row["return"]) for row in rows])


@pytest.mark.parametrize("run_of", ["hopper_run", "reacher_run"])
def test_the_runs_last_evaluation_is_found_again(
    run_of: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same starts."""
    run_dir = request.getfixturevalue(run_of)
    evaluations = load_checkpoint(run_dir / "checkpoints" / "latest.pt")["trainer"]["evaluations"]
    assert len(evaluations) == 2
    seed = str(derived_seed(7, EVALUATION, evaluations[-1]["step"]))
    found = returns(monkeypatch, tmp_path, run_dir, "--seed", seed)
    assert found.mean() == pytest.approx(evaluations[-1]["eval/return"], abs=1e-2)


@pytest.mark.parametrize("run_of", ["hopper_run", "reacher_run"])
def test_an_export_plays_as_its_run_does(
    run_of: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, exported = request.getfixturevalue(run_of), tmp_path / "exported"
    monkeypatch.setattr("sys.argv", ["export.py", str(run_dir), str(exported)])
    assert export.main() == 0
    expected = returns(monkeypatch, tmp_path, run_dir)
    np.testing.assert_array_equal(returns(monkeypatch, tmp_path, exported), expected)

    def fails(message: str, *flags: str) -> None:
        monkeypatch.setattr("sys.argv", ["evaluate.py", str(exported), *flags])
        with pytest.raises(UserError, match=message):
            evaluate.main()

    fails("--checkpoint: .* is an export, of one policy alone", "--checkpoint", "best")
    with pytest.raises(UserError, match=r"is not a run folder: config\.yaml cannot be read"):
        main(D4RLSuite, ["--resume", str(exported)])  # nothing to go on with
    about = json.loads((exported / "config.json").read_text())
    del about["settings"]["suite"]  # as an earlier export
    (exported / "config.json").write_text(json.dumps(about))
    fails("config.json is not a run's configuration: it names no suite; rlzoo export of today")


def test_the_best_policy_is_another_than_the_last(
    reacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = shutil.copytree(reacher_run, tmp_path / "run")
    best = load_checkpoint(run_dir / "checkpoints" / "best.pt")
    for name, tensor in best["agent"].items():
        if isinstance(tensor, torch.Tensor) and name.startswith("policy"):
            best["agent"][name] = torch.zeros_like(tensor)
    save_checkpoint(run_dir / "checkpoints" / "best.pt", best)
    last = returns(monkeypatch, tmp_path, run_dir)
    assert np.array_equal(last, returns(monkeypatch, tmp_path, reacher_run))
    still = returns(monkeypatch, tmp_path, run_dir, "--checkpoint", "best")
    assert np.abs(still - last).min() > 0.01


def test_sampled_actions_differ_and_come_back_with_the_seed(
    reacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    likely = returns(monkeypatch, tmp_path, reacher_run)
    sampled = [returns(monkeypatch, tmp_path, reacher_run, "--sampled") for _ in range(2)]
    assert np.array_equal(*sampled)
    assert np.abs(sampled[0] - likely).min() > 0.01
    assert np.array_equal(returns(monkeypatch, tmp_path, reacher_run), likely)


def test_the_table_says_what_the_episodes_came_to(
    hopper_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = returns(monkeypatch, tmp_path, hopper_run)
    output = capsys.readouterr().out
    assert "bc on hopper-expert-v2, after step 40" in output
    assert "episodes: 4, actions: deterministic" in output
    (row,) = [line for line in output.splitlines() if " return " in line]
    cells = [float(cell.replace(",", "")) for cell in row.split("│")[2:-1]]
    expected = [found.mean(), found.std(), *np.quantile(found, [0, 0.25, 0.5, 0.75, 1])]
    np.testing.assert_allclose(cells, expected, atol=0.06)  # below 1,000: one decimal
    assert " score " in output
    assert " steps " in output


def test_a_film_of_the_first_episode(
    reacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "first.mp4"
    play(monkeypatch, str(reacher_run), "--episodes", "1", "--video", str(path))
    assert path.stat().st_size > 1000


def test_large_numbers_stay_whole_in_a_narrow_window() -> None:
    result = Evaluation(np.array([-15_000.0, 12_345.6]), np.array([1000, 1000]), np.array([0, 1.0]), [])
    console = Console(width=80)
    with console.capture() as capture:
        console.print(evaluate.summary(result, lambda value: value / 100))
    text = capture.get()
    assert "…" not in text
    assert "-15,000" in text
    assert "12,346" in text
    assert "123.5" in text
    assert "0.50" in text


@pytest.mark.parametrize("precision", ["medium", "highest"])
def test_products_are_rounded_as_in_training(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reacher_run: Path
) -> None:
    run_dir = shutil.copytree(reacher_run, tmp_path / "run")
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    (run_dir / "config.yaml").write_text(yaml.safe_dump({**config, "matmul_precision": precision}))
    returns(monkeypatch, tmp_path, run_dir)
    assert torch.get_float32_matmul_precision() == precision


def test_what_cannot_be_played_is_one_clear_line(
    tmp_path: Path, reacher_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(message: str, *flags: object) -> None:
        monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, flags)])
        with pytest.raises(UserError, match=message):
            evaluate.main()

    fails("is not a run folder", tmp_path)
    fails("--episodes is 0", reacher_run, "--episodes", "0")
    fails("--threads is 0", reacher_run, "--threads", "0")
    fails("--seed is -1", reacher_run, "--seed", "-1")
    fails("expected a name that ends in .mp4", reacher_run, "--video", "film")
    fails("it is a folder", reacher_run, "--output", tmp_path)
    other = shutil.copytree(reacher_run, tmp_path / "other")
    config = yaml.safe_load((other / "config.yaml").read_text())
    (other / "config.yaml").write_text(yaml.safe_dump({**config, "suite": "mine"}))
    fails("no suite called 'mine'; there are mujoco", other)
    (other / "config.yaml").write_text(yaml.safe_dump({**config, "task": "Hopper-v5"}))
    fails("the checkpoint is of sac on Reacher-v5, not sac on Hopper-v5", other)
    (other / "config.yaml").write_bytes(b"\xff\xfe\xfa")
    fails("is not a run's configuration", other)
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    (other / "checkpoints" / "latest.pt").unlink()
    fails("latest.pt", other)
    fails("latest.pt", other, "--output", tmp_path / "new" / "x.csv")
    assert not (tmp_path / "new").exists()


def test_another_greedy_rule_than_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(__file__).parents[2] / "results" / "datasets" / "hopper-demos.hdf5"
    flags = ["--task", "hopper-expert-v2", "--offline", "--dataset", str(data), "--steps", "40"]
    mode = train(tmp_path / "mode", D4RLSuite, "arsq", *flags, "--agent.levels", "2", "--agent.bins", "5")
    median = train(tmp_path / "median", D4RLSuite, "arsq", *flags, "--agent.levels", "2", "--agent.bins", "5",
                   "--agent.greedy", "median")  # fmt: skip
    own = returns(monkeypatch, tmp_path, median)
    assert "actions: median" in capsys.readouterr().out
    assert np.array_equal(own, returns(monkeypatch, tmp_path, mode, "--greedy", "median"))
    assert not np.array_equal(own, returns(monkeypatch, tmp_path, mode))


def test_a_greedy_rule_needs_codes(hopper_run: Path, reacher_run: Path) -> None:
    for run_dir in (hopper_run, reacher_run):
        with pytest.raises(UserError, match="is not auto-regressive"):
            evaluate.play(evaluate.Request(run_dir, greedy="median"))
    with pytest.raises(UserError, match="exclude each other"):
        evaluate.Request(hopper_run, greedy="median", sampled=True)


class SlowTask:
    """Four lanes whose episodes last 3, 5, 7 and 9 steps, a reward of 1 each; a signal comes at step 6."""

    num_envs, spaces = 4, Spaces(1, 1)

    def __init__(self, number: int) -> None:
        self.number, self.steps = number, 0

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        return {"state": np.zeros((4, 1), np.float32)}

    def send(self, action: np.ndarray) -> None:
        self.steps += 1

    def receive(self) -> Step:
        if self.steps == 6:
            signal.raise_signal(self.number)
        ends = np.array([3, 5, 7, 9]) == self.steps
        return Step(
            self.reset(0), np.ones(4, np.float32), ends, ~ends & False, np.full(4, np.nan, np.float32)
        )

    def render(self) -> np.ndarray:
        return np.full((16, 16, 3), 9 * self.steps, np.uint8)

    def close(self) -> None:
        pass


class Still:
    """An agent that does nothing."""

    def act(self, obs: dict[str, torch.Tensor], *, deterministic: bool) -> torch.Tensor:
        return torch.zeros(4, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_evaluation_keeps_what_has_ended(
    number: signal.Signals,
    reacher_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(MujocoSuite, "make", lambda *args, **options: SlowTask(number))
    policy = evaluate.load_policy(reacher_run)
    policy.agent = Still()  # type: ignore[assignment]
    monkeypatch.setattr(policy, "check_fits", lambda *args: None)
    monkeypatch.setattr(evaluate, "load_policy", lambda *args, **options: policy)
    before = signal.getsignal(number)
    flags = ["--episodes", "4", "--output", str(tmp_path / "a.csv"), "--video", str(tmp_path / "a.mp4")]
    monkeypatch.setattr("sys.argv", ["evaluate.py", str(reacher_run), *flags])
    assert evaluate.main() == 128 + number
    assert signal.getsignal(number) == before
    with (tmp_path / "a.csv").open() as file:
        assert [row["return"] for row in csv.DictReader(file)] == ["3.000", "5.000"]
    assert (tmp_path / "a.mp4").stat().st_size > 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "episodes: 2, actions: deterministic; interrupted: those of 4 that had ended" in shown
    monkeypatch.setattr("sys.argv", ["evaluate.py", str(reacher_run), "--episodes", "4"])
    monkeypatch.setattr(SlowTask, "receive", lambda task: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt):  # nothing has ended
        evaluate.main()


@pytest.mark.parametrize("told", [np.nan, 1.0])
def test_an_interrupted_evaluation_counts_silence_as_failure_where_others_succeed(told: float) -> None:
    task = SlowTask(0)
    receive = task.receive
    task.receive = lambda: receive()._replace(  # type: ignore[method-assign]
        success=np.array([np.nan, told if task.steps == 5 else np.nan, np.nan, np.nan], np.float32)
    )
    watched = evaluate.Watched(task, 4)  # type: ignore[arg-type]
    for _ in range(5):
        task.send(np.zeros((4, 1)))
        watched.receive()
    np.testing.assert_array_equal(watched.evaluation().success, [np.nan] * 2 if np.isnan(told) else [0, 1])


class Signalled(PendulumEnv):
    """Is at work when the signal comes."""

    def step(self, action: np.ndarray) -> Any:
        signal.raise_signal(signal.SIGINT)
        return super().step(action)


def test_a_signal_within_a_step_is_no_failure_of_the_environment() -> None:
    task = GymVectorTask("Pendulum-v1", [Signalled])
    task.reset(0)
    watched = evaluate.Watched(task, 1)
    task.send(np.zeros((1, 1)))
    with pytest.raises(evaluate.Interrupted), watched:
        watched.receive()


def test_an_evaluation_says_how_far_it_is(
    reacher_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "LINE_PERIOD", 0.0)
    play(monkeypatch, str(reacher_run), "--episodes", "2")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "0/2 episodes have ended, after 0 steps of 2 side by side"
    assert lines[30].startswith("0/2 episodes have ended, after 30 steps")
    assert re.match(r"2/2 episodes have ended, after 50 steps .*; mean return so far -\d+", lines[-1])
