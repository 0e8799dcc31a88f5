"""RLBench's tasks on MuJoCo, as a `VectorTask`: for machines without CoppeliaSim.

The contract is `envs.rlbench.protocol`'s: changes of the joint positions and a gripper that is open or
closed, 20 control steps a second, reward 1 and termination on success. It is a stand-in: scores on it are not
RLBench scores (`envs.panda.tasks` says what differs).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict

from envs.gym.rendering import import_mujoco, rendering_backend, use_backend
from envs.gym.vector import GymVectorTask, Observation
from envs.panda.scene import (
    ARM,
    CONTROL_STEPS,
    FINGER_OPEN,
    FINGERS,
    GRIPPER_STEPS,
    HOME,
    OPEN_AMOUNT,
    Cameras,
    check_cameras,
    make_spec,
)
from envs.panda.tasks import find
from envs.rlbench.protocol import (
    ACTION_DIM,
    CAMERAS,
    DEFAULT_TIME_LIMIT,
    MAX_DELTA,
    NUM_JOINTS,
    TIME_LIMITS,
    Images,
    observation_state,
    robot_action,
)
from rlzoo.actions import ActionRange
from rlzoo.types import FloatArray

FILM_SIZE = 256  # pixels, height and width of what `render` returns
FULL_RANGE = ActionRange(
    np.array([-MAX_DELTA] * NUM_JOINTS + [0.0], np.float32),
    np.array([MAX_DELTA] * NUM_JOINTS + [1.0], np.float32),
)


class PandaEnv(gym.Env[Observation, FloatArray]):
    """One task. Actions [8] in [-1, 1] are mapped by `actions` to joint deltas (rad) and the gripper (0..1).

    As in RLBench, deltas count from where the joints are (``absolute_mode=False``), the gripper is open above
    0.5, and a step that opens or closes it lasts until it has done so.

    Observations: without images f32 [8 + K], the robot's state (7 joint positions, gripper open) and the
    task's; with them ``{"state": f32 [8], "pixels": u8 [V, 3, H, W]}``. `info` has ``success``, 0 or 1, after
    every step. The time limit is a wrapper's (see `make_env`).

    Attributes:
        task: the objects, and what is known of them.
        time_limit: steps, for whoever plays without the wrapper.
        model, data: the simulation.
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
        if images is not None:
            check_cameras(images.cameras)
        spec = make_spec()
        self.task.build(spec)
        self.model: mujoco.MjModel = spec.compile()
        self.data = mujoco.MjData(self.model)
        self._cameras: Cameras | None = None
        self._film: Cameras | None = None
        self.action_space = Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
        mujoco.mj_forward(self.model, self.data)
        state_dim = NUM_JOINTS + 1 + (self.task_state.size if images is None else 0)
        state = Box(-np.inf, np.inf, (state_dim,), np.float32)
        self.observation_space = state  # type: ignore[assignment]
        if images is not None:
            frames = Box(0, 255, (len(images.cameras), 3, images.size, images.size), np.uint8)
            self.observation_space = Dict({"state": state, "pixels": frames})  # type: ignore[assignment]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Put the robot at home, its gripper open, and the objects anywhere."""
        import mujoco

        super().reset(seed=seed)
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        data.qpos[ARM] = data.ctrl[ARM] = HOME
        data.qpos[FINGERS] = data.ctrl[FINGERS] = FINGER_OPEN
        mujoco.mj_forward(model, data)
        self.task.place(model, data, self.np_random)
        mujoco.mj_forward(model, data)
        return self._observe(), {}

    def step(self, action: FloatArray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take an agent's action [8] in [-1, 1]."""
        return self.step_robot(robot_action(self.actions, action))

    def step_robot(self, action: FloatArray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take the robot's action [8]: joint deltas in rad, and the gripper, open above 0.5."""
        import mujoco

        model, data = self.model, self.data
        limits = model.jnt_range[ARM]
        data.ctrl[ARM] = np.clip(data.qpos[ARM] + action[:NUM_JOINTS], limits[:, 0], limits[:, 1])
        finger = FINGER_OPEN if action[NUM_JOINTS] > 0.5 else 0.0
        moves = bool((data.ctrl[FINGERS] != finger).any())
        data.ctrl[FINGERS] = finger
        mujoco.mj_step(model, data, CONTROL_STEPS + (GRIPPER_STEPS if moves else 0))
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
        return np.asarray((self.data.qpos[FINGERS] > OPEN_AMOUNT * FINGER_OPEN).all(), np.float32)

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
        """The front camera's view, RGB [256, 256, 3], for films."""
        if self._film is None:
            self._film = Cameras(self.model, CAMERAS[:1], FILM_SIZE, FILM_SIZE)
        frame: npt.NDArray[np.uint8] = self._film.draw(self.data)[0]
        return frame

    def close(self) -> None:
        """Free the renderers."""
        for cameras in (self._cameras, self._film):
            if cameras is not None:
                cameras.close()
        self._cameras = self._film = None

    def _observe(self) -> Observation:
        state = observation_state(
            self.joint_positions, self.gripper_open, self.task_state, with_task=self.images is None
        )
        return state if self.images is None else {"state": state, "pixels": self.frames()}


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
        images: what is seen of the cameras; None: the task's low-dimensional state is observed instead.
        processes: whether every copy runs in a process of its own.
        render: whether `render` is to work without images.

    Raises:
        UserError: there is no such task or camera, nothing here can draw frames, or a package is missing.
    """
    find(task)
    if images is not None:
        check_cameras(images.cameras)
    draws = render or images is not None
    make_one = partial(
        make_env,
        task,
        actions=actions,
        images=images,
        render_mode="rgb_array" if draws else None,
        backend=rendering_backend() if draws else None,
    )
    stack = 1 if images is None else images.stack
    return GymVectorTask(task, [make_one] * num_envs, processes=processes, frame_stack=stack)


def make_env(task: str, *, backend: str | None = None, **options: Any) -> gym.Env[Observation, FloatArray]:
    """One `PandaEnv` with its time limit.

    Args:
        task: RLBench's name.
        backend: what draws frames, from `rendering_backend`; a worker process does not inherit the choice.
        options: of `PandaEnv`.

    Raises:
        UserError: as for `make`, save that drawing is not checked.
    """
    if backend is not None:
        use_backend(backend)
    import_mujoco()
    env = PandaEnv(task, **options)
    return gym.wrappers.TimeLimit(env, env.time_limit)
