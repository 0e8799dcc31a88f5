"""Reading D4RL's HDF5 layout: one row per step, all episodes behind one another."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from rlzoo.data.hdf5 import get_dataset, has_key, read_flags, read_matrix, read_vector
from rlzoo.types import BoolArray, Episode, FloatArray

_SUCCESS_KEYS = ("success", "is_success", "goal_achieved")
_BLOCK_ROWS = 8_192


def read_d4rl(
    file: h5py.File, path: Path, state_dim: int | None, action_dim: int | None, max_episode_steps: int | None
) -> list[Episode]:
    """Read the episodes of an open file, actions as recorded.

    Keys: observations [N, S], actions [N, A], rewards [N], terminals [N]; optional timeouts [N],
    next_observations [N, S] and infos/success [N] (or infos/goal_achieved). With `next_observations` every
    step is kept, and an episode ends too where the next row does not continue it. Without, the last step of
    an episode that was cut has no next observation and is dropped; that of a terminated one is kept with
    its observation repeated, which no learner looks at (its discount is 0).

    Raises:
        UserError: a key is missing or its shape, type or values are not as above.
    """
    states = read_matrix(file, path, "observations", None, state_dim)
    steps = len(states)
    actions = read_matrix(file, path, "actions", steps, action_dim)
    rewards = read_vector(file, path, "rewards", steps)
    terminals = read_flags(file, path, "terminals", steps)
    succeeded = read_success(file, path, steps)
    ends = _marked_ends(file, path, terminals, max_episode_steps)
    tails = None
    if has_key(file, path, "next_observations"):
        next_states = read_matrix(file, path, "next_observations", steps, states.shape[1])
        kinds = [file[key].dtype.type for key in ("observations", "next_observations")]
        ends |= _seams(states, next_states, tolerance=1e-3 if np.float16 in kinds else 1e-5)
        tails = next_states[ends]
        del next_states  # the episodes' states are copies: all three would not fit into twice the data's size

    episodes: list[Episode] = []
    for index, (begin, end) in enumerate(_spans(ends)):
        terminated, state, part = bool(terminals[end]), states[begin : end + 1], slice(begin, end + 1)
        success = None if succeeded is None else bool(succeeded[part].any())
        if tails is not None or terminated:
            tail = states[end] if tails is None else tails[index]
            state = np.concatenate([state, tail[None]])
        else:
            part = slice(begin, end)
        if part.start < part.stop:
            episodes.append(Episode({"state": state}, actions[part], rewards[part], terminated, success))
    return episodes


def read_success(file: h5py.File, path: Path, steps: int, prefix: str = "") -> BoolArray | None:
    """Whether each step was a success, bool [steps], where the file says so under a name we know."""
    for name in _SUCCESS_KEYS:
        key = f"{prefix}infos/{name}"
        if has_key(file, path, key):
            # Minari records the info of the reset as well, before the first step's.
            rows = get_dataset(file, path, key, sparse=True).shape[:1]
            with_reset = prefix and rows == (steps + 1,)
            return read_flags(file, path, key, steps + 1 if with_reset else steps)[-steps:]
    return None


def _spans(ends: BoolArray) -> list[tuple[int, int]]:
    """The first and the last row of every episode, given where one ends, [N]."""
    last = np.flatnonzero(ends).tolist()
    return list(zip([0, *(row + 1 for row in last[:-1])], last, strict=True))


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
        for begin, end in _spans(ends):
            ends[begin + limit - 1 : end : limit] = True
    return ends


def _seams(states: FloatArray, next_states: FloatArray, tolerance: float) -> BoolArray:
    """Where the next observation differs from that of the next row, [N], by more than relative rounding."""
    seams = np.zeros(len(states), np.bool_)
    for begin in range(0, len(states) - 1, _BLOCK_ROWS):  # in blocks: the differences need memory as well
        follows = states[begin + 1 : begin + 1 + _BLOCK_ROWS]
        rows = slice(begin, begin + len(follows))
        seams[rows] = (np.abs(next_states[rows] - follows) > tolerance * (1 + np.abs(follows))).any(axis=1)
    return seams
