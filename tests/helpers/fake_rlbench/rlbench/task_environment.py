# ruff: noqa: NPY002  (RLBench draws from the global generator)
import random

import numpy as np

from rlbench.backend.exceptions import InvalidActionError
from rlbench.backend.observation import NAMES, Observation
from rlbench.demo import Demo
from rlbench.fake import reach


class TaskEnvironment:
    """A robot that goes where it is told; solved once joint 0 is past 0.5 rad."""

    def __init__(self, task, action_mode, obs_config):
        self._task = task
        self._obs_config = obs_config
        self._variation_number = 0
        self._joints = None

    def variation_count(self) -> int:
        return self._task.variation_count()

    def set_variation(self, v: int) -> None:
        self._variation_number = v

    def reset(self, demo=None):
        what = reach("reset")
        self._joints = np.random.uniform(-0.1, 0.1, 7)
        self._target = np.random.uniform(-1, 1, 3) + random.random()
        if what == "not finite":
            self._target[1] = np.inf
        self._gripper = 1.0
        self._steps = 0
        return [self._task.__class__.__name__], self._observe()

    def step(self, action):
        what = reach("step")
        if np.shape(action) != (8,) or action[7] not in (0.0, 1.0):
            raise InvalidActionError("wrong action")
        self._joints = self._joints + action[:7]
        if what == "not finite":
            self._joints[2] = np.nan
        self._gripper = float(action[7])
        self._steps += 1
        np.random.rand()
        success = bool(self._joints[0] > 0.5)
        return self._observe(), float(success), success or what == "failed for good"

    def get_demos(
        self, amount, live_demos=False, image_paths=False, callable_each_step=None, max_attempts=10
    ):
        assert live_demos
        return [self._demo() for _ in range(amount)]

    def _demo(self):
        delta = 0.3 if reach("demo") == "fast" else 0.1
        _, first = self.reset()
        observations = [first]
        while self._joints[0] <= 0.5:
            self._joints = self._joints + delta
            self._steps += 1
            observations.append(self._observe())
            # The arm lags behind where it is sent.
            observations[-1].misc["joint_position_action"] = np.append(self._joints + 0.01, 1.0)
        return Demo(observations, np.random.get_state(), 1)

    def _observe(self):
        values = dict.fromkeys(NAMES)
        for index, (name, camera) in enumerate(self._obs_config.cameras().items()):
            if camera.rgb:
                values[f"{name}_rgb"] = np.full((*camera.image_size, 3), 50 * index, np.uint8)
                values[f"{name}_rgb"][0, 1] = (1, 2, self._steps)
        if self._obs_config.joint_positions:
            values["joint_positions"] = self._joints.copy()
        if self._obs_config.gripper_open:
            values["gripper_open"] = self._gripper
        if self._obs_config.task_low_dim_state:
            values["task_low_dim_state"] = self._target.copy()
        values["misc"] = {"variation_index": self._variation_number}
        return Observation(**values)
