"""RLBench's tasks as a `VectorTask`.

The contract is `envs.rlbench.protocol`'s: actions in [-1, 1] stand for changes of the joint positions and the
gripper, scaled by the demonstrations; success ends an episode with reward 1. `envs.rlbench.simulator` has
all that comes from RLBench, `envs.rlbench.process` its processes.

Three things cut an episode short. All of them look like a time-out, with reward 0 and the last observation
repeated, and the next step begins a new episode:

* an action that RLBench refuses;
* a crash of the simulator, which is launched anew;
* resuming a run: CoppeliaSim's state cannot be saved, so that the episode under way is given up.
"""

# Methods of the protocol `VectorTask` are described there.
# ruff: noqa: D102

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from envs.checks import require_finite
from envs.rlbench.process import SimulatorCrash, SimulatorProcess
from envs.rlbench.protocol import (
    ACTION_DIM,
    DEFAULT_TIME_LIMIT,
    NUM_JOINTS,
    TIME_LIMITS,
    Demonstration,
    Images,
    is_within_limits,
    observation_state,
    robot_action,
)
from envs.rlbench.simulator import RENDER_SIZE, InvalidAction, Observation, check
from rlzoo.actions import ActionRange
from rlzoo.errors import SimulatorFailure, UserError
from rlzoo.types import Array, FloatArray, Spaces, Step

_MOST_LAUNCHES = 3  # attempts to begin an episode


def make(
    task: str, num_envs: int, actions: ActionRange, *, images: Images | None, render: bool = False
) -> RLBenchTask:
    """N copies of a task of RLBench, each with a CoppeliaSim in a process of its own.

    Args:
        task: RLBench's name, "open_drawer".
        num_envs: N, at least 1.
        actions: what -1 and 1 stand for, from the demonstrations.
        images: what ``obs["pixels"]`` shows; with None, ``obs["state"]`` includes the task's state instead.
        render: whether `RLBenchTask.render` is to work.

    Raises:
        UserError: RLBench, PyRep or CoppeliaSim is not installed (the message names what is missing), or
            there is no such task.
    """
    check(pixels=images is not None or render)
    lanes = [_Lane(task, actions, images, render=render and index == 0) for index in range(num_envs)]
    return RLBenchTask(task, lanes, images, render=render)


def collect_demonstrations(
    task: str,
    count: int,
    *,
    seed: int,
    images: Images | None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[list[Demonstration], int]:
    """Let RLBench plan and record demonstrations, at the protocol's settings.

    Args:
        task: RLBench's name.
        count: how many, of those that are slow enough (see `envs.rlbench.protocol.MAX_DELTA`).
        seed: decides their starts; the planner cannot be seeded.
        images: the views to record; None records none. The task's state is recorded always.
        report: is called with a line of progress after every demonstration.

    Returns:
        The demonstrations, and how many others moved too fast and were left out.

    Raises:
        UserError: as `make`, or RLBench fails again and again.
    """
    launch = partial(SimulatorProcess, task, images=images, task_state=True)
    simulator: SimulatorProcess | None = _first_launch(task, launch)
    generator = np.random.default_rng(seed)
    kept: list[Demonstration] = []
    too_fast = failures = 0
    try:
        while len(kept) < count:
            try:
                simulator = simulator or launch()
                demonstration = simulator.ask("demonstration", _draw_seed(generator))
            except SimulatorCrash as crash:
                simulator = None
                failures += 1
                if failures > count + _MOST_LAUNCHES:
                    raise UserError(f"{task}: RLBench makes no demonstrations ({crash})") from crash
                continue
            if is_within_limits(demonstration):
                kept.append(demonstration)
            else:
                too_fast += 1
            report(f"{len(kept)} of {count} demonstrations, {too_fast} too fast, {failures} failed")
            if too_fast > 10 * count:
                raise UserError(f"{task}: {too_fast} of RLBench's demonstrations move too fast")
    finally:
        if simulator is not None:
            simulator.close()
    return kept, too_fast


class RLBenchTask:
    """N environments behind the `VectorTask` protocol; their simulators work at the same time."""

    render_fps = 20.0

    def __init__(self, task: str, lanes: Sequence[_Lane], images: Images | None, *, render: bool) -> None:
        """Put lanes of one task together; see `make`."""
        self.task = task
        self.num_envs = len(lanes)
        pixels, stack = None, 1
        if images is not None:
            pixels, stack = (len(images.cameras), images.stack * 3, images.size, images.size), images.stack
        self.spaces = Spaces(lanes[0].state_dim, ACTION_DIM, pixels, stack)
        self._lanes = lanes
        self._can_render = render
        self._is_under_way = self._has_told = False

    def reset(self, seed: int) -> dict[str, Array]:
        seeds = np.random.SeedSequence(seed).generate_state(self.num_envs).tolist()
        for lane, own in zip(self._lanes, seeds, strict=True):
            lane.begin_reset(own)
        for lane in self._lanes:
            lane.finish()
        obs = self._observations()
        require_finite(self.task, obs, np.zeros(self.num_envs, np.float32), self._episode_steps)
        return obs

    def send(self, action: FloatArray) -> None:
        if np.shape(action) != (self.num_envs, ACTION_DIM):
            raise ValueError(f"actions {np.shape(action)}, expected {(self.num_envs, ACTION_DIM)}")
        assert not self._is_under_way, "send() was called before receive()"
        for lane, own in zip(self._lanes, action, strict=True):
            if lane.needs_reset:
                lane.begin_reset()
            else:
                lane.begin_step(own)
        self._is_under_way = True

    def receive(self) -> Step:
        assert self._is_under_way, "receive() was called without send()"
        self._is_under_way = False
        columns = zip(*(lane.finish() for lane in self._lanes), strict=True)
        types = (np.float32, np.bool_, np.bool_, np.float32)
        values = [np.array(column, dtype) for column, dtype in zip(columns, types, strict=True)]
        step = Step(self._observations(), *values)
        require_finite(self.task, step.obs, step.reward, self._episode_steps)
        return step

    def _episode_steps(self) -> list[int]:
        return [lane.steps for lane in self._lanes]

    def get_state(self) -> list[dict[str, Any]]:
        """What a resumed run needs; without the physics, which cannot be saved."""
        if not self._has_told:
            self._has_told = True
            _warn(f"{self.task}: a checkpoint cannot keep CoppeliaSim's scene; resuming begins new episodes")
        return [lane.get_state() for lane in self._lanes]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        """Put back what `get_state` returned; episodes under way end with their next step, as truncated.

        Raises:
            UserError: the state is of another task or number of environments.
        """
        if len(state) != self.num_envs:
            raise UserError(f"the saved state is of {len(state)} environments, this run has {self.num_envs}")
        for lane, own in zip(self._lanes, state, strict=True):
            lane.set_state(own)
        if not all(lane.needs_reset for lane in self._lanes):
            _warn(f"{self.task}: the checkpoint does not have CoppeliaSim's scene; new episodes begin")

    def render(self) -> npt.NDArray[np.uint8]:
        """The first environment's scene, RGB [192, 320, 3]; black where its simulator has crashed."""
        if not self._can_render:
            raise UserError(f"{self.task} draws no frames: it was made without render=True")
        return self._lanes[0].render()

    def restart(self) -> None:
        self._is_under_way = False
        self.close()  # the next reset launches them anew

    def close(self) -> None:
        for lane in self._lanes:
            lane.close()

    def _observations(self) -> dict[str, Array]:
        return {name: np.stack([lane.obs[name] for lane in self._lanes]) for name in self._lanes[0].obs}


class _Lane:
    """One simulator and its episode. `begin_reset` and `begin_step` start what `finish` waits for.

    Attributes:
        state_dim: S, the length of ``obs["state"]``.
        obs: the last observation: "state" f32 [S], with images also "pixels" u8 [V, 3, H, W].
        needs_reset: whether the episode has ended, so that the next step begins a new one.
        steps: how many the episode has had.
        crashes, invalid_actions: how often the simulator crashed, and how often RLBench refused an action.
    """

    def __init__(self, task: str, actions: ActionRange, images: Images | None, *, render: bool) -> None:
        """Launch the simulator; see `make` for the arguments."""
        sees_task = images is None
        self._launch = partial(SimulatorProcess, task, images=images, task_state=sees_task, render=render)
        simulator = _first_launch(task, self._launch)
        self._simulator: SimulatorProcess | None = simulator  # None after a crash
        self.state_dim = NUM_JOINTS + 1 + simulator.task_state_dim
        self.obs: dict[str, Array] = {}
        self.needs_reset = True
        self.crashes = self.invalid_actions = 0
        self._task, self._actions, self._images = task, actions, images
        self._limit = TIME_LIMITS.get(task, DEFAULT_TIME_LIMIT)
        self._seeds = np.random.default_rng()
        self.steps = 0
        self._seed: int | None = None  # of the episode that is beginning, while it is
        self._is_lost = False  # the episode under way cannot go on

    def begin_reset(self, seed: int | None = None) -> None:
        """Begin an episode; a `seed` decides it and all that follow."""
        if seed is not None:
            self._seeds = np.random.default_rng(seed)
        self._seed = _draw_seed(self._seeds)
        if self._simulator is not None:
            self._simulator.send("reset", self._seed)

    def begin_step(self, action: FloatArray) -> None:
        """Take an action [8] in [-1, 1]."""
        if not self._is_lost:
            robot = robot_action(self._actions, action)
            robot[-1] = robot[-1] > 0.5
            assert self._simulator is not None
            self._simulator.send("step", robot)

    def finish(self) -> tuple[float, bool, bool, float]:
        """Wait for what was begun. Returns reward, terminated, truncated and success (NaN after a reset).

        Raises:
            SimulatorFailure: the simulator cannot be made to begin an episode.
        """
        if self._seed is not None:
            self._finish_reset(self._seed)
            self._seed = None
            return 0.0, False, False, np.nan
        self.steps += 1
        self.needs_reset = True
        cut = 0.0, False, True, 0.0
        if self._is_lost:
            return cut
        assert self._simulator is not None
        try:
            observation, solved, over = self._simulator.receive()
        except InvalidAction as invalid:
            self.invalid_actions += 1
            # The 1st, 2nd, 4th, 8th, …: a policy that is refused all the time must not fill the screen.
            if self.invalid_actions & (self.invalid_actions - 1) == 0:
                _warn(f"{self._task}: action refused ({invalid}), {self.invalid_actions} so far; episode cut")
            return cut
        except SimulatorCrash as crash:
            self._lose(crash, "the episode is cut, a new one begins")
            return cut
        self._observe(observation)
        truncated = not over and self.steps >= self._limit
        self.needs_reset = over or truncated
        return float(solved), over, truncated, float(solved)

    def _finish_reset(self, seed: int) -> None:
        for attempt in range(1, _MOST_LAUNCHES + 1):
            try:
                if self._simulator is None:
                    self._simulator = self._launch()
                    self._simulator.send("reset", seed)
                self._observe(self._simulator.receive())
                break
            except SimulatorCrash as crash:
                self._lose(crash, "it is launched anew")
                if attempt == _MOST_LAUNCHES:
                    raise SimulatorFailure(
                        f"{self._task}: RLBench does not begin an episode ({crash})"
                    ) from crash
        self.steps = 0
        self.needs_reset = self._is_lost = False

    def _lose(self, crash: SimulatorCrash, consequence: str) -> None:
        """Count and report a crash. The simulator's process has ended; the next reset launches a new one."""
        self._simulator = None
        self.crashes += 1
        _warn(f"{self._task}: RLBench's simulator crashed ({crash}), {self.crashes} so far; {consequence}")

    def _observe(self, observation: Observation) -> None:
        task_state = observation.task_state if self._images is None else None
        state = observation_state(observation.joint_positions, observation.gripper_open, task_state)
        if len(state) != self.state_dim:
            raise UserError(f"{self._task}: its state had {self.state_dim} numbers, now it has {len(state)}")
        self.obs = {"state": state}
        if observation.frames is not None:
            self.obs["pixels"] = observation.frames

    def render(self) -> npt.NDArray[np.uint8]:
        """The scene, RGB [192, 320, 3]; black without a simulator."""
        if self._simulator is not None:
            try:
                frame: npt.NDArray[np.uint8] = self._simulator.ask("render")
                return frame
            except SimulatorCrash as crash:
                self._lose(crash, "the episode is cut, a new one begins")
                self._is_lost = True
        width, height = RENDER_SIZE
        return np.zeros((height, width, 3), np.uint8)

    def get_state(self) -> dict[str, Any]:
        """The seeds of the episodes to come, the last observation and whether the episode has ended."""
        return {
            "seeds": self._seeds.bit_generator.state,
            "obs": {name: torch.from_numpy(value.copy()) for name, value in self.obs.items()},
            "needs_reset": self.needs_reset,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `get_state` returned; an episode under way is lost."""
        try:
            self._seeds.bit_generator.state = state["seeds"]
            obs = {name: value.numpy() for name, value in state["obs"].items()}
            self.needs_reset = state["needs_reset"]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{self._task}: the saved state is of another task ({error})") from error
        expected: dict[str, tuple[int, ...]] = {"state": (self.state_dim,)}
        if self._images is not None:
            expected["pixels"] = (len(self._images.cameras), 3, self._images.size, self._images.size)
        if {name: value.shape for name, value in obs.items()} != expected:
            raise UserError(f"{self._task}: the saved state is of a task with other observations")
        self.obs = obs
        self._is_lost = not self.needs_reset

    def close(self) -> None:
        """End CoppeliaSim; a second call does nothing."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None


def _first_launch(task: str, launch: Callable[[], SimulatorProcess]) -> SimulatorProcess:
    try:
        return launch()
    except SimulatorCrash as crash:
        raise UserError(f"{task}: RLBench does not start ({crash})") from crash


def _draw_seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**32))  # what NumPy's global generator takes


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
