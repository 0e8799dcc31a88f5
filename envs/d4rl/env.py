"""D4RL's tasks by their D4RL names, on the maintained Gymnasium and gymnasium-robotics environments.

`envs.d4rl.tasks` has the table, `envs.d4rl.data` finds the datasets; here the environments are built. What an
agent sees has exactly the columns of D4RL's dataset, in D4RL's frame and units, and rewards and terminations
are D4RL's, for whose reference scores they are meant. The differences that remain are in each family's
`differences`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from envs.d4rl.tasks import KITCHEN, D4RLTask, find
from envs.gym.rendering import import_mujoco, rendering_backend, use_backend
from envs.gym.vector import Environment, GymVectorTask
from rlzoo.errors import UserError
from rlzoo.types import Array, Episode, FloatArray

StepResult = tuple[Array, float, bool, bool, dict[str, Any]]

# Rows and columns of the goal; the start is cell (1, 1) wherever there is one.
_GOAL_CELLS = {
    "antmaze": {"umaze": (3, 1), "medium": (6, 6), "large": (7, 9)},
    "maze2d": {"open": (2, 3), "umaze": (1, 1), "medium": (6, 6), "large": (7, 9)},
}
_KITCHEN_GOALS = {
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}


def make(task: str, num_envs: int, *, processes: bool = False, render: bool = False) -> GymVectorTask:
    """N copies of a D4RL task.

    Args:
        task: D4RL's name, "hopper-medium-v2".
        num_envs: N.
        processes: whether every copy runs in a process of its own.
        render: whether `render`, which draws the first copy, is to work.

    Raises:
        UserError: there is no task of that name (the message has the nearest ones), or nothing here can draw
            frames.
    """
    find(task)
    backend = rendering_backend() if render else None
    make_envs = [partial(make_env, task, render=render and i == 0, backend=backend) for i in range(num_envs)]
    return GymVectorTask(task, make_envs, processes=processes)


def make_env(task: str, *, render: bool = False, backend: str | None = None) -> Environment:
    """One environment of a D4RL task: observations [S] and actions [A] in [-1, 1] as in its dataset.

    Args:
        task: D4RL's name.
        render: whether it draws frames (render mode "rgb_array").
        backend: what draws them, from `rendering_backend`; a worker process does not inherit the choice.

    Raises:
        UserError: there is no task of that name; the message has the nearest ones.
    """
    row = find(task)
    if backend is not None:
        use_backend(backend)
    import_mujoco()
    build: Callable[..., Environment] = {
        "locomotion": _make_locomotion,
        "adroit": _make_adroit,
        "antmaze": _make_antmaze,
        "kitchen": _make_kitchen,
        "maze2d": _make_maze2d,
    }[row.family.name]
    # Gymnasium warns that the -v4 and -v1 tasks have successors, which are not D4RL's tasks.
    with warnings.catch_warnings(action="ignore"):
        if row.family.name != "locomotion":
            # It prints a notice that Adroit's rewards were changed; `_Adroit` puts them back.
            with contextlib.redirect_stderr(io.StringIO()):
                import gymnasium_robotics

            gym.register_envs(gymnasium_robotics)
        return build(
            row,
            max_episode_steps=row.max_episode_steps,
            render_mode="rgb_array" if render else None,
            disable_env_checker=True,
        )


# --- locomotion, Adroit ------------------------------------------------------------------------------------


class _AppendZeros(gym.ObservationWrapper[Array, Any, Array]):
    """Ant's observation with the columns that are zero throughout D4RL's datasets."""

    def __init__(self, env: Environment, width: int) -> None:
        super().__init__(env)
        self._width = width
        self.observation_space = Box(-np.inf, np.inf, (width,))

    def observation(self, observation: Array) -> Array:
        return np.pad(observation, (0, self._width - len(observation)))


def _make_locomotion(task: D4RLTask, **kwargs: Any) -> Environment:
    env = gym.make(task.env_id, **kwargs)
    return _AppendZeros(env, task.state_dim) if task.env_id.startswith("Ant") else env


class _Adroit(gym.Wrapper[Array, Any, Array, Any]):
    """An Adroit task with D4RL's reward and termination."""

    def __init__(self, env: Environment, skill: str) -> None:
        super().__init__(env)
        self._skill = skill

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


def _make_adroit(task: D4RLTask, **kwargs: Any) -> Environment:
    return _Adroit(gym.make(task.env_id, **kwargs), task.variant)


# --- AntMaze, Maze2D ---------------------------------------------------------------------------------------


class _Maze(gym.Wrapper[Array, Any, Any, Any]):
    """A maze of gymnasium-robotics in D4RL's frame.

    Its own maps have x along the columns and y against the rows, the origin in the middle. The subclasses
    build it from a turned map, so that only the origin is left to move.
    """

    _simulation: str  # the attribute that holds the body's own environment

    def __init__(self, env: Environment, origin: Array, goal: Array, state_dim: int) -> None:
        super().__init__(env)
        maze: Any = env.unwrapped
        Path(maze.tmp_xml_file_path).unlink(missing_ok=True)  # it has been read
        self._origin = origin  # [2], D4RL's origin in gymnasium-robotics' frame
        self._goal = goal  # [2], in D4RL's frame
        self.observation_space = Box(-np.inf, np.inf, (state_dim,))

    def _place(self, qpos: Array, qvel: Array) -> Array:
        """Set the body's state, `qpos` in D4RL's frame, mark the goal and return the observation."""
        maze: Any = self.env.unwrapped
        qpos = np.concatenate([qpos[:2] + self._origin, qpos[2:]])
        getattr(maze, self._simulation).set_state(qpos, qvel)
        maze.goal = self._goal + self._origin  # shown, and remembered by the maze itself
        maze.update_target_site_pos()
        return self._observation()

    def _observation(self) -> Array:
        data: Any = self.env.unwrapped.data  # type: ignore[attr-defined]
        return np.concatenate([data.qpos[:2] - self._origin, data.qpos[2:], data.qvel])

    def _distance(self, obs: Array) -> float:
        return float(np.linalg.norm(obs[:2] - self._goal))


class _AntMaze(_Maze):
    """D4RL's AntMaze: a weaker and slower ant than Gymnasium's; reward 1 and the end at the goal."""

    _simulation = "ant_env"

    def __init__(self, env: Environment, origin: Array, goal_cell: Array, state_dim: int) -> None:
        super().__init__(env, origin, goal_cell, state_dim)
        self._goal_cell = goal_cell
        model: Any = env.unwrapped.model  # type: ignore[attr-defined]
        model.opt.timestep = 0.02
        model.actuator_gear[:, 0] = 30.0
        model.geom_solimp[:, :3] = (0.8, 0.8, 0.01)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        self.env.reset(seed=seed, options=options)
        random = self.np_random
        goal = self._goal_cell + random.uniform(0, 1, 2) + random.uniform(0, 0.5, 2)
        self._goal = np.maximum(goal, 0)
        start = np.zeros(15)
        start[2:4] = (0.75, 1.0)  # height; the first entry of the quaternion
        return self._place(start + random.uniform(-0.1, 0.1, 15), 0.1 * random.standard_normal(14)), {}

    def step(self, action: Any) -> StepResult:
        *_, truncated, _ = self.env.step(action)
        obs = self._observation()
        reached = self._distance(obs) <= 0.5
        return obs, float(reached), reached, truncated, {"success": reached}


class _Maze2D(_Maze):
    """D4RL's Maze2D: a ball, a fixed goal, a reward in every step, no termination."""

    _simulation = "point_env"

    def __init__(
        self, env: Environment, origin: Array, goal: Array, state_dim: int, cells: Array, dense: bool
    ) -> None:
        super().__init__(env, origin, goal, state_dim)
        self._cells = cells  # [k, 2], where an episode may start
        self._dense = dense

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        self.env.reset(seed=seed, options=options)
        random = self.np_random
        start = self._cells[random.integers(len(self._cells))] + random.uniform(-0.1, 0.1, 2)
        return self._place(start, 0.1 * random.standard_normal(2)), {}

    def step(self, action: Any) -> StepResult:
        *_, truncated, _ = self.env.step(action)
        obs = self._observation()
        distance = self._distance(obs)
        reached = distance <= 0.5
        reward = float(np.exp(-distance)) if self._dense else float(reached)
        return obs, reward, False, truncated, {"success": reached}


def _maze_map(name: str) -> list[list[int]]:
    """Rows of 1 (wall) and 0; gymnasium-robotics' mazes of these names are D4RL's."""
    from gymnasium_robotics.envs.maze import maps

    chosen: list[list[int]] = {
        "open": maps.OPEN,
        "umaze": maps.U_MAZE,
        "medium": maps.MEDIUM_MAZE,
        "large": maps.LARGE_MAZE,
    }[name]
    return chosen


def _make_antmaze(task: D4RLTask, **kwargs: Any) -> Environment:
    # Upside down: then y grows with the rows, as in D4RL.
    turned = np.flipud(np.array(_maze_map(task.variant)))
    env = gym.make(
        task.env_id,
        maze_map=turned.tolist(),
        continuing_task=True,
        reset_target=False,
        include_cfrc_ext_in_observation=False,
        **kwargs,
    )
    maze: Any = env.unwrapped
    row, column = _GOAL_CELLS["antmaze"][task.variant]
    origin = maze.maze.cell_rowcol_to_xy(np.array((len(turned) - 1 - 1, 1)))  # cell (1, 1) after the turn
    goal = 4.0 * np.array((column - 1, row - 1))
    return _AntMaze(env, origin, goal, task.state_dim)


def _make_maze2d(task: D4RLTask, **kwargs: Any) -> Environment:
    name, _, dense = task.variant.partition("-")
    # A quarter turn: then x grows with the rows and y with the columns, as in D4RL.
    turned = np.rot90(np.array(_maze_map(name)))
    env = gym.make(task.env_id, maze_map=turned.tolist(), continuing_task=True, reset_target=False, **kwargs)
    maze: Any = env.unwrapped
    # D4RL's positions are relative to the ball's first one, 0.2 past the centre of cell (0, 0).
    origin = maze.maze.cell_rowcol_to_xy(np.array((len(turned) - 1, 0))) + 0.2
    cells = np.argwhere(np.array(_maze_map(name)) == 0).astype(np.float64)
    goal = np.array(_GOAL_CELLS["maze2d"][name], np.float64)
    return _Maze2D(env, origin, goal, task.state_dim, cells, dense == "dense")


# --- FrankaKitchen -----------------------------------------------------------------------------------------


class _Kitchen(gym.Wrapper[Any, Any, Any, Any]):
    """FrankaKitchen with D4RL's observation; success is the completion of all four parts."""

    def __init__(self, env: Environment, task: D4RLTask) -> None:
        super().__init__(env)
        self._flatten = _kitchen_flatten(task)
        self.observation_space = Box(-np.inf, np.inf, (task.state_dim,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        obs, _ = self.env.reset(seed=seed, options=options)
        return self._flatten(obs), {}

    def step(self, action: Any) -> StepResult:
        obs, reward, terminated, truncated, _ = self.env.step(action)
        return self._flatten(obs), float(reward), terminated, truncated, {"success": terminated}


def _kitchen_parts(task: D4RLTask) -> list[tuple[Array, Array]]:
    """Of each part of the task its columns among D4RL's first 30 (positions), and what they should become."""
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_GOALS, OBS_ELEMENT_INDICES

    return [(OBS_ELEMENT_INDICES[part], OBS_ELEMENT_GOALS[part]) for part in _KITCHEN_GOALS[task.variant]]


def _kitchen_flatten(task: D4RLTask) -> Callable[[Mapping[str, Array]], Array]:
    """From gymnasium-robotics' observation [..., 59] to D4RL's [..., 60]."""
    goal = np.zeros(30)
    for columns, values in _kitchen_parts(task):
        goal[columns] = values

    def flatten(obs: Mapping[str, Array]) -> Array:
        # Robot positions 9 and velocities 9, object positions 21 and velocities 20.
        rows = obs.get("observation")
        if rows is None or rows.shape[-1:] != (59,):
            found = "is missing" if rows is None else f"has shape {list(rows.shape)}"
            raise UserError(f"key 'observation' {found}, expected kitchen's [steps, 59]")
        goals = np.broadcast_to(goal, (*rows.shape[:-1], 30))
        return np.concatenate([rows[..., :9], rows[..., 18:39], goals], axis=-1)

    return flatten


def flatten_obs(task: str) -> Callable[[Mapping[str, Array]], Array] | None:
    """How the Minari datasets of a task become D4RL's observations, for `rlzoo.data.load.load_episodes`.

    None where they need nothing, and for the mazes, whose Minari datasets are in another frame.
    """
    row = find(task)
    return _kitchen_flatten(row) if row.family is KITCHEN else None


def task_rewards(task: str, episodes: list[Episode]) -> list[Episode]:
    """Recorded episodes with the rewards that the task pays; only kitchen's recorded ones can differ.

    D4RL (arXiv 2004.07219) recorded kitchen's demonstrations with a reward of 1 for every finished part in
    every step, up to 4 a step (REMOVE_TASKS_WHEN_COMPLETE is False in its generate_kitchen_datasets.py),
    while its task pays a part once, in the step that first finishes it. Returns of more than the number of
    parts give such episodes away. When a part was finished is then read from the recorded positions, as
    D4RL's task itself does; one that is finished from the start, as after a cut at the time limit, pays
    nothing.

    Args:
        task: D4RL's name.
        episodes: with D4RL's observations, [T+1, S].
    """
    row = find(task)
    if row.family is not KITCHEN:
        return episodes
    parts = _kitchen_parts(row)
    if all(episode.episode_return <= len(parts) for episode in episodes):
        return episodes
    return [
        dataclasses.replace(episode, reward=_first_completions(episode.obs["state"], parts))
        for episode in episodes
    ]


def _first_completions(states: Array, parts: list[tuple[Array, Array]]) -> FloatArray:
    """How many parts each step finishes for the first time, f32 [T], from states [T+1, S]."""
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import BONUS_THRESH

    distances = [np.linalg.norm(states[:, columns] - values, axis=1) for columns, values in parts]
    ever = np.logical_or.accumulate(np.array(distances) < BONUS_THRESH, axis=1)
    return np.diff(ever.sum(axis=0)).astype(np.float32)


def _make_kitchen(task: D4RLTask, **kwargs: Any) -> Environment:
    env = gym.make(
        task.env_id,
        tasks_to_complete=list(_KITCHEN_GOALS[task.variant]),
        robot_noise_ratio=0.1,
        object_noise_ratio=0.1,
        **kwargs,
    )
    return _Kitchen(env, task)
