"""Reading Adroit's demonstrations: a pickled list of dictionaries, one per episode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlzoo.data.hdf5 import check_shape, finite
from rlzoo.data.unpickle import load_pickle
from rlzoo.errors import UserError
from rlzoo.types import Episode, FloatArray


def read_adroit(path: Path, state_dim: int | None, action_dim: int | None) -> list[Episode]:
    """Read the episodes of a pickle, actions as recorded. Nothing in the file is executed.

    Keys: observations [T, S], actions [T, A], rewards [T]; `terminated`, where present, says whether the
    episode ended in a terminal state, as one flag or one a step. The observation after the last action is
    not recorded: that of a terminal step is a repetition, which no learner looks at (its discount is 0), and
    the last step of an episode that was cut is dropped.

    Raises:
        UserError: no such list, or a key is missing or its shape, type or values are not as above.
    """
    records = load_pickle(path)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path}: holds a {type(records).__name__}, expected a list of dictionaries")
    episodes: list[Episode] = []
    unread = path.stat().st_size  # values: each takes a byte or more, unless episodes are listed repeatedly
    for index, record in enumerate(records):
        states = _read(record, path, index, "observations", None, state_dim)
        steps = len(states)
        actions = _read(record, path, index, "actions", steps, action_dim)
        rewards = _read(record, path, index, "rewards", steps)
        unread -= states.size + actions.size + steps
        if unread < 0:
            raise UserError(f"{path}: up to [{index}] there are more values than the file has bytes")
        state_dim, action_dim = states.shape[1], actions.shape[1]  # one width for the whole file
        terminated = _ended_terminally(record, path, index, steps)
        if terminated:
            states = np.concatenate([states, states[-1:]])
        else:
            actions, rewards = actions[:-1], rewards[:-1]
        if len(actions):
            episodes.append(Episode({"state": states}, actions, rewards, terminated))
    return episodes


def _ended_terminally(record: Mapping[str, Any], path: Path, index: int, steps: int) -> bool:
    """The last of the record's `terminated` flags; False where it has none."""
    key = f"[{index}]terminated"
    value = record.get("terminated", False)
    flags = np.ravel(value) if isinstance(value, (bool, int, np.generic, np.ndarray)) else np.array("none")
    if flags.shape not in ((1,), (steps,)) or not np.isin(flags, (0, 1)).all():
        raise UserError(f"{path}: key {key!r} is no flag, expected True or False, or one for each of {steps}")
    if flags[:-1].any():
        raise UserError(f"{path}: key {key!r} is set before the last step, expected one episode")
    return bool(flags[-1])


def _read(record: Mapping[str, Any], path: Path, index: int, key: str, *shape: int | None) -> FloatArray:
    """An array of a record as float32; None in its shape stands for any size."""
    value, name = record.get(key), f"[{index}]{key}"
    if not isinstance(value, np.ndarray):
        raise UserError(f"{path}: key {name!r} is missing or no array")
    check_shape(path, name, value.shape, shape)
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and infinite is refused
        return finite(path, name, np.array(value, np.float32))
