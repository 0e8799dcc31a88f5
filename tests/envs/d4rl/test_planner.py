"""The planner of the mazes."""

from contextlib import closing

import numpy as np
import pytest

from envs.d4rl.env import make, maze2d_cells
from envs.d4rl.planner import MazePlanner
from rlzoo.errors import UserError


@pytest.mark.parametrize("task", ["maze2d-umaze-v1", "maze2d-large-dense-v1"])
def test_the_planner_reaches_every_cell_that_it_heads_for(task: str) -> None:
    """It visits all cells within a few episodes, and heads for another whenever it has arrived."""
    with closing(make(task, 4)) as copies:
        planner = MazePlanner(task, 4, noise=0.0, seed=0)
        cells, visited = maze2d_cells(task), set()
        obs, changes, before = copies.reset(1), np.zeros(4, int), planner._heading.copy()
        for _ in range(3000):
            copies.send(planner(obs))
            obs = copies.receive().obs
            distance = np.linalg.norm(obs["state"][:, None, :2] - cells, axis=-1)
            visited |= set(distance.argmin(axis=1)[distance.min(axis=1) < 0.4].tolist())
            changes += planner._heading != before
            before = planner._heading.copy()
    assert visited == set(range(len(cells)))
    assert changes.min() > 10


def test_noise_and_seed_decide_its_actions() -> None:
    obs = {"state": np.array([[1.0, 1.0, 0.0, 0.0]] * 2)}
    calm, noisy = (MazePlanner("maze2d-umaze-v1", 2, noise=noise, seed=3)(obs) for noise in (0.0, 0.5))
    assert not np.array_equal(calm, noisy)
    assert np.array_equal(noisy, MazePlanner("maze2d-umaze-v1", 2, noise=0.5, seed=3)(obs))


def test_another_task_has_no_planner() -> None:
    with pytest.raises(UserError, match="hopper-medium-v2 is no maze2d"):
        MazePlanner("hopper-medium-v2", 1, noise=0.0, seed=0)
