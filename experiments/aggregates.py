"""Numbers over seeds and tasks: the statistics that a comparison rests on, and how they are written.

Point estimates and intervals follow Agarwal et al., "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (arXiv 2108.13264). A single seed never has an interval: its bounds are NaN.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Scores = Sequence[Floats]  # for each task the final scores of its seeds, [n]
Statistic = Callable[[Sequence[Floats]], Floats]  # of scores with any number of leading axes, [..., n] each

CONFIDENCE = 0.95
RESAMPLES = 5_000
# Single evaluations this near to each other are of one step: with several environments they differ a little.
SAME_STEP = 0.05


def on_common_steps(curves: Sequence[Mapping[int, float]]) -> tuple[Floats, Floats]:
    """The curves of several seeds at common steps [G], as values [n, G].

    The steps are those of the seed with the most evaluations, within the range that all seeds cover; between
    two evaluations a curve is interpolated linearly. Where there is no such range, as with one evaluation at
    slightly different steps, it is one step in the middle; none if they are more than 5 % apart.
    """
    first, last = max(map(min, curves)), min(map(max, curves))
    if first <= last:
        steps = np.unique(np.clip(sorted(max(curves, key=len)), first, last)).astype(np.float64)
    else:
        steps = np.array([(first + last) / 2] if first - last <= SAME_STEP * first else [])
    return steps, np.array([np.interp(steps, *zip(*sorted(curve.items()), strict=True)) for curve in curves])


def mean_interval(values: Floats) -> tuple[Floats, Floats, Floats]:
    """The mean of seeds [n, ...] and the bounds of its 95 % interval by Student's t, each [...]."""
    count = len(values)
    mean = values.mean(axis=0)
    if count == 1:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * values.std(axis=0, ddof=1) / np.sqrt(count)
    return mean, mean - half, mean + half


def interquartile_mean(scores: Sequence[Floats]) -> Floats:
    """The mean of the middle half of all runs [..., n] of all tasks: a quarter is cut off at either end."""
    pooled: Floats = stats.trim_mean(np.concatenate(scores, axis=-1), 0.25, axis=-1)
    return pooled


def improvement(first: Sequence[Floats], second: Sequence[Floats]) -> Floats:
    """The probability that a run of the first [..., n] beats one of the second [..., m] on the same task,
    ties counted half, averaged over tasks: Mann and Whitney's U over n m."""
    return np.mean(
        [
            (1 + np.sign(one[..., :, None] - other[..., None, :]).mean((-1, -2))) / 2
            for one, other in zip(first, second, strict=True)
        ],
        axis=0,
    )


def profile(scores: Sequence[Floats], thresholds: Floats) -> Floats:
    """The share of runs [..., n] above each threshold [G], averaged over tasks, [..., G]."""
    return np.mean([(each[..., None] > thresholds).mean(axis=-2) for each in scores], axis=0)


def bootstrap(scores: Scores, statistic: Statistic) -> tuple[Floats, Floats]:
    """The bounds of a statistic's 95 % interval by the stratified bootstrap.

    The seeds of every task are drawn anew with replacement, 5,000 times, and the bounds are percentiles of
    what comes of it: always the same for the same scores. NaN where a task has a single seed.
    """
    shape = np.shape(statistic(scores))
    if min(map(len, scores)) < 2:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    generator = np.random.default_rng(0)
    drawn = [each[generator.integers(len(each), size=(RESAMPLES, len(each)))] for each in scores]
    low, high = np.quantile(statistic(drawn), ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2), axis=0)
    return low, high


def mean_and_spread(values: Iterable[float | None]) -> str:
    """`mean ± sample standard deviation` of what is known, the latter only with two seeds or more."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    digits = 2 if max(map(abs, known)) <= 1 else 1  # a rate of success needs more than 0.9
    mean = f"{statistics.mean(known):,.{digits}f}"
    if len(known) == 1:
        return mean
    # Not statistics.stdev, which fails on the infinite or undefined return of a run that diverged.
    with np.errstate(invalid="ignore"):
        return f"{mean} ± {np.std(known, ddof=1):,.{digits}f}"


def with_interval(value: float, low: float, high: float) -> str:
    """`value [low, high]`, the latter only where they are known."""
    digits = 2 if max(abs(bound) for bound in (value, low, high) if not np.isnan(bound)) <= 1 else 1
    bounds = "" if np.isnan(low) else f" [{low:,.{digits}f}, {high:,.{digits}f}]"
    return f"{value:,.{digits}f}{bounds}"


def thousands(steps: float) -> str:
    """2,000,000 as 2M, 50,000 as 50k."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if abs(steps) >= size:
            return f"{steps / size:.3g}{unit}"
    return f"{steps:g}"


def markdown_table(rows: Sequence[dict[str, str]]) -> str:
    """Rows by column; columns without a cell are left out."""
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def latex_table(rows: Sequence[dict[str, str]]) -> str:
    """The same for LaTeX with the package booktabs: the first column to the left, the others to the right."""
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    head, *body = [columns, *([row[column] for column in columns] for row in rows)]
    lines = [" & ".join(map(_latex, cells)) + r" \\" for cells in body]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
            *(r"\toprule", " & ".join(map(_latex, head)) + r" \\", r"\midrule"),
            *lines,
            *(r"\bottomrule", r"\end{tabular}"),
        ]
    )


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"} | {"±": r"$\pm$", "<": "$<$", ">": "$>$"}


def _latex(text: str) -> str:
    shown = "".join(_LATEX.get(character, character) for character in text)
    return f"${shown[0]}${shown[1:]}" if shown[:1] == "-" and shown[1:2].isdigit() else shown
