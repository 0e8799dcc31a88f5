"""Gymnasium's tasks with continuous actions: MuJoCo, gymnasium-robotics, classic control, Box2D."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from envs.gym.rendering import backend_of, import_mujoco, use_backend
from envs.gym.snapshot import Environment
from envs.gym.vector import GymVectorTask
from rlzoo.actions import ActionRange
from rlzoo.errors import UserError, one_line
from rlzoo.types import Array

# The families whose tasks have continuous actions, and the continuous tasks of mixed ones: what to suggest.
_MUJOCO, _ROBOTICS = "gymnasium.envs.mujoco", "gymnasium_robotics"
_CONTINUOUS_TASKS = (
    *("Pendulum-v1", "MountainCarContinuous-v0", "LunarLanderContinuous-v3"),
    *("BipedalWalker-v3", "BipedalWalkerHardcore-v3", "CarRacing-v3"),
)
_DRAWN_BY_PYGAME = ("gymnasium.envs.classic_control", "gymnasium.envs.box2d")


def make(
    task: str,
    num_envs: int,
    *,
    processes: bool = False,
    render: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> GymVectorTask:
    """Make `num_envs` copies of a Gymnasium task.

    Args:
        task: a Gymnasium id with its version, such as "HalfCheetah-v5" or "AntMaze_UMaze-v5"; a task of
            your own as "module:Name-v0", where importing the module registers it.
        processes: whether each runs in a process of its own.
        render: whether `GymVectorTask.render`, which draws the first copy, is to work.
        arguments: of the environment, by name.

    Raises:
        UserError: there is no such task, its actions are not continuous, it does not take the arguments, a
            package that it needs is missing, or nothing here can draw frames. The message says which and
            what to do.
    """
    if time_limit(task, arguments) is None:
        _warn_of_no_time_limit(task)
    make_one = functools.partial(make_env, task, arguments)
    draws_with_mujoco = render and not str(find(task).entry_point).startswith(_DRAWN_BY_PYGAME)
    backend = backend_of(functools.partial(make_one, render=True)) if draws_with_mujoco else None
    make_envs = [
        functools.partial(make_one, render=render and i == 0, backend=backend) for i in range(num_envs)
    ]
    return GymVectorTask(task, make_envs, processes=processes)


def time_limit(task: str, arguments: Mapping[str, Any] | None = None) -> int | None:
    """The steps after which an episode is truncated, as `make` makes the task; None: after none."""
    limit = (arguments or {}).get("max_episode_steps") or find(task).max_episode_steps
    return None if limit == -1 else limit  # -1: Gymnasium's word for none


@functools.cache  # once for the copies to train in and those to evaluate in
def _warn_of_no_time_limit(task: str) -> None:
    print(
        f"warning: {task} has no time limit (max_episode_steps): unless it ends its episodes itself, an "
        "evaluation never ends",
        file=sys.stderr,
    )


def make_env(
    task: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    render: bool = False,
    backend: str | None = None,
) -> Environment:
    """Make one environment with its time limit, as Gymnasium registers it.

    Args:
        task: a Gymnasium id, as for `make`.
        arguments: of `gymnasium.make`, by name, which passes on to the environment what it does not know.
        render: whether it draws frames (render mode "rgb_array").
        backend: what draws them, from `rendering_backend`; a worker process does not inherit the choice.

    Raises:
        UserError: there is no such task, a package that it needs is missing, or it does not take the
            arguments or the render mode.
    """
    spec = find(task)
    if backend is not None:
        use_backend(backend)
    with contextlib.suppress(ImportError):  # a task that needs it says so itself
        import_mujoco()
    given = {**(arguments or {}), **({"render_mode": "rgb_array"} if render else {})}
    try:
        with warnings.catch_warnings():
            # Who asks for -v4 (D4RL's data is of it) knows that there is a -v5.
            warnings.filterwarnings("ignore", "(?s).*out of date", DeprecationWarning)
            env: Environment = gym.make(spec.id, disable_env_checker=True, **given)
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise _cannot_make(spec, error) from error
    except Exception as error:
        if not given:
            raise
        shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
        reason = one_line(error)
        raise UserError(f"{spec.id} cannot be made with {shown}: {reason}") from error
    # The mazes load their model from a file of their own in the temporary folder and leave it there.
    if model_file := getattr(env.unwrapped, "tmp_xml_file_path", None):
        Path(model_file).unlink(missing_ok=True)
    return env


def action_range(task: str, arguments: Mapping[str, Any] | None = None) -> ActionRange:
    """What -1 and 1 stand for in each of the task's A actions, made with the environment's `arguments`."""
    with contextlib.closing(make_env(task, arguments)) as env:
        assert isinstance(env.action_space, Box)
        return ActionRange(env.action_space.low.ravel(), env.action_space.high.ravel())


def flatten_obs(
    task: str, arguments: Mapping[str, Any] | None = None
) -> Callable[[Mapping[str, Any]], Array] | None:
    """From recorded observations of a task that observes several arrays, {name: [n, ...]}, to rows [n, S].

    They are flattened as `GymVectorTask` flattens the task's own; those of Tuple spaces have Minari's names.
    None for a task that observes one array. The task is made with the environment's `arguments`.
    """
    with contextlib.closing(make_env(task, arguments)) as env:
        space = env.observation_space
    if not isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        return None

    def flatten(space: gym.Space[Any], rows: Any) -> Array:
        if isinstance(space, gym.spaces.Dict):
            return np.concatenate([flatten(part, rows[name]) for name, part in space.items()], axis=1)
        if isinstance(space, gym.spaces.Tuple):
            parts = enumerate(space.spaces)
            return np.concatenate([flatten(part, rows[f"_index_{i}"]) for i, part in parts], axis=1)
        return np.stack([gym.spaces.flatten(space, row) for row in rows])  # type: ignore[misc]

    def flatten_rows(rows: Mapping[str, Any]) -> Array:
        try:
            return flatten(space, rows).astype(np.float32)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"not observations of {task}, which are {space} ({error})") from error

    return flatten_rows


def tasks() -> list[str]:
    """The ids of Gymnasium's MuJoCo tasks, each in its newest version."""
    return sorted(
        _newest(spec for spec in gym.registry.values() if str(spec.entry_point).startswith(_MUJOCO))
    )


def find(task: str) -> EnvSpec:
    """Look a task up by its full id, importing gymnasium-robotics (or ``module:``) where it is needed.

    Raises:
        UserError: nothing of that name is registered (the message has the nearest names), or the module
            cannot be imported.
    """
    module, _, name = task.rpartition(":")
    if module:
        _import(task, module)
    elif name not in gym.registry:
        import_mujoco()  # gymnasium-robotics imports it, and prints a note about some Adroit tasks' rewards
        with contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module("gymnasium_robotics")
    if name in gym.registry:
        return gym.registry[name]
    if module:
        where = getattr(sys.modules[module], "__file__", None)
        raise UserError(f"{task}: the module {module} ({where}) registers no {name}")
    continuous = _newest(
        spec
        for spec in gym.registry.values()
        if str(spec.entry_point).startswith((_MUJOCO, _ROBOTICS)) or spec.id in _CONTINUOUS_TASKS
    )
    names = {task.lower(): task for task in continuous}
    nearest = [names[match] for match in difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)]
    hint = f", did you mean {', '.join(nearest)}?" if nearest else "."
    raise UserError(f"unknown task {task!r}{hint} A task that a module registers is written module:Name-v0")


def _import(task: str, module: str) -> None:
    """Import a user's module, for which the current folder is searched too, after all others.

    The folder stays in the search path for what the module itself imports later, and worker processes are
    started with the search path of this one.
    """
    if module.startswith(".") or module.endswith(".py") or "/" in module:
        raise UserError(
            f"{task}: {module!r} is no module's name; for mine.py in this folder write mine:Name-v0"
        )
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        importlib.import_module(module)
    except ImportError as error:
        reason = str(error)
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            others = os.environ.get("PYTHONPATH")
            reason = f"it is neither in the current folder {folder}"
            reason += f" nor in PYTHONPATH {others}" if others else ""
            reason += " nor among the installed packages"
        raise UserError(f"{task}: the module {module} cannot be imported ({reason})") from error


def _newest(specs: Iterable[EnvSpec]) -> list[str]:
    """The ids of the newest versions among `specs`."""
    by_version = sorted(specs, key=lambda spec: spec.version or 0)
    return list({(spec.namespace, spec.name): spec.id for spec in by_version}.values())


def _cannot_make(spec: EnvSpec, error: Exception) -> UserError:
    reason = " ".join(map(str, error.args))  # DependencyNotInstalled holds several strings
    if "mujoco_py" in reason or "mujoco v2 and v3" in reason:
        reason = "this version needs mujoco-py, which is no longer maintained"
    names = spec.namespace, spec.name
    [newest] = _newest(other for other in gym.registry.values() if (other.namespace, other.name) == names)
    return UserError(f"{spec.id}: {reason}" + (f"; use {newest}" if newest != spec.id else ""))
