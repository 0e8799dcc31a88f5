"""The pages of results/: what their data make, and only of seeds of one experiment."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from experiments.compare import Group, Panel, group, write_published
from experiments.pages import against_paper, write_pages
from rlzoo.errors import UserError
from tests.helpers.runs import images, make_run

ROOT = Path(__file__).resolve().parents[2]


def test_the_pages_are_what_their_data_make(tmp_path: Path) -> None:
    committed, copy = ROOT / "results", tmp_path / "results"
    shutil.copytree(committed / "data", copy / "data")
    shutil.copy(committed / "pages.yaml", copy)
    write_pages(copy / "pages.yaml")
    made = sorted(path.name for path in copy.glob("*.md"))
    assert made == ["README.md", "adroit.md", "d4rl.md", "mujoco.md", "rlbench.md"]
    for name in made:
        assert (copy / name).read_text(encoding="utf-8") == (committed / name).read_text(encoding="utf-8")
    shown = {path.relative_to(copy.resolve()) for path in images(copy)}
    assert shown == {path.relative_to(copy) for path in copy.rglob("*.png")}


def test_every_picture_of_the_results_is_there_and_shown() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "results/*.png"]
    listed = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    if listed.returncode:
        pytest.skip("this is no checkout")
    there = {(ROOT / name).resolve() for name in listed.stdout.split() if (ROOT / name).exists()}
    shown = {path for path in images(ROOT / "results") if "runs" not in path.relative_to(ROOT).parts}
    assert shown == there


def test_tasks_side_by_side_with_the_papers_figures() -> None:
    def one(label: str, paper: str, *finals: float) -> Group:
        runs = [make_run(seed=seed, evaluations={100: {"eval/return": of}}) for seed, of in enumerate(finals)]
        return Group(label, runs, paper)

    panels = [
        Panel("hop", [one("ARSQ", "90", 80.0, 60.0), one("CQN", "30", 35.0)], data=48),
        Panel("cheetah", [one("ARSQ", "40", 50.0), one("BC", "", 40.0), one("CQN", "50", 25.0)]),
        Panel("walker", [one("ARSQ", "1000", 1.0)]),  # counts in no mean: CQN has no run there yet
    ]
    assert against_paper(panels, ["ARSQ", "CQN"], {"the data's best": [98.75, 76, 5.0]}).splitlines() == [
        "|  | hop | cheetah | walker | mean of 2 |",
        "| --- | --- | --- | --- | --- |",
        "| the data's mean | 48 |  |  |  |",
        "| the data's best | 98.75 | 76 | 5 |  |",
        "| ARSQ | 70.0 ± 14.1 (2) | 50.0 (1) | 1.00 (1) | 60.0 |",
        "| ARSQ, paper | 90.0 | 40.0 | 1,000.0 | 65.0 |",
        "| CQN | 35.0 (1) | 25.0 (1) |  | 30.0 |",
        "| CQN, paper | 30.0 | 50.0 |  | 40.0 |",
        "| BC |  | 40.0 (1) |  |  |",
        "| ARSQ / CQN |  |  |  | 2.00 |",
        "| ARSQ / CQN, paper |  |  |  | 1.62 |",
    ]
    with pytest.raises(UserError, match="no row is labelled CQM; there are ARSQ"):
        against_paper(panels, ["ARSQ", "CQM"])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("where: {agent.bins: 5}", "where: {agent.bins: 6}", "SAC on task in one: no such runs"),
        ("where: {agent.bins: 5}", "until: 300", "a seed is there twice"),
        ("where: {agent.bins: 5}", "runs: [s1-1, s2-3]", "which differ in agent.bins"),
        ("data: [one]", "data: [two]", "two"),
        ("label: SAC, ", "", "no 'label'"),
        ("rows:", "row:", "no 'rows'"),
    ],
)
def test_a_row_of_a_page_takes_seeds_of_one_experiment(
    old: str, new: str, reason: str, tmp_path: Path
) -> None:
    runs = [
        make_run("s1-1", settings={"agent.bins": 5}),
        make_run("s2-1", seed=2, settings={"agent.bins": 5}),
        make_run("s1-3", settings={"agent.bins": 7}),
        make_run("s2-3", seed=2, settings={"agent.bins": 7}),
    ]
    write_published(group(runs)[0]["task"], tmp_path / "data" / "one")
    text = """
title: All
image: all.png
caption: Curves.
heading: Reduced
text: Text.
agents: {sac: SAC}
notes: [Note.]
pages:
  - file: page.md
    title: Page
    caveats: None.
    sections:
      - {title: Section, image: page.png, score: eval/return, score_name: return, steps: steps,
         caption: Here., tasks: [{title: Task, task: task, data: 7, rows: [
           {agent: sac, label: SAC, data: [one], where: {agent.bins: 5}, paper: 1.5}]}]}
"""
    pages = tmp_path / "pages.yaml"
    pages.write_text(text)
    write_pages(pages)
    assert (
        "| Task | SAC | 1, 2 | 300 | 300.0 ± 0.0 | 300.0 ± 0.0 | 1.5 |" in (tmp_path / "page.md").read_text()
    )
    assert (
        "| Task | return | 7 | 300.0 ± 0.0<br>2 seeds, 300<br>paper: 1.5 |"
        in (tmp_path / "README.md").read_text()
    )
    assert old in text
    pages.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=reason):
        write_pages(pages)
