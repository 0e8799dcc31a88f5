"""Who demonstrates in D4RL's mazes: a planner that steers the ball to one place after another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.sparse.csgraph import shortest_path

from envs.d4rl.env import maze2d_cells
from rlzoo.types import Array, FloatArray

_GAIN, _DAMPING = 10.0, 1.0  # of the controller
_ARRIVED = 0.4  # cells between a ball and its place in the cell that it heads for


class MazePlanner:
    """Heads for a cell drawn at random, and once there for the next; the task's goal plays no part.

    D4RL's way to record its Maze2D sets (arXiv 2004.07219, section 5): shortest paths from cell to cell,
    followed by a proportional controller with damping.
    """

    def __init__(self, task: str, num_envs: int, *, noise: float, seed: int) -> None:
        """Draw the first cells to head for.

        Args:
            task: a Maze2D task of D4RL, "maze2d-medium-v1".
            num_envs: N, the balls that are steered.
            noise: standard deviation of the noise on its actions, in units of [-1, 1].
            seed: decides where it goes, and the noise.

        Raises:
            UserError: the task is no Maze2D.
        """
        self._cells = maze2d_cells(task)
        distance = np.abs(self._cells[:, None] - self._cells).sum(axis=-1)
        _, towards = shortest_path(distance == 1, return_predecessors=True)
        # The cell after j on the way from j to i; i itself once there.
        self._next = np.where(towards < 0, np.arange(len(self._cells))[:, None], towards)
        self._random = np.random.default_rng(seed)
        self._heading = self._random.integers(len(self._cells), size=num_envs)
        self._noise = noise

    def __call__(self, obs: Mapping[str, Array]) -> FloatArray:
        """Actions [N, 2] for observations {"state": [N, 4]}, positions and velocities."""
        position, velocity = np.split(obs["state"], 2, axis=-1)
        arrived = np.linalg.norm(position - self._cells[self._heading], axis=-1) < _ARRIVED
        self._heading[arrived] = self._random.integers(len(self._cells), size=np.count_nonzero(arrived))
        here = np.linalg.norm(position[:, None] - self._cells, axis=-1).argmin(axis=-1)
        waypoint = self._cells[self._next[self._heading, here]]
        noise = self._noise * self._random.standard_normal(position.shape)
        return np.clip(_GAIN * (waypoint - position) - _DAMPING * velocity + noise, -1, 1).astype(np.float32)
