"""Evaluations: which episodes count, and what they say of success."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from rlzoo.agent import Agent
from rlzoo.evaluate import Evaluation, evaluate
from rlzoo.types import FloatArray, Spaces, Step


class Still(Agent):
    """Does nothing."""

    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        return torch.zeros(len(obs["state"]), 1)


class Quiet:
    """Episodes of two steps; says that one was a success only where it was."""

    spaces = Spaces(1, 1)

    def __init__(self, successes: list[list[bool]]) -> None:
        self.successes, self.num_envs, self.count = successes, len(successes), 0

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        random.seed(seed), np.random.seed(seed)  # noqa: NPY002
        self.count = 0
        return {"state": np.zeros((self.num_envs, 1), np.float32)}

    def send(self, action: FloatArray) -> None:
        self.count += 1

    def receive(self) -> Step:
        episode, phase = divmod(self.count - 1, 3)
        ends = np.full(self.num_envs, phase == 1)
        told = [1.0 if phase == 1 and any(lane[episode : episode + 1]) else np.nan for lane in self.successes]
        obs = {"state": np.full((self.num_envs, 1), random.random(), np.float32)}
        reward = np.random.random(self.num_envs).astype(np.float32)  # noqa: NPY002
        return Step(obs, reward, ends & False, ends, np.array(told, np.float32))


def played(successes: list[list[bool]], **options: bool) -> Evaluation:
    episodes = sum(map(len, successes))
    return evaluate(
        Still(), Quiet(successes), episodes=episodes, seed=3, device=torch.device("cpu"), **options
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "successes",
    [
        [[False, True], [True, True], [True, False], [True, False]],
        [[False, False, False, True, True, True, True, True]],
    ],
)
def test_episodes_that_say_nothing_have_failed_where_others_succeed(successes: list[list[bool]]) -> None:
    result = played(successes)
    assert result.success.tolist() == [float(each) for lane in successes for each in lane]
    assert result.values()["eval/success"] == 0.625


def test_episodes_that_do_not_divide_are_spread_as_evenly_as_can_be() -> None:
    result = played([[True, False], [False], [True]])
    assert result.success.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert played([[True], [True], []]).success.tolist() == [1.0, 1.0]


def test_where_no_episode_says_anything_it_is_known_only_from_before() -> None:
    silent = [[False], [False]]
    assert "eval/success" not in played(silent).values()
    assert played(silent, tells_success=True).values()["eval/success"] == 0


def test_pythons_and_numpys_generators_are_left_as_they_were() -> None:
    drawn = []
    for evaluates in (False, True):
        random.seed(1), np.random.seed(1)  # noqa: NPY002
        if evaluates:
            first, second = played([[True, True]]), played([[True, True]])
            np.testing.assert_array_equal(first.returns, second.returns)
        drawn.append((random.random(), np.random.random()))  # noqa: NPY002
    assert drawn[0] == drawn[1]
