"""Writing episodes in D4RL's HDF5 layout and as Minari datasets, so that others' tools can read them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlzoo.errors import UserError
from rlzoo.run.files import atomic_path, cannot_write
from rlzoo.types import Array, Episode, FloatArray


def write_d4rl(
    path: str | os.PathLike[str],
    episodes: Sequence[Episode],
    metadata: Mapping[str, str | int | float],
    *,
    action_low: FloatArray | float = -1.0,
    action_high: FloatArray | float = 1.0,
) -> None:
    """Write D4RL's HDF5 layout, with `next_observations` and `timeouts`, compressed; whole or not at all.

    Args:
        path: the file to make or replace.
        episodes: at least one; states only.
        metadata: written as `metadata/<name>`.
        action_low: the task's lower action bound, a number or [A]: -1 is written as this.
        action_high: its upper bound: 1 is written as this.

    Raises:
        UserError: the file cannot be written.
    """
    lengths = np.array([len(episode) for episode in episodes])
    last = np.cumsum(lengths) - 1
    terminated = np.array([episode.terminated for episode in episodes])
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        _write(file, "observations", (episode.obs["state"][:-1] for episode in episodes))
        _write(file, "next_observations", (episode.obs["state"][1:] for episode in episodes))
        _write(file, "actions", (_unscale(episode.action, action_low, action_high) for episode in episodes))
        _write(file, "rewards", (episode.reward for episode in episodes))
        _write(file, "terminals", [_marks(lengths.sum(), last[terminated])])
        _write(file, "timeouts", [_marks(lengths.sum(), last[~terminated])])
        if all(episode.success is not None for episode in episodes):
            solved = np.array([bool(episode.success) for episode in episodes])
            _write(file, "infos/success", [_marks(lengths.sum(), last[solved])])
        for name, value in metadata.items():
            file[f"metadata/{name}"] = value


def _write(file: h5py.File, key: str, parts: Iterable[Array]) -> None:
    data = np.concatenate(list(parts))
    file.create_dataset(key, data=data, compression="gzip", chunks=(min(len(data), 8192), *data.shape[1:]))


def _marks(size: int, where: Array) -> Array:
    flags = np.zeros(size, np.bool_)
    flags[where] = True
    return flags


def _unscale(actions: FloatArray, low: FloatArray | float, high: FloatArray | float) -> FloatArray:
    """The actions [T, A] in the task's own bounds."""
    if np.all(np.equal(low, -1.0)) and np.all(np.equal(high, 1.0)):
        return actions
    middle, half = (np.asarray(high) + low) / 2, (np.asarray(high) - low) / 2
    return np.asarray(actions * half + middle, np.float32)


def check_minari_name(dataset_id: str, root: str | os.PathLike[str] | None = None) -> Path:
    """The folder that a Minari dataset of this name would get.

    Raises:
        UserError: the name is malformed, or the dataset exists already.
    """
    from minari.dataset.minari_dataset import parse_dataset_id

    folder = Path(root or os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # the latter where the version is missing
        raise UserError(f"{dataset_id}: not a Minari name; expected namespace/name-v0") from error
    target = folder / dataset_id
    if target.exists():
        raise UserError(f"{target}: exists already and Minari datasets are not replaced; expected a new name")
    return target


def write_minari(
    dataset_id: str,
    episodes: Sequence[Episode],
    *,
    env_id: str | None = None,
    action_low: FloatArray | float = -1.0,
    action_high: FloatArray | float = 1.0,
    root: str | os.PathLike[str] | None = None,
    **metadata: Any,
) -> Path:
    """Write a Minari dataset with Minari's own storage (HDF5); whole or not at all.

    Args:
        dataset_id: "namespace/name-v0".
        episodes: at least one; states only.
        env_id: the Gymnasium task, by which Minari can rebuild the environment from the dataset.
        action_low: the task's lower action bound, a number or [A]: -1 is written as this.
        action_high: its upper bound: 1 is written as this.
        root: the folder of datasets; None takes Minari's own ($MINARI_DATASETS_PATH or ~/.minari/datasets).
        **metadata: what Minari's metadata hold besides: algorithm_name, author (a set), description,
            ref_min_score, ref_max_score, …

    Returns:
        The dataset's folder.

    Raises:
        UserError: the dataset exists already, its name is malformed or the folder cannot be written.
    """
    import gymnasium
    import minari
    from minari.dataset.minari_storage import MinariStorage

    target = check_minari_name(dataset_id, root)
    action_dim, state_dim = episodes[0].action.shape[1], episodes[0].obs["state"].shape[1]
    low, high = (np.broadcast_to(np.float32(bound), (action_dim,)) for bound in (action_low, action_high))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
            whole = Path(temporary) / "dataset"
            whole.mkdir()
            storage = MinariStorage.new(
                whole / "data",
                observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (state_dim,), np.float32),
                action_space=gymnasium.spaces.Box(low, high, dtype=np.float32),
                env_spec=None if env_id is None else gymnasium.spec(env_id),
                data_format="hdf5",
            )
            names = {"dataset_id": dataset_id, "minari_version": minari.__version__}
            storage.update_metadata(names | metadata)
            storage.update_episodes(
                _episode_buffer(index, episode, action_low, action_high)
                for index, episode in enumerate(episodes)
            )
            whole.rename(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    return target


def _episode_buffer(
    index: int, episode: Episode, action_low: FloatArray | float, action_high: FloatArray | float
) -> Any:
    """An episode as Minari's storage takes it. Its info rows are one for the reset, then one per step."""
    from minari.data_collector import EpisodeBuffer

    steps = len(episode)
    last = np.array([-1])
    success = None if episode.success is None else _marks(steps + 1, last[: int(episode.success)])
    return EpisodeBuffer(
        id=index,
        observations=episode.obs["state"],
        actions=_unscale(episode.action, action_low, action_high),
        rewards=episode.reward,
        terminations=_marks(steps, last[: int(episode.terminated)]),
        truncations=_marks(steps, last[: int(not episode.terminated)]),
        infos=None if success is None else {"success": success},
    )
