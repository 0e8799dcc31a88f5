"""Reading Minari's HDF5 layout: one group per episode, the last observation included."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlzoo.data.d4rl import read_success
from rlzoo.data.hdf5 import check_shape, finite, get_dataset, has_key, read_flags, read_matrix, read_vector
from rlzoo.errors import UserError
from rlzoo.run.files import expand_user
from rlzoo.types import Array, Episode, FloatArray

MAIN_FILE = "main_data.hdf5"
_EPISODE = re.compile(r"episode_\d+")
Flatten = Callable[[Mapping[str, Any]], Array]  # of arrays [n, ...] by name, or of such mappings


def datasets_folder() -> Path:
    """Where Minari keeps its datasets."""
    return expand_user(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets")


def is_minari(file: h5py.File) -> bool:
    """Whether an open HDF5 file has Minari's layout."""
    names = set(file)
    return "observations" not in names and any(map(_EPISODE.fullmatch, names))


def read_minari(
    file: h5py.File, path: Path, state_dim: int | None, action_dim: int | None, flatten_obs: Flatten | None
) -> list[Episode]:
    """Read the groups episode_0, episode_1, … of an open file in that order, actions as recorded.

    Keys of a group: observations [T+1, S] (or groups of arrays, where `flatten_obs` is given), actions
    [T, A], rewards [T], terminations [T], truncations [T]; optional infos/success [T or T+1]. Observations
    and actions of other shapes, as a column [S, 1], are flattened. An episode that goes on after a
    termination is cut there.

    Raises:
        UserError: a key is missing or its shape, type or values are not as above.
    """
    episodes: list[Episode] = []
    found = sum(_EPISODE.fullmatch(name) is not None for name in file)
    for index in range(max(found, int(file.attrs.get("total_episodes", 0)))):
        name = f"episode_{index}"
        actions = read_matrix(file, path, f"{name}/actions", None, action_dim, flatten=True)
        steps = len(actions)
        states = _read_observations(file, path, f"{name}/observations", steps + 1, state_dim, flatten_obs)
        rewards = read_vector(file, path, f"{name}/rewards", steps)
        terminals = read_flags(file, path, f"{name}/terminations", steps)
        ends = terminals | read_flags(file, path, f"{name}/truncations", steps)
        succeeded = read_success(file, path, steps, prefix=f"{name}/")
        begin = 0
        for end in sorted({*np.flatnonzero(ends).tolist(), steps - 1}):
            part = slice(begin, end + 1)
            success = None if succeeded is None else bool(succeeded[part].any())
            obs = {"state": states[begin : end + 2]}
            episodes.append(Episode(obs, actions[part], rewards[part], bool(terminals[end]), success))
            begin = end + 1
        state_dim, action_dim = states.shape[1], actions.shape[1]  # one width for the whole file
    return episodes


def _read_observations(
    file: h5py.File, path: Path, key: str, rows: int, state_dim: int | None, flatten_obs: Flatten | None
) -> FloatArray:
    """An episode's observations, float32 [rows, S]."""
    if not has_key(file, path, key) or isinstance(file[key], h5py.Dataset):
        return read_matrix(file, path, key, rows, state_dim, flatten=True)
    if flatten_obs is None:
        raise UserError(f"{path}: key {key!r} is a group of arrays, expected one array [{rows}, S]")
    parts = _read_group(file, path, key, rows)
    try:
        states = np.ascontiguousarray(flatten_obs(parts), np.float32)
    except UserError as error:
        raise UserError(f"{path}: {key}: {error}") from error
    check_shape(path, key, states.shape, (rows, state_dim))
    return finite(path, key, states)


def _read_group(file: h5py.File, path: Path, key: str, rows: int) -> dict[str, Any]:
    """A group's arrays [rows, ...] by name; groups in it become mappings."""
    parts: dict[str, Any] = {}
    for name in file[key]:
        part = f"{key}/{name}"
        if has_key(file, path, part) and isinstance(file[part], h5py.Group):
            parts[name] = _read_group(file, path, part, rows)
        else:
            parts[name] = get_dataset(file, path, part)[()]
            check_shape(path, part, parts[name].shape[:1], (rows,))
    return parts
