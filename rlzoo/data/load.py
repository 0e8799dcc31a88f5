"""Demonstrations and datasets: any supported file to `Episode`s, the choice among them, their summary.

`load_episodes` recognises the format from the contents (readers: `rlzoo.data.formats`; writers:
`rlzoo.data.write`). Whatever the source, observations come back as recorded and actions in [-1, 1].
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from pathlib import Path

import h5py
import numpy as np

from rlzoo.data.formats import Expected, is_minari, read_d4rl, read_minari, read_pickle
from rlzoo.data.hdf5 import open_hdf5
from rlzoo.errors import UserError
from rlzoo.types import Array, Episode, FloatArray

_MINARI_FILE = "main_data.hdf5"
AT_BOUNDS = 0.999  # of an action in [-1, 1]: saturated, or clipped when it was read
_FORMATS = "a D4RL HDF5 file, a Minari dataset (folder or name) or an Adroit pickle"


def load_episodes(
    source: str | os.PathLike[str],
    *,
    state_dim: int | None = None,
    action_dim: int | None = None,
    action_low: FloatArray | float = -1.0,
    action_high: FloatArray | float = 1.0,
    max_episode_steps: int | None = None,
    flatten_obs: Callable[[Mapping[str, Array]], Array] | None = None,
) -> list[Episode]:
    """Read every episode of a file or dataset, in its order.

    Args:
        source: a D4RL HDF5 file, an Adroit pickle, a Minari dataset's folder or `main_data.hdf5`, or the name
            of a Minari dataset that is already on this machine ("D4RL/door/human-v2").
        state_dim: S that the task expects; None takes what is there.
        action_dim: A that the task expects; None takes what is there.
        action_low: lower bounds of the recorded actions, a number or [A]; they become -1, and lower actions
            are clipped.
        action_high: upper bounds, likewise 1.
        max_episode_steps: the task's time limit, used where a D4RL file does not mark its time-outs.
        flatten_obs: makes [n, S] of a dictionary of arrays [n, ...], for Minari datasets of tasks that
            observe several arrays.

    Returns:
        At least one episode; their arrays are views into shared ones where the format allows it.

    Raises:
        UserError: missing, damaged or incomplete data, NaN or infinite values, the wrong widths, anything
            but arrays in a pickle. Nothing in the file is executed.
    """
    expected = Expected(state_dim, action_dim, action_low, action_high, max_episode_steps, flatten_obs)
    path = _find(source)
    if _is_hdf5(path):
        with open_hdf5(path) as file:
            episodes = (read_minari if is_minari(file) else read_d4rl)(file, path, expected)
    else:
        episodes = read_pickle(path, expected)
    if not episodes:
        raise UserError(f"{path}: holds no complete step, expected at least one episode")
    return episodes


def _find(source: str | os.PathLike[str]) -> Path:
    """The file behind a path or a Minari name."""
    path = Path(source).expanduser()
    if not os.path.exists(path):  # Path.exists raises for a name that is too long
        root = Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()
        path = root / source
        if not os.path.exists(path):
            raise UserError(f"{source}: no such file, nor a Minari dataset in {root}; expected {_FORMATS}")
    if path.is_dir():
        for main in (path / _MINARI_FILE, path / "data" / _MINARI_FILE):
            if main.is_file():
                return main
        raise UserError(f"{path}: a folder without {_MINARI_FILE}; expected {_FORMATS}")
    return path


def _is_hdf5(path: Path) -> bool:
    """Whether a file starts as HDF5 does; raises `UserError` where it is neither that nor a pickle."""
    try:
        with path.open("rb") as file:
            start = file.read(1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if h5py.is_hdf5(path):
        return True
    if start not in (b"\x80", b"(", b"]"):  # a protocol from 2 on; a list in the protocols before that
        what = "an empty file" if not start else "neither HDF5 nor a pickle"
        raise UserError(f"{path}: {what}; expected {_FORMATS}")
    return False


def select_episodes(
    episodes: Sequence[Episode],
    *,
    percentile: float = 50.0,
    ratio: float = 100.0,
    count: int | None = None,
    seed: int = 0,
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
        seed: decides which.

    Returns:
        The chosen episodes in their original order.

    Raises:
        UserError: an argument out of its range, an empty selection, fewer than `count` episodes.
    """
    if not 0 <= percentile <= 100 or not 0 < ratio <= 100:
        raise UserError(
            f"demo percentile {percentile:g} and ratio {ratio:g}: expected a percentile from 0 to 100 and a "
            "ratio above 0, up to 100"
        )
    middle = min(max(percentile, ratio / 2), 100 - ratio / 2)
    order = np.argsort([episode.episode_return for episode in episodes], kind="stable")
    lengths = np.array([len(episode) for episode in episodes], np.float64)[order]
    position = (
        100 * (np.cumsum(lengths) - lengths / 2) / max(lengths.sum(), 1)
    )  # of the middle step, per cent
    inside = (position >= middle - ratio / 2) & (position < middle + ratio / 2)
    chosen = np.sort(order[inside])
    if len(chosen) == 0:
        raise UserError(
            f"demo percentile {percentile:g} and ratio {ratio:g} select none of {len(episodes)} episodes; "
            "expected at least one: raise the ratio"
        )
    if count is not None:
        if not 0 < count <= len(chosen):
            raise UserError(f"{count} episodes asked for, expected 1 to the {len(chosen)} selected by return")
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, count, replace=False))
    return [episodes[index] for index in chosen]


def discounted_returns(episodes: Sequence[Episode], discount: float) -> tuple[float, float]:
    """The smallest and the largest discounted return from any step of the data.

    What a learner of these data has to be able to express, as far as they reach. It bootstraps where an
    episode was only cut, so such a one is taken to go on for ever at the mean of its last ten rewards (a
    door that stays open earns 20 a step: 2,000 in the end, where the data stop at 1,000).

    Args:
        episodes: the data, at least one step.
        discount: gamma; at 1 nothing is added beyond the data.
    """

    def step(later: float, reward: float) -> float:
        return reward + discount * later

    def returns(episode: Episode) -> Iterator[float]:
        tail = 0.0 if episode.terminated or discount == 1 else episode.reward[-10:].mean() / (1 - discount)
        values = accumulate(reversed(episode.reward.tolist()), step, initial=float(tail))
        return islice(values, 1, None)

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
    returns = np.array([episode.episode_return for episode in episodes])
    lengths = np.array([len(episode) for episode in episodes])
    terminations = sum(episode.terminated for episode in episodes)
    solved = [episode.success for episode in episodes if episode.success is not None]
    of = "" if selected_from is None else f" of {len(selected_from):,}"
    rows = [
        ("episodes", f"{len(episodes):,}{of}"),
        ("steps", f"{lengths.sum():,}"),
        ("steps per episode", _quantiles(lengths)),
        ("return", _quantiles(returns)),
    ]
    if normalized_score is not None:
        rows.append(("normalised score", _quantiles([normalized_score(value) for value in returns.tolist()])))
    at_bounds = sum(np.count_nonzero(np.abs(episode.action) > AT_BOUNDS) for episode in episodes)
    share = at_bounds / sum(episode.action.size for episode in episodes)
    rows.append(("actions at bounds", f"{share:.1%}"))
    rows += [("terminations", f"{terminations:,}"), ("time-outs", f"{len(episodes) - terminations:,}")]
    if solved:
        rows.append(("successes", f"{sum(solved):,} of {len(solved):,}"))
    return "\n".join(f"{name:<18} {value}" for name, value in rows)


def _quantiles(values: Sequence[float] | Array) -> str:
    quartiles = " | ".join(f"{value:.6g}" for value in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
    return f"mean {np.mean(values):.6g}, quartiles {quartiles}"
