"""The pages of documentation: every link to a file or a section of this repository leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


PAGES = [
    page
    for folder in ("*.md", "algos/*.md", "docs/*.md", "envs/*/*.md", "results/*.md", "results/*/*.md")
    for page in sorted(REPOSITORY.glob(folder))
]


def anchor(heading: str) -> str:
    """As GitHub makes it: the text of links only, lower case, no punctuation, hyphens for spaces."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def broken_links(page: Path, text: str) -> list[str]:
    """The links in a page's text that lead to no file, or to no section of the page they name."""
    broken = []
    for link in LINK.findall(text):
        if link.startswith(("http://", "https://")):
            continue
        name, _, section = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists():
            broken.append(link)
        elif section:
            there = text if target == page else target.read_text(encoding="utf-8")
            if section not in {anchor(heading) for heading in HEADING.findall(there)}:
                broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_a_missing_file_and_a_missing_section_are_seen() -> None:
    text = "# A [first](LICENSE) part, yes\n[a](no.md) [b](#a-first-part-yes) [c](#b) [d](README.md#start)"
    assert broken_links(REPOSITORY / "CHANGELOG.md", text) == ["no.md", "#b"]


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table whose head begins so, without the ruler below it."""
    lines = text[text.index(head) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in [lines[0], *lines[2:]]]


def test_the_scores_on_the_first_page_are_those_of_the_results() -> None:
    shown = rows((REPOSITORY / "README.md").read_text(encoding="utf-8"), "| | the data | ARSQ |")
    made = rows((REPOSITORY / "results/d4rl.md").read_text(encoding="utf-8"), "|  | hopper-medium-replay |")
    tasks, *lines = made
    table = {name: dict(zip(tasks[1:], values, strict=True)) for name, *values in lines}
    labels = ["the data's mean", "ARSQ", "CQN", "BC, codes"]
    done = [task for task in tasks[1:-1] if table["ARSQ"][task]]
    expected = [
        [f"{table[label][task].split()[0]} ({table[f'{label}, paper'][task]})" for label in labels]
        for task in done
    ]
    means = [f"{table[label][tasks[-1]]} ({table[f'{label}, paper'][tasks[-1]]})" for label in labels[1:]]
    assert [row[0] for row in shown[1:-1]] == done
    assert [row[1:] for row in shown[1:]] == [*expected, ["", *means]]
