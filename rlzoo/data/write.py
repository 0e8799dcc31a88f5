"""Writing episodes in D4RL's HDF5 layout and as Minari datasets, so that others' tools can read them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from rlzoo.actions import ActionRange
from rlzoo.data.hdf5 import written_hdf5
from rlzoo.data.minari import datasets_folder
from rlzoo.errors import UserError, one_line
from rlzoo.run.files import cannot_write
from rlzoo.types import Array, BoolArray, Episode, FloatArray

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec


def write_d4rl(
    path: str | os.PathLike[str],
    episodes: Sequence[Episode],
    metadata: Mapping[str, str | int | float],
    *,
    action_range: ActionRange = ActionRange(-1.0, 1.0),  # noqa: B008  (frozen)
) -> None:
    """Write D4RL's HDF5 layout, with `next_observations` and `timeouts`, compressed; whole or not at all.

    Args:
        path: the file to make or replace.
        episodes: at least one; states only.
        metadata: written as `metadata/<name>`.
        action_range: the task's own bounds, in which actions are written.

    Raises:
        UserError: the file cannot be written.
    """
    with written_hdf5(path) as file:
        _write(file, "observations", [each.obs["state"][:-1] for each in episodes])
        _write(file, "next_observations", [each.obs["state"][1:] for each in episodes])
        _write(file, "actions", [_actions(each, action_range) for each in episodes])
        _write(file, "rewards", [each.reward for each in episodes])
        _write(file, "terminals", [_mark_last(len(each), each.terminated) for each in episodes])
        _write(file, "timeouts", [_mark_last(len(each), not each.terminated) for each in episodes])
        if all(each.success is not None for each in episodes):
            _write(file, "infos/success", [_mark_last(len(each), each.success) for each in episodes])
        for name, value in metadata.items():
            file[f"metadata/{name}"] = value


def _write(file: h5py.File, key: str, parts: Sequence[Array]) -> None:
    data = np.concatenate(parts)
    file.create_dataset(key, data=data, compression="gzip", chunks=(min(len(data), 8192), *data.shape[1:]))


def _mark_last(steps: int, value: bool | None) -> BoolArray:
    """Flags [steps] of which the last alone may be set."""
    flags = np.zeros(steps, np.bool_)
    flags[-1] = bool(value)
    return flags


def _actions(episode: Episode, action_range: ActionRange) -> FloatArray:
    return action_range.from_unit(episode.action).astype(np.float32)


def check_minari_name(dataset_id: str) -> Path:
    """The folder that a Minari dataset of this name would get.

    Raises:
        UserError: the name is malformed, or the dataset exists already.
    """
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # the latter where the version is missing
        raise UserError(f"{dataset_id}: not a Minari name; expected namespace/name-v0") from error
    target = datasets_folder() / dataset_id
    if target.exists():
        raise UserError(f"{target}: exists already and Minari datasets are not replaced; expected a new name")
    return target


def write_minari(
    dataset_id: str,
    episodes: Sequence[Episode],
    *,
    env_id: str | None = None,
    action_range: ActionRange = ActionRange(-1.0, 1.0),  # noqa: B008  (frozen)
    **metadata: Any,
) -> Path:
    """Write a dataset into Minari's folder with Minari's own storage (HDF5); whole or not at all.

    Args:
        dataset_id: "namespace/name-v0".
        episodes: at least one; states only.
        env_id: the Gymnasium task, by which Minari can rebuild the environment from the dataset; one that is
            registered with more than text and numbers cannot be, and is left out with a warning.
        action_range: the task's own bounds, in which actions are written.
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

    target = check_minari_name(dataset_id)
    action_dim, state_dim = episodes[0].action.shape[1], episodes[0].obs["state"].shape[1]
    low, high = (np.broadcast_to(np.float32(b), action_dim) for b in (action_range.low, action_range.high))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
            whole = Path(temporary) / "dataset"
            whole.mkdir()
            storage = MinariStorage.new(
                whole / "data",
                observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (state_dim,), np.float32),
                action_space=gymnasium.spaces.Box(low, high, dtype=np.float32),
                env_spec=None if env_id is None else _env_spec(env_id),
                data_format="hdf5",
            )
            metadata |= {"dataset_id": dataset_id, "minari_version": minari.__version__}
            storage.update_metadata(metadata)
            storage.update_episodes(_buffer(i, each, action_range) for i, each in enumerate(episodes))
            whole.rename(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    return target


def _env_spec(env_id: str) -> EnvSpec | None:
    """How Gymnasium makes the task, "Name-v0" or "module:Name-v0"; None where JSON cannot say it."""
    import gymnasium

    spec = gymnasium.spec(env_id.rpartition(":")[2])  # whoever made the task has imported the module
    try:
        spec.to_json()
    except (TypeError, ValueError) as error:
        reason = one_line(error)
        print(
            f"warning: Minari will not be able to make {env_id} from the dataset: {reason}", file=sys.stderr
        )
        return None
    return spec


def _buffer(index: int, episode: Episode, action_range: ActionRange) -> Any:
    """An episode as Minari's storage takes it. Its info rows are one for the reset, then one per step."""
    from minari.data_collector import EpisodeBuffer

    steps = len(episode)
    return EpisodeBuffer(
        id=index,
        observations=episode.obs["state"],
        actions=_actions(episode, action_range),
        rewards=episode.reward,
        terminations=_mark_last(steps, episode.terminated),
        truncations=_mark_last(steps, not episode.terminated),
        infos=None if episode.success is None else {"success": _mark_last(steps + 1, episode.success)},
    )
