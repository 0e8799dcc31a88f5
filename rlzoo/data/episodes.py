"""What recorded episodes hold: choosing among them, their statistics, a summary for the screen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Any

import numpy as np

from rlzoo.errors import UserError
from rlzoo.types import Array, Episode, FloatArray

_AT_BOUNDS = 0.999  # of an action in [-1, 1]: saturated, or clipped when it was read


def select_episodes(
    episodes: Sequence[Episode],
    *,
    percentile: float = 50.0,
    ratio: float = 100.0,
    count: int | None = None,
    seed: int = 0,
    name: str = "demo",
) -> list[Episode]:
    """Choose whole episodes: a slice by return, then a number of them at random.

    All steps are laid out in the order of their episodes' returns. The slice is `ratio` per cent of them
    around the `percentile`, moved inwards where it would stick out (percentile 100, ratio 10: the best
    tenth); an episode belongs to it if its middle step does. These are ARSQ's `demo percentile` and `demo
    ratio`, except that the reference cuts the first and the last episode of the slice in two.

    Args:
        episodes: what to choose from.
        percentile: the middle of the slice, 0 (worst returns) to 100 (best).
        ratio: the share of all steps in the slice, above 0 to 100 per cent.
        count: how many episodes to draw from the slice, without replacement; None takes all.
        seed: of the draw.
        name: of the selection, in errors.

    Returns:
        The chosen episodes in their original order.

    Raises:
        UserError: an argument out of its range, an empty selection, fewer than `count` episodes.
    """
    what = f"{name} percentile {percentile:g} and ratio {ratio:g}"
    if not 0 <= percentile <= 100 or not 0 < ratio <= 100:
        raise UserError(f"{what}: expected a percentile from 0 to 100 and a ratio above 0, up to 100")
    middle = min(max(percentile, ratio / 2), 100 - ratio / 2)
    order = np.argsort([episode.episode_return for episode in episodes], kind="stable")
    lengths = np.array([len(episode) for episode in episodes], np.float64)[order]
    position = 100 * (np.cumsum(lengths) - lengths / 2) / max(lengths.sum(), 1)  # of middle steps, per cent
    chosen = np.sort(order[(position >= middle - ratio / 2) & (position < middle + ratio / 2)])
    if len(chosen) == 0:
        raise UserError(
            f"{what} select none of {len(episodes)} episodes; expected one or more: raise the ratio"
        )
    if count is not None:
        if not 0 < count <= len(chosen):
            raise UserError(f"{count} episodes asked for, expected 1 to the {len(chosen)} selected by return")
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, count, replace=False))
    return [episodes[index] for index in chosen]


def identity(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Which data these are: how many episodes and steps, their mean return, and the SHA-256 of their content.

    The same episodes have the same one whatever the file is called and how it is packed.
    """
    digest = hashlib.sha256()
    for episode in episodes:
        observations = (episode.obs[name] for name in sorted(episode.obs))
        for array in (*observations, episode.action, episode.reward, np.array(episode.terminated)):
            digest.update(np.ascontiguousarray(array).data)
    return {
        "episodes": len(episodes),
        "steps": sum(map(len, episodes)),
        "mean_return": float(np.mean([episode.episode_return for episode in episodes])),
        "sha256": digest.hexdigest(),
    }


def discounted_returns(episodes: Sequence[Episode], discount: float) -> tuple[float, float]:
    """The smallest and the largest discounted return from any step of the data.

    A critic trained on these data has to express values in this range. It bootstraps where an episode was
    cut, so a cut episode is taken to go on for ever at the mean of its last ten rewards (a door that stays
    open earns 20 a step: at discount 0.99 worth 2,000, though the recorded rewards sum to 1,000).

    Args:
        episodes: the data, at least one step.
        discount: gamma; at 1 nothing is added beyond the recorded rewards.
    """

    def returns(episode: Episode) -> Iterator[float]:
        bootstraps = not episode.terminated and discount < 1
        tail = float(episode.reward[-10:].mean() / (1 - discount)) if bootstraps else 0.0
        backwards = reversed(episode.reward.tolist())
        sums = accumulate(backwards, lambda later, reward: reward + discount * later, initial=tail)
        return islice(sums, 1, None)

    values = [value for episode in episodes for value in returns(episode)]
    return min(values), max(values)


def observation_statistics(
    episodes: Sequence[Episode], *, floor: float = 1e-3
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the observations that were acted on, to standardise a network's input.

    Args:
        episodes: the data, at least one step.
        floor: the smallest deviation returned: a column that hardly changes in the data must not turn a small
            difference in the environment into a large one. One that never changes (a gripper that stays
            open) says nothing about its scale and gets a deviation of 1.

    Returns:
        mean and std, each float32 [S], accumulated in float64.
    """
    steps = sum(len(episode) for episode in episodes)
    # Two passes: the difference of two large sums of squares would lose the digits that matter.
    states = [episode.obs["state"][:-1] for episode in episodes]
    mean = np.sum([part.sum(axis=0, dtype=np.float64) for part in states], axis=0) / steps
    variance = np.sum([np.square(part - mean).sum(axis=0) for part in states], axis=0) / steps
    constant = variance <= np.square(1e-9 * np.maximum(1, np.abs(mean)))  # but for rounding
    std = np.where(constant, 1.0, np.maximum(np.sqrt(variance), floor))
    return mean.astype(np.float32), std.astype(np.float32)


def flattened(episodes: Sequence[Episode], std: FloatArray) -> list[str]:
    """The columns of observations that outliers flatten once they are divided by `std` [S], a line for each.

    That is where the middle 98 % of the values, if they differ at all, would lie within a hundredth of a
    standard deviation: a single 1e30, as of a simulator that failed, makes all other values equal.
    """
    states = np.concatenate([episode.obs["state"][:-1] for episode in episodes])
    sample = states[:: max(1, len(states) // 10_000)]
    low, high = np.quantile(sample, (0.01, 0.99), axis=0)
    begins = np.cumsum([0, *(len(episode) for episode in episodes)])
    lines = []
    for column in np.flatnonzero((high > low) & (high - low < 0.01 * std)).tolist():
        row = int(np.abs(states[:, column] - low[column]).argmax())
        index = int(np.searchsorted(begins, row, side="right")) - 1
        where = f"{states[row, column]:.3g} at step {row - begins[index]} of episode {index}"
        usual = f"98 % of its values lie from {low[column]:.3g} to {high[column]:.3g}"
        lines.append(
            f"observation {column} is {where}, while {usual}: standardised, these are all but equal; take "
            "such steps out of the data, or give --no-standardize"
        )
    return lines


def summary(
    episodes: Sequence[Episode],
    *,
    normalized_score: Callable[[float], float] | None = None,
    selected_from: Sequence[Episode] | None = None,
) -> str:
    """A table of what the data is, one quantity a line, to be printed before training.

    Args:
        episodes: the episodes to describe, at least one.
        normalized_score: maps a return to the benchmark's score (0 random, 100 expert), where it has one.
        selected_from: the episodes these were chosen from, to say how many there were.
    """
    returns = [episode.episode_return for episode in episodes]
    lengths = [len(episode) for episode in episodes]
    terminations = sum(episode.terminated for episode in episodes)
    solved = [episode.success for episode in episodes if episode.success is not None]
    of = "" if selected_from is None else f" of {len(selected_from):,}"
    rows = [("episodes", f"{len(episodes):,}{of}"), ("steps", f"{sum(lengths):,}")]
    rows += [("steps per episode", _quantiles(lengths)), ("return", _quantiles(returns))]
    if normalized_score is not None:
        rows.append(("normalised score", _quantiles([normalized_score(value) for value in returns])))
    at_bounds = sum(np.count_nonzero(np.abs(episode.action) > _AT_BOUNDS) for episode in episodes)
    share = at_bounds / sum(episode.action.size for episode in episodes)
    rows.append(("actions at bounds", f"{share:.1%}"))
    rows += [("terminations", f"{terminations:,}"), ("time-outs", f"{len(episodes) - terminations:,}")]
    if solved:
        rows.append(("successes", f"{sum(solved):,} of {len(solved):,}"))
    return "\n".join(f"{name:<18} {value}" for name, value in rows)


def _quantiles(values: Sequence[float] | Array) -> str:
    quartiles = " | ".join(f"{value:.6g}" for value in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
    return f"mean {np.mean(values):.6g}, quartiles {quartiles}"
