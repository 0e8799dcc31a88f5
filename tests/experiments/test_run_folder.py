"""What happens to a run whose folder, disk, settings or clock change, and what is left of it."""

from __future__ import annotations

import contextlib
import csv
import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from experiments.runner.launch import main
from experiments.train_mujoco import MujocoSuite
from rlzoo.errors import UserError
from rlzoo.policy import load_policy
from rlzoo.run import checkpoint as checkpoints
from rlzoo.run.checkpoint import load_checkpoint, save_checkpoint
from rlzoo.train import Trainer
from rlzoo.types import Spaces

FLAGS = ["sac", "--task", "Reacher-v5", "--num-envs", "4", "--warmup-steps", "40", "--utd", "0.25"]
FLAGS += ["--batch-size", "16", "--log-every", "20", "--buffer-capacity", "400", "--eval-every", "80"]
FLAGS += ["--eval-episodes", "1", "--agent.hidden", "16", "--threads", "1", "--device", "cpu"]
FLAGS += ["--steps", "240"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


def train(runs_dir: Path, *flags: str) -> Path:
    """Train and return the run's folder, whatever comes of it."""
    before = set(runs_dir.rglob("config.yaml"))
    with contextlib.suppress(Killed):
        assert main(MujocoSuite, [*FLAGS, "--runs-dir", str(runs_dir), *flags]) == 0
    (new,) = set(runs_dir.rglob("config.yaml")) - before
    return new.parent


def resume(run_dir: Path, *flags: str) -> int:
    return main(MujocoSuite, ["--resume", str(run_dir), *flags])


def rows(run_dir: Path) -> list[list[str]]:
    with (run_dir / "metrics.csv").open() as file:
        return [row for row in csv.reader(file) if not row[1].startswith("time/")]


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Trainer], None]], None]:
    """Do something once, when a run has got to a step."""

    def arrange(step: int, act: Callable[[Trainer], None]) -> None:
        original, done = Trainer._after_step, []

        def after_step(trainer: Trainer) -> None:
            if trainer.counters.step >= step and not done:
                done.append(True)
                act(trainer)
            original(trainer)

        monkeypatch.setattr(Trainer, "_after_step", after_step)

    return arrange


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def killed(trainer: Trainer) -> None:
    raise Killed


# ---- No checkpoint yet


@pytest.mark.parametrize("step", [4, 100])  # before anything is logged, and after an evaluation
def test_a_run_killed_before_its_first_checkpoint_begins_anew(
    step: int, finished: Path, tmp_path: Path, at_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    at_step(step, killed)
    run_dir = train(tmp_path)
    assert not (run_dir / "checkpoints" / "latest.pt").exists()
    assert resume(run_dir) == 0
    assert f"{run_dir} has no checkpoint yet: the run starts from the beginning" in capsys.readouterr().out
    assert rows(run_dir) == rows(finished)


def test_it_does_so_with_more_frequent_checkpoints_too(tmp_path: Path, at_step: Any) -> None:
    at_step(100, killed)
    run_dir = train(tmp_path)
    assert resume(run_dir, "--checkpoint-every", "20") == 0


def test_offline_updates_cannot_follow_online_steps(finished: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(UserError, match="--offline-steps come before the online ones"):
        resume(run_dir, "--offline-steps", "6", "--steps", "300")


def test_a_run_whose_checkpoint_was_removed_does_not_begin_anew(tmp_path: Path) -> None:
    run_dir = train(tmp_path, "--checkpoint-every", "100")
    (run_dir / "checkpoints" / "latest.pt").unlink()
    before = rows(run_dir)
    with pytest.raises(UserError, match=r"no checkpoint at .*latest\.pt, though the run got to step 240"):
        resume(run_dir)
    assert rows(run_dir) == before


# ---- The folder changes meanwhile


def rename(trainer: Trainer) -> None:
    trainer.run_dir.rename(trainer.run_dir.parent / "renamed")


def remove(trainer: Trainer) -> None:
    shutil.rmtree(trainer.run_dir)


def delete_metrics(trainer: Trainer) -> None:
    (trainer.run_dir / "metrics.csv").unlink()


def replace_events(trainer: Trainer) -> None:
    (events,) = trainer.run_dir.glob("events*")
    shutil.copy(events, events.with_name("copy"))
    events.with_name("copy").rename(events)


@pytest.mark.parametrize("change", [rename, remove, delete_metrics, replace_events])
def test_a_folder_that_changes_under_a_run_ends_it_with_a_checkpoint(
    change: Callable[[Trainer], None], tmp_path: Path, at_step: Any
) -> None:
    at_step(100, change)
    with pytest.raises(
        UserError, match="was deleted, moved or replaced while the run was under way"
    ) as caught:
        train(tmp_path)
    (latest,) = tmp_path.rglob("latest.pt")
    assert str(caught.value).endswith(f"the checkpoint of step 100 is {latest}")
    assert "\n" not in str(caught.value)
    assert load_checkpoint(latest)["trainer"]["counters"]["env_steps"] == 100
    assert (latest.parents[1].name == "renamed") == (change is rename)
    assert resume(latest.parents[1]) == 0
    assert [row for row in rows(latest.parents[1]) if row[1] == "eval/return"][-1][0] == "240"


# ---- Settings


@pytest.mark.parametrize(
    ("group", "key", "value", "message"),
    [
        (
            "agent",
            "critic_lr",
            0.5,
            "agent.critic_lr is 0.5, but the run was begun with 0.0003; a resumed",
        ),
        ("train", "num_envs", 5, "train.num_envs is 5, but the run was begun with 4"),
        ("data", "standardize", False, "data.standardize is False, but the run was begun with True"),
        (None, "seed", 7, "seed is 7, but the run was begun with 1"),
        ("agent", "critic_lrr", 0.5, "agent.critic_lrr: there is no such setting"),
        (None, "sed", 7, "sed: there is no such setting"),
        (None, "seed", "abc", "seed: expected a valid integer"),
        ("train", "steps", 10**400, "train.steps: expected less than"),
        ("train", "utd", -1, "train.utd: expected greater than or equal to 0"),
        (None, "agent", [1], "agent"),
        (None, "resolved", "x", "is not a run's configuration"),
        (None, "options", 5, "is not a run's configuration"),
        (None, "suite", ["mujoco"], "it names no suite"),
        (None, "agent_name", {}, "is not a run's configuration"),
    ],
)
def test_an_edited_configuration_is_held_against_the_checkpoint(
    group: str | None, key: str, value: Any, message: str, run_dir: Path
) -> None:
    path = run_dir / "config.yaml"
    config = yaml.safe_load(path.read_text())
    (config if group is None else config[group])[key] = value
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=f"{path}") as caught:
        resume(run_dir)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_resumed_run_may_change_may_also_be_edited(run_dir: Path) -> None:
    path = run_dir / "config.yaml"
    path.write_text(path.read_text().replace("steps: 240\n", "steps: 260\n"))
    assert resume(run_dir) == 0
    assert rows(run_dir)[-1][0] == "260"


def test_files_nested_too_deeply_are_one_line(run_dir: Path) -> None:
    (run_dir / "run.json").write_text("[" * 100_000)
    assert resume(run_dir) == 0
    (run_dir / "config.yaml").write_text("[" * 5_000)
    with pytest.raises(UserError, match="is not a run's configuration"):
        resume(run_dir)


# ---- Checkpoints that are whole but odd


def odd(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(trainer: dict[str, Any]) -> None:
        trainer[key] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda trainer: trainer["counters"].update(env_steps="many"),
        lambda trainer: trainer["counters"].update(best_return=[1]),
        lambda trainer: trainer["obs"].update(state=torch.zeros(4, 99)),
        lambda trainer: trainer["obs"].update(state=torch.zeros(4, 10, dtype=torch.float64)),
        lambda trainer: trainer["replay"].update(written={}),
        lambda trainer: trainer["replay"].update(oldest=10**6),
        lambda trainer: trainer["replay"]["starts"].add_(10**6),
        lambda trainer: trainer["metrics"].update({"loss/critic": torch.zeros(2)}),
        odd("obs", {}),
        odd("evaluations", [{"step": "none"}]),
        odd("finished", [("a", 1)]),
        odd("counters", None),
    ],
)
def test_an_odd_checkpoint_is_one_line(change: Callable[[dict[str, Any]], None], run_dir: Path) -> None:
    path = run_dir / "checkpoints" / "latest.pt"
    content = load_checkpoint(path)
    change(content["trainer"])
    save_checkpoint(path, content)
    with pytest.raises(UserError, match="does not fit this run") as caught:
        resume(run_dir, "--steps", "260")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("found", ["much", None, [1.0]])
def test_a_best_policy_whose_return_is_no_number_is_replaced(found: Any, run_dir: Path) -> None:
    path = run_dir / "checkpoints" / "best.pt"
    save_checkpoint(path, {**load_checkpoint(path), "return": found})
    assert resume(run_dir, "--steps", "340") == 0
    assert isinstance(load_checkpoint(path)["return"], float)


# ---- A full disk


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Leaves so many bytes of room for each checkpoint."""
    original = torch.save

    def leave(room: int) -> None:
        def save(content: Any, file: Any) -> None:
            original(content, file)
            if file.tell() > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(checkpoints.torch, "save", save)

    return leave


def test_a_finished_run_on_a_full_disk_keeps_its_agent(tmp_path: Path, disk: Callable[[int], None]) -> None:
    disk(60_000)  # for the agent, not for the replay buffer with it
    with pytest.raises(UserError) as caught:
        train(tmp_path, "--eval-every", "1000")
    (latest,) = tmp_path.rglob("latest.pt")
    assert "No space left on device" in str(caught.value)
    assert f"the agent of step 240 is kept in {latest}, from which the run cannot be" in str(caught.value)
    load_policy(latest.parents[1]).check_fits(Spaces(state_dim=10, action_dim=2))
    with pytest.raises(UserError, match="holds a policy alone"):
        resume(latest.parents[1])


def test_a_full_disk_leaves_an_earlier_checkpoint(run_dir: Path, disk: Callable[[int], None]) -> None:
    latest = run_dir / "checkpoints" / "latest.pt"
    before = latest.read_bytes()
    disk(60_000)
    with pytest.raises(UserError, match=f"No space left.*the last checkpoint is as it was: {latest}"):
        resume(run_dir, "--steps", "300")
    assert latest.read_bytes() == before


def test_a_disk_without_any_room_is_one_line(tmp_path: Path, disk: Callable[[int], None]) -> None:
    disk(0)
    with pytest.raises(UserError, match=r"No space left.*nothing could be kept of the run"):
        train(tmp_path, "--eval-every", "1000")


def test_a_metrics_file_without_room_ends_the_run_with_a_checkpoint(
    tmp_path: Path, at_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(trainer: Trainer) -> None:
        trainer.logger._metrics._file.close()
        trainer.logger._metrics._file = Path("/dev/full").open("ab")  # noqa: SIM115

    at_step(100, fill)
    with pytest.raises(UserError, match=r"metrics\.csv: No space left.*the checkpoint of step 100 is "):
        train(tmp_path)


# ---- The clock, and home


def test_a_clock_that_was_set_back_keeps_the_order_of_event_files(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name for path in run_dir.glob("events*")}
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now - 10**7)
    assert resume(run_dir, "--steps", "280") == 0
    (new,) = {path.name for path in run_dir.glob("events*")} - before
    assert new > max(before)


def test_a_tilde_in_a_flag_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(MujocoSuite, [*FLAGS, "--runs-dir=~/runs"]) == 0
    (config,) = (tmp_path / "home" / "runs").rglob("config.yaml")
    assert not (tmp_path / "~").exists()
    below_home = config.parent.relative_to(tmp_path / "home")
    assert main(MujocoSuite, [f"--resume=~/{below_home}"]) == 0
