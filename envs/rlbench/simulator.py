"""Everything that is taken from the `rlbench` package (1.2.0) and from PyRep, and nothing else.

Neither is imported before a `Simulator` is made. CoppeliaSim runs inside the process that makes it, changes
its working folder while it starts and takes it along when it crashes: `envs.rlbench.process` gives it a
process of its own.
"""

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
from rlzoo.errors import UserError
from rlzoo.types import Array, FloatArray

# The protocol's (CQN, ARSQ): demonstrations are planned within them, so that a step's deltas stay small.
ARM_MAX_VELOCITY = 2.0
ARM_MAX_ACCELERATION = 8.0
RENDER_SIZE = (320, 192)  # width and height of the film's frames, pixels
_ALL_CAMERAS = ("left_shoulder", "right_shoulder", "overhead", "wrist", "front")


class InvalidAction(Exception):  # noqa: N818  (an outcome of the step rather than an error of the program)
    """RLBench refused an action or could not plan it: the simulator is well, the episode is over."""


class Observation(NamedTuple):
    """What RLBench shows after a reset or a step."""

    joint_positions: FloatArray  # [7], rad
    gripper_open: float  # 1 open, 0 closed
    task_state: FloatArray  # [K], the task's low-dimensional state; K is 0 unless it was asked for
    frames: npt.NDArray[np.uint8] | None  # [V, 3, H, W]


# --- what must be installed --------------------------------------------------------------------------------


def is_installed() -> bool:
    """Whether the package `rlbench` is there, whatever else it lacks."""
    return importlib.util.find_spec("rlbench") is not None


def missing(*, pixels: bool = True) -> list[str]:
    """What RLBench needs and this machine lacks, each with the way to put it right; empty if nothing."""
    lacks = []
    if not is_installed():
        lacks.append(
            "the package rlbench (pip install git+https://github.com/stepjam/RLBench.git; not on PyPI)"
        )
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
        if not _is_listed(root, "LD_LIBRARY_PATH"):
            lacks.append("$COPPELIASIM_ROOT in LD_LIBRARY_PATH")
        if not _is_listed(root, "QT_QPA_PLATFORM_PLUGIN_PATH"):
            lacks.append("QT_QPA_PLATFORM_PLUGIN_PATH=$COPPELIASIM_ROOT")
    # Without a window (headless) Qt still opens a connection to an X server, and its cameras draw through it.
    without = os.environ.get("QT_QPA_PLATFORM") in ("offscreen", "minimal") and not pixels
    if not os.environ.get("DISPLAY") and not without:
        lacks.append("a display (run under `xvfb-run -a`, or set DISPLAY to an X server of the GPU)")
    return lacks


def check(*, pixels: bool = True) -> None:
    """Raise a `UserError` of one line that names everything RLBench lacks on this machine."""
    lacks = missing(pixels=pixels)
    if lacks:
        raise UserError(
            f"RLBench cannot run here, it lacks {'; '.join(lacks)}. envs/rlbench/README.md has the "
            "set-up; --simulator mujoco needs none of it"
        )


def _is_listed(folder: str, variable: str) -> bool:
    """Whether a list of folders in the environment has this one."""
    parts = os.environ.get(variable, "").split(os.pathsep)
    return any(part and os.path.realpath(part) == os.path.realpath(folder) for part in parts)


# --- the simulator -----------------------------------------------------------------------------------------


class Simulator:
    """One task of RLBench in CoppeliaSim, moved by changes of the joint positions.

    NumPy's and Python's global random generators, which RLBench draws from, have their states put back after
    every call: `seed` decides an episode's start and nothing else in the process notices. The planner of
    live demonstrations (OMPL, inside CoppeliaSim) has a generator of its own that cannot be seeded.

    Attributes:
        task_state_dim: K, the length of the task's state; 0 unless it was asked for.
    """

    def __init__(
        self,
        task: str,
        *,
        images: Images | None = None,
        task_state: bool = False,
        variation: int = 0,
        render: bool = False,
        headless: bool = True,
    ) -> None:
        """Launch CoppeliaSim and load the task, which takes some seconds.

        Args:
            task: RLBench's name, "open_drawer".
            images: the views to draw; None draws none.
            task_state: whether observations have the task's low-dimensional state.
            variation: which of the task's variations; the protocol uses 0.
            render: whether `render` is to work.
            headless: without CoppeliaSim's window.

        Raises:
            UserError: something is not installed, no task of that name, no such camera or variation.
        """
        check(pixels=images is not None or render)
        cameras = () if images is None else images.cameras
        if strange := sorted(set(cameras) - set(_ALL_CAMERAS)):
            raise UserError(
                f"RLBench has no camera {strange[0]!r}, expected some of {', '.join(_ALL_CAMERAS)}"
            )
        from rlbench.action_modes.action_mode import MoveArmThenGripper
        from rlbench.action_modes.arm_action_modes import JointPosition
        from rlbench.action_modes.gripper_action_modes import Discrete
        from rlbench.environment import Environment

        task_class = _find_task(task)
        self.task = task
        self.task_state_dim = 0
        self._cameras = cameras
        self._has_task_state = task_state
        self._film_camera: Any = None
        with _separate_randomness(0):
            self._environment = Environment(
                MoveArmThenGripper(JointPosition(absolute_mode=False), Discrete()),
                obs_config=_observation_config(images, task_state=task_state),
                headless=headless,
                arm_max_velocity=ARM_MAX_VELOCITY,
                arm_max_acceleration=ARM_MAX_ACCELERATION,
            )
            self._environment.launch()
            self._task = self._environment.get_task(task_class)
            self._random_state = _random_state()
        count = self._task.variation_count()
        if not 0 <= variation < count:
            self.close()
            raise UserError(f"{task} has no variation {variation}, expected 0 to {count - 1}")
        self._task.set_variation(variation)
        if render:
            self._film_camera = _make_film_camera()
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
            raise InvalidAction(" ".join(str(error).split()) or type(error).__name__) from error
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
        frames = [self._frames(observation) for observation in observations]
        return demonstration_of(
            [vars(observation) for observation in observations],
            f"live demonstration of {self.task}",
            np.stack(frames) if self._cameras else None,  # type: ignore[arg-type]
        )

    def render(self) -> npt.NDArray[np.uint8]:
        """The scene from RLBench's camera for films, RGB u8 [192, 320, 3]."""
        if self._film_camera is None:
            raise RuntimeError(f"{self.task} was made without render=True")
        frame = np.asarray(self._film_camera.capture_rgb())  # [H, W, 3] in 0..1
        return np.clip(frame * 255.0, 0, 255).astype(np.uint8)

    def close(self) -> None:
        """End CoppeliaSim."""
        self._environment.shutdown()

    @contextlib.contextmanager
    def _randomness(self, seed: int | None = None) -> Iterator[None]:
        """Let the body draw from this simulator's generators, seeded anew or where they were."""
        with _separate_randomness(seed, self._random_state):
            try:
                yield
            finally:
                self._random_state = _random_state()

    def _convert(self, observation: Any) -> Observation:
        state = np.zeros(0, np.float32)
        if self._has_task_state and observation.task_low_dim_state is not None:
            state = np.asarray(observation.task_low_dim_state, np.float32).ravel()
        return Observation(
            np.asarray(observation.joint_positions, np.float32),
            float(observation.gripper_open),
            state,
            self._frames(observation),
        )

    def _frames(self, observation: Any) -> npt.NDArray[np.uint8] | None:
        if not self._cameras:
            return None
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


# --- randomness --------------------------------------------------------------------------------------------


def _random_state() -> tuple[Any, Any]:
    return np.random.get_state(), random.getstate()  # noqa: NPY002  (RLBench draws from the global one)


def _set_random_state(state: tuple[Any, Any]) -> None:
    np.random.set_state(state[0])  # noqa: NPY002
    random.setstate(state[1])


@contextlib.contextmanager
def _separate_randomness(seed: int | None, state: tuple[Any, Any] | None = None) -> Iterator[None]:
    """Set the global generators to `state` or by `seed`; afterwards put back what was there before."""
    before = _random_state()
    try:
        if seed is not None:
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
        elif state is not None:
            _set_random_state(state)
        yield
    finally:
        _set_random_state(before)
