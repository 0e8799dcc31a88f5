"""Gymnasium's tasks with continuous actions: MuJoCo, gymnasium-robotics, classic control, Box2D."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from envs.gym.rendering import import_mujoco, rendering_backend, use_backend
from envs.gym.vector import Environment, GymVectorTask
from rlzoo.errors import UserError
from rlzoo.types import FloatArray

# The families whose tasks have continuous actions, and the continuous tasks of mixed ones: what to suggest.
_CONTINUOUS_FAMILIES = ("gymnasium.envs.mujoco", "gymnasium_robotics")
_CONTINUOUS_TASKS = (
    *("Pendulum-v1", "MountainCarContinuous-v0", "LunarLanderContinuous-v3"),
    *("BipedalWalker-v3", "BipedalWalkerHardcore-v3", "CarRacing-v3"),
)
_DRAWN_BY_PYGAME = ("gymnasium.envs.classic_control", "gymnasium.envs.box2d")


def make(task: str, num_envs: int, *, processes: bool = False, render: bool = False) -> GymVectorTask:
    """Make `num_envs` copies of a Gymnasium task.

    Args:
        task: a Gymnasium id with its version, such as "HalfCheetah-v5" or "AntMaze_UMaze-v5"; a task of
            your own as "module:Name-v0", where importing the module registers it.
        num_envs: the number of copies.
        processes: whether each runs in a process of its own.
        render: whether `GymVectorTask.render` is to work.

    Raises:
        UserError: there is no such task, its actions are not continuous, a package that it needs is missing,
            or nothing here can draw frames. The message says which and what to do.
    """
    backend = (
        rendering_backend() if render and not _entry_point(find(task)).startswith(_DRAWN_BY_PYGAME) else None
    )
    _warn_of_no_time_limit(task)
    make_envs = [
        functools.partial(make_env, task, render=render and i == 0, backend=backend) for i in range(num_envs)
    ]
    return GymVectorTask(task, make_envs, processes=processes)


@functools.cache  # once for the copies to train in and those to evaluate in
def _warn_of_no_time_limit(task: str) -> None:
    if find(task).max_episode_steps is None:
        print(
            f"warning: {task} is registered without a time limit (max_episode_steps): unless it ends its "
            "episodes itself, an evaluation never ends",
            file=sys.stderr,
        )


def make_env(task: str, *, render: bool = False, backend: str | None = None) -> Environment:
    """Make one environment with its time limit, as Gymnasium registers it.

    Args:
        task: a Gymnasium id, as for `make`.
        render: whether it draws frames (render mode "rgb_array").
        backend: what draws them, from `rendering_backend`; a worker process does not inherit the choice.

    Raises:
        UserError: as for `make`, save that actions and drawing are not checked.
    """
    spec = find(task)
    if backend is not None:
        use_backend(backend)
    with contextlib.suppress(ImportError):  # a task that needs it says so itself
        import_mujoco()
    options: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
    try:
        with warnings.catch_warnings():
            # Who asks for -v4 (D4RL's data is of it) knows that there is a -v5.
            warnings.filterwarnings("ignore", "(?s).*out of date", DeprecationWarning)
            env: Environment = gym.make(spec.id, disable_env_checker=True, **options)
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise _cannot_make(spec, error) from error
    # The mazes load their model from a file of their own in the temporary folder and leave it there.
    if model_file := getattr(env.unwrapped, "tmp_xml_file_path", None):
        Path(model_file).unlink(missing_ok=True)
    return env


def action_bounds(task: str) -> tuple[FloatArray, FloatArray]:
    """The task's own lower and upper action bounds, each [A]: what -1 and 1 stand for."""
    env = make_env(task)
    space = env.action_space
    env.close()
    assert isinstance(space, gym.spaces.Box)
    return space.low.ravel().astype(np.float32), space.high.ravel().astype(np.float32)


def find(task: str) -> EnvSpec:
    """Look a task up by its full id, importing gymnasium-robotics (or ``module:``) where it is needed.

    Raises:
        UserError: nothing of that name is registered; the message has the nearest names.
    """
    module, _, name = task.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"{task}: the module {module} cannot be imported ({error})") from error
    elif name not in gym.registry:
        _register_robotics()
    if name in gym.registry:
        return gym.registry[name]
    namespace, _, _ = name.rpartition("/")
    if namespace and not any(spec.namespace == namespace for spec in gym.registry.values()):
        raise UserError(
            f"unknown task {task!r}: nothing registers the namespace {namespace!r}; if its actions are"
            f" continuous, install the package that has it and write module:{name}"
        )
    nearest = ", ".join(_nearest(name))
    raise UserError(f"unknown task {task!r}" + (f", did you mean {nearest}?" if nearest else ""))


def _register_robotics() -> None:
    # It prints a note about the rewards of some Adroit tasks, whatever is imported, once per process.
    with contextlib.redirect_stderr(io.StringIO()):
        importlib.import_module("gymnasium_robotics")


def _entry_point(spec: EnvSpec) -> str:
    return spec.entry_point if isinstance(spec.entry_point, str) else ""


def _nearest(name: str) -> list[str]:
    """Up to three registered names near to `name`: continuous tasks in their newest versions."""
    newest: dict[tuple[str | None, str], EnvSpec] = {}
    for spec in gym.registry.values():
        if _entry_point(spec).startswith(_CONTINUOUS_FAMILIES) or spec.id in _CONTINUOUS_TASKS:
            newest[spec.namespace, spec.name] = _newest(spec)
    names = {spec.id.lower(): spec.id for spec in newest.values()}
    return [names[match] for match in difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)]


def _newest(spec: EnvSpec) -> EnvSpec:
    same = [s for s in gym.registry.values() if (s.namespace, s.name) == (spec.namespace, spec.name)]
    return max(same, key=lambda s: s.version or 0)


def _cannot_make(spec: EnvSpec, error: Exception) -> UserError:
    reason = " ".join(map(str, error.args))  # DependencyNotInstalled holds several strings
    if "mujoco_py" in reason or "mujoco v2 and v3" in reason:
        reason = "this version needs mujoco-py, which is no longer maintained"
    newest = _newest(spec).id
    return UserError(f"{spec.id}: {reason}" + (f"; use {newest}" if newest != spec.id else ""))
