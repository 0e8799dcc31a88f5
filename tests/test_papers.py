"""Every command of docs/papers.md is a sweep whose runs all have flags that their scripts take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from string import Template
from typing import Any

import pytest

from experiments import sweep
from experiments.runner.sweeps import Plan

PAGE = Path(__file__).parents[1] / "docs/papers.md"


def commands() -> list[list[str]]:
    """The commands of the page's blocks as words, its variables filled in."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    variables: dict[str, str] = {}
    found = []
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        if variable := re.fullmatch(r"(\w+)=(\S+)", line):
            variables[variable[1]] = Template(variable[2]).substitute(variables)
        elif line:
            found.append(shlex.split(Template(line).substitute(variables)))
    return found


def planned(words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The runs that a command would start."""
    plans: list[Plan] = []

    def run_grid(suite: str, folder: Path, asked: Any, experiment: Any, wanted: list[Plan]) -> int:
        plans.extend(wanted)
        return 0

    monkeypatch.setattr(sweep, "run_grid", run_grid)
    assert words[:3] == ["rlzoo", "sweep", "grid"]
    assert sweep.main(words[2:]) == 0
    return plans


def test_every_command_plans_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {words[words.index("--output") + 1]: planned(words, monkeypatch) for words in commands()}
    assert len(runs) == len(commands())  # each has a folder of its own
    counts = {Path(folder).name: len(plans) for folder, plans in runs.items()}
    assert counts["arsq-online"] == counts["arsq-offline"] == 9 * 3 * 3
    assert (counts["dsac-t"], counts["dsac-t-scale"]) == (4 * 6 * 5, 3 * 4 * 3)
    scales = {plan.settings["train.reward_scale"] for plan in runs["results/sweeps/dsac-t-scale"]}
    assert scales == {0.1, 1.0, 10.0, 100.0}
    offline = {plan.agent for plan in runs["results/sweeps/arsq-online"] if plan.settings["data.offline"]}
    assert offline == {"bc"}
    for plans in runs.values():
        assert {plan.settings["preset"] for plan in plans} <= {"paper", "dsac-t-paper"}
