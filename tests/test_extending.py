"""docs/extending.md: its agent learns on its task, resumes bit by bit and passes the contract suite;
and what it says of a benchmark."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from algos import AGENTS
from envs.gym import make as gym_tasks
from experiments import cli
from experiments.compare import read_run
from experiments.runner.launch import main
from experiments.runner.suite import Suite
from experiments.suites import SUITES
from experiments.train_mujoco import MujocoSuite
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.types import VectorTask
from tests.algos import test_contract

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
STEPS = 2_000
FLAGS = ["--task", "my_tasks:Point-v0", "--warmup-steps", "200", "--batch-size", "64", "--eval-every", "1000"]
FLAGS += ["--threads", "1", "--device", "cpu", "--checkpoint-every", "1000"]


@pytest.fixture
def ddpg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page's agent, registered; the page's task is in the current folder."""
    agent, _, task = BLOCKS
    (tmp_path / "ddpg.py").write_text(agent)
    (tmp_path / "my_tasks.py").write_text(task)
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("ddpg", "ddpg.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ddpg", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(AGENTS, "ddpg", module.DDPG)
    yield module
    sys.modules.pop("my_tasks", None)


def train(runs_dir: Path, steps: int) -> Path:
    assert main(MujocoSuite, ["ddpg", *FLAGS, "--steps", str(steps), "--runs-dir", str(runs_dir)]) == 0
    (info,) = runs_dir.rglob("run.json")
    return info.parent


def test_the_pages_agent_learns_the_pages_task_and_resumes_bit_by_bit(
    ddpg: ModuleType, tmp_path: Path
) -> None:
    straight, interrupted = train(tmp_path / "a", STEPS), train(tmp_path / "b", STEPS // 2)
    assert main(MujocoSuite, ["--resume", str(interrupted), "--steps", str(STEPS)]) == 0
    one, other = (
        load_checkpoint(run / "checkpoints" / "latest.pt")["trainer"]["agent"]
        for run in (straight, interrupted)
    )
    torch.testing.assert_close(dict(one), dict(other), rtol=0, atol=0)  # optimisers among it
    assert list(read_run(straight).curve("eval/return").values())[-1] > -3.5  # doing nothing: about -8


def test_the_pages_agent_passes_the_contract_suite(ddpg: ModuleType) -> None:
    cases = [case for case in test_contract.cases() if case.name == "ddpg"]
    assert len(cases) == 1  # states alone
    checks = [check for name, check in vars(test_contract).items() if name.startswith("test_")]
    ran = 0
    for check in checks:
        takes_a_case = check.__code__.co_varnames[: check.__code__.co_argcount] == ("case",)
        if takes_a_case and not any(mark.name == "gpu" for mark in getattr(check, "pytestmark", [])):
            check(cases[0])
            ran += 1
    assert ran >= 8


def test_what_the_page_calls_a_line_is_one() -> None:
    assert BLOCKS[1] == 'from algos.ddpg import DDPG\n\nAGENTS["ddpg"] = DDPG\n'


class PointSuite(Suite):
    """A benchmark of one task, with the least that a suite has to say."""

    name = "point"
    default_task = "my_tasks:Point-v0"

    def tasks(self) -> list[str]:
        return [self.default_task]

    def make(self, task: str, num_envs: int, *, processes: bool = False, render: bool = False) -> VectorTask:
        return gym_tasks.make(task, num_envs, processes=processes, render=render)


def test_a_benchmark_is_a_class_and_a_line(
    ddpg: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its line in `SUITES` it is listed, trained on and played like the others."""
    monkeypatch.setitem(SUITES, "point", PointSuite)

    def rlzoo(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["rlzoo", *arguments])
        assert not cli.dispatch()
        return capsys.readouterr().out

    assert rlzoo("tasks", "point") == "point  my_tasks:Point-v0\n"
    flags = ["--steps", "100", "--warmup-steps", "50", "--eval-every", "100", "--eval-episodes", "2"]
    flags += ["--batch-size", "8", "--threads", "1", "--device", "cpu", "--runs-dir", str(tmp_path / "runs")]
    rlzoo("train", "point", "ddpg", *flags)
    (info,) = (tmp_path / "runs" / "point").rglob("run.json")
    assert "ddpg on my_tasks:Point-v0" in rlzoo("evaluate", str(info.parent), "--episodes", "2")
