"""What a paper shows of a comparison: learning curves, profiles and intervals as figures, final tables.

Figures are as wide as they are printed (a column of 3.3 inches, or a page of 6.75 for several tasks), with
text of 7 points and more, fonts embedded as TrueType; each is written as PNG, PDF and SVG. Tables are
Markdown and LaTeX.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from experiments import aggregates
from experiments.aggregates import (
    Floats,
    latex_table,
    markdown_table,
    mean_and_spread,
    thousands,
    with_interval,
)
from rlzoo.run.files import atomic_path, atomic_write

COLUMN, PAGE = 3.3, 6.75  # inches
RASTER = 300  # dots per inch of the PNG
FORMATS = ("png", "pdf", "svg")
LOOK = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # TrueType: publishers refuse Matplotlib's default
    "svg.hashsalt": "rlzoo",  # the same figure makes the same file
}
DATA_STYLE = {"color": "#666666", "linestyle": (0, (1, 2)), "linewidth": 1.5}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is compared: agents, or whatever has a label, on tasks.

    Attributes:
        curves: by task and label, the score of each seed by step.
        finals: by task and label, the final score of each seed [n].
        styles: by label, colour and line style.
        score: what the scores are called.
        is_return: whether they are returns, which tasks do not have in common.
        steps: what the steps are called.
        data: by task, the mean score of the recorded data, where it is known.
        notes: what is not alike in the comparison, in lines.
    """

    curves: Mapping[str, Mapping[str, list[dict[int, float]]]]
    finals: Mapping[str, Mapping[str, Floats]]
    styles: Mapping[str, Mapping[str, Any]]
    score: str
    is_return: bool
    steps: str
    data: Mapping[str, float]
    notes: list[str]

    @property
    def shared(self) -> list[str]:
        """The tasks on which every label has runs: over others, averages are of different things."""
        return [task for task, of in self.finals.items() if set(of) == set(self.styles)]

    def scaled(self) -> dict[str, list[Floats]]:
        """By label, the final scores on each shared task, on one scale."""

        def scale(task: str, scores: Floats) -> Floats:
            if not self.is_return or len(self.shared) == 1:
                return scores
            every = np.concatenate(list(self.finals[task].values()))
            return (scores - every.min()) / max(np.ptp(every), 1e-12)

        return {
            label: [scale(task, self.finals[task][label]) for task in self.shared] for label in self.styles
        }


def write(folder: Path, comparison: Comparison) -> None:
    """Write every figure and table into a folder, with a README.md that shows them and says the methods."""
    matplotlib.use("Agg")
    with matplotlib.rc_context(LOOK):
        draw_curves(folder, comparison)
        if comparison.shared:
            draw_profiles(folder, comparison)
            draw_intervals(folder, comparison)
    tables = {"Final scores": final_rows(comparison)}
    if comparison.shared:
        tables |= {"Over all tasks": aggregate_rows(comparison)}
        if len(comparison.styles) > 1:
            tables |= {"Probability of improvement": improvement_rows(comparison)}
    parts = ["# Figures and tables for a paper", "![learning curves](curves.png)"]
    if comparison.shared:
        parts += ["![performance profiles](profiles.png)", "![intervals](intervals.png)"]
    for title, rows in tables.items():
        parts += [f"## {title}", markdown_table(rows)]
    parts += ["\n".join(f"- {line}" for line in [*comparison.notes, *methods(comparison)])]
    atomic_write(folder / "README.md", "\n\n".join(parts) + "\n")
    latex = [f"% {title}\n{latex_table(rows)}" for title, rows in tables.items()]
    atomic_write(folder / "tables.tex", "% needs \\usepackage{booktabs}\n" + "\n\n".join(latex) + "\n")


def methods(comparison: Comparison) -> list[str]:
    """How the numbers came about, in lines for a caption."""
    lines = [
        "Final scores: the mean over the last tenth of a run's evaluations; ±: sample standard deviation "
        "over seeds; in parentheses their number.",
        "Curves: mean over seeds, shaded its 95 % interval by Student's t; interpolated linearly to "
        "common steps within the range that all seeds cover. One seed has no interval.",
    ]
    if not comparison.shared:
        return [*lines, "No task has runs of every label: nothing is averaged over tasks."]
    left_out = [task for task in comparison.finals if task not in comparison.shared]
    lines += [f"Over all tasks: {', '.join(comparison.shared)}."]
    lines += [f"Left out there, as not every label has runs: {', '.join(left_out)}."] if left_out else []
    if comparison.is_return and len(comparison.shared) > 1:
        lines.append(
            "Over all tasks returns are scaled: on each task 0 is the lowest and 1 the highest final return."
        )
    lines += [
        "Interquartile mean (IQM): of the middle half of all runs. Probability of improvement: that a run "
        "beats one of the other label on the same task, ties counted half. Profiles: share of runs above a "
        "score, averaged over tasks.",
        "Brackets, bars and shades of these: 95 % intervals, percentiles of 5,000 stratified bootstrap "
        "samples (seeds drawn anew within each task); none where a task has one seed.",
    ]
    return lines


# ------------------------------------------------------------------------------------------------- tables


def final_rows(comparison: Comparison) -> list[dict[str, str]]:
    """A row per task, a column per label; where there are several tasks, the mean over them at the bottom."""
    rows = []
    for task, of in comparison.finals.items():
        cells = {label: f"{mean_and_spread(of[label])} ({len(of[label])})" for label in of}
        data = {"data": mean_and_spread([comparison.data.get(task)])}
        rows.append({"task": task, **data, **{label: cells.get(label, "") for label in comparison.styles}})
    if len(comparison.shared) > 1 and not comparison.is_return:
        means = {
            label: mean_and_spread(
                [np.mean([comparison.finals[task][label].mean() for task in comparison.shared])]
            )
            for label in comparison.styles
        }
        rows.append({"task": f"mean of {len(comparison.shared)} tasks", "data": "", **means})
    return rows


def aggregate_rows(comparison: Comparison) -> list[dict[str, str]]:
    """A row per label: interquartile mean and mean over all runs, with intervals."""

    def mean(scores: Any) -> Floats:
        pooled: Floats = np.concatenate(scores, axis=-1).mean(axis=-1)
        return pooled

    rows = []
    for label, scores in comparison.scaled().items():
        cells = {
            name: with_interval(float(of(scores)), *map(float, aggregates.bootstrap(scores, of)))
            for name, of in (("IQM", aggregates.interquartile_mean), ("mean", mean))
        }
        rows.append({"": label, **cells, "runs": str(sum(map(len, scores)))})
    return rows


def improvements(comparison: Comparison) -> dict[tuple[str, str], tuple[float, float, float]]:
    """For each two labels the probability that the first is better, and the bounds of its interval."""
    scaled, tasks = comparison.scaled(), len(comparison.shared)

    def of(both: Any) -> Floats:
        return aggregates.improvement(both[:tasks], both[tasks:])

    found = {}
    for first, second in itertools.permutations(scaled, 2):
        both = [*scaled[first], *scaled[second]]
        low, high = aggregates.bootstrap(both, of)
        found[first, second] = float(of(both)), float(low), float(high)
    return found


def improvement_rows(comparison: Comparison) -> list[dict[str, str]]:
    """A matrix: how probably a run of the row beats one of the column."""
    found = improvements(comparison)
    return [
        {"P(row > column)": row}
        | {
            column: with_interval(*found[row, column]) if row != column else ""
            for column in comparison.styles
        }
        for row in comparison.styles
    ]


# ------------------------------------------------------------------------------------------------ figures


@contextmanager
def _figure(folder: Path, name: str, panels: int, height: float) -> Iterator[tuple[Any, list[Any]]]:
    """A figure of so many panels, each of so many inches, to be drawn on; written in all formats."""
    import matplotlib.pyplot as plt

    columns = min(3, panels)
    rows = math.ceil(panels / columns)
    figure, grid = plt.subplots(rows, columns, squeeze=False, layout="constrained")
    figure.set_size_inches(COLUMN if columns == 1 else PAGE, height * rows)
    for axes in grid.flat[panels:]:
        axes.set_axis_off()
    yield figure, list(grid.flat[:panels])
    for suffix in FORMATS:
        # Without a date and Matplotlib's version.
        undated = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[suffix]
        with atomic_path(folder / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, dpi=RASTER, metadata=undated)
    plt.close(figure)


def _legend(figure: Any, comparison: Comparison, *, data: bool = False) -> None:
    """The labels below the panels, in as many columns as fit."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], label=label, **style) for label, style in comparison.styles.items()]
    lines += [Line2D([], [], label="the recorded data", **DATA_STYLE)] if data else []
    width = figure.get_size_inches()[0]
    columns = max(1, int(18 * width / (8 + max(len(str(line.get_label())) for line in lines))))
    rows = math.ceil(len(lines) / columns)
    figure.set_size_inches(width, figure.get_size_inches()[1] + 0.17 * rows)
    figure.legend(handles=lines, loc="outside lower center", ncols=columns, frameon=False)


def draw_curves(folder: Path, comparison: Comparison) -> None:
    """A panel per task: means over seeds with their intervals; the data's own mean dotted."""
    with _figure(folder, "curves", len(comparison.curves), 2.1) as (figure, grid):
        for index, (axes, (task, of)) in enumerate(zip(grid, comparison.curves.items(), strict=True)):
            for label, curves in of.items():
                steps, values = aggregates.on_common_steps(curves)
                mean, low, high = aggregates.mean_interval(values)
                style = comparison.styles[label]
                axes.plot(steps, mean, linewidth=1.3, marker="o" if len(steps) == 1 else None, **style)
                if len(steps) == 1:
                    axes.errorbar(steps, mean, [mean - low, high - mean], color=style["color"], capsize=2)
                else:
                    axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)
            if task in comparison.data:
                axes.axhline(comparison.data[task], **DATA_STYLE)
            axes.set(title=task, xlabel=comparison.steps, ylabel=comparison.score if index % 3 == 0 else None)
            axes.xaxis.set_major_formatter(lambda value, _: thousands(value))
            axes.locator_params(axis="x", nbins=4)
            axes.set_xlim(left=0)
            # By the seeds' own scores: the interval of two seeds may be many times as wide.
            shown = [score for curves in of.values() for curve in curves for score in curve.values()]
            shown += [comparison.data[task]] if task in comparison.data else []
            margin = 0.06 * (np.ptp(shown) or 1.0)
            axes.set_ylim(min(shown) - margin, max(shown) + margin)
            axes.grid(alpha=0.3, linewidth=0.5)
        _legend(figure, comparison, data=bool(comparison.data))


def draw_profiles(folder: Path, comparison: Comparison) -> None:
    """The share of runs above each score, with intervals."""
    scaled = comparison.scaled()
    every = np.concatenate([scores for of in scaled.values() for scores in of])
    thresholds = np.linspace(every.min() - 0.02 * np.ptp(every), every.max(), 201)
    with _figure(folder, "profiles", 1, 2.1) as (figure, (axes,)):
        for label, scores in scaled.items():

            def of(scores: Any) -> Floats:
                return aggregates.profile(scores, thresholds)

            style = comparison.styles[label]
            axes.plot(thresholds, of(scores), linewidth=1.3, **style)
            low, high = aggregates.bootstrap(scores, of)
            axes.fill_between(thresholds, low, high, color=style["color"], alpha=0.2, linewidth=0)
        axes.set(xlabel=f"final {comparison.score} τ", ylabel="share of runs above τ", ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3, linewidth=0.5)
        _legend(figure, comparison)


def draw_intervals(folder: Path, comparison: Comparison) -> None:
    """Interquartile means, and how probably each label is better than the others; a bar is an interval."""
    scaled, found = comparison.scaled(), improvements(comparison)
    iqm = aggregates.interquartile_mean
    points = {label: (iqm(scores), *aggregates.bootstrap(scores, iqm)) for label, scores in scaled.items()}
    # Each pair once, by the label that is more often better.
    pairs = {
        pair: value
        for pair, value in found.items()
        if value[0] > 0.5 or (value[0] == 0.5 and pair[0] < pair[1])
    }
    rows = max(len(points), len(pairs))
    with _figure(folder, "intervals", 2 if pairs else 1, 0.7 + 0.22 * rows) as (_, grid):
        _dots(grid[0], points, comparison)
        grid[0].set(xlabel=f"IQM of the final {comparison.score}")
        if pairs:
            named = {f"{first} > {second}": value for (first, second), value in pairs.items()}
            _dots(grid[1], named, comparison)
            grid[1].axvline(0.5, color="#666666", linewidth=0.8)
            grid[1].set(xlabel="probability of improvement", xlim=(0.0, 1.02))


def _dots(axes: Any, points: Mapping[str, Any], comparison: Comparison) -> None:
    for row, (name, (value, low, high)) in enumerate(reversed(points.items())):
        color = comparison.styles[name.split(" > ")[0]]["color"]
        axes.plot([low, high], [row, row], color=color, linewidth=4, alpha=0.35, solid_capstyle="butt")
        axes.plot([value], [row], "o", color=color, markersize=4)
    axes.set_yticks(range(len(points)), list(points)[::-1])
    axes.set_ylim(-0.6, len(points) - 0.4)
    axes.grid(axis="x", alpha=0.3, linewidth=0.5)
