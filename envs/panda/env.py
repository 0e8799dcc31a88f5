"""RLBench's tasks on MuJoCo, as a `VectorTask`: for machines without CoppeliaSim.

The contract is `envs.rlbench.protocol`'s: changes of the joint positions and a gripper that is open or
closed, 20 control steps a second, reward 1 and termination on success. It is a stand-in: scores on it are not
RLBench scores (`envs.panda.tasks` says what differs).
"""

# What Gymnasium's methods do is described there.
# ruff: noqa: D102

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict

from envs.gym.rendering import import_mujoco, rendering_backend, use_backend
from envs.gym.vector import GymVectorTask, Observation
from envs.panda import scene
from envs.panda.scene import ARM, FINGER_OPEN, FINGERS, Cameras
from envs.panda.tasks import find
from envs.rlbench.protocol import (
    ACTION_DIM,
    DEFAULT_TIME_LIMIT,
    FULL_RANGE,
    NUM_JOINTS,
    TIME_LIMITS,
    Images,
    observation_state,
    robot_action,
)
from rlzoo.actions import ActionRange
from rlzoo.types import FloatArray

FILM_SIZE = 256  # pixels, height and width of what `render` returns


class PandaEnv(gym.Env[Observation, FloatArray]):
    """One task. Actions [8] in [-1, 1] are mapped by `actions` to joint deltas (rad) and the gripper (0..1).

    As in RLBench, deltas count from where the joints are (``absolute_mode=False``), the gripper is open above
    0.5, and a step that opens or closes it lasts until it has done so.

    Observations: without images f32 [8 + K], the robot's state (7 joint positions, gripper open) and the
    task's; with them ``{"state": f32 [8], "pixels": u8 [V, 3, H, W]}``. `info` has ``success``, 0 or 1, after
    every step. `make` adds the time limit.

    Attributes:
        task: places the objects, observes them and decides on success.
        time_limit: the protocol's, in steps.
        model, data: MuJoCo's.
    """

    def __init__(
        self,
        task: str,
        actions: ActionRange = FULL_RANGE,
        *,
        images: Images | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Build the scene; see `make` for the arguments and errors."""
        import mujoco

        self.task, self.actions, self.images, self.render_mode = find(task), actions, images, render_mode
        self.time_limit = TIME_LIMITS.get(task, DEFAULT_TIME_LIMIT)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
        spec = scene.make_spec()
        self.task.build(spec)
        self.model: mujoco.MjModel = spec.compile()
        self.data = mujoco.MjData(self.model)
        self._cameras: Cameras | None = None  # opened when they are first needed
        self._film: Cameras | None = None
        self.action_space = Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
        mujoco.mj_forward(self.model, self.data)
        state_dim = NUM_JOINTS + 1 + (self.task_state.size if images is None else 0)
        state = Box(-np.inf, np.inf, (state_dim,), np.float32)
        self.observation_space = state  # type: ignore[assignment]
        if images is not None:
            frames = Box(0, 255, (len(images.cameras), 3, images.size, images.size), np.uint8)
            self.observation_space = Dict({"state": state, "pixels": frames})  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Observation, dict[str, Any]]:
        import mujoco

        super().reset(seed=seed)
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        data.qpos[ARM] = data.ctrl[ARM] = scene.HOME
        data.qpos[FINGERS] = data.ctrl[FINGERS] = FINGER_OPEN
        mujoco.mj_forward(model, data)
        self.task.place(model, data, self.np_random)
        mujoco.mj_forward(model, data)
        return self._observe(), {}

    def step(self, action: FloatArray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        return self.step_robot(robot_action(self.actions, action))

    def step_robot(self, action: FloatArray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take the robot's action [8]: joint deltas in rad, and the gripper, open above 0.5."""
        import mujoco

        model, data = self.model, self.data
        limits = model.jnt_range[ARM]
        data.ctrl[ARM] = np.clip(data.qpos[ARM] + action[:NUM_JOINTS], *limits.T)
        finger = FINGER_OPEN if action[NUM_JOINTS] > 0.5 else 0.0
        moves = bool((data.ctrl[FINGERS] != finger).any())
        data.ctrl[FINGERS] = finger
        mujoco.mj_step(model, data, scene.CONTROL_STEPS + (scene.GRIPPER_STEPS if moves else 0))
        # Positions of bodies, sites and cameras are left as they were before the last simulator step.
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        success = self.task.is_solved(model, data)
        return self._observe(), float(success), success, False, {"success": float(success)}

    @property
    def joint_positions(self) -> FloatArray:
        """[7], rad."""
        return np.asarray(self.data.qpos[ARM], np.float32)

    @property
    def joint_targets(self) -> FloatArray:
        """[7], rad: where the last step sent the joints."""
        return np.asarray(self.data.ctrl[ARM], np.float32)

    @property
    def gripper_open(self) -> FloatArray:
        """[], 1 or 0."""
        return np.asarray((self.data.qpos[FINGERS] > scene.OPEN_AMOUNT * FINGER_OPEN).all(), np.float32)

    @property
    def task_state(self) -> FloatArray:
        """[K]."""
        return self.task.state(self.model, self.data).astype(np.float32)

    def frames(self) -> npt.NDArray[np.uint8]:
        """What the cameras see, RGB [V, 3, H, W]."""
        if self._cameras is None:
            assert self.images is not None
            self._cameras = Cameras(self.model, self.images.cameras, self.images.size, self.images.size)
        return np.ascontiguousarray(self._cameras.draw(self.data).transpose(0, 3, 1, 2))

    def render(self) -> npt.NDArray[np.uint8]:
        if self._film is None:
            self._film = Cameras(self.model, ["front"], FILM_SIZE, FILM_SIZE)
        frame: npt.NDArray[np.uint8] = self._film.draw(self.data)[0]
        return frame

    def close(self) -> None:
        for cameras in (self._cameras, self._film):
            if cameras is not None:
                cameras.close()
        self._cameras = self._film = None

    def _observe(self) -> Observation:
        if self.images is None:
            return observation_state(self.joint_positions, self.gripper_open, self.task_state)
        state = observation_state(self.joint_positions, self.gripper_open, None)
        return {"state": state, "pixels": self.frames()}


def make(
    task: str,
    num_envs: int,
    actions: ActionRange = FULL_RANGE,
    *,
    images: Images | None = None,
    processes: bool = False,
    render: bool = False,
) -> GymVectorTask:
    """N copies of a task.

    Args:
        task: RLBench's name, one of `envs.panda.tasks.TASKS`.
        num_envs: N.
        actions: what -1 and 1 stand for, `action_range` of the demonstrations. Without one, ±0.2 rad.
        images: what ``obs["pixels"]`` shows; with None, ``obs["state"]`` includes the task's state instead.
        processes: whether every copy runs in a process of its own.
        render: whether `render` is to work without images.

    Raises:
        UserError: there is no such task, nothing here can draw frames, or a package is missing.
    """
    backend = rendering_backend() if render or images is not None else None
    make_one = partial(_make_env, task, actions, images, backend)
    stack = 1 if images is None else images.stack
    return GymVectorTask(task, [make_one] * num_envs, processes=processes, frame_stack=stack)


def _make_env(
    task: str, actions: ActionRange, images: Images | None, backend: str | None
) -> gym.Env[Observation, FloatArray]:
    """One environment with its time limit. `backend` draws; a worker process does not inherit the choice."""
    if backend is not None:
        use_backend(backend)
    import_mujoco()
    render_mode = None if backend is None else "rgb_array"
    env = PandaEnv(task, actions, images=images, render_mode=render_mode)
    return gym.wrappers.TimeLimit(env, env.time_limit)
