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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from envs.rlbench.images import Pixels, load_frames
from envs.rlbench.protocol import MAX_DELTA, NUM_JOINTS, Demonstration, Images, is_within_limits
from rlzoo.data.download import cache_dir
from rlzoo.data.hdf5 import check_shape, get_dataset, open_hdf5, written_hdf5
from rlzoo.data.unpickle import Record, load_pickle
from rlzoo.errors import UserError, one_line
from rlzoo.run.files import expand_user
from rlzoo.types import FloatArray

LOW_DIM_FILE = "low_dim_obs.pkl"
# The classes have kept their places from RLBench's first release to 1.2.0; some forks vendor the package.
_PACKAGES = ("rlbench", "rlbench.rlbench", "RLBench.rlbench")
_DEMO = [f"{package}.demo.Demo" for package in _PACKAGES]
_OBSERVATION = [f"{package}.backend.observation.Observation" for package in _PACKAGES]
_LAYOUT = "expected <task>/variation*/episodes/episode*/low_dim_obs.pkl or a part of it"
_OF_A_TASK = re.compile(r".*/([^/]+)/(?:variation\d+|all_variations)/episodes/episode\d+")
_CACHE_VERSION = 3


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
    source = expand_user(path)
    episodes: list[Path] = []
    demonstrations: list[Demonstration] = []
    too_fast = 0
    for episode in find_episodes(path, task):
        if len(episodes) == count:
            break
        demonstration = demonstration_of(_read_record(episode), str(episode / LOW_DIM_FILE))
        if is_within_limits(demonstration):
            episodes.append(episode)
            demonstrations.append(demonstration)
        else:
            too_fast += 1
    found = len(demonstrations)
    if count is not None and found < count:
        raise UserError(f"{source}: {count} demonstrations asked for, found {found} and {too_fast} too fast")
    if not found:
        raise UserError(f"{source}: all {too_fast} demonstrations move a joint over {MAX_DELTA} rad a step")
    if need_task_state:
        _check_task_states(source, demonstrations)
    if images is not None:
        lengths = [len(demonstration.gripper_open) for demonstration in demonstrations]
        frames = np.split(_frames(episodes, lengths, images), np.cumsum(lengths)[:-1])
        pairs = zip(demonstrations, frames, strict=True)
        demonstrations = [replace(demonstration, frames=part) for demonstration, part in pairs]
    return RLBenchDemos(demonstrations, too_fast, source)


def find_episodes(path: str | os.PathLike[str], task: str | None = None) -> list[Path]:
    """The episodes' folders of one task, in the order of their numbers, those of variation 0 first.

    Where a task has no `variation*` folder, `all_variations` is taken.

    Raises:
        UserError: there are none, or those of several tasks and `task` does not choose.
    """
    folder = expand_user(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {_LAYOUT}")
    if task is not None and (folder / task).is_dir():
        folder = folder / task
    try:
        if found := _episodes_below(folder):
            name = _task_of(found[0])
            if task is not None and name not in (task, None):
                raise UserError(f"{folder}: demonstrations of {name}, expected {task}")
            return found
        children = sorted(child for child in folder.iterdir() if child.is_dir())
        tasks = {child.name: episodes for child in children if (episodes := _episodes_below(child))}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    if not tasks:
        raise UserError(f"{folder}: no demonstrations; {_LAYOUT}")
    if len(tasks) > 1 or task is not None:
        wanted = "name one of them" if task is None else f"not {task}"
        raise UserError(f"{folder}: has demonstrations of {', '.join(tasks)}; {wanted}")
    (found,) = tasks.values()
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
    positions, gripper, targets, states = [], [], [], []
    has_targets = False
    for row, fields in enumerate(observations):
        where = f"{name}: observation {row}:"
        positions.append(_vector(fields.get("joint_positions"), f"{where} joint_positions", (NUM_JOINTS,)))
        is_open = fields.get("gripper_open")
        if not isinstance(is_open, (int, float, np.floating, np.integer, np.bool_)) or not 0 <= is_open <= 1:
            raise UserError(f"{where} gripper_open is not a number from 0 to 1")
        gripper.append(is_open)
        misc, target = fields.get("misc"), None
        if isinstance(misc, dict) and row > 0:  # no step led to the first observation
            target = misc.get("joint_position_action")
        if target is not None:
            with_or_without_gripper = (NUM_JOINTS, NUM_JOINTS + 1)
            target = _vector(target, f"{where} joint_position_action", with_or_without_gripper)[:NUM_JOINTS]
            has_targets = True
        targets.append(positions[row] if target is None else target)
        state = fields.get("task_low_dim_state")
        state = state.ravel() if isinstance(state, np.ndarray) else np.zeros(0)
        states.append(_vector(state, f"{where} task_low_dim_state"))
    has_state = len({len(state) for state in states}) == 1
    return Demonstration(
        joint_positions=np.stack(positions),
        gripper_open=np.array(gripper, np.float32),
        joint_targets=np.stack(targets) if has_targets else None,
        task_state=np.stack(states) if has_state else np.zeros((len(states), 0), np.float32),
        frames=frames,
    )


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


def _task_of(episode: Path) -> str | None:
    """The name of an episode's task; None where the folders around it are not those of RLBench's layout."""
    match = _OF_A_TASK.fullmatch(episode.resolve().as_posix())
    return match[1] if match else None


def _camera_folder(episode: Path, camera: str) -> Path:
    """The folder of a camera's images; raises UserError where there is none, with the cameras there are."""
    folder = episode / f"{camera}_rgb"
    if not folder.is_dir():
        found = sorted(path.name.removesuffix("_rgb") for path in episode.glob("*_rgb")) or ["none"]
        raise UserError(f"{episode}: no images of camera {camera} ({folder.name}), but of {', '.join(found)}")
    return folder


def _read_record(episode: Path) -> list[dict[str, Any]]:
    """The attributes of every observation of an episode."""
    path = episode / LOW_DIM_FILE
    record = load_pickle(path, records=[*_DEMO, *_OBSERVATION])
    if isinstance(record, Record):
        record = record.fields.get("_observations")
    if not isinstance(record, list) or not all(isinstance(item, Record) for item in record):
        raise UserError(f"{path}: expected RLBench's Demo, a list of Observations")
    return [item.fields for item in record]


def _vector(value: Any, what: str, widths: Collection[int] = ()) -> FloatArray:
    """`value` as float32, checked to be a finite vector; its length is one of `widths`, if there are any."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or value.ndim != 1:
        raise UserError(f"{what} is missing or not a vector of numbers")
    if widths and len(value) not in widths:
        raise UserError(f"{what} has {len(value)} numbers, expected {' or '.join(map(str, widths))}")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and infinite is refused
        numbers = value.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise UserError(f"{what} is NaN or infinite, expected finite numbers")
    return numbers


def _check_task_states(source: Path, demonstrations: Sequence[Demonstration]) -> None:
    widths = sorted({demonstration.task_state.shape[1] for demonstration in demonstrations})
    if widths[0] == 0:
        what = "a demonstration has no task_low_dim_state, or one whose length changes; record it"
        raise UserError(f"{source}: {what}, or use --observations pixels")
    if len(widths) > 1:
        what = f"task_low_dim_state has from {widths[0]} to {widths[-1]} numbers; use one variation"
        raise UserError(f"{source}: {what}, or --observations pixels")


def _frames(episodes: Sequence[Path], lengths: Sequence[int], images: Images) -> Pixels:
    """All frames u8 [sum of lengths, V, 3, H, W]: from the cache, unless the files have changed since."""
    folders = [[_camera_folder(episode, camera) for camera in images.cameras] for episode in episodes]
    stamps = [[_stamp(folder) for folder in cameras] for cameras in folders]
    fingerprint = _digest([_CACHE_VERSION, images.cameras, images.size, list(lengths), stamps])
    place = _digest([str(episodes[0].resolve()), images.cameras, images.size, len(episodes)])[:16]
    cache = cache_dir() / "rlbench" / f"{_task_of(episodes[0]) or 'demonstrations'}-{place}.hdf5"
    shape = (sum(lengths), len(images.cameras), 3, images.size, images.size)
    frames = _read_cache(cache, fingerprint, shape)
    if frames is None:
        print(f"decoding {shape[0] * shape[1]:,} frames of {len(episodes)} demonstrations", file=sys.stderr)
        frames = load_frames(folders, lengths, images.size)
        _write_cache(cache, fingerprint, frames)
    return frames


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _stamp(folder: Path) -> list[Any]:
    """A folder's path and the name, size and modification time of every file in it."""
    files = [(path.name, path.stat()) for path in folder.iterdir()]
    return [str(folder.resolve()), sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in files)]


def _write_cache(path: Path, fingerprint: str, frames: Pixels) -> None:
    """Keep what was decoded; a cache that cannot be written is a warning."""
    try:
        with written_hdf5(path) as file:
            file.attrs["fingerprint"] = fingerprint
            # lzf is read faster than the disk delivers; the check sums turn a damaged block into an error.
            options = {"compression": "lzf", "fletcher32": True}
            chunks = (min(8, len(frames)), *frames.shape[1:])
            file.create_dataset("frames", data=frames, chunks=chunks, **options)
    except (UserError, MemoryError) as error:
        print(f"{one_line(error)}; the demonstrations will be decoded again the next time", file=sys.stderr)


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
