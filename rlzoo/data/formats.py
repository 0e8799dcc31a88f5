"""The readers behind `rlzoo.data.load.load_episodes`: D4RL's HDF5 layout, Minari's, Adroit's pickles.

They turn rows into `Episode`s; `rlzoo.data.hdf5` and `rlzoo.data.unpickle` see to it that the rows are what
they claim to be. No loop runs over steps, and only the states are ever in memory twice, briefly.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlzoo.data.hdf5 import (
    blocks,
    check_finite,
    check_shape,
    get_dataset,
    get_matrix,
    has_key,
    read_block,
    read_flags,
    read_matrix,
    read_vector,
)
from rlzoo.data.unpickle import load_pickle
from rlzoo.errors import UserError
from rlzoo.types import Array, BoolArray, Episode, FloatArray

_SUCCESS_KEYS = ("success", "is_success", "goal_achieved")
_EPISODE = re.compile(r"episode_\d+")


@dataclass(frozen=True)
class Expected:
    """What a task expects of its data.

    Attributes:
        state_dim: S, the width of an observation; None takes what the file has.
        action_dim: A, the width of an action; None takes what the file has.
        action_low: the actions' lower bounds, a number or [A]; they become -1.
        action_high: their upper bounds, likewise; they become 1.
        max_episode_steps: the task's time limit, for files that do not mark their time-outs.
        flatten_obs: makes observations [n, S] of a dictionary of arrays [n, ...], for Minari datasets of
            tasks with several observations; None refuses such datasets.
    """

    state_dim: int | None = None
    action_dim: int | None = None
    action_low: FloatArray | float = -1.0
    action_high: FloatArray | float = 1.0
    max_episode_steps: int | None = None
    flatten_obs: Callable[[Mapping[str, Array]], Array] | None = None

    def __post_init__(self) -> None:
        low, high = np.asarray(self.action_low), np.asarray(self.action_high)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and np.less(low, high).all()):
            raise ValueError(f"action bounds {low} and {high} are not finite or not in order")

    def like(self, states: FloatArray, actions: FloatArray) -> Expected:
        """The same, with the widths of an episode's `states` [n, S] and `actions` [n, A] for the next one."""
        return replace(self, state_dim=states.shape[1], action_dim=actions.shape[1])

    def scale_actions(self, path: Path, actions: FloatArray) -> None:
        """Map `actions` [n, A] from the task's bounds to [-1, 1], in place, and clip what lies outside."""
        low, high = np.asarray(self.action_low, np.float32), np.asarray(self.action_high, np.float32)
        bounds = np.broadcast(low, high).shape
        if bounds not in ((), actions.shape[1:]):
            raise UserError(f"{path}: actions of width {actions.shape[1]}, expected {bounds[0]}")
        if np.any(low != -1.0) or np.any(high != 1.0):
            np.subtract(actions, (high + low) / 2, out=actions)
            np.divide(actions, (high - low) / 2, out=actions)
        np.clip(actions, -1.0, 1.0, out=actions)


def is_minari(file: h5py.File) -> bool:
    """Whether an open HDF5 file has Minari's layout: one group per episode."""
    names = set(file)
    return "observations" not in names and any(map(_EPISODE.fullmatch, names))


def read_d4rl(file: h5py.File, path: Path, expected: Expected) -> list[Episode]:
    """Read D4RL's layout: one row per step, all episodes behind one another.

    Keys: observations [N, S], actions [N, A], rewards [N], terminals [N]; optional timeouts [N],
    next_observations [N, S] and infos/success [N] (or infos/goal_achieved). With `next_observations` every
    step is kept, and an episode ends too where the next row does not continue it. Without, the last step of
    an episode that was cut has no next observation and is dropped; that of a terminated one is kept with
    its observation repeated, which no learner looks at (its discount is 0).

    Returns:
        Episodes, views into a few arrays of the whole file.

    Raises:
        UserError: a key is missing or its shape, type or values are not as above.
    """
    observations = get_matrix(file, path, "observations", expected.state_dim, None)
    steps = observations.shape[0]
    action_rows = get_matrix(file, path, "actions", expected.action_dim, steps)
    rewards = read_vector(file, path, "rewards", steps)
    terminals = read_flags(file, path, "terminals", steps)
    succeeded = _find_success(file, path, steps)
    has_next = has_key(file, path, "next_observations")
    next_rows = (
        get_matrix(file, path, "next_observations", observations.shape[1], steps) if has_next else None
    )
    ends = _marked_ends(file, path, terminals, expected.max_episode_steps)

    states = read_matrix(observations, path)
    if next_rows is None:
        last = np.flatnonzero(ends)
        states = _insert_rows(states, after=last[terminals[last]])
    else:
        tails = _next_of_ends(next_rows, path, states, ends, observations.dtype)
        states = _insert_rows(states, after=np.flatnonzero(ends), rows=tails)
    # Only now, when the states are no longer in memory twice.
    actions = read_matrix(action_rows, path)
    expected.scale_actions(path, actions)
    return _cut(states, actions, rewards, terminals, ends, succeeded, keep_last=has_next)


def read_minari(file: h5py.File, path: Path, expected: Expected) -> list[Episode]:
    """Read Minari's layout: groups episode_0, episode_1, … in that order.

    Keys of a group: observations [T+1, S] (or a group of arrays, where `expected.flatten_obs` can flatten
    it), actions [T, A], rewards [T], terminations [T], truncations [T]; optional infos/success [T or T+1].
    An episode that goes on after a termination is cut there.

    Raises:
        UserError: a key is missing or its shape, type or values are not as above.
    """
    episodes: list[Episode] = []
    for index in range(_count_episodes(file, path)):
        name = f"episode_{index}"
        action_rows = get_matrix(file, path, f"{name}/actions", expected.action_dim, None)
        steps = action_rows.shape[0]
        states = _minari_observations(file, path, name, steps, expected)
        actions = read_matrix(action_rows, path)
        expected.scale_actions(path, actions)
        rewards = read_vector(file, path, f"{name}/rewards", steps)
        terminals = read_flags(file, path, f"{name}/terminations", steps)
        ends = terminals | read_flags(file, path, f"{name}/truncations", steps)
        ends[-1] = True
        succeeded = _find_success(file, path, steps, prefix=f"{name}/")
        starts = np.flatnonzero(ends)[:-1] + 1
        if len(starts):  # every part needs a last observation of its own: the row that follows it
            states = _insert_rows(states, after=starts)
        episodes += _cut(states, actions, rewards, terminals, ends, succeeded, keep_last=True)
        expected = expected.like(states, actions)
    return episodes


def _count_episodes(file: h5py.File, path: Path) -> int:
    """How many episodes there are; raises UserError where one is missing."""
    found = {int(name.removeprefix("episode_")) for name in file if _EPISODE.fullmatch(name)}
    claimed = np.asarray(file.attrs.get("total_episodes", len(found)))
    count = int(claimed) if claimed.shape == () and claimed.dtype.kind in "iu" else len(found)
    missing = next(index for index in itertools.count() if index not in found)
    if missing < max(count, len(found)):
        why = f"there is {max(found)}" if max(found) > missing else f"the file is said to hold {count:,}"
        raise UserError(f"{path}: key 'episode_{missing}' is missing, expected it as {why}")
    return len(found)


def read_pickle(path: Path, expected: Expected) -> list[Episode]:
    """Read Adroit's demonstrations: a pickled list of dictionaries, one per episode.

    Keys: observations [T, S], actions [T, A], rewards [T]; `terminated`, where present, says whether the
    episode ended in a terminal state, as one flag or one a step. The observation after the last action is
    not recorded, so the last step is dropped unless it is terminal (see `read_d4rl`). Nothing in the file is
    executed.

    Raises:
        UserError: no such list, or as in `read_d4rl`.
    """
    records = load_pickle(path)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path}: holds a {type(records).__name__}, expected a list of dictionaries")
    episodes: list[Episode] = []
    unread = path.stat().st_size  # values: each takes a byte or more, unless episodes are listed repeatedly
    for index, record in enumerate(records):
        name = f"[{index}]"
        states = _pickled(record, path, name, "observations", 2, expected.state_dim, None)
        steps = len(states)
        actions = _pickled(record, path, name, "actions", 2, expected.action_dim, steps)
        rewards = _pickled(record, path, name, "rewards", 1, None, steps)
        expected.scale_actions(path, actions)
        unread -= states.size + actions.size + steps
        if unread < 0:
            raise UserError(f"{path}: up to {name} there are more values than the file has bytes")
        terminals = np.zeros(steps, np.bool_)
        terminals[-1] = _ended_terminally(record, path, name, steps)
        ends = np.zeros(steps, np.bool_)
        ends[-1] = True
        expected = expected.like(states, actions)
        states = _insert_rows(states, after=np.flatnonzero(terminals))
        episodes += _cut(states, actions, rewards, terminals, ends, None, keep_last=False)
    return episodes


# --- from rows to episodes ---------------------------------------------------------------------------------


def _cut(
    states: FloatArray,
    actions: FloatArray,
    rewards: FloatArray,
    terminals: BoolArray,
    ends: BoolArray,
    succeeded: BoolArray | None,
    *,
    keep_last: bool,
) -> list[Episode]:
    """Views of one episode after the other.

    `states` has one row more than the others for every episode whose last step is kept: all of them with
    `keep_last`, else those that terminated. An episode of which nothing is left is left out.
    """
    last = np.flatnonzero(ends)
    first = np.append(0, last[:-1] + 1)
    terminated = terminals[last]
    kept = terminated | keep_last
    lengths = last - first + kept  # T of each episode
    offsets = np.append(0, np.cumsum(last - first + 1 + kept)[:-1])  # its first row in `states`
    solved = None if succeeded is None else np.logical_or.reduceat(succeeded, first)
    return [
        Episode(
            obs={"state": states[offset : offset + steps + 1]},
            action=actions[begin : begin + steps],
            reward=rewards[begin : begin + steps],
            terminated=bool(terminal),
            success=None if solved is None else bool(solved[index]),
        )
        for index, (begin, steps, offset, terminal) in enumerate(
            zip(first.tolist(), lengths.tolist(), offsets.tolist(), terminated.tolist(), strict=True)
        )
        if steps > 0
    ]


def _insert_rows(states: FloatArray, *, after: Array, rows: FloatArray | None = None) -> FloatArray:
    """`states` with a row inserted behind each of the rows `after` [k]: `rows` [k, S], else a repetition."""
    if len(after) == 0:
        return states
    longer = np.empty((len(states) + len(after), states.shape[1]), np.float32)
    inserted = after + 1 + np.arange(len(after))
    is_old = np.ones(len(longer), np.bool_)
    is_old[inserted] = False
    longer[is_old] = states
    longer[inserted] = states[after] if rows is None else rows
    return longer


def _marked_ends(file: h5py.File, path: Path, terminals: BoolArray, limit: int | None) -> BoolArray:
    """Where an episode ends, [N]: at terminals, at time-outs, at the end of the file.

    A file without `timeouts` (D4RL's -v0 files, FrankaKitchen) ran into the task's time limit instead, and so
    did one that marks none, not even where its last episode was cut.
    """
    ends, marked = terminals.copy(), False
    if has_key(file, path, "timeouts"):
        ends |= read_flags(file, path, "timeouts", len(terminals))
        marked = bool(ends[-1] or (ends & ~terminals).any())
    ends[-1] = True
    if limit is not None and not marked:
        last = np.flatnonzero(ends)
        first = np.append(0, last[:-1] + 1)
        for begin, end in zip(first.tolist(), last.tolist(), strict=True):
            ends[begin + limit - 1 : end : limit] = True
    return ends


def _next_of_ends(
    dataset: h5py.Dataset,
    path: Path,
    states: FloatArray,
    ends: BoolArray,
    states_dtype: np.dtype[Any],
) -> FloatArray:
    """The next observations of the last steps, [k, S]. Sets `ends` where a row is not followed by its next.

    Only those rows are kept: the others repeat `states`. `states_dtype`: what `states` are stored as.
    """
    tails = []
    # Where one side is stored in half precision, the other is compared as rounded likewise.
    halved = any(dtype.kind == "f" and dtype.itemsize == 2 for dtype in (states_dtype, dataset.dtype))
    compared = np.float16 if halved else np.float32
    for begin, end in blocks(dataset):
        block = read_block(dataset, path, begin, end)
        follows = _rounded(states[begin + 1 : end + 1], compared)
        gap = np.abs(_rounded(block[: len(follows)], compared) - follows) > 1e-5 * (1 + np.abs(follows))
        ends[begin : begin + len(follows)] |= gap.any(axis=1)
        tails.append(block[ends[begin:end]])
    return np.concatenate(tails)


def _rounded(values: FloatArray, kind: type[np.floating[Any]]) -> FloatArray:
    """`values` as they are after being stored as `kind`; without a copy where that is what they are."""
    return values.astype(kind, copy=False).astype(np.float32, copy=False)


# --- checks and parts --------------------------------------------------------------------------------------


def _find_success(file: h5py.File, path: Path, steps: int, prefix: str = "") -> BoolArray | None:
    """Whether each step was a success, bool [steps], where the file says so under a name we know."""
    for name in _SUCCESS_KEYS:
        key = f"{prefix}infos/{name}"
        if has_key(file, path, key):
            # Minari records the info of the reset as well, before the first step's.
            rows = get_dataset(file, path, key, sparse=True).shape[:1]
            with_reset = prefix and rows == (steps + 1,)
            return read_flags(file, path, key, steps + 1 if with_reset else steps)[-steps:]
    return None


def _minari_observations(
    file: h5py.File, path: Path, name: str, steps: int, expected: Expected
) -> FloatArray:
    """An episode's observations, float32 [steps + 1, S]."""
    key = f"{name}/observations"
    if has_key(file, path, key) and isinstance(file[key], h5py.Group):
        if expected.flatten_obs is None:
            raise UserError(f"{path}: key {key!r} is a group of arrays, expected one array [{steps + 1}, S]")
        parts = {
            part: get_dataset(file, path, f"{key}/{part}")[()]
            for part in file[key]
            if has_key(file, path, f"{key}/{part}") and isinstance(file[f"{key}/{part}"], h5py.Dataset)
        }
        try:
            states = np.ascontiguousarray(expected.flatten_obs(parts), np.float32)
        except UserError as error:
            raise UserError(f"{path}: {key}: {error}") from error
        check_shape(path, key, states.shape, (steps + 1, expected.state_dim))
        check_finite(path, key, states, 0)
        return states
    return read_matrix(get_matrix(file, path, key, expected.state_dim, steps + 1), path)


def _ended_terminally(record: Mapping[str, Any], path: Path, name: str, steps: int) -> bool:
    """The last of the record's `terminated` flags; False where it has none."""
    value = record.get("terminated", False)
    if isinstance(value, (bool, int, np.generic, np.ndarray)):
        flags = np.asarray(value).ravel()
        if len(flags) in (1, steps) and flags.dtype.kind in "biuf" and np.isin(flags, (0, 1)).all():
            if flags[:-1].any():
                raise UserError(
                    f"{path}: key {name + 'terminated'!r} is set before the last step, expected one episode"
                )
            return bool(flags[-1])
    raise UserError(
        f"{path}: key {name + 'terminated'!r} is no flag, expected True or False (or one for each of the "
        f"{steps} steps)"
    )


def _pickled(
    record: Mapping[str, Any], path: Path, name: str, key: str, ndim: int, width: int | None, rows: int | None
) -> FloatArray:
    """An array of a pickled record as float32, [rows, width] or [rows]."""
    value = record.get(key)
    if not isinstance(value, np.ndarray):
        raise UserError(f"{path}: key {name + key!r} is missing or no array")
    check_shape(path, name + key, value.shape, (rows, width)[:ndim])
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and infinite is refused
        values: FloatArray = np.array(value, np.float32)
    check_finite(path, name + key, values, 0)
    return values
