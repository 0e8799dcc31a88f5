"""Gymnasium environments as a `VectorTask`: N copies, stepped in this process or in one process each."""

from __future__ import annotations

import copy
import math
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Dict
from gymnasium.utils import seeding
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from torch import Tensor

from rlzoo.errors import UserError
from rlzoo.types import Array, FloatArray, Spaces, Step

Environment = gym.Env[Any, Any]
Observation = Array | dict[str, Array]  # a vector [S], or {"state": [S], "pixels": u8 [V, C, H, W]}


class Lane(gym.Wrapper[Observation, FloatArray, Any, Any]):
    """The outermost wrapper of one environment: what every task looks like to the rest of the code.

    * Actions are vectors [A] in [-1, 1], clipped to that and mapped linearly to the environment's bounds.
    * Observations are float32 vectors [S]; Dict spaces are flattened in Gymnasium's order (sorted keys). A
      Dict of exactly "state" [S] and "pixels" u8 [V, C, H, W] stays one.
    * `info` holds at most ``{"success": 0.0 or 1.0}``.
    * The step after an episode's end ignores its action and returns the first observation of a new episode
      with reward 0 and an empty `info`. The lane does this itself, so that what a restored snapshot does next
      depends on the snapshot alone and not on a flag that a vector environment keeps elsewhere.

    Attributes:
        needs_reset: whether the episode has ended, so that the next step begins a new one.

    Raises:
        UserError: the action space is not a bounded Box of floats, or the observations are not numbers.
    """

    def __init__(self, env: Environment, task: str) -> None:
        super().__init__(env)
        actions = env.action_space
        is_continuous = isinstance(actions, Box) and np.issubdtype(actions.dtype, np.floating)
        if not (isinstance(actions, Box) and is_continuous and actions.is_bounded()):
            shown = " ".join(str(actions).split())
            raise UserError(f"{task}: agents need actions in a bounded Box of floats, not in {shown}")
        self.task = task
        self.needs_reset = False
        self.action_space = Box(-1.0, 1.0, (actions.low.size,), np.float32)
        self.observation_space = _agent_space(env.observation_space, task)  # type: ignore[assignment]
        self._inner_observations = env.observation_space
        self._passes = isinstance(self.observation_space, Dict) or (
            isinstance(env.observation_space, Box) and len(env.observation_space.low.shape) == 1
        )
        # Mapped in float64, so that rounding to the environment's dtype hits its bounds exactly.
        self._low, self._high = actions.low.ravel(), actions.high.ravel()  # [A]
        self._centre = (self._high.astype(np.float64) + self._low) / 2
        self._half_width = (self._high.astype(np.float64) - self._low) / 2
        self._is_unit = bool(np.all(self._low == -1) and np.all(self._high == 1))
        self._action_shape, self._action_dtype = actions.low.shape, actions.low.dtype

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode. Returns the observation (see the class) and an empty dict."""
        try:
            obs, _ = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._failure("reset", error) from error
        self.needs_reset = False
        return _copied(self._flat(obs)), {}

    def step(self, action: FloatArray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take action [A]. Returns obs, reward, terminated, truncated and info (see the class)."""
        obs, reward, terminated, truncated, success = self.advance(self.inner_action(action))
        info = {} if math.isnan(success) else {"success": success}
        return _copied(obs), float(reward), bool(terminated), bool(truncated), info

    def inner_action(self, action: FloatArray) -> Array:
        """Map actions [..., A] from [-1, 1] to the environment's bounds, shape and dtype."""
        # Clipped after the mapping: the same as before it, and no rounding can leave the bounds. Always a new
        # array, because some environments keep the last action.
        inner: Array = action if self._is_unit else action * self._half_width + self._centre
        inner = np.minimum(np.maximum(inner, self._low), self._high)
        return inner.astype(self._action_dtype, copy=False).reshape(*action.shape[:-1], *self._action_shape)

    def advance(self, inner_action: Array) -> tuple[Observation, float, bool, bool, float]:
        """`step` without the conversions, for a loop over lanes that does them for all at once.

        Takes what `inner_action` returns. Returns obs in the environment's dtype and possibly its memory,
        reward, terminated, truncated, and success: 1, 0 or NaN where the task does not say.
        """
        if self.needs_reset:
            return self.reset()[0], 0.0, False, False, np.nan
        try:
            obs, reward, terminated, truncated, info = self.env.step(inner_action)
        except Exception as error:
            raise self._failure("step", error) from error
        self.needs_reset = bool(terminated or truncated)
        success = info.get("success", info.get("is_success", np.nan))
        # Gymnasium types the reward as SupportsFloat: whoever stores it in an array converts it.
        return self._flat(obs), reward, terminated, truncated, float(success)  # type: ignore[return-value]

    def render(self) -> Any:
        """The current frame, RGB u8 [H, W, 3], or None where the environment was made without rendering."""
        if self.render_mode is None:
            return None
        try:
            return self.env.render()
        except gym.error.DependencyNotInstalled as error:
            raise UserError(f"{self.task}: {error}") from error

    @property
    def snapshot(self) -> dict[str, Any]:
        """All that the environment needs to go on bit for bit: dicts, lists, numbers, strings, NumPy arrays.

        It holds, for every environment in the chain of wrappers and inside their attributes, the attributes
        that are plain values and the random generators; and for MuJoCo the simulator's arrays. What other
        simulators (Box2D) keep outside Python is not seen: there a restored lane goes on from another state.
        """
        environments = _environments(self.env)
        return {
            "needs_reset": self.needs_reset,
            "environments": [_attributes(env) for env in environments],
            "physics": [_physics(model, data) for model, data in _simulations(environments)],
        }

    @snapshot.setter
    def snapshot(self, state: Mapping[str, Any]) -> None:
        environments = _environments(self.env)
        simulations = _simulations(environments)
        try:
            for env, attributes in zip(environments, state["environments"], strict=True):
                _restore_attributes(env, attributes)
            for (model, data), physics in zip(simulations, state["physics"], strict=True):
                _restore_physics(model, data, physics)
        except (AttributeError, KeyError, ValueError) as error:
            raise UserError(
                f"{self.task}: the saved state is of another task or version of the simulator ({error})"
            ) from error
        self.needs_reset = state["needs_reset"]

    def _flat(self, obs: Any) -> Observation:
        if self._passes:
            return obs  # type: ignore[no-any-return]
        return np.asarray(gym.spaces.flatten(self._inner_observations, obs))

    def _failure(self, where: str, error: Exception) -> RuntimeError:
        # One argument, so that Gymnasium can rebuild it when it comes from another process.
        return RuntimeError(f"{self.task}: environment failed in {where}(): {type(error).__name__}: {error}")


class GymVectorTask:
    """N Gymnasium environments behind the `VectorTask` protocol.

    ``processes=False`` steps them one after the other in `receive`, in a loop that adds 4 % to HalfCheetah's
    own time where SyncVectorEnv adds 17 %. ``processes=True`` gives each its own process through
    AsyncVectorEnv, and the simulators run between `send` and `receive` while the caller trains. Results are
    the same either way. All arrays returned are the caller's own.

    Attributes:
        task: the name used in error messages.
        num_envs: N.
        spaces: the sizes of observations and actions.
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
            task: the name to use in error messages.
            make_envs: one function per copy that makes its environment; with `processes` it must pickle (as
                cloudpickle does) and is also called once in this process, to learn the spaces.
            processes: whether every copy runs in a process of its own. The main script needs the usual guard
                (``if __name__ == "__main__"``), because the processes import it.
            frame_stack: F, the frames that agents see at once; the environments return one at a time, and
                whoever samples or acts stacks them. Tasks without images take no notice.

        Raises:
            UserError: there is no copy, or the task's spaces do not suit (see `Lane`).
        """
        if not make_envs:
            raise UserError(f"{task}: at least one copy of the environment is needed")
        self.task = task
        self.num_envs = len(make_envs)
        self._lanes: list[Lane] = []
        self._workers: AsyncVectorEnv | None = None
        self._action: FloatArray | None = None  # [N, A], between `send` and `receive`
        self._closed = False
        if processes:
            self._workers = _start_workers(task, make_envs)
            spaces = self._workers.single_observation_space, self._workers.single_action_space
        else:
            self._lanes = [Lane(make_env(), task) for make_env in make_envs]
            spaces = self._lanes[0].observation_space, self._lanes[0].action_space
        self.spaces = _agent_sizes(*spaces, frame_stack)

    @property
    def render_fps(self) -> float:
        """Frames per second at which `render`'s frames are the task's own speed; 30 if it does not say."""
        return float(self._lanes[0].metadata.get("render_fps") or 30) if self._lanes else 30.0

    def reset(self, seed: int) -> dict[str, Array]:
        """Begin an episode in every lane; ``seed >= 0`` alone decides what follows.

        Every lane gets its own seed, drawn by a hash of `seed`: seeds 1 and 2 have no lane's in common, as
        they would have if lane i had seed + i.
        """
        self._check_idle()
        seeds = np.random.SeedSequence(seed).generate_state(self.num_envs).tolist()
        if self._workers is not None:
            with self._worker_errors():
                return _named(self._workers.reset(seed=seeds)[0])
        observations = [_named(lane.reset(seed=s)[0]) for lane, s in zip(self._lanes, seeds, strict=True)]
        return {name: np.stack([obs[name] for obs in observations]) for name in observations[0]}

    def send(self, action: FloatArray) -> None:
        """Begin a step with actions [N, A] in [-1, 1]; they are copied. `receive` must follow."""
        self._check_idle()
        action = np.array(action, dtype=np.float32)
        if action.shape != (self.num_envs, self.spaces.action_dim):
            raise ValueError(f"actions {action.shape}, expected {(self.num_envs, self.spaces.action_dim)}")
        if self._workers is not None:
            with self._worker_errors():
                self._workers.step_async(action)
        self._action = action

    def receive(self) -> Step:
        """Finish the step begun by `send`.

        Raises:
            RuntimeError: an environment failed; its name and the cause are in the message.
        """
        if self._action is None:
            raise RuntimeError("receive() was called without send()")
        action, self._action = self._action, None
        return self._step_workers(self._workers) if self._workers is not None else self._step_lanes(action)

    def get_state(self) -> list[dict[str, Any]]:
        """A snapshot per lane: dicts, lists, numbers, strings and tensors, as `torch.load` allows them."""
        self._check_idle()
        if self._workers is not None:
            with self._worker_errors():
                snapshots = list(self._workers.get_attr("snapshot"))
        else:
            snapshots = [lane.snapshot for lane in self._lanes]
        return [_convert(snapshot, _to_tensor) for snapshot in snapshots]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        """Put back what `get_state` returned, in a task of the same kind and number of lanes.

        Raises:
            UserError: the state is of another task, number of lanes or version of the simulator.
        """
        self._check_idle()
        if len(state) != self.num_envs:
            raise UserError(
                f"{self.task}: the saved state is of {len(state)} environments, this run has {self.num_envs}"
            )
        snapshots = [_convert(snapshot, _from_tensor) for snapshot in state]
        if self._workers is not None:
            with self._worker_errors():
                self._workers.set_attr("snapshot", snapshots)
        for lane, snapshot in zip(self._lanes, snapshots, strict=False):
            lane.snapshot = snapshot

    def render(self) -> npt.NDArray[np.uint8]:
        """The first lane's current frame, RGB [H, W, 3].

        Raises:
            RuntimeError: the task was made without rendering.
        """
        if self._workers is not None:
            with self._worker_errors():
                frame = self._workers.call("render")[0]
        else:
            frame = self._lanes[0].render()
        if frame is None:
            raise RuntimeError(f"{self.task} was made without render=True")
        return np.ascontiguousarray(frame, dtype=np.uint8)

    def close(self) -> None:
        """Free the simulators; a second call does nothing, and a simulator that has crashed is no error."""
        if self._closed:
            return
        self._closed = True
        for lane in self._lanes:
            lane.close()
        if self._workers is not None:
            _stop(self._workers, is_under_way=self._action is not None)

    def _step_lanes(self, action: FloatArray) -> Step:
        count = self.num_envs
        states = np.empty((count, self.spaces.state_dim), np.float32)
        pixels: list[Array] = []
        rewards, success = np.empty(count, np.float32), np.empty(count, np.float32)
        terminated, truncated = np.empty(count, np.bool_), np.empty(count, np.bool_)
        inner = self._lanes[0].inner_action(action)  # [N, ...], all lanes have the same bounds
        for i, lane in enumerate(self._lanes):
            obs, rewards[i], terminated[i], truncated[i], success[i] = lane.advance(inner[i])
            if isinstance(obs, dict):
                states[i] = obs["state"]
                pixels.append(obs["pixels"])
            else:
                states[i] = obs
        observations = {"state": states} | ({"pixels": np.stack(pixels)} if pixels else {})
        return Step(observations, rewards, terminated, truncated, success)

    def _step_workers(self, workers: AsyncVectorEnv) -> Step:
        with self._worker_errors():
            obs, rewards, terminated, truncated, infos = workers.step_wait()
        success = np.full(self.num_envs, np.nan, np.float32)
        if "success" in infos:
            known = infos["_success"]  # [N], lanes that have just begun an episode say nothing
            success[known] = infos["success"][known]
        return Step(_named(obs), rewards.astype(np.float32), terminated, truncated, success)

    def _check_idle(self) -> None:
        if self._action is not None:
            raise RuntimeError("a step is under way: receive() must follow send() first")

    @contextmanager
    def _worker_errors(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            assert self._workers is not None
            _kill(self._workers)
            raise RuntimeError(
                f"{self.task}: a simulator's process ended unexpectedly (killed, or out of memory?)"
            ) from error


# ---- Observations ----------------------------------------------------------------------------------------


def _agent_space(space: gym.Space[Any], task: str) -> Box | Dict:
    """The space of a lane's observations, from the environment's."""
    if isinstance(space, Dict) and set(space) == {"state", "pixels"}:
        state, pixels = space["state"], space["pixels"]
        if pixels.dtype != np.uint8 or len(pixels.shape or ()) != 4 or len(state.shape or ()) != 1:
            raise UserError(f"{task}: expected state [S] and pixels uint8 [V, C, H, W], not {space}")
        return Dict({"state": Box(-np.inf, np.inf, state.shape, np.float32), "pixels": pixels})
    flat = gym.spaces.flatten_space(space)
    if not isinstance(flat, Box):
        raise UserError(f"{task}: observations {space} cannot be flattened to one vector")
    return Box(-np.inf, np.inf, flat.shape, np.float32)


def _agent_sizes(observations: gym.Space[Any], actions: gym.Space[Any], frame_stack: int) -> Spaces:
    action_dim = gym.spaces.flatdim(actions)
    if not isinstance(observations, Dict):
        return Spaces(state_dim=gym.spaces.flatdim(observations), action_dim=action_dim)
    views, channels, height, width = observations["pixels"].shape or ()
    return Spaces(
        state_dim=gym.spaces.flatdim(observations["state"]),
        action_dim=action_dim,
        pixels=(views, frame_stack * channels, height, width),
        frame_stack=frame_stack,
    )


def _copied(obs: Observation) -> Observation:
    """The caller's own copy, the vector in float32."""
    if isinstance(obs, dict):
        return {"state": np.array(obs["state"], dtype=np.float32), "pixels": np.array(obs["pixels"])}
    return np.array(obs, dtype=np.float32)


def _named(obs: Observation) -> dict[str, Array]:
    return obs if isinstance(obs, dict) else {"state": obs}


# ---- Worker processes ------------------------------------------------------------------------------------


def _start_workers(task: str, make_envs: Sequence[Callable[[], Environment]]) -> AsyncVectorEnv:
    # So that PyTorch and Gymnasium are imported once, in the server that the workers are forked from.
    multiprocessing.set_forkserver_preload(["__main__", __name__])
    make_lanes = [partial(_make_worker_lane, task, make_env, os.getpid()) for make_env in make_envs]
    # Ctrl-C goes to every process of the terminal. Blocked here, it is blocked in the children from their
    # first instruction on, so none of them prints a traceback; this process gets it when all have started.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        # The lanes reset themselves (see `Lane`). A fork server, because forking a process that has threads
        # and a CUDA context is unsafe.
        return AsyncVectorEnv(make_lanes, context="forkserver", autoreset_mode=AutoresetMode.DISABLED)
    except (EOFError, OSError) as error:
        raise RuntimeError(f"{task}: a simulator's process ended while it was starting") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _make_worker_lane(task: str, make_env: Callable[[], Environment], parent: int) -> Lane:
    if os.getpid() != parent:
        # The parent answers SIGINT and SIGTERM with a checkpoint, for which it needs the workers alive: take
        # them out of the process group that Ctrl-C and `timeout` signal.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.setsid()
    return Lane(make_env(), task)


def _stop(workers: AsyncVectorEnv, *, is_under_way: bool) -> None:
    try:
        if is_under_way:
            workers.step_wait()
        workers.close()
    except Exception:
        _kill(workers)


def _kill(workers: AsyncVectorEnv) -> None:
    """End the processes when one of them is lost, and the others cannot be asked to leave."""
    for process in workers.processes:
        process.kill()
        process.join()
    workers.closed = True


# ---- Snapshots -------------------------------------------------------------------------------------------

# How an environment was made and shown, not what has happened in it: a run may be resumed with another
# installation or other rendering.
_NOT_STATE = {"render_mode", "width", "height", "fullpath", "tmp_xml_file_path"}
_NOT_STATE |= {"_ezpickle_args", "_ezpickle_kwargs", "_saved_kwargs"}
_SCALARS = (type(None), bool, int, float, str)

# The parts of an MjModel that tasks change when they reset (Adroit: body_pos, body_quat, site_pos; Fetch and
# the hands: site_pos, site_rgba, geom_rgba), and those that domain randomisation changes. The rest is meshes,
# textures and the structure of the model.
_MODEL_PARTS = re.compile("(body|jnt|dof|geom|site|cam|light|mat|eq|tendon|actuator)_")


def _environments(root: Environment) -> list[Environment]:
    """`root` and all environments inside it, as wrapped (`env`) or otherwise held (kitchen's `robot_env`)."""
    found = [root]
    for env in found:  # grows while we walk it
        for value in vars(env).values():
            if isinstance(value, gym.Env) and all(value is not other for other in found):
                found.append(value)
    return found


def _attributes(env: Environment) -> dict[str, Any]:
    state = {name: value for name, value in vars(env).items() if name not in _NOT_STATE}
    return {
        "class": type(env).__name__,
        "values": {name: copy.deepcopy(value) for name, value in state.items() if _is_plain(value)},
        "generators": {
            name: value.bit_generator.state
            for name, value in state.items()
            if isinstance(value, np.random.Generator)
        },
    }


def _restore_attributes(env: Environment, saved: Mapping[str, Any]) -> None:
    if saved["class"] != type(env).__name__:
        raise ValueError(f"{saved['class']} found, {type(env).__name__} expected")
    present = vars(env)
    for name, value in saved["values"].items():
        if name not in present or _is_plain(present[name]):
            present[name] = copy.deepcopy(value)
    for name, state in saved["generators"].items():
        if not isinstance(present.get(name), np.random.Generator):
            present[name] = seeding.np_random(0)[0]
        present[name].bit_generator.state = state


def _is_plain(value: object) -> bool:
    """Whether `value` is made of numbers, strings and arrays of its own only, which `torch.load` allows."""
    if isinstance(value, np.ndarray):
        return value.dtype.char in "?bBhHiIlLqQefdFD" and not _is_foreign(value)
    if type(value) is dict:
        return all(type(key) in _SCALARS for key in value) and all(map(_is_plain, value.values()))
    if type(value) is set:
        return all(type(item) in _SCALARS for item in value)
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))  # type: ignore[call-overload]
    return type(value) in _SCALARS or isinstance(value, (np.number, np.bool_))


def _is_foreign(array: Array) -> bool:
    """Whether the array is a view of the simulator's memory, as kitchen's `init_qvel` is of `data.qvel`."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return type(array.base).__name__ == "PyCapsule"


def _simulations(environments: Sequence[Environment]) -> list[tuple[Any, Any]]:
    """Every pair of MjModel and MjData that the environments hold, once."""
    mujoco = sys.modules.get("mujoco")  # not imported: no environment of it
    if mujoco is None:
        return []
    held = [(vars(env).get("model"), vars(env).get("data")) for env in environments]
    return list({id(pair[1]): pair for pair in held if isinstance(pair[1], mujoco.MjData)}.values())


def _physics(model: Any, data: Any) -> dict[str, Any]:
    return {
        "time": float(data.time),
        "data": _pack(_data_arrays(data)),
        "model": _pack(_model_arrays(model)),
    }


def _restore_physics(model: Any, data: Any, saved: Mapping[str, Any]) -> None:
    import mujoco

    _unpack(saved["model"], _model_arrays(model))
    _unpack(saved["data"], _data_arrays(data))
    data.time = saved["time"]
    mujoco.mj_forward(model, data)  # makes the contacts and constraints
    _unpack(saved["data"], _data_arrays(data))


def _data_arrays(data: Any) -> dict[str, Array]:
    """The arrays of an MjData that last from step to step.

    Derived quantities are among them, because environments read them before they step (Ant's `xpos`) or
    without stepping (Humanoid's `cinert`), and after a step they are those of the position before it.
    Contacts, constraints and islands are not: every step makes them anew in an arena, of which they may be a
    stale part, so that writing to them may overwrite something else. What lasts is in one buffer that begins
    with `qpos`.
    """
    start = data.qpos.ctypes.data
    arrays = {
        name: array
        for name, array in _arrays(data, dir(data)).items()
        if 0 <= array.ctypes.data - start < data.nbuffer and name != "plugin_data"  # which holds addresses
    }
    return arrays | {"energy": data.energy}


def _model_arrays(model: Any) -> dict[str, Array]:
    """The arrays of an MjModel that a task may have changed."""
    return _arrays(model, filter(_MODEL_PARTS.match, dir(model)))


def _arrays(struct: Any, names: Iterable[str]) -> dict[str, Array]:
    values = {name: getattr(struct, name) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray) and value.size}


def _pack(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Several hundred small arrays as one, which makes checkpoints of many lanes quick to write and read."""
    content = b"".join(array.tobytes() for array in arrays.values())
    return {"layout": _layout(arrays), "bytes": np.frombuffer(content, np.uint8)}


def _unpack(packed: Mapping[str, Any], targets: Mapping[str, Array]) -> None:
    """Write into `targets` what `_pack` made of arrays of the same names, types and shapes."""
    differing = sorted(set(packed["layout"]) ^ set(_layout(targets)))
    if differing:
        raise ValueError(f"the simulator's arrays differ, such as {differing[0]}")
    offset = 0
    for array in targets.values():
        content = packed["bytes"][offset : offset + array.nbytes]
        array[...] = content.view(array.dtype).reshape(array.shape)
        offset += array.nbytes


def _layout(arrays: Mapping[str, Array]) -> list[str]:
    return [f"{name} {array.dtype} {array.shape}" for name, array in arrays.items()]


def _convert(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """`value` with `leaf` applied to everything that is not a dict, list or tuple."""
    if isinstance(value, dict):
        return {key: _convert(item, leaf) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_convert(item, leaf) for item in value)
    return leaf(value)


def _to_tensor(value: Any) -> Any:
    # Not done in the workers: PyTorch would send every tensor as a shared-memory file.
    return torch.from_numpy(np.array(value)) if isinstance(value, (np.ndarray, np.generic)) else value


def _from_tensor(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    array = value.cpu().numpy().copy()
    # NumPy's scalars were saved as arrays without dimensions.
    return array if array.ndim else array[()]
