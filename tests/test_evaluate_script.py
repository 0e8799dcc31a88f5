"""Playing the agents of finished runs."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from experiments import d4rl, evaluate, mujoco
from experiments.common import main
from rlzoo.checkpoint import load_checkpoint
from rlzoo.errors import UserError
from rlzoo.train import evaluation_seed

FLAGS = ["--eval-every", "20", "--eval-episodes", "4", "--batch-size", "16", "--threads", "1"]
FLAGS += ["--agent.hidden", "16", "16", "--device", "cpu", "--seed", "7"]


@pytest.fixture(scope="module")
def hopper_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BC on the project's own demonstrations: observations standardised, episodes of different lengths."""
    data = Path(__file__).parents[1] / "results" / "datasets" / "hopper-demos.hdf5"
    return train(tmp_path_factory.mktemp("d4rl"), d4rl, "bc", "--task", "hopper-expert-v2", "--offline",
                 "--dataset", str(data), "--steps", "40")  # fmt: skip


@pytest.fixture(scope="module")
def reacher_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("mujoco"), mujoco, "sac", "--task", "Reacher-v5", "--steps", "40",
                 "--warmup-steps", "10", "--buffer-capacity", "1000", "--num-envs", "1")  # fmt: skip


def train(folder: Path, script, *flags: str) -> Path:  # type: ignore[no-untyped-def]
    assert main(script.BENCHMARK, [*flags, *FLAGS, "--runs-dir", str(folder)]) == 0
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
def test_the_runs_own_evaluations_are_found_again(
    run_of: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same starts: the last one with `latest`, the best one with `best`."""
    run_dir = request.getfixturevalue(run_of)
    evaluations = load_checkpoint(run_dir / "checkpoints" / "latest.pt")["trainer"]["evaluations"]
    assert len(evaluations) == 2
    best = max(evaluations, key=lambda row: row["eval/return"])
    for name, row in (("latest", evaluations[-1]), ("best", best)):
        seed = str(evaluation_seed(7, row["step"]))
        found = returns(monkeypatch, tmp_path, run_dir, "--checkpoint", name, "--seed", seed)
        assert found.mean() == pytest.approx(row["eval/return"], abs=1e-2)


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
    monkeypatch.setenv("COLUMNS", "120")
    found = returns(monkeypatch, tmp_path, hopper_run)
    output = capsys.readouterr().out
    assert "bc on hopper-expert-v2, latest checkpoint" in output
    assert "4 episodes, most likely actions" in output
    (row,) = [line for line in output.splitlines() if " return " in line]
    cells = [float(cell.replace(",", "")) for cell in row.split("│")[2:-1]]
    expected = [found.mean(), found.std(), *np.quantile(found, [0, 0.25, 0.5, 0.75, 1])]
    np.testing.assert_allclose(cells, expected, atol=0.06)
    assert " score " in output
    assert " steps " in output


def test_a_film_of_the_first_episode(
    reacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "first.mp4"
    play(monkeypatch, str(reacher_run), "--episodes", "1", "--video", str(path))
    assert path.stat().st_size > 1000


def test_products_are_rounded_as_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reacher_run: Path
) -> None:
    torch.set_float32_matmul_precision("medium")
    returns(monkeypatch, tmp_path, reacher_run)
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_cannot_be_played_is_one_clear_line(
    tmp_path: Path, reacher_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(message: str, *flags: str) -> None:
        monkeypatch.setattr("sys.argv", ["evaluate.py", *flags])
        with pytest.raises(UserError, match=message):
            evaluate.main()

    fails("is not a run folder", str(tmp_path))
    fails("--episodes is 0", str(reacher_run), "--episodes", "0")
    fails("--threads is 0", str(reacher_run), "--threads", "0")
    fails("it is a folder", str(reacher_run), "--output", str(tmp_path))
    config = yaml.safe_load((reacher_run / "config.yaml").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text(yaml.safe_dump({**config, "script": "mine.py"}))
    fails("no script called 'mine.py'; there are experiments/mujoco.py", str(other))
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    fails("latest.pt", str(other))
