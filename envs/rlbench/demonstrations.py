"""RLBench's recorded demonstrations, read without RLBench, PyRep or CoppeliaSim.

RLBench's dataset generator writes ``<root>/<task>/variation0/episodes/episode0/`` with ``low_dim_obs.pkl``,
the pickled low-dimensional record of the episode, and a folder of PNG files per camera and kind of image
(``front_rgb``, ``front_depth``, ``front_mask``, …). The pickles are read as data (see `rlzoo.data.unpickle`),
the frames decoded once and kept as HDF5 in the cache (see `rlzoo.data.download.cache_dir`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from envs.rlbench.images import Pixels, load_frames
from envs.rlbench.protocol import MAX_DELTA, NUM_JOINTS, TIME_LIMITS, Demonstration, Images, within_limits
from rlzoo.data.download import cache_dir
from rlzoo.data.hdf5 import check_shape, get_dataset, open_hdf5
from rlzoo.data.unpickle import Record, load_pickle
from rlzoo.errors import UserError
from rlzoo.run.files import atomic_path
from rlzoo.types import FloatArray

LOW_DIM_FILE = "low_dim_obs.pkl"
# The classes have kept their places from RLBench's first release to 1.2.0; some forks vendor the package.
_PACKAGES = ("rlbench", "rlbench.rlbench", "RLBench.rlbench")
_DEMO = [f"{package}.demo.Demo" for package in _PACKAGES]
_OBSERVATION = [f"{package}.backend.observation.Observation" for package in _PACKAGES]
_LAYOUT = "expected <task>/variation*/episodes/episode*/low_dim_obs.pkl or a part of it"
_NO_TASK = re.compile(r"variation\d+|all_variations|episodes|episode\d+")
_CACHE_VERSION = 2


@dataclass(frozen=True)
class RLBenchDemos:
    """What was read from RLBench's folders.

    Attributes:
        demonstrations: in the order of their numbers, at least one.
        too_fast: how many others were left out because a joint moved by more than MAX_DELTA in a step.
        source: the folder they are from.
    """

    demonstrations: list[Demonstration]
    too_fast: int
    source: Path

    def summary(self) -> str:
        """Lines for the screen: what was read, what was left out, how long the episodes are."""
        lengths = np.array([len(demonstration.actions) for demonstration in self.demonstrations])
        first = self.demonstrations[0]
        views = "no frames" if first.frames is None else f"{first.frames.shape[1]} views"
        targets = sum(demonstration.joint_targets is not None for demonstration in self.demonstrations)
        rows = [
            ("demonstrations", f"{len(lengths):,} from {self.source} ({views})"),
            ("left out", f"{self.too_fast:,} with a joint moving more than {MAX_DELTA} rad in a step"),
            ("steps", f"{lengths.sum():,}"),
            ("steps per episode", f"{lengths.min()} to {lengths.max()}, mean {lengths.mean():.4g}"),
            ("actions", f"{targets:,} from joint_position_action, the others from joint positions"),
        ]
        return "\n".join(f"{name:<18} {value}" for name, value in rows)


def load_rlbench(
    path: str | os.PathLike[str],
    *,
    task: str | None = None,
    images: Images | None = None,
    count: int | None = None,
    need_task_state: bool = False,
) -> RLBenchDemos:
    """Read demonstrations of one task in the order of their numbers (episode2 before episode10).

    Args:
        path: the dataset's folder, a task's, a variation's, an `episodes` folder or a single episode's. A
            task's folder means all its variations; RLBench's protocol uses variation 0 alone.
        task: RLBench's name, which chooses among the tasks of a dataset.
        images: the views to read, and the size to resize them to; None reads none.
        count: how many to read, of those that are not too fast; None reads all.
        need_task_state: whether to refuse demonstrations without a task state, or with states of different
            lengths (they vary with the variation in some tasks). Otherwise a demonstration whose state is
            missing or changes its length gets one of length 0.

    Raises:
        UserError: no demonstrations found, fewer than `count`, missing or unreadable files, frames that do
            not match the record, a camera that was not recorded, a pickle that is damaged or asks for
            anything but arrays and RLBench's records. Nothing in the files is executed.
    """
    episodes = find_episodes(path, task)
    source = Path(path).expanduser()
    kept: list[Path] = []
    demonstrations: list[Demonstration] = []
    too_fast = 0
    for episode in episodes:
        if len(kept) == count:
            break
        demonstration = demonstration_of(_read_record(episode), str(episode / LOW_DIM_FILE))
        if within_limits([demonstration]):
            kept.append(episode)
            demonstrations.append(demonstration)
        else:
            too_fast += 1
    if count is not None and len(kept) < count:
        raise UserError(
            f"{source}: {count} demonstrations asked for, found {len(kept)} and {too_fast} too fast"
        )
    if not kept:
        raise UserError(
            f"{source}: all {too_fast} demonstrations move a joint over {MAX_DELTA} rad in a step"
        )
    if need_task_state:
        _check_task_states(source, demonstrations)
    if images is not None:
        lengths = [len(demonstration.gripper_open) for demonstration in demonstrations]
        frames = _frames(kept, lengths, images)
        pairs = zip(demonstrations, frames, strict=True)
        demonstrations = [replace(demonstration, frames=part) for demonstration, part in pairs]
    return RLBenchDemos(demonstrations, too_fast, source)


def find_episodes(path: str | os.PathLike[str], task: str | None = None) -> list[Path]:
    """The episodes' folders of one task, in the order of their numbers, those of variation 0 first.

    Where a task has no `variation*` folder, `all_variations` is taken.

    Raises:
        UserError: there are none, or those of several tasks and `task` does not choose.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {_LAYOUT}")
    try:
        if task is not None and (folder / task).is_dir():
            folder = folder / task
        found = _episodes_below(folder)
        if not found:
            below = {child.name: _episodes_below(child) for child in folder.iterdir() if child.is_dir()}
            tasks = sorted(name for name, episodes in below.items() if episodes)
            if len(tasks) == 1 and task in (None, tasks[0]):
                return below[tasks[0]]
            if tasks:
                wanted = "name one of them" if task is None else f"not {task}"
                raise UserError(f"{folder}: has demonstrations of {', '.join(tasks)}; {wanted}")
            raise UserError(f"{folder}: no demonstrations; {_LAYOUT}")
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    name = _task_name(found[0])
    # A folder of episodes alone may be called anything; one with variations is a task's.
    is_task = any(part.name.startswith(("variation", "all_variations")) for part in found[0].parents)
    if task is not None and name != task and (is_task or name in TIME_LIMITS):
        raise UserError(f"{folder}: demonstrations of {name}, expected {task}")
    return found


def demonstration_of(
    observations: Sequence[Mapping[str, Any]], name: str, frames: npt.NDArray[np.uint8] | None = None
) -> Demonstration:
    """A demonstration of T steps from the attributes of RLBench's T + 1 `Observation`s.

    Args:
        observations: the attributes by name: joint_positions [7], gripper_open, and where they were recorded
            misc["joint_position_action"] [8] and task_low_dim_state.
        name: what to call it in error messages.
        frames: u8 [T+1, V, 3, H, W].

    Raises:
        UserError: fewer than two observations, or an attribute that is missing or malformed.
    """
    if len(observations) < 2:
        raise UserError(f"{name}: {len(observations)} observations, expected at least 2")
    positions = np.stack(
        [_vector(fields, "joint_positions", NUM_JOINTS, name, row) for row, fields in enumerate(observations)]
    )
    gripper = np.array([_gripper(fields, name, row) for row, fields in enumerate(observations)], np.float32)
    targets, is_recorded = positions.copy(), False
    for row, fields in enumerate(observations):
        misc = fields.get("misc")
        # The first observation has none: no step led to it.
        if row > 0 and isinstance(misc, dict) and misc.get("joint_position_action") is not None:
            target = _vector(misc, "joint_position_action", None, name, row)
            if len(target) not in (NUM_JOINTS, NUM_JOINTS + 1):  # with the gripper, or without
                raise UserError(f"{name}: joint_position_action has {len(target)} values, expected 8")
            targets[row], is_recorded = target[:NUM_JOINTS], True
    return Demonstration(
        joint_positions=positions,
        gripper_open=gripper,
        joint_targets=targets if is_recorded else None,
        task_state=_task_states(observations, name),
        frames=frames,
    )


# --- folders -----------------------------------------------------------------------------------------------


def _episodes_below(folder: Path) -> list[Path]:
    if (folder / LOW_DIM_FILE).is_file():
        return [folder]
    if (folder / "episodes").is_dir():
        folder = folder / "episodes"
    if episodes := _numbered(folder, "episode"):
        return episodes
    variations = _numbered(folder, "variation") or [folder / "all_variations"]
    return [episode for variation in variations for episode in _numbered(variation / "episodes", "episode")]


def _numbered(folder: Path, stem: str) -> list[Path]:
    """The folders `stem`0, `stem`1, … in `folder` in the order of their numbers."""
    if not folder.is_dir():
        return []
    pattern = re.compile(rf"{stem}(\d+)")
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found) if path.is_dir()]


def _task_name(episode: Path) -> str:
    """The name of the task that an episode's folder is of."""
    for part in reversed(episode.resolve().parts):
        if not _NO_TASK.fullmatch(part):
            return part
    return "demonstrations"


def _camera_folder(episode: Path, camera: str) -> Path:
    """The folder of a camera's images; raises UserError where there is none, with the cameras there are."""
    folder = episode / f"{camera}_rgb"
    if not folder.is_dir():
        names = [path.name for path in episode.iterdir() if path.is_dir()] if episode.is_dir() else []
        others = sorted(name.removesuffix("_rgb") for name in names if name.endswith("_rgb"))
        there = f"it has {', '.join(others)}" if others else "it has none"
        raise UserError(f"{episode}: no images of camera {camera} (folder {folder.name}); {there}")
    return folder


# --- records -----------------------------------------------------------------------------------------------


def _read_record(episode: Path) -> list[dict[str, Any]]:
    """The attributes of every observation of an episode."""
    path = episode / LOW_DIM_FILE
    record = load_pickle(path, records=[*_DEMO, *_OBSERVATION])
    if isinstance(record, Record):
        record = record.fields.get("_observations")
    if not isinstance(record, list) or not all(isinstance(item, Record) for item in record):
        raise UserError(f"{path}: expected RLBench's Demo, a list of Observations")
    return [item.fields for item in record]


def _vector(
    fields: Mapping[str, Any], key: str, width: int | None, name: str, row: int
) -> npt.NDArray[np.float32]:
    """A finite vector of `width` numbers (None: any) as float32."""
    value = fields.get(key)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or value.ndim != 1:
        raise UserError(f"{name}: observation {row} lacks {key}, an array of numbers")
    if width is not None and len(value) != width:
        raise UserError(f"{name}: observation {row} has {len(value)} values of {key}, expected {width}")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and infinite is refused
        numbers = value.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise UserError(f"{name}: observation {row}: {key} is NaN or infinite, expected finite numbers")
    return numbers


def _gripper(fields: Mapping[str, Any], name: str, row: int) -> float:
    value = fields.get("gripper_open")
    if not isinstance(value, (bool, int, float, np.floating, np.integer, np.bool_)) or not 0 <= value <= 1:
        raise UserError(f"{name}: observation {row}: gripper_open is not a number from 0 to 1")
    return float(value)


def _task_states(observations: Sequence[Mapping[str, Any]], name: str) -> FloatArray:
    """[T+1, K]; K is 0 where a state was not recorded or they differ in length."""
    states = []
    for row, fields in enumerate(observations):
        value = fields.get("task_low_dim_state")
        if not isinstance(value, np.ndarray):
            return np.zeros((len(observations), 0), np.float32)
        states.append(_vector({"task_low_dim_state": value.ravel()}, "task_low_dim_state", None, name, row))
    if len({len(state) for state in states}) > 1:
        return np.zeros((len(observations), 0), np.float32)
    return np.stack(states)


def _check_task_states(source: Path, demonstrations: Sequence[Demonstration]) -> None:
    widths = sorted({demonstration.task_state.shape[1] for demonstration in demonstrations})
    if widths[0] == 0:
        raise UserError(
            f"{source}: a demonstration has no task_low_dim_state, or one whose length changes; record it, or"
            " use --observations pixels"
        )
    if len(widths) > 1:
        raise UserError(
            f"{source}: task_low_dim_state has from {widths[0]} to {widths[-1]} numbers; use demonstrations"
            " of one variation, or --observations pixels"
        )


# --- images, decoded once and kept -------------------------------------------------------------------------


def _frames(episodes: Sequence[Path], lengths: Sequence[int], images: Images) -> list[Pixels]:
    """Of each episode u8 [T+1, V, 3, H, W]: from the cache, unless the files have changed since."""
    stamps = [_stamp(episode, images.cameras) for episode in episodes]
    fingerprint = _digest([_CACHE_VERSION, images.cameras, images.size, list(lengths), stamps])
    folder = str(episodes[0].resolve())
    name = f"{_task_name(episodes[0])}-{_digest([folder, images.cameras, images.size, len(episodes)])[:16]}"
    cache = cache_dir() / "rlbench" / f"{name}.hdf5"
    shape = (sum(lengths), len(images.cameras), 3, images.size, images.size)
    frames = _read_cache(cache, fingerprint, shape)
    if frames is None:
        folders = [[_camera_folder(episode, camera) for camera in images.cameras] for episode in episodes]
        print(f"decoding {shape[0] * shape[1]:,} frames of {len(episodes)} demonstrations", file=sys.stderr)
        parts = load_frames(folders, lengths, images.size)
        _write_cache(cache, fingerprint, parts, shape)
        return parts
    return np.split(frames, np.cumsum(lengths)[:-1])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _stamp(episode: Path, cameras: Sequence[str]) -> list[list[str | int]]:
    """Name, size and modification time of the images that an episode has."""
    stamps: list[list[str | int]] = []
    for camera in cameras:
        with os.scandir(_camera_folder(episode, camera)) as entries:
            files = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
        place = f"{episode.name}/{camera}"
        stamps += sorted([f"{place}/{name}", stat.st_size, stat.st_mtime_ns] for name, stat in files)
    return stamps


def _write_cache(path: Path, fingerprint: str, parts: Sequence[Pixels], shape: tuple[int, ...]) -> None:
    """Keep what was decoded; that it cannot be kept is said and no more."""
    try:
        with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["fingerprint"] = fingerprint
            # lzf is read faster than the disk delivers; the check sums turn a damaged block into an error.
            chunks = (min(8, shape[0]), *shape[1:])
            dataset = file.create_dataset(
                "frames", shape, np.uint8, chunks=chunks, compression="lzf", fletcher32=True
            )
            begin = 0
            for part in parts:
                dataset[begin : begin + len(part)] = part
                begin += len(part)
    except (UserError, RuntimeError) as error:  # HDF5 reports a disk that fills up as the latter
        print(f"{error}; the demonstrations will be decoded again the next time", file=sys.stderr)


def _read_cache(path: Path, fingerprint: str, shape: tuple[int, ...]) -> Pixels | None:
    """What `_write_cache` wrote, or None where there is nothing, something outdated or something damaged."""
    if not path.is_file():
        return None
    try:
        with open_hdf5(path) as file:
            if file.attrs.get("fingerprint") != fingerprint:
                return None
            dataset = get_dataset(file, path, "frames")
            check_shape(path, "frames", dataset.shape, shape)
            frames: Pixels = dataset[()]
            return frames
    except UserError as error:
        print(f"{error}; decoding the demonstrations again", file=sys.stderr)
        return None
