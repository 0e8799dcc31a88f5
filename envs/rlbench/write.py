"""Writing demonstrations in RLBench's folder layout, so that RLBench's users can read them.

RLBench's `get_stored_demos` unpickles its own classes. They are not needed for writing: stand-ins are pickled
and the names in the pickle replaced by RLBench's.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from envs.rlbench.demonstrations import LOW_DIM_FILE
from envs.rlbench.images import PLACEHOLDER_SIZE, Pixels, run_parallel
from envs.rlbench.protocol import CAMERAS, Demonstration
from rlzoo.errors import UserError
from rlzoo.run.files import cannot_write, expand_user

_ALL_CAMERAS = (*CAMERAS, "overhead")
# Every attribute of RLBench's Observation; its reader sets some of them and expects the others to be there.
_ATTRIBUTES = (
    *(f"{camera}_{kind}" for camera in _ALL_CAMERAS for kind in ("rgb", "depth", "mask", "point_cloud")),
    *("joint_velocities", "joint_positions", "joint_forces", "gripper_open", "gripper_pose"),
    *("gripper_matrix", "gripper_joint_positions", "gripper_touch_forces", "task_low_dim_state", "misc"),
)


class _Demo:
    """Stands for rlbench.demo.Demo."""


class _Observation:
    """Stands for rlbench.backend.observation.Observation."""


# Protocol 3 writes a name as text between newlines, once, and nothing else depends on its length. NumPy 2
# still knows the place where NumPy 1 had its function; NumPy 1 does not know the new one.
_PROTOCOL = 3
_NAMES = {
    f"c{__name__}\n_Demo\n".encode(): b"crlbench.demo\nDemo\n",
    f"c{__name__}\n_Observation\n".encode(): b"crlbench.backend.observation\nObservation\n",
    b"cnumpy._core.multiarray\n_reconstruct\n": b"cnumpy.core.multiarray\n_reconstruct\n",
}


def write_rlbench(
    root: str | os.PathLike[str],
    task: str,
    demonstrations: Sequence[Demonstration],
    *,
    variation: int = 0,
    cameras: Sequence[str] = CAMERAS,
) -> Path:
    """Write ``<root>/<task>/variation<variation>/``; whole or not at all.

    RLBench's reader counts the RGB and depth frames of all its five cameras before it looks at which were
    asked for. Those that a demonstration does not have get black frames of one pixel, which our own reader
    refuses. What a `Demonstration` does not hold (velocities, forces, the gripper's pose) is None.

    Args:
        root: RLBench's `dataset_root`.
        task: RLBench's name of the task.
        demonstrations: at least one.
        variation: the number of the task's variation.
        cameras: what the V views of the frames are, in their order.

    Returns:
        The variation's folder.

    Raises:
        UserError: it exists already, or cannot be written.
    """
    target = expand_user(root) / task / f"variation{variation}"
    if target.exists():
        raise UserError(f"{target}: exists already and is not replaced; expected a new folder or variation")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
            whole = Path(temporary) / "variation"
            for index, demonstration in enumerate(demonstrations):
                episode = whole / "episodes" / f"episode{index}"
                episode.mkdir(parents=True)
                (episode / LOW_DIM_FILE).write_bytes(_pickled(demonstration, variation))
                _write_images(episode, demonstration, cameras)
            words = pickle.dumps([task.replace("_", " ")], _PROTOCOL)
            (whole / "variation_descriptions.pkl").write_bytes(words)
            whole.rename(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    return target


def _pickled(demonstration: Demonstration, variation: int) -> bytes:
    rows = range(len(demonstration.gripper_open))
    demo = _Demo()
    vars(demo).update(
        _observations=[_observation(demonstration, row, variation) for row in rows],
        random_seed=None,  # the state of NumPy's generator before the episode, for RLBench's own recordings
        num_reset_attempts=None,
        variation_number=variation,
    )
    data = pickle.dumps(demo, _PROTOCOL)
    for ours, theirs in _NAMES.items():
        assert data.count(ours) == 1, ours
        data = data.replace(ours, theirs)
    return data


def _observation(demonstration: Demonstration, row: int, variation: int) -> _Observation:
    misc: dict[str, Any] = {"variation_index": variation}
    if demonstration.joint_targets is not None and row > 0:
        target = [*demonstration.joint_targets[row], demonstration.gripper_open[row]]
        misc["joint_position_action"] = np.array(target, np.float64)
    state = demonstration.task_state[row]
    observation = _Observation()
    vars(observation).update(dict.fromkeys(_ATTRIBUTES))
    vars(observation).update(
        joint_positions=demonstration.joint_positions[row].astype(np.float64),
        gripper_open=float(demonstration.gripper_open[row]),
        task_low_dim_state=state.astype(np.float64) if len(state) else None,
        misc=misc,
    )
    return observation


def _write_images(episode: Path, demonstration: Demonstration, cameras: Sequence[str]) -> None:
    frames, count = demonstration.frames, len(demonstration.gripper_open)
    if frames is not None and frames.shape[1] != len(cameras):
        raise ValueError(f"{frames.shape[1]} views, but the cameras are {', '.join(cameras)}")
    placeholders = np.zeros((count, 3, *PLACEHOLDER_SIZE), np.uint8)
    images = {f"{camera}_{kind}": placeholders for camera in _ALL_CAMERAS for kind in ("rgb", "depth")}
    if frames is not None:
        images |= {f"{camera}_rgb": frames[:, view] for view, camera in enumerate(cameras)}
    jobs: list[tuple[Path, Pixels]] = []
    for name, sequence in images.items():
        (episode / name).mkdir()
        jobs += [(episode / name / f"{row}.png", frame) for row, frame in enumerate(sequence)]
    run_parallel(_write_frame, jobs)


def _write_frame(job: tuple[Path, Pixels]) -> None:
    path, frame = job
    Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))).save(path)
