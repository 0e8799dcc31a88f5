"""Gymnasium environments as a `VectorTask`: N copies, stepped in this process or in one process each."""

# Methods of the protocol `VectorTask` and of `gymnasium.Wrapper` are described there.
# ruff: noqa: D102

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from multiprocessing import connection, util
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, Tuple
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from envs.checks import misfit, one_number, require_finite
from envs.gym import snapshot
from envs.gym.snapshot import Environment, Snapshots
from rlzoo.actions import ActionRange
from rlzoo.errors import SimulatorFailure, UserError
from rlzoo.interface import Interface
from rlzoo.run.signals import leave_signals_to_parent, worker_context
from rlzoo.run.video import rgb_frame
from rlzoo.seeding import derived_seed, global_generators_kept, seed_global_generators
from rlzoo.types import Array, FloatArray, Spaces, Step

CLOSING = 5.0  # seconds that worker processes are given to close their environments

Observation = Array | dict[str, Array]  # a vector [S], or {"state": [S], "pixels": u8 [V, C, H, W]}


class Lane(gym.Wrapper[dict[str, Array], FloatArray, Any, Any]):
    """The outermost wrapper of one environment: what every task looks like to the rest of the code.

    * Actions are vectors [A] in [-1, 1], clipped to that and mapped linearly to the environment's bounds.
    * Observations are dicts with the vector "state" [S]; Dict spaces are flattened in Gymnasium's order
      (sorted keys). A Dict of exactly "state" [S] and "pixels" u8 [V, C, H, W] stays one.
    * Values of another shape are refused, unless they differ in nothing but dimensions of one at the end.
    * `info` is ``{"success": x}`` with 1, 0, or NaN where the task does not say.
    * The step after an episode's end ignores its action and returns the first observation of a new episode
      with reward 0 and success NaN. The lane does this itself, so that what a restored snapshot does next
      depends on the snapshot alone and not on a flag that a vector environment keeps elsewhere.

    * A snapshot of an environment that cannot be saved whole has its wrappers' state. The lane that it is put
      into ends the episode under way with its next step: truncated, reward 0, the last observation again.

    Attributes:
        needs_reset: whether the episode has ended, so that the next step begins a new one.
        episode_step: how many steps the episode has had.

    Raises:
        UserError: the action space is not a bounded Box of floats, or the observations are not numbers; from
            `reset` and `step`: what the environment returned is not what its spaces say.
    """

    def __init__(self, env: Environment, task: str) -> None:
        super().__init__(env)
        actions = env.action_space
        if not (
            isinstance(actions, Box) and _is_bounded(actions) and np.issubdtype(actions.dtype, np.floating)
        ):
            shown = " ".join(str(actions).split())
            raise UserError(
                f"{task}: agents need actions in a bounded Box of floats (within ±1e18), not in {shown}"
            )
        seen = _agent_space(env.observation_space, task)
        self.task = task
        self.needs_reset = False
        self.episode_step = 0
        self._snapshots = Snapshots(env)
        self._seed: int | None = None  # the latest that it was given
        self._episodes = 0  # begun since then
        self._is_lost = False  # whether the episode under way cannot go on
        self._obs: dict[str, Array] = {}
        self.action_space = Box(-1.0, 1.0, (actions.low.size,), np.float32)
        self.observation_space = seen  # type: ignore[assignment]
        self._range = ActionRange(actions.low.ravel(), actions.high.ravel())
        self._action_shape, self._action_dtype = actions.low.shape, actions.low.dtype
        self.metadata = {
            **env.metadata,
            "interface": _interface(env, task, self._range),
            "flat_images": "pixels" not in seen.spaces and _has_image(env.observation_space),
            "statistics": _running_statistics(env),
        }
        self._inner_observations = env.observation_space
        self._is_named = "pixels" in seen.spaces
        self._is_vector = isinstance(env.observation_space, Box) and len(env.observation_space.shape) == 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Array], Any]:
        if seed is not None:
            self._seed, self._episodes = seed, 0
            seed_global_generators(seed)
        elif self._is_lost and self._seed is not None:
            seed = self._next_seed  # an environment that is as it was made has nothing to draw seeds from
        try:
            obs, _ = self.env.reset(seed=seed, options=options)
        except (Exception, SystemExit) as error:
            raise self._failure("reset", error) from error
        self._episodes += 1
        self.needs_reset = self._is_lost = False
        self.episode_step = 0
        self._obs = self._named(obs)
        return self._obs, {}

    def step(self, action: FloatArray) -> tuple[dict[str, Array], float, bool, bool, dict[str, float]]:
        return self.advance(self.inner_action(action))

    def inner_action(self, action: FloatArray) -> Array:
        """Map actions [..., A] from [-1, 1] to the environment's bounds, shape and dtype."""
        # Always a new array, because some environments keep the last action.
        inner = self._range.from_unit(action).astype(self._action_dtype, copy=False)
        return inner.reshape((*action.shape[:-1], *self._action_shape))

    def advance(self, inner_action: Array) -> tuple[dict[str, Array], float, bool, bool, dict[str, float]]:
        """`step` with an action as `inner_action` returns it, so that it is mapped for all lanes at once.

        The observation's arrays have the environment's dtype and may be its memory.
        """
        if self.needs_reset:
            return self.reset()[0], 0.0, False, False, {"success": np.nan}
        self.episode_step += 1
        if self._is_lost:
            self.needs_reset = True
            return self._obs, 0.0, False, True, {"success": np.nan}
        try:
            obs, reward, terminated, truncated, info = self.env.step(inner_action)
            success = info["success"] if "success" in info else info.get("is_success")
        except (Exception, SystemExit) as error:
            raise self._failure("step", error) from error
        if not (isinstance(reward, float) and type(terminated) is type(truncated) is bool):
            reward = one_number(self.task, "reward", reward)
            terminated = bool(one_number(self.task, "terminated", terminated))
            truncated = bool(one_number(self.task, "truncated", truncated))
        success = np.nan if success is None else one_number(self.task, "success", success)
        self.needs_reset = terminated or truncated
        self._obs = self._named(obs)
        return self._obs, reward, terminated, truncated, {"success": success}

    def render(self) -> Any:
        if self.render_mode is None:
            return None
        try:
            return self.env.render()
        except gym.error.DependencyNotInstalled as error:
            raise UserError(f"{self.task}: {error}") from error
        except NotImplementedError as error:
            raise UserError(f"{self.task} draws no frames: it has no method `render`") from error

    @property
    def snapshot(self) -> dict[str, Any]:
        """What the lane needs to go on, bit for bit unless ``["lost"]`` says what could not be kept.

        Setting it restores it, into an environment that has just been made (see `envs.gym.snapshot`).
        """
        state = self._snapshots.take()
        own = {name: getattr(self, f"_{name}") for name in ("seed", "episodes", "is_lost")}
        own |= {"needs_reset": self.needs_reset, "episode_step": self.episode_step}
        if state["lost"] or self._is_lost:
            own |= {"is_lost": True, "obs": {name: np.array(value) for name, value in self._obs.items()}}
        return state | own

    @snapshot.setter
    def snapshot(self, state: Mapping[str, Any]) -> None:
        try:
            self._snapshots.restore(state)
            self._seed, self._episodes, self._is_lost = state["seed"], state["episodes"], state["is_lost"]
            self.needs_reset, self.episode_step = state["needs_reset"], state["episode_step"]
            self._obs = state.get("obs", {})
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.task}: the saved state is of another task or version of the simulator, or of "
                f"an earlier rlzoo ({error})"
            ) from error

    @property
    def _next_seed(self) -> int:
        assert self._seed is not None
        return derived_seed(self._seed, self._episodes)

    def _named(self, obs: Any) -> dict[str, Array]:
        space = self._inner_observations
        if self._is_vector and type(obs) is np.ndarray and obs.shape == space.shape and obs.dtype.kind == "f":
            return {"state": obs}
        if not self._is_named:
            return {"state": self._flat(space, obs, "observation")}
        if not (isinstance(obs, Mapping) and {"state", "pixels"} <= set(obs)):
            raise misfit(self.task, "observation", obs, str(space))
        assert isinstance(space, Dict)
        pixels, expected = np.asarray(obs["pixels"]), space["pixels"]
        if (pixels.dtype, pixels.shape) != (expected.dtype, expected.shape):
            raise misfit(self.task, "observation['pixels']", pixels, f"{expected.dtype} {expected.shape}")
        return {
            "state": self._flat(space["state"], obs["state"], "observation['state']"),
            "pixels": pixels,
        }

    def _flat(self, space: gym.Space[Any], value: Any, key: str) -> Array:
        """An observation of `space` as a vector, in the order of `gymnasium.spaces.flatten`."""
        try:
            if isinstance(space, (Dict, Tuple)):
                inside = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
                parts = [self._flat(part, value[name], f"{key}[{name!r}]") for name, part in inside]
                return np.concatenate(parts)
            if not isinstance(space, Box):
                return np.asarray(gym.spaces.flatten(space, value))
            array = np.asarray(value)
            if _trimmed(array.shape) == _trimmed(space.shape):
                return (array if array.dtype.kind in "fiub" else array.astype(np.float64)).ravel()
            raise misfit(self.task, key, value, f"{space.dtype} {space.shape}")
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise misfit(self.task, key, value, str(space)) from error

    def _failure(self, where: str, error: BaseException) -> SimulatorFailure:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = " ".join(f"{type(error).__name__}: {error}".split())
        # One argument, so that Gymnasium can rebuild it when it comes from another process.
        return SimulatorFailure(
            f"{self.task}: environment failed in {where}(): {what} "
            f"({os.path.basename(place.filename)}:{place.lineno})"
        )


class GymVectorTask:
    """N Gymnasium environments behind the `VectorTask` protocol.

    ``processes=False`` steps them one after the other in `receive`, in a loop that adds 4 % to HalfCheetah's
    own time where SyncVectorEnv adds 17 %. ``processes=True`` gives each its own process through
    AsyncVectorEnv, and the simulators run between `send` and `receive` while the caller trains. Results are
    the same either way. All arrays returned are the caller's own.
    """

    def __init__(
        self,
        task: str,
        make_envs: Sequence[Callable[[], Environment]],
        *,
        processes: bool = False,
        frame_stack: int = 1,
    ) -> None:
        """Build the copies.

        Args:
            task: its name in error messages.
            make_envs: a function per copy that makes its environment; with `processes` it must pickle (as
                cloudpickle does), and the first is also called in this process, to learn the spaces.
            processes: whether every copy runs in a process of its own. The main script needs the usual guard
                (``if __name__ == "__main__"``), because the processes import it.
            frame_stack: F in `spaces.pixels`; whoever samples or acts stacks the single frames.

        Raises:
            UserError: the task's spaces do not suit (see `Lane`).
        """
        self.task = task
        self.num_envs = len(make_envs)
        # So that what an environment draws from the generators of Python and NumPy while it is made is the
        # same when it is made for a resumed run, and in a process of its own.
        seeds = np.random.randint(2**32, size=self.num_envs, dtype=np.uint32).tolist()  # noqa: NPY002
        make_envs = [partial(_make_seeded, *each) for each in zip(make_envs, seeds, strict=True)]
        self._make_envs = make_envs
        self._is_as_made = True
        self._told: set[str] = set()  # warnings
        self._lanes: list[Lane] = []
        self._workers: _Workers | None = None
        self._action: FloatArray | None = None  # [N, A], between `send` and `receive`
        if processes:
            self._workers = _start_workers(task, make_envs)
            spaces = self._workers.single_observation_space, self._workers.single_action_space
            metadata = self._workers.metadata
        else:
            self._lanes = [Lane(make_env(), task) for make_env in make_envs]
            spaces = self._lanes[0].observation_space, self._lanes[0].action_space
            metadata = self._lanes[0].metadata
        self.spaces = _sizes(*spaces, frame_stack)
        self.render_fps = float(metadata.get("render_fps") or 30)  # frames per second of the task's own time
        self.interface: Interface = metadata["interface"]
        if metadata["flat_images"]:
            _warn_of_flat_images(task)
        if metadata["statistics"]:
            _warn_of_statistics(task, metadata["statistics"])

    def reset(self, seed: int) -> dict[str, Array]:
        # Every lane's seed is drawn by a hash of `seed`: with seed + i for lane i, the runs of seeds 1 and 2
        # would have most of them in common.
        seeds = np.random.SeedSequence(seed).generate_state(self.num_envs).tolist()
        self._is_as_made = False
        if self._workers is not None:
            obs = self._ask(self._workers.reset, seed=seeds)[0]
        else:
            obs = self._stacked([lane.reset(seed=s)[0] for lane, s in zip(self._lanes, seeds, strict=True)])
        require_finite(self.task, obs, np.zeros(self.num_envs, np.float32), self._episode_steps)
        return obs  # type: ignore[no-any-return]

    def send(self, action: FloatArray) -> None:
        action = np.array(action, dtype=np.float32)
        if action.shape != (self.num_envs, self.spaces.action_dim):
            raise ValueError(f"actions {action.shape}, expected {(self.num_envs, self.spaces.action_dim)}")
        if self._workers is not None:
            self._ask(self._workers.step_async, action)
        self._action = action

    def receive(self) -> Step:
        assert self._action is not None, "receive() was called without send()"
        action, self._action = self._action, None
        if self._workers is None:
            step = self._step_lanes(action)
        else:
            obs, rewards, terminated, truncated, infos = self._ask(self._workers.step_wait)
            success = infos["success"].astype(np.float32)
            step = Step(obs, rewards.astype(np.float32), terminated, truncated, success)
        require_finite(self.task, step.obs, step.reward, self._episode_steps)
        return step

    def _episode_steps(self) -> Sequence[int]:
        if self._workers is not None:
            return self._ask(self._workers.get_attr, "episode_step")  # type: ignore[no-any-return]
        return [lane.episode_step for lane in self._lanes]

    def get_state(self) -> list[dict[str, Any]]:
        if self._workers is not None:
            snapshots = self._ask(self._workers.get_attr, "snapshot")
        else:
            snapshots = [lane.snapshot for lane in self._lanes]
        self._tell_of_lost(snapshots, "a checkpoint cannot keep", "resuming begins new episodes")
        return [snapshot.to_tensors(state) for state in snapshots]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        if len(state) != self.num_envs:
            raise UserError(
                f"{self.task}: the saved state is of {len(state)} environments, this run has {self.num_envs}"
            )
        snapshots = [snapshot.from_tensors(saved) for saved in state]
        self._tell_of_lost(snapshots, "the checkpoint does not have", "new episodes begin")
        if not self._is_as_made:
            self.restart()
        self._is_as_made = False
        if self._workers is not None:
            self._ask(self._workers.set_attr, "snapshot", snapshots)
        for lane, saved in zip(self._lanes, snapshots, strict=False):  # without lanes in worker processes
            lane.snapshot = saved

    def _tell_of_lost(self, snapshots: Sequence[Mapping[str, Any]], problem: str, consequence: str) -> None:
        lost = list(dict.fromkeys(what for state in snapshots for what in state.get("lost", ())))
        if lost and problem not in self._told:
            self._told.add(problem)
            shown = ", ".join(lost[:2]) + (f" and {len(lost) - 2} more" if len(lost) > 2 else "")
            print(f"warning: {self.task}: {problem} {shown}; {consequence}", file=sys.stderr)

    def render(self) -> npt.NDArray[np.uint8]:
        if self._workers is not None:
            frame = self._ask(self._workers.call, "render")[0]
        else:
            frame = self._lanes[0].render()
        if frame is None:
            raise UserError(f'{self.task} draws no frames: it was not made with render_mode="rgb_array"')
        return rgb_frame(frame)

    def restart(self) -> None:
        self.close()
        self._action, self._is_as_made = None, True
        try:
            if self._workers is not None:
                self._workers = _start_workers(self.task, self._make_envs)
            else:
                self._lanes = [Lane(make_env(), self.task) for make_env in self._make_envs]
        except (Exception, SystemExit) as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise SimulatorFailure(f"{self.task}: the environments cannot be made anew: {what}") from error

    def close(self) -> None:
        while self._lanes:  # a second call does nothing
            with contextlib.suppress(Exception):  # a simulator that has failed may fail again
                self._lanes.pop().close()
        if self._workers is not None:
            self._workers.close()

    def _step_lanes(self, action: FloatArray) -> Step:
        inner = self._lanes[0].inner_action(action)  # [N, ...], all lanes have the same bounds
        steps = [lane.advance(inner[i]) for i, lane in enumerate(self._lanes)]
        obs, rewards, terminated, truncated, infos = zip(*steps, strict=True)
        return Step(
            self._stacked(obs),
            np.array(rewards, np.float32),
            np.array(terminated),
            np.array(truncated),
            np.array([info["success"] for info in infos], np.float32),
        )

    def _stacked(self, observations: Sequence[dict[str, Array]]) -> dict[str, Array]:
        states = np.empty((self.num_envs, self.spaces.state_dim), np.float32)
        for i, obs in enumerate(observations):
            states[i] = obs["state"]
        if self.spaces.pixels is None:
            return {"state": states}
        return {"state": states, "pixels": np.stack([obs["pixels"] for obs in observations])}

    def _ask(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of `self._workers`; a process that is lost gives one clear error."""
        assert self._workers is not None
        level, gym.logger.min_level = gym.logger.min_level, gym.logger.ERROR + 1  # what it prints is raised
        try:
            return call(*args, **kwargs)
        except (EOFError, OSError) as error:
            end = self._workers.end()
            self._workers.close(terminate=True)
            raise SimulatorFailure(
                f"{self.task}: a simulator's process ended unexpectedly ({end})"
            ) from error
        finally:
            gym.logger.min_level = level


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the dimensions of one at its end."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _is_bounded(actions: Box) -> bool:
    """Whether there is something to choose, within bounds; a dimension may be fixed."""
    # Beyond, squares of actions overflow float32: such bounds are meant as none.
    largest = np.abs([actions.low, actions.high]).max()
    return bool(largest < 1e18 and (actions.low < actions.high).any())


def _agent_space(space: gym.Space[Any], task: str) -> Dict:
    """The space of a lane's observations, from the environment's."""
    if isinstance(space, Dict) and set(space) == {"state", "pixels"}:
        state, pixels = space["state"], space["pixels"]
        if pixels.dtype != np.uint8 or len(pixels.shape or ()) != 4 or len(state.shape or ()) != 1:
            raise UserError(f"{task}: expected state [S] and pixels uint8 [V, C, H, W], not {space}")
        return Dict({"state": Box(-np.inf, np.inf, state.shape, np.float32), "pixels": pixels})
    flat = gym.spaces.flatten_space(space)
    if not isinstance(flat, Box):
        raise UserError(f"{task}: observations {space} cannot be flattened to one vector")
    return Dict({"state": Box(-np.inf, np.inf, flat.shape, np.float32)})


def _has_image(space: gym.Space[Any]) -> bool:
    """Whether bytes [H, W, …] are among the observations."""
    if isinstance(space, Dict | Tuple):
        return any(map(_has_image, space.values() if isinstance(space, Dict) else space))
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) > 1


@cache  # once for the copies to train in and those to evaluate in
def _warn_of_flat_images(task: str) -> None:
    print(
        f"warning: {task}: images are flattened to plain numbers; a CNN sees those of a Dict of "
        '"state" [S] and "pixels" u8 [V, C, H, W]',
        file=sys.stderr,
    )


def _running_statistics(env: Environment) -> tuple[str, ...]:
    """The names of the wrappers that normalise by what they have seen so far."""
    names = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, NormalizeObservation | NormalizeReward):
            names.append(type(env).__name__)
        env = env.env
    return tuple(names)


@cache
def _warn_of_statistics(task: str, names: tuple[str, ...]) -> None:
    print(
        f"warning: {task}: every copy of the environment has its own running statistics "
        f"({', '.join(names)}), so that evaluations and a policy that is played later see other scales than "
        "training; a fixed one (TransformObservation, TransformReward) is the same everywhere",
        file=sys.stderr,
    )


def _interface(env: Environment, task: str, actions: ActionRange) -> Interface:
    """What the task is outside of rlzoo; `dt` is what Gymnasium's simulators call a step's length in s."""
    space = env.observation_space
    parts = space.spaces if isinstance(space, Dict) else {}
    keys = [f"{name} [{gym.spaces.flatdim(part)}]" for name, part in parts.items()]
    plain = all(type(part) is Box and isinstance(name, str) for name, part in parts.items())
    step = env.get_wrapper_attr("dt") if env.has_wrapper_attr("dt") else None
    return Interface(
        actions,
        observation=f"Gymnasium's of {task}" + (f", flattened: {', '.join(keys)}" if keys else ""),
        action=f"Gymnasium's of {task}",
        control_rate=round(1 / step, 6) if isinstance(step, float) and step > 0 else None,
        parts={str(name): part.shape for name, part in parts.items()} if plain else {},
    )


def _sizes(observations: Any, actions: Any, frame_stack: int) -> Spaces:
    (state_dim,), (action_dim,) = observations["state"].shape, actions.shape
    if "pixels" not in observations.spaces:
        return Spaces(state_dim, action_dim)
    views, channels, height, width = observations["pixels"].shape
    return Spaces(state_dim, action_dim, (views, frame_stack * channels, height, width), frame_stack)


# ---- Worker processes ------------------------------------------------------------------------------------


class _Workers(AsyncVectorEnv):
    """Worker processes, which close within seconds whatever their simulators are doing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Before `multiprocessing` waits for them on exit.
        util.Finalize(self, _kill, (self.processes,), exitpriority=10)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ask the processes to close their environments, also with a step under way; kill what is left."""
        pipes = [pipe for pipe in self.parent_pipes if pipe is not None]  # None: has reported a failure
        deadline = time.monotonic() + (0.0 if terminate else CLOSING)
        for pipe in pipes:
            with contextlib.suppress(OSError):  # it has ended already
                pipe.send(("close", None))
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        _kill(self.processes)
        for pipe in pipes:
            pipe.close()

    def end(self) -> str:
        """How the process that was lost has ended."""
        connection.wait([process.sentinel for process in self.processes], timeout=1.0)
        codes = [process.exitcode for process in self.processes if process.exitcode is not None]
        if not codes:
            return "for no known reason"
        return f"killed by {signal.Signals(-codes[0]).name}" if codes[0] < 0 else f"exit code {codes[0]}"


def _start_workers(task: str, make_envs: Sequence[Callable[[], Environment]]) -> _Workers:
    # So that PyTorch and Gymnasium are imported once, in the server that the workers are forked from.
    context = worker_context(__name__).get_start_method()
    make_lanes = [partial(_make_worker_lane, task, make_env, os.getpid()) for make_env in make_envs]
    try:
        # The lanes reset themselves (see `Lane`).
        return _Workers(make_lanes, context=context, autoreset_mode=AutoresetMode.DISABLED)
    except (EOFError, OSError) as error:
        raise SimulatorFailure(f"{task}: a simulator's process ended while it was starting") from error


def _make_seeded(make_env: Callable[[], Environment], seed: int) -> Environment:
    with global_generators_kept():
        seed_global_generators(seed)
        return make_env()


def _make_worker_lane(task: str, make_env: Callable[[], Environment], parent: int) -> Lane:
    if os.getpid() != parent:
        leave_signals_to_parent()
    return Lane(make_env(), task)


def _kill(processes: Sequence[Any]) -> None:
    for process in processes:
        process.kill()
        process.join()
