"""Reading demonstrations and datasets: `load_episodes` recognises the format from the file's contents."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlzoo.actions import ActionRange
from rlzoo.data.adroit import read_adroit
from rlzoo.data.d4rl import read_d4rl
from rlzoo.data.hdf5 import open_hdf5
from rlzoo.data.minari import MAIN_FILE, datasets_folder, is_minari, read_minari
from rlzoo.errors import UserError
from rlzoo.run.files import expand_user
from rlzoo.types import Array, Episode

_FORMATS = "a D4RL HDF5 file, a Minari dataset (folder or name) or an Adroit pickle"


def load_episodes(
    source: str | os.PathLike[str],
    *,
    state_dim: int | None = None,
    action_dim: int | None = None,
    action_range: ActionRange = ActionRange(-1.0, 1.0),  # noqa: B008  (frozen)
    max_episode_steps: int | None = None,
    flatten_obs: Callable[[Mapping[str, Any]], Array] | None = None,
) -> list[Episode]:
    """Read every episode of a file or dataset, in its order.

    Args:
        source: a D4RL HDF5 file, an Adroit pickle, a Minari dataset's folder or `main_data.hdf5`, or the name
            of a Minari dataset that is already on this machine ("D4RL/door/human-v2").
        state_dim: S, the task's width of an observation; None takes the file's.
        action_dim: A, the task's width of an action; None takes the file's.
        action_range: the bounds of the recorded actions; what lies outside them is clipped.
        max_episode_steps: the task's time limit, used where a D4RL file does not mark its time-outs.
        flatten_obs: makes observations [n, S] of a dictionary of arrays [n, ...], or of such dictionaries,
            for Minari datasets of tasks that observe several arrays.

    Returns:
        At least one episode: observations as recorded, actions in [-1, 1].

    Raises:
        UserError: missing, damaged or incomplete data, NaN or infinite values, the wrong widths, anything
            but arrays in a pickle. Nothing in the file is executed.
    """
    if action_dim is None and np.ndim(action_range.low) == 1:
        action_dim = np.size(action_range.low)
    path = _find(source)
    if _is_hdf5(path):
        with open_hdf5(path) as file:
            if is_minari(file):
                episodes = read_minari(file, path, state_dim, action_dim, flatten_obs)
            else:
                episodes = read_d4rl(file, path, state_dim, action_dim, max_episode_steps)
    else:
        episodes = read_adroit(path, state_dim, action_dim)
    if not episodes:
        raise UserError(f"{path}: holds no complete step, expected at least one episode")
    return [replace(episode, action=action_range.to_unit(episode.action)) for episode in episodes]


def _find(source: str | os.PathLike[str]) -> Path:
    """The file behind a path or a Minari name."""
    path = expand_user(source)
    if not os.path.exists(path):  # Path.exists raises for a name that is too long
        path = datasets_folder() / source
    if not os.path.exists(path):
        raise UserError(
            f"{source}: no such file, nor a Minari dataset in {datasets_folder()}; expected {_FORMATS}"
        )
    if path.is_dir():
        for main in (path / MAIN_FILE, path / "data" / MAIN_FILE):
            if main.is_file():
                return main
        raise UserError(f"{path}: a folder without {MAIN_FILE}; expected {_FORMATS}")
    return path


def _is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5; raises `UserError` where it is no pickle either."""
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
