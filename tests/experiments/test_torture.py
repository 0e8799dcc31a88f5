"""A minute of what `experiments/torture.py` does for hours, and that it notices what it looks for."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import torch

from experiments import torture
from rlzoo.errors import UserError


@pytest.mark.parametrize("name", torture.RUNS)
def test_killed_runs_equal_undisturbed_ones(name: str, tmp_path: Path) -> None:
    outcome = torture.disturb([signal.SIGKILL], 2, seed=1, folder=tmp_path, runs=[name])
    assert outcome.faults == []
    assert outcome.counts["SIGKILL"] >= 2
    assert outcome.counts["runs compared"] >= 1


def test_stopped_runs_equal_undisturbed_ones(tmp_path: Path) -> None:
    numbers = [signal.SIGINT, signal.SIGTERM]
    outcome = torture.disturb(numbers, 3, seed=1, folder=tmp_path, runs=["mujoco"])
    assert outcome.faults == []
    assert outcome.counts.total() - outcome.counts["runs compared"] >= 3


def test_mutated_files_are_taken_or_refused_in_one_line(tmp_path: Path) -> None:
    outcome = torture.mutate(60, seed=1, folder=tmp_path)
    assert outcome.faults == []
    assert outcome.counts["taken"] + outcome.counts["refused"] == 60
    assert min(outcome.counts.values()) > 5


def test_a_run_that_differs_is_noticed(tmp_path: Path) -> None:
    disturbed = torture.Disturbed("mujoco", tmp_path)
    disturbed.reference["obs"]["state"][0, 0] += 1e-6
    outcome = torture.Outcome()
    disturbed.strike(signal.SIGKILL, random.Random(1), outcome)
    (fault,) = outcome.faults
    assert fault.startswith("mujoco: obs differ")


def unforeseen(path: Path) -> None:
    raise ZeroDivisionError("of nothing")


def crash(path: Path) -> None:
    signal.raise_signal(signal.SIGKILL)


def hang(path: Path) -> None:
    signal.pause()


def execute(path: Path) -> None:
    (path.parent / "executed").touch()
    raise UserError("refused, too late")


def several_lines(path: Path) -> None:
    raise UserError("first\nsecond")


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (unforeseen, "ZeroDivisionError('of nothing') in test_torture.py"),
        (crash, "ended the process with -9"),
        (hang, "hangs"),
        (execute, "executed"),
        (several_lines, "several lines"),
    ],
)
def test_a_reader_that_fails_is_noticed(
    read: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutations = torture.Mutations(tmp_path)
    monkeypatch.setattr(torture, "HANG", 2)
    monkeypatch.setattr(torture, "resume", read)
    mutations.kinds = (mutations.run_folder,)
    outcome = torture.Outcome()
    assert torture._batch(mutations, 7, 1, tmp_path, outcome) == 1
    (fault,) = outcome.faults
    assert fault.startswith("mutation 7: ")
    assert message in fault


def test_values_are_the_same_to_the_last_bit() -> None:
    one = {"a": [torch.ones(2), (1.0, float("nan"))]}
    assert torture.same(one, {"a": [torch.ones(2), (1.0, float("nan"))]})
    for other in (torch.ones(2).double(), torch.ones(3), torch.tensor([1.0, 1 + 2e-7]), None):
        assert not torture.same(one, {"a": [other, (1.0, float("nan"))]})
