"""D4RL's tasks by their D4RL names, on the maintained Gymnasium and gymnasium-robotics environments.

`envs.d4rl.tasks` has the table, `envs.d4rl.data` finds the datasets; here the environments are built. What an
agent sees has exactly the columns of D4RL's dataset, in D4RL's frame and units, and rewards and terminations
are D4RL's, for whose reference scores they are meant. The differences that remain are in each family's
`differences`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import TransformObservation

from envs.d4rl.tasks import ADROIT, ANTMAZE, KITCHEN, MAZE2D, D4RLTask, find
from envs.gym import make as gymnasium_env
from envs.gym.rendering import rendering_backend
from envs.gym.snapshot import Environment
from envs.gym.vector import GymVectorTask
from rlzoo.errors import UserError
from rlzoo.types import Array, Episode, FloatArray

StepResult = tuple[Array, float, bool, bool, dict[str, Any]]

# Rows and columns of the goal. AntMaze's start is cell (1, 1).
_ANTMAZE_GOALS = {"umaze": (3, 1), "medium": (6, 6), "large": (7, 9)}
_MAZE2D_GOALS = {"open": (2, 3), "umaze": (1, 1), "medium": (6, 6), "large": (7, 9)}
_KITCHEN_GOALS = {
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}


def make(task: str, num_envs: int, *, processes: bool = False, render: bool = False) -> GymVectorTask:
    """Make `num_envs` copies of a D4RL task, "hopper-medium-v2"; arguments as for `envs.gym.make.make`.

    Raises:
        UserError: there is no such task (the message has the nearest ones), or nothing here can draw frames.
    """
    backend = rendering_backend() if render else None
    make_envs = [partial(make_env, task, render=render and i == 0, backend=backend) for i in range(num_envs)]
    return GymVectorTask(task, make_envs, processes=processes)


def make_env(task: str, *, render: bool = False, backend: str | None = None) -> Environment:
    """Make one environment: observations [S] and actions [A] in [-1, 1] as in the task's dataset.

    Arguments and errors are those of `envs.gym.make.make_env`.
    """
    row = find(task)
    gymnasium_env.find(row.env_id)  # imports gymnasium-robotics without the notice that it prints
    options: dict[str, Any] = {"max_episode_steps": row.max_episode_steps}
    if row.family is KITCHEN:
        options["tasks_to_complete"] = list(_KITCHEN_GOALS[row.variant])
        options["robot_noise_ratio"] = options["object_noise_ratio"] = 0.1
    if row.family in (ANTMAZE, MAZE2D):
        options |= {"maze_map": _turned_map(row).tolist(), "continuing_task": True, "reset_target": False}
    if row.family is ANTMAZE:
        options["include_cfrc_ext_in_observation"] = False
    env = gymnasium_env.make_env(row.env_id, options, render=render, backend=backend)
    if row.family is ADROIT:
        return _Adroit(env, row)
    if row.family in (ANTMAZE, MAZE2D):
        return _AntMaze(env, row) if row.family is ANTMAZE else _Maze2D(env, row)
    columns = Box(-np.inf, np.inf, (row.state_dim,))
    if row.family is KITCHEN:
        return TransformObservation(_Kitchen(env), flatten_obs(task), columns)  # type: ignore[arg-type]
    if row.env_id.startswith("Ant"):  # the columns that are zero throughout D4RL's datasets
        return TransformObservation(env, lambda obs: np.pad(obs, (0, row.state_dim - len(obs))), columns)
    return env


class _Adroit(gym.Wrapper[Array, Any, Array, Any]):
    """An Adroit task with D4RL's reward and termination."""

    def __init__(self, env: Environment, task: D4RLTask) -> None:
        super().__init__(env)
        self._skill, _, _ = task.name.partition("-")

    def step(self, action: Any) -> StepResult:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self._skill == "pen":
            terminated = bool(obs[26] < 0.075)  # the pen's height: it has been dropped
        else:
            # gymnasium-robotics adds 0.1 of the distance, D4RL subtracts it.
            reward = float(reward) - 0.2 * float(np.linalg.norm(self._palm(obs)))
        return obs, float(reward), terminated, truncated, info

    def _palm(self, obs: Array) -> Array:
        """The palm's position relative to the handle, the hammer or the ball."""
        if self._skill == "door":
            return obs[35:38]
        return obs[30:33] if self._skill == "relocate" else obs[33:36] - obs[36:39]


def _turned_map(task: D4RLTask) -> Array:
    """The maze for gymnasium-robotics, 1 where there is a wall; its mazes of these names are D4RL's.

    There x runs along the columns and y against the rows, from the middle of the map. It is turned so that
    they run as in D4RL and only the origin differs: y along the rows in AntMaze (upside down), x along the
    rows and y along the columns in Maze2D (a quarter turn).
    """
    from gymnasium_robotics.envs.maze import maps

    name, _, _ = task.variant.partition("-")
    names = {"open": maps.OPEN, "umaze": maps.U_MAZE, "medium": maps.MEDIUM_MAZE, "large": maps.LARGE_MAZE}
    grid = np.array(names[name])
    return np.flipud(grid) if task.family is ANTMAZE else np.rot90(grid)


def maze2d_cells(task: str) -> Array:
    """Where episodes of a Maze2D can start: [k, 2], a place in each free cell, in D4RL's frame.

    Raises:
        UserError: the task is another.
    """
    row = find(task)
    if row.family is not MAZE2D:
        raise UserError(f"{task} is no maze2d")
    return np.argwhere(np.rot90(_turned_map(row), -1) == 0).astype(np.float64)


class _Maze(gym.Wrapper[Array, Any, Any, Any]):
    """A maze of gymnasium-robotics in D4RL's frame, reward 1 within 0.5 of the goal."""

    _body: str  # the attribute that holds the body's own environment
    _ends_at_goal: bool
    _is_dense = False  # whether the reward is exp(-distance)
    _origin: Array  # [2], D4RL's origin in gymnasium-robotics' frame
    _goal: Array  # [2], in D4RL's frame

    def __init__(self, env: Environment, task: D4RLTask) -> None:
        super().__init__(env)
        self.observation_space = Box(-np.inf, np.inf, (task.state_dim,))

    @property
    def dt(self) -> float:
        """The length of a step in s."""
        return float(getattr(self.env.unwrapped, self._body).dt)

    @property
    def metadata(self) -> dict[str, Any]:
        """With the frames of this simulator's second, not gymnasium-robotics'."""
        return {**self.env.metadata, "render_fps": round(1 / self.dt)}

    def _start(self, random: np.random.Generator) -> tuple[Array, Array]:
        """Draw an episode's first qpos, in D4RL's frame, and qvel."""
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Array, dict[str, Any]]:
        self.env.reset(seed=seed, options=options)
        maze: Any = self.env.unwrapped
        qpos, qvel = self._start(self.np_random)
        qpos[:2] += self._origin
        getattr(maze, self._body).set_state(qpos, qvel)
        maze.goal = self._goal + self._origin  # shown, and remembered by the maze itself
        maze.update_target_site_pos()
        return self._observation(), {}

    def step(self, action: Any) -> StepResult:
        *_, truncated, _ = self.env.step(action)
        obs = self._observation()
        distance = np.linalg.norm(obs[:2] - self._goal)
        reached = bool(distance <= 0.5)
        reward = float(np.exp(-distance)) if self._is_dense else float(reached)
        return obs, reward, reached and self._ends_at_goal, truncated, {"success": reached}

    def _observation(self) -> Array:
        data: Any = self.env.unwrapped.data  # type: ignore[attr-defined]
        return np.concatenate([data.qpos[:2] - self._origin, data.qpos[2:], data.qvel])


class _AntMaze(_Maze):
    """D4RL's AntMaze: a weaker and slower ant than Gymnasium's; the episode ends at the goal."""

    _body = "ant_env"
    _ends_at_goal = True

    def __init__(self, env: Environment, task: D4RLTask) -> None:
        super().__init__(env, task)
        maze: Any = env.unwrapped
        last_row = len(_turned_map(task)) - 1
        self._origin = maze.maze.cell_rowcol_to_xy(np.array((last_row - 1, 1)))  # cell (1, 1) after the turn
        row, column = _ANTMAZE_GOALS[task.variant]
        self._goal_cell = 4.0 * np.array((column - 1, row - 1))
        maze.model.opt.timestep = 0.02
        maze.model.actuator_gear[:, 0] = 30.0
        maze.model.geom_solimp[:, :3] = (0.8, 0.8, 0.01)

    def _start(self, random: np.random.Generator) -> tuple[Array, Array]:
        goal = self._goal_cell + random.uniform(0, 1, 2) + random.uniform(0, 0.5, 2)
        self._goal = np.maximum(goal, 0)
        qpos = np.zeros(15)
        qpos[2:4] = (0.75, 1.0)  # height; the first entry of the quaternion
        return qpos + random.uniform(-0.1, 0.1, 15), 0.1 * random.standard_normal(14)


class _Maze2D(_Maze):
    """D4RL's Maze2D: a ball, a fixed goal, a reward in every step, no termination."""

    _body = "point_env"
    _ends_at_goal = False

    def __init__(self, env: Environment, task: D4RLTask) -> None:
        super().__init__(env, task)
        maze: Any = env.unwrapped
        turned = _turned_map(task)
        # D4RL's positions are relative to the ball's first one, 0.2 past the centre of cell (0, 0).
        self._origin = maze.maze.cell_rowcol_to_xy(np.array((len(turned) - 1, 0))) + 0.2
        self._starts = maze2d_cells(task.name)
        name, _, reward = task.variant.partition("-")
        self._goal = np.array(_MAZE2D_GOALS[name], np.float64)
        self._is_dense = reward == "dense"

    def _start(self, random: np.random.Generator) -> tuple[Array, Array]:
        qpos = self._starts[random.integers(len(self._starts))] + random.uniform(-0.1, 0.1, 2)
        return qpos, 0.1 * random.standard_normal(2)


class _Kitchen(gym.Wrapper[Any, Any, Any, Any]):
    """FrankaKitchen where success is the completion of all four parts."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, _ = self.env.step(action)
        return obs, float(reward), terminated, truncated, {"success": terminated}


def _kitchen_parts(task: D4RLTask) -> list[tuple[Array, Array]]:
    """Each part's columns among D4RL's first 30 (positions), and what they are when it is finished."""
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_GOALS, OBS_ELEMENT_INDICES

    return [(OBS_ELEMENT_INDICES[part], OBS_ELEMENT_GOALS[part]) for part in _KITCHEN_GOALS[task.variant]]


def flatten_obs(task: str) -> Callable[[Mapping[str, Array]], Array] | None:
    """From gymnasium-robotics' observations of a task, which Minari's datasets have too, to D4RL's.

    Returns:
        For kitchen the function from {"observation": [..., 59]} to [..., 60], otherwise None: the others
        need nothing, save the mazes, whose Minari datasets are in another frame.
    """
    row = find(task)
    if row.family is not KITCHEN:
        return None
    goal = np.zeros(30)
    for columns, values in _kitchen_parts(row):
        goal[columns] = values

    def flatten(obs: Mapping[str, Array]) -> Array:
        # Robot positions 9 and velocities 9, object positions 21 and velocities 20.
        rows = obs.get("observation", np.empty(0))
        if rows.shape[-1:] != (59,):
            raise UserError("expected kitchen's observations [steps, 59] under the key 'observation'")
        goals = np.broadcast_to(goal, (*rows.shape[:-1], 30))
        return np.concatenate([rows[..., :9], rows[..., 18:39], goals], axis=-1)

    return flatten


def task_rewards(task: str, episodes: list[Episode]) -> list[Episode]:
    """Recorded episodes of D4RL's observations with the rewards that the task pays.

    They differ in kitchen alone. D4RL (arXiv 2004.07219) recorded its demonstrations with a reward of 1 for
    every finished part in every step (REMOVE_TASKS_WHEN_COMPLETE is False in its
    generate_kitchen_datasets.py), while the task pays a part once, in the step that first finishes it.
    Returns above the number of parts give such data away. When a part was finished is then read from the
    recorded positions, as the task itself does; one that is finished from the start, as after a cut at the
    time limit, pays nothing.
    """
    row = find(task)
    if row.family is not KITCHEN:
        return episodes
    parts = _kitchen_parts(row)
    if all(episode.episode_return <= len(parts) for episode in episodes):
        return episodes
    return [replace(episode, reward=_first_completions(episode.obs["state"], parts)) for episode in episodes]


def _first_completions(states: Array, parts: list[tuple[Array, Array]]) -> FloatArray:
    """How many parts each step finishes for the first time, f32 [T], from states [T+1, S]."""
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import BONUS_THRESH

    distances = [np.linalg.norm(states[:, columns] - values, axis=1) for columns, values in parts]
    ever = np.logical_or.accumulate(np.array(distances) < BONUS_THRESH, axis=1)
    return np.diff(ever.sum(axis=0)).astype(np.float32)
