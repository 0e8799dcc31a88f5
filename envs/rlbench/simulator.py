"""Everything that is taken from the `rlbench` package (1.2.0) and from PyRep, and nothing else.

Neither is imported before a `Simulator` is made. CoppeliaSim runs inside the process that makes it, changes
its working folder while it starts and takes it along when it crashes: `envs.rlbench.process` gives it a
process of its own.
"""

# RLBench draws from NumPy's global generator.
# ruff: noqa: NPY002

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from envs.rlbench.demonstrations import demonstration_of
from envs.rlbench.protocol import Demonstration, Images
from rlzoo.errors import UserError, one_line
from rlzoo.types import Array, FloatArray

# The protocol's (CQN, ARSQ): demonstrations are planned within them, so that a step's deltas stay small.
ARM_MAX_VELOCITY = 2.0
ARM_MAX_ACCELERATION = 8.0
RENDER_SIZE = (320, 192)  # width and height of the film's frames, pixels


class InvalidAction(Exception):  # noqa: N818  (an outcome of the step rather than an error of the program)
    """RLBench refused an action or could not plan it: the simulator is well, the episode is over."""


class Observation(NamedTuple):
    """What RLBench shows after a reset or a step."""

    joint_positions: FloatArray  # [7], rad
    gripper_open: np.float32  # 1 open, 0 closed
    task_state: FloatArray  # [K], the task's low-dimensional state; K is 0 unless it was asked for
    frames: npt.NDArray[np.uint8] | None  # [V, 3, H, W]


def is_installed() -> bool:
    """Whether the package `rlbench` is there, whatever else it lacks."""
    return importlib.util.find_spec("rlbench") is not None


def missing(*, pixels: bool = True) -> list[str]:
    """What RLBench needs and this machine lacks, each with the way to put it right; empty if nothing."""
    lacks = []
    if not is_installed():
        lacks.append("the package rlbench (not on PyPI: pip install git+https://github.com/stepjam/RLBench)")
    pyrep = importlib.util.find_spec("pyrep")
    if pyrep is None:
        lacks.append("PyRep (pip install git+https://github.com/stepjam/PyRep.git)")
    elif not any(Path(folder, "robots").is_dir() for folder in pyrep.submodule_search_locations or ()):
        lacks.append("PyRep: the installed pyrep is PyPI's package of that name, which is something else")
    root = os.environ.get("COPPELIASIM_ROOT")
    if not root:
        lacks.append("COPPELIASIM_ROOT, the folder of CoppeliaSim 4.1")
    elif not list(Path(root).glob("libcoppeliaSim.so*")):
        lacks.append(f"CoppeliaSim in COPPELIASIM_ROOT={root} (no libcoppeliaSim.so there)")
    else:
        for variable in ("LD_LIBRARY_PATH", "QT_QPA_PLATFORM_PLUGIN_PATH"):
            folders = filter(None, os.environ.get(variable, "").split(os.pathsep))
            if os.path.realpath(root) not in map(os.path.realpath, folders):
                lacks.append(f"$COPPELIASIM_ROOT in {variable}")
    # Even without a window Qt connects to an X server, which the cameras draw through.
    needs_display = pixels or os.environ.get("QT_QPA_PLATFORM") not in ("offscreen", "minimal")
    if needs_display and not os.environ.get("DISPLAY"):
        lacks.append("a display (run under `xvfb-run -a`, or set DISPLAY to an X server of the GPU)")
    return lacks


def check(*, pixels: bool = True) -> None:
    """Raise a `UserError` of one line that names everything RLBench lacks on this machine."""
    if lacks := missing(pixels=pixels):
        raise UserError(
            f"RLBench cannot run here, it lacks {'; '.join(lacks)}. envs/rlbench/README.md has the set-up; "
            "--simulator mujoco needs none of it"
        )


class Simulator:
    """One task of RLBench in CoppeliaSim, moved by changes of the joint positions.

    NumPy's and Python's global random generators, which RLBench draws from, have their states put back after
    every call: `seed` decides an episode's start and nothing else in the process notices. The planner of
    live demonstrations (OMPL, inside CoppeliaSim) has a generator of its own that cannot be seeded.

    Attributes:
        task_state_dim: K, the length of the task's state; 0 unless it was asked for.
    """

    def __init__(
        self, task: str, *, images: Images | None = None, task_state: bool = False, render: bool = False
    ) -> None:
        """Launch CoppeliaSim and load the task, which takes some seconds.

        Args:
            task: RLBench's name, "open_drawer".
            images: the views to draw; None draws none.
            task_state: whether observations have the task's low-dimensional state.
            render: whether `render` is to work.

        Raises:
            UserError: something is not installed, or there is no task of that name.
        """
        check(pixels=images is not None or render)
        from rlbench.action_modes.action_mode import MoveArmThenGripper
        from rlbench.action_modes.arm_action_modes import JointPosition
        from rlbench.action_modes.gripper_action_modes import Discrete
        from rlbench.environment import Environment

        task_class = _find_task(task)
        self.task = task
        self.task_state_dim = 0
        self._cameras = () if images is None else images.cameras
        with self._randomness(seed=0):
            self._environment = Environment(
                MoveArmThenGripper(JointPosition(absolute_mode=False), Discrete()),
                obs_config=_observation_config(images, task_state=task_state),
                headless=True,
                arm_max_velocity=ARM_MAX_VELOCITY,
                arm_max_acceleration=ARM_MAX_ACCELERATION,
            )
            self._environment.launch()
            self._task = self._environment.get_task(task_class)
        self._task.set_variation(0)  # the protocol's
        self._film_camera = _make_film_camera() if render else None
        if task_state:  # its length is not known before the first episode
            self.task_state_dim = len(self.reset(seed=0).task_state)

    def reset(self, seed: int) -> Observation:
        """Begin an episode whose start `seed` (0 to 2**32 - 1) decides."""
        with self._randomness(seed):
            _, observation = self._task.reset()
        return self._convert(observation)

    def step(self, action: Array) -> tuple[Observation, bool, bool]:
        """Move the joints by action[:7] (rad) and open (1) or close (0) the gripper.

        Returns:
            The observation, whether the task is solved, and whether the episode is over.

        Raises:
            InvalidAction: RLBench refused the action; the episode cannot be continued.
        """
        from pyrep.errors import ConfigurationPathError, IKError
        from rlbench.backend.exceptions import InvalidActionError

        try:
            with self._randomness():
                observation, reward, terminate = self._task.step(np.asarray(action, np.float64))
        except (InvalidActionError, IKError, ConfigurationPathError) as error:
            raise InvalidAction(one_line(error)) from error
        solved = float(reward) > 0
        return self._convert(observation), solved, bool(terminate) or solved

    def demonstration(self, seed: int) -> Demonstration:
        """Plan and record one demonstration, with frames of the cameras; `seed` decides its start.

        Raises:
            RuntimeError: RLBench did not succeed in ten attempts.
        """
        with self._randomness(seed):
            (demo,) = self._task.get_demos(1, live_demos=True)
        observations = [demo[index] for index in range(len(demo))]
        frames = np.stack([self._frames(each) for each in observations]) if self._cameras else None
        name = f"live demonstration of {self.task}"
        return demonstration_of([vars(each) for each in observations], name, frames)

    def render(self) -> npt.NDArray[np.uint8]:
        """The scene from RLBench's camera for films, RGB u8 [192, 320, 3]."""
        frame = np.asarray(self._film_camera.capture_rgb())  # [H, W, 3] in 0..1
        return np.clip(frame * 255.0, 0, 255).astype(np.uint8)

    def close(self) -> None:
        """End CoppeliaSim."""
        self._environment.shutdown()

    @contextlib.contextmanager
    def _randomness(self, seed: int | None = None) -> Iterator[None]:
        """Let the body draw from this simulator's generators, seeded anew or where they were."""
        before = _random_state()
        try:
            if seed is None:
                _set_random_state(*self._random_state)
            else:
                np.random.seed(seed)
                random.seed(seed)
            yield
        finally:
            self._random_state = _random_state()
            _set_random_state(*before)

    def _convert(self, observation: Any) -> Observation:
        state = observation.task_low_dim_state  # None unless it was asked for
        return Observation(
            np.asarray(observation.joint_positions, np.float32),
            np.float32(observation.gripper_open),
            np.asarray([] if state is None else state, np.float32).ravel(),
            self._frames(observation) if self._cameras else None,
        )

    def _frames(self, observation: Any) -> npt.NDArray[np.uint8]:
        views = [np.asarray(getattr(observation, f"{camera}_rgb")) for camera in self._cameras]
        return np.ascontiguousarray(np.stack(views).transpose(0, 3, 1, 2), np.uint8)  # [V, 3, H, W]


def _find_task(name: str) -> Any:
    """RLBench's class of a task; raises UserError with the nearest names where there is none."""
    import rlbench.tasks
    from rlbench.utils import name_to_task_class

    # The file decides: whatever else is wrong with a task's module is not a wrong name.
    files = [file for folder in rlbench.tasks.__path__ for file in Path(folder).glob("*.py")]
    names = sorted(file.stem for file in files if file.stem != "__init__")
    if name not in names:
        nearest = ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.4))
        raise UserError(f"RLBench has no task {name!r}" + (f", did you mean {nearest}?" if nearest else ""))
    return name_to_task_class(name)


def _observation_config(images: Images | None, *, task_state: bool) -> Any:
    """Joint positions, gripper and the RGB of these cameras; everything else would only cost time."""
    from pyrep.const import RenderMode
    from rlbench.observation_config import ObservationConfig

    config = ObservationConfig()
    config.set_all(False)
    config.joint_positions = True
    config.gripper_open = True
    config.task_low_dim_state = task_state
    if images is not None:
        for name in images.cameras:
            camera = getattr(config, f"{name}_camera")
            camera.rgb = True
            camera.image_size = (images.size, images.size)
            camera.render_mode = RenderMode.OPENGL3
    return config


def _make_film_camera() -> Any:
    from pyrep.const import RenderMode
    from pyrep.objects.dummy import Dummy
    from pyrep.objects.vision_sensor import VisionSensor

    camera = VisionSensor.create(list(RENDER_SIZE))
    camera.set_pose(Dummy("cam_cinematic_placeholder").get_pose())
    camera.set_render_mode(RenderMode.OPENGL3)
    return camera


def _random_state() -> tuple[Any, Any]:
    return np.random.get_state(), random.getstate()


def _set_random_state(numpy_state: Any, python_state: Any) -> None:
    np.random.set_state(numpy_state)
    random.setstate(python_state)
