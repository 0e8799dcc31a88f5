"""Make the pages of results/ that a YAML file describes, from the published folders that it names.

python experiments/pages.py results/pages.yaml

The file says what its entries mean. A new folder in results/data is made by compare.py.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
import yaml

from experiments.aggregates import markdown_table, mean_and_spread
from experiments.compare import (
    NOTE,
    Group,
    Panel,
    differing,
    lengths,
    plot,
    read_published,
    table,
    write_page,
)
from rlzoo.errors import UserError
from rlzoo.run.cli import parse_flags, run_main


def select(published: Path, task: str, row: dict[str, Any]) -> Group:
    """The published runs that make a row of a page (results/pages.yaml says what its entries mean). There has
    to be one, no seed twice, and all with the same settings."""
    what = f"{row['label']} on {task} in {', '.join(row['data'])}"

    def upto(curve: dict[int, Any]) -> dict[int, Any]:
        return {step: value for step, value in curve.items() if step <= row.get("until", step)}

    found = [
        dataclasses.replace(run, evaluations=upto(run.evaluations), training_s=upto(run.training_s))
        for run in (run for folder in row["data"] for run in read_published(published / folder))
        if (run.task, run.agent) == (task, row["agent"])
        and run.name in row.get("runs", [run.name])
        and all(run.settings.get(key) == value for key, value in row.get("where", {}).items())
    ]
    if not found:
        raise UserError(f"{what}: no such runs")
    if len({run.seed for run in found}) < len(found):
        raise UserError(f"{what}: a seed is there twice; name the runs, or more settings")
    if unlike := differing(found):
        raise UserError(f"{what}: runs of several settings, which differ in {', '.join(sorted(unlike))}")
    return Group(row["label"], sorted(found, key=lambda run: run.seed), str(row.get("paper", "")))


def overview(panels: Sequence[Panel], agents: Iterable[str]) -> str:
    """A row per task and a column per agent."""
    rows = []
    for panel in panels:
        own = "" if panel.data is None else f"{panel.data:g}"
        row = {"task": panel.title, "score": panel.score_name, "the data's mean": own}
        row |= dict.fromkeys(agents, "")
        for one in panel.groups:
            cell = [mean_and_spread(run.final(panel.score) for run in one.runs)]
            cell.append(f"{len(one.runs)} seed{'s' if len(one.runs) > 1 else ''}, {lengths(one.runs)}")
            cell += [one.variant, one.paper and f"paper: {one.paper}"]
            row[one.label] = "<br>".join(filter(None, cell))
        rows.append(row)
    return markdown_table(rows)


def against_paper(
    panels: Sequence[Panel], ratio: Sequence[str], data: Mapping[str, Sequence[float]] | None = None
) -> str:
    """A column per task and a row per label, the paper's figures under ours; above them what the data are
    worth, their mean and the rows of `data`, a figure per task. Means, and by how much the first label of
    `ratio` is ahead of the second, are over the tasks that both of these have, the paper's too."""
    groups = {(panel.title, one.label): one for panel in panels for one in panel.groups}
    titles = [panel.title for panel in panels]
    labels = list(dict.fromkeys(label for _, label in groups))
    if unknown := set(ratio) - set(labels):
        names = ", ".join(sorted(unknown))
        raise UserError(f"ratio: no row is labelled {names}; there are {', '.join(labels)}")
    shared = [title for title in titles if all((title, label) in groups for label in ratio)]
    last = f"mean of {len(shared)}"
    empty = dict.fromkeys(["", *titles, last], "")
    worth = {"the data's mean": [panel.data for panel in panels], **(data or {})}
    rows = []
    for name, figures in worth.items():
        given = dict(zip(titles, figures, strict=True))
        shown = {title: f"{figure:g}" for title, figure in given.items() if figure is not None}
        rows.append({**empty, "": name, **shown})
    means: dict[str, float] = {}
    for label in labels:
        own = {title: groups[title, label] for title in titles if (title, label) in groups}
        finals = {title: [run.final(panels[0].score) for run in one.runs] for title, one in own.items()}
        reported = {title: [float(one.paper)] for title, one in own.items() if one.paper}
        cells = {title: f"{mean_and_spread(of)} ({len(of)})" for title, of in finals.items()}
        papers = {title: mean_and_spread(of) for title, of in reported.items()}
        for name, scores, shown in ((label, finals, cells), (f"{label}, paper", reported, papers)):
            if shared and scores.keys() >= set(shared):
                means[name] = statistics.mean(statistics.mean(scores[title]) for title in shared)
            if scores:
                rows.append({**empty, "": name, **shown, last: mean_and_spread([means.get(name)])})
    for by in ("", ", paper"):
        first, second = (label + by for label in ratio)
        if first in means and second in means:
            ahead = f"{means[first] / means[second]:.2f}"
            rows.append({**empty, "": f"{ratio[0]} / {second}", last: ahead})
    return markdown_table(rows)


def first_rows(panel: Panel, agents: dict[str, str]) -> Panel:
    """The panel with the first row of each agent, under the agent's name."""
    firsts = {one.runs[0].agent: one for one in reversed(panel.groups)}
    groups = [
        dataclasses.replace(firsts[key], label=name, variant=firsts[key].label.removeprefix(name).strip(", "))
        for key, name in agents.items()
        if key in firsts
    ]
    return dataclasses.replace(panel, groups=groups)


def write_pages(path: Path) -> None:
    """Make the pages that a YAML file describes beside it, from the published folders in data/ there."""
    command = f"python experiments/pages.py {path.parent.name}/{path.name}"
    ending = [f"{NOTE} This page is made from `data/` by", f"```\n{command}\n```"]
    image = "![learning curves]({})".format
    every = []
    try:
        site = yaml.safe_load(path.read_text(encoding="utf-8"))
        for page in site["pages"]:
            parts = []
            for section in page["sections"]:
                panels = []
                for task in section["tasks"]:
                    groups = [select(path.parent / "data", task["task"], row) for row in task["rows"]]
                    said = {"data": None, **section, **task}
                    shown = (said[key] for key in ("score", "score_name", "steps", "data"))
                    panels.append(Panel(task["title"], groups, *shown))
                if section.get("overview", True):
                    every += [first_rows(panel, site["agents"]) for panel in panels]
                plot(panels, path.parent / section["image"])
                parts += [
                    f"## {section['title']}",
                    image(section["image"]),
                    section["caption"],
                    *(
                        [against_paper(panels, section["ratio"], section.get("data_rows"))]
                        if "ratio" in section
                        else []
                    ),
                    table(panels),
                ]
                parts += [f"Paper: {section['paper']}"] if "paper" in section else []
            write_page(path.parent / page["file"], page["title"], [*parts, page["caveats"], *ending])
        plot(every, path.parent / site["image"])
        parts = [site["text"], image(site["image"]), site["caption"], f"## {site['heading']}"]
        parts += [overview(every, site["agents"].values()), *site["notes"], *ending]
        write_page(path.parent / "README.md", site["title"], parts)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"the pages of {path} cannot be made: {' '.join(reason.split())}") from error


@dataclasses.dataclass(frozen=True)
class Request:
    """Which pages to make."""

    pages: tyro.conf.Positional[Path]
    """The YAML file; the pages are written beside it."""


def main() -> int:
    """Make the pages."""
    write_pages(parse_flags(Request, description=__doc__).pages)
    return 0


if __name__ == "__main__":
    run_main(main)
