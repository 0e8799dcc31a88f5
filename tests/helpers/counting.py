"""An environment that counts, and how to play and compare steps of vectorised tasks."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box

from envs.gym.vector import GymVectorTask
from rlzoo.types import Step

IN_PROCESS_AND_PROCESSES = pytest.mark.parametrize(
    "processes", [False, True], ids=["in-process", "processes"]
)

# It warns with the worker's traceback before it raises the error here.
QUIET_GYMNASIUM = pytest.mark.filterwarnings("ignore:(?s).*ERROR")

LOW, HIGH = np.array([-2, 0.1], np.float32), np.array([4, 0.7], np.float32)


class Counting(gym.Env):
    """Shows the episode's random start, the step's number and the action; the reward is the step's number."""

    observation_space = Box(-np.inf, np.inf, (4,), np.float64)
    action_space = Box(LOW, HIGH)

    def __init__(self, length=3, ending="terminated", success_key=None, fails_at=None):
        self.length, self.ending, self.success_key, self.fails_at = length, ending, success_key, fails_at
        self.count = 0

    def observe(self, action):
        return np.array([self.start, self.count, *action], np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start, self.count = self.np_random.random(), 0
        return self.observe([0, 0]), {"success": True}

    def step(self, action):
        self.count += 1
        if self.count == self.fails_at:
            raise ZeroDivisionError("the count is one too high")
        is_end = self.count == self.length
        info = {self.success_key: is_end, "other": object} if self.success_key else {"other": "x"}
        ends = (is_end and self.ending == "terminated", is_end and self.ending == "truncated")
        return self.observe(action), float(self.count), *ends, info


def counting(num_envs=2, *, processes=False, **kwargs):
    return GymVectorTask("Counting-v0", [partial(Counting, **kwargs)] * num_envs, processes=processes)


def play(task: GymVectorTask, actions) -> list[Step]:
    steps = []
    for action in actions:
        task.send(action)
        steps.append(task.receive())
    return steps


def zeros(task: GymVectorTask, steps: int) -> np.ndarray:
    return np.zeros((steps, task.num_envs, task.spaces.action_dim), np.float32)


def assert_same_steps(left, right):
    for a, b in zip(left, right, strict=True):
        for x, y in zip([a.obs["state"], *a[1:]], [b.obs["state"], *b[1:]], strict=True):
            np.testing.assert_array_equal(x, y, strict=True)
