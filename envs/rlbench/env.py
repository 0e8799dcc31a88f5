"""RLBench's tasks as a `VectorTask` and as a Gymnasium environment.

The contract is `envs.rlbench.protocol`'s: actions in [-1, 1] stand for changes of the joint positions and the
gripper, scaled by the demonstrations; success ends an episode with reward 1. `envs.rlbench.simulator` has
all that comes from RLBench, `envs.rlbench.process` its processes.

Three things cut an episode short. All of them look like a time-out, with reward 0 and the last observation
repeated, and the next step begins a new episode:

* an action that RLBench refuses;
* a crash of the simulator, which is launched anew;
* resuming a run: CoppeliaSim's state cannot be saved, so that the episode under way is given up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box

from envs.rlbench.process import SimulatorCrash, SimulatorProcess
from envs.rlbench.protocol import (
    ACTION_DIM,
    DEFAULT_TIME_LIMIT,
    NUM_JOINTS,
    TIME_LIMITS,
    Demonstration,
    Images,
    observation_state,
    robot_action,
    within_limits,
)
from envs.rlbench.simulator import RENDER_SIZE, InvalidAction, Observation, check
from rlzoo.actions import ActionRange
from rlzoo.errors import UserError
from rlzoo.types import Array, FloatArray, Spaces, Step

Obs = dict[str, Array]
StepResult = tuple[Obs, float, bool, bool, dict[str, Any]]

_MOST_LAUNCHES = 3  # in a row without an episode begun


def make(
    task: str,
    num_envs: int,
    actions: ActionRange,
    *,
    images: Images | None,
    variation: int = 0,
    render: bool = False,
) -> RLBenchTask:
    """N copies of a task of RLBench, each with a CoppeliaSim in a process of its own.

    Args:
        task: RLBench's name, "open_drawer".
        num_envs: N.
        actions: what -1 and 1 stand for, from the demonstrations.
        images: of ``obs["pixels"]``; None for observations of the state, with the task's.
        variation: which of the task's variations; the protocol uses 0.
        render: whether `RLBenchTask.render` is to work.

    Raises:
        UserError: RLBench, PyRep or CoppeliaSim is not installed (the message names what is missing), or
            there is no such task, camera or variation.
    """
    check(pixels=images is not None or render)
    return RLBenchTask(
        [
            RLBenchEnv(
                task,
                actions,
                images=images,
                variation=variation,
                render_mode="rgb_array" if render and index == 0 else None,
            )
            for index in range(num_envs)
        ],
        frame_stack=1 if images is None else images.stack,
    )


def collect_demonstrations(
    task: str,
    count: int,
    *,
    seed: int,
    images: Images | None,
    variation: int = 0,
    report: Callable[[str], None] | None = None,
) -> tuple[list[Demonstration], int]:
    """Let RLBench plan and record demonstrations, at the protocol's settings.

    Args:
        task: RLBench's name.
        count: how many, of those that are slow enough (see `envs.rlbench.protocol.MAX_DELTA`).
        seed: decides their starts; the planner cannot be seeded.
        images: the views to record; None records none. The task's state is recorded always.
        variation: which of the task's variations.
        report: is told of every demonstration in a line.

    Returns:
        The demonstrations, and how many others moved too fast and were left out.

    Raises:
        UserError: as `make`, or RLBench fails again and again.
    """
    launcher = _Launcher(task, {"images": images, "variation": variation, "task_state": True})
    generator = np.random.default_rng(seed)
    kept: list[Demonstration] = []
    too_fast = failures = 0
    try:
        while len(kept) < count:
            try:
                demonstration = launcher.running().ask("demonstration", _draw_seed(generator))
            except SimulatorCrash as crash:
                launcher.lose(crash)
                failures += 1
                if failures > count + _MOST_LAUNCHES:
                    raise UserError(f"{task}: RLBench makes no demonstrations ({crash})") from crash
                continue
            if within_limits([demonstration]):
                kept.append(demonstration)
            else:
                too_fast += 1
            if report is not None:
                report(f"{len(kept)} of {count} demonstrations, {too_fast} too fast, {failures} failed")
            if too_fast > 10 * count:
                raise UserError(f"{task}: {too_fast} of RLBench's demonstrations move too fast")
    finally:
        launcher.close()
    return kept, too_fast


class RLBenchEnv(gym.Env[Obs, FloatArray]):
    """A task of RLBench with Gymnasium's API.

    Observations are ``{"state": f32 [8], "pixels": u8 [V, 3, H, W]}``, or without cameras
    ``{"state": f32 [8 + K]}`` with the task's state. `info` has "success", 1.0 or 0.0, and after a step that
    cut the episode short "cut", the reason. For several environments at once, `begin_reset` and `begin_step`
    start what `finish` waits for.

    Attributes:
        crashes: how often the simulator had to be launched anew.
        invalid_actions: how often RLBench refused an action.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  (Gymnasium's)

    def __init__(
        self,
        task: str,
        actions: ActionRange,
        *,
        images: Images | None,
        variation: int = 0,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Launch the simulator.

        Args:
            task: RLBench's name.
            actions: what -1 and 1 stand for.
            images: the views; None for observations of the state.
            variation: which of the task's variations.
            max_episode_steps: the time limit; None takes the protocol's.
            render_mode: "rgb_array" or None.

        Raises:
            UserError: as `make`.
        """
        self.task = task
        self.render_mode = render_mode
        self.crashes = 0
        self.invalid_actions = 0
        self._actions, self._images = actions, images
        self._limit = max_episode_steps or TIME_LIMITS.get(task, DEFAULT_TIME_LIMIT)
        self._seeds = np.random.default_rng()
        self._steps = 0
        self._obs: Obs | None = None  # the last one
        self._lost: str | None = None  # why the episode under way cannot go on
        self._seed: int | None = None  # of the episode that is beginning, while it is
        options = {"images": images, "variation": variation, "task_state": images is None}
        self._launcher = _Launcher(task, options | {"render": render_mode is not None})
        state_dim = NUM_JOINTS + 1 + self._launcher.task_state_dim
        spaces: dict[str, gym.Space[Any]] = {"state": Box(-np.inf, np.inf, (state_dim,), np.float32)}
        if images is not None:
            shape = (len(images.cameras), 3, images.size, images.size)
            spaces["pixels"] = Box(0, 255, shape, np.uint8)
        self.observation_space = gym.spaces.Dict(spaces)  # type: ignore[assignment]
        self.action_space = Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Begin an episode. With a `seed` this and all that follow are decided by it."""
        super().reset(seed=seed)
        self.begin_reset(seed)
        return self.finish()[0], {}

    def step(self, action: FloatArray) -> StepResult:
        """Take an action [8] in [-1, 1]."""
        self.begin_step(action)
        return self.finish()

    def begin_reset(self, seed: int | None = None) -> None:
        """Start what `reset` does; `finish` returns it like a step with reward 0."""
        if seed is not None:
            self._seeds = np.random.default_rng(seed)
        self._seed = _draw_seed(self._seeds)
        try:
            self._launcher.running().send("reset", self._seed)
        except SimulatorCrash as crash:  # `finish` tries again
            self._launcher.lose(crash)

    def begin_step(self, action: FloatArray) -> None:
        """Start what `step` does."""
        if self._obs is None:
            raise RuntimeError("step() was called before reset()")
        if self._lost is None:
            robot = robot_action(self._actions, action)
            robot[-1] = robot[-1] > 0.5
            self._launcher.running().send("step", robot)

    def finish(self) -> StepResult:
        """Wait for what was begun.

        Raises:
            UserError: the simulator cannot be made to begin an episode.
        """
        if self._seed is not None:
            self._finish_reset(self._seed)
            self._seed = None
            return self._last_obs(), 0.0, False, False, {}
        if self._lost is not None:
            return self._cut(self._lost)
        self._steps += 1
        try:
            observation, solved, over = self._launcher.running().receive()
        except InvalidAction as invalid:
            self.invalid_actions += 1
            if _is_worth_saying(self.invalid_actions):
                _warn(f"{self.task}: action refused ({invalid}), {self.invalid_actions} so far; episode cut")
            return self._cut("invalid action")
        except SimulatorCrash as crash:
            self._count_crash(crash, "the episode is cut, a new one begins")
            return self._cut("simulator crash")
        self._obs = self._observe(observation)
        truncated = not over and self._steps >= self._limit
        return self._last_obs(), float(solved), over, truncated, {"success": float(solved)}

    def render(self) -> npt.NDArray[np.uint8]:
        """The scene from RLBench's camera for films, RGB [192, 320, 3]; black where the simulator is lost."""
        if self.render_mode is None:
            raise RuntimeError(f"{self.task} was made without render=True")
        width, height = RENDER_SIZE
        frame = np.zeros((height, width, 3), np.uint8)
        if self._lost == "simulator crash":  # counted already
            return frame
        try:
            frame = self._launcher.running(relaunch=False).ask("render")
        except SimulatorCrash as crash:
            self._count_crash(crash, "the episode is cut, a new one begins")
            self._lost = "simulator crash"
        return frame

    def close(self) -> None:
        """End CoppeliaSim."""
        self._launcher.close()

    def get_state(self) -> dict[str, Any]:
        """What a resumed run needs: the seeds of the episodes to come and the last observation."""
        return {
            "seeds": self._seeds.bit_generator.state,
            "obs": {name: torch.from_numpy(value.copy()) for name, value in self._last_obs().items()},
        }

    def set_state(self, state: Mapping[str, Any], *, under_way: bool) -> None:
        """Put back what `get_state` returned. An episode `under_way` ends with its next step."""
        try:
            self._seeds.bit_generator.state = state["seeds"]
            obs = {name: value.numpy() for name, value in state["obs"].items()}
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{self.task}: the saved state is of another task ({error})") from error
        if not self.observation_space.contains(obs):
            raise UserError(f"{self.task}: the saved state is of a task with other observations")
        self._obs = obs
        self._lost = "resumed" if under_way else None

    def _finish_reset(self, seed: int) -> None:
        for attempt in range(1, _MOST_LAUNCHES + 1):
            try:
                process = self._launcher.running(relaunch=attempt > 1)
                if attempt > 1:
                    process.send("reset", seed)
                self._obs = self._observe(process.receive())
                break
            except SimulatorCrash as crash:
                self._count_crash(crash, "it is launched anew")
                if attempt == _MOST_LAUNCHES:
                    raise UserError(f"{self.task}: RLBench does not begin an episode ({crash})") from crash
        self._steps = 0
        self._lost = None

    def _count_crash(self, crash: SimulatorCrash, consequence: str) -> None:
        self._launcher.lose(crash)
        self.crashes += 1
        _warn(f"{self.task}: RLBench's simulator crashed ({crash}), {self.crashes} so far; {consequence}")

    def _cut(self, reason: str) -> StepResult:
        self._lost = reason
        return self._last_obs(), 0.0, False, True, {"success": 0.0, "cut": reason}

    def _last_obs(self) -> Obs:
        assert self._obs is not None
        return {name: value.copy() for name, value in self._obs.items()}

    def _observe(self, observation: Observation) -> Obs:
        state = observation_state(
            observation.joint_positions,
            np.asarray(observation.gripper_open, np.float32),
            observation.task_state,
            with_task=self._images is None,
        )
        expected = self.observation_space["state"].shape  # type: ignore[index]
        if state.shape != expected:
            raise UserError(
                f"{self.task}: its state has the shape {state.shape} now, it had {expected} before"
            )
        return {"state": state} | ({} if observation.frames is None else {"pixels": observation.frames})


class RLBenchTask:
    """N environments behind the `VectorTask` protocol; their simulators work at the same time.

    Attributes:
        num_envs: N.
        spaces: the sizes of observations and actions; the pixels as an agent sees them, stacked.
    """

    def __init__(self, envs: Sequence[RLBenchEnv], *, frame_stack: int = 1) -> None:
        """Take over environments of one task, at least one; `frame_stack` images are an agent's view."""
        self.num_envs = len(envs)
        self._envs = list(envs)
        self._needs_reset = np.zeros(self.num_envs, np.bool_)
        self._is_under_way = False
        space: Any = envs[0].observation_space
        pixels = None
        if "pixels" in space.spaces:
            views, channels, height, width = space["pixels"].shape
            pixels = (views, frame_stack * channels, height, width)
        self.spaces = Spaces(
            state_dim=space["state"].shape[0],
            action_dim=ACTION_DIM,
            pixels=pixels,
            frame_stack=frame_stack,
        )

    @property
    def crashes(self) -> int:
        """How often a simulator had to be launched anew."""
        return sum(env.crashes for env in self._envs)

    @property
    def invalid_actions(self) -> int:
        """How often RLBench refused an action."""
        return sum(env.invalid_actions for env in self._envs)

    def reset(self, seed: int) -> Obs:
        """Begin an episode everywhere; ``seed >= 0`` alone decides the starts of all that follow."""
        self._check_idle()
        seeds = np.random.SeedSequence(seed).generate_state(self.num_envs).tolist()
        for env, own in zip(self._envs, seeds, strict=True):
            env.begin_reset(own)
        self._needs_reset[:] = False
        return _stack([env.finish()[0] for env in self._envs])

    def send(self, action: FloatArray) -> None:
        """Begin a step with actions [N, 8] in [-1, 1]; `receive` must follow."""
        self._check_idle()
        if np.shape(action) != (self.num_envs, ACTION_DIM):
            raise ValueError(f"actions {np.shape(action)}, expected {(self.num_envs, ACTION_DIM)}")
        for env, own, needs_reset in zip(self._envs, action, self._needs_reset, strict=True):
            if needs_reset:
                env.begin_reset()
            else:
                env.begin_step(own)
        self._is_under_way = True

    def receive(self) -> Step:
        """Finish the step begun by `send`."""
        if not self._is_under_way:
            raise RuntimeError("receive() was called without send()")
        self._is_under_way = False
        results = [env.finish() for env in self._envs]
        observations, rewards, terminated, truncated, infos = zip(*results, strict=True)
        self._needs_reset = np.logical_or(terminated, truncated)
        return Step(
            _stack(observations),
            np.array(rewards, np.float32),
            np.array(terminated, np.bool_),
            np.array(truncated, np.bool_),
            np.array([info.get("success", np.nan) for info in infos], np.float32),
        )

    def get_state(self) -> list[dict[str, Any]]:
        """What a resumed run needs, without the simulators' physics, which cannot be saved."""
        self._check_idle()
        flags = self._needs_reset.tolist()
        return [env.get_state() | {"needs_reset": flag} for env, flag in zip(self._envs, flags, strict=True)]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        """Put back what `get_state` returned; episodes under way end with their next step, as truncated.

        Raises:
            UserError: the state is of another task or number of environments.
        """
        self._check_idle()
        if len(state) != self.num_envs:
            raise UserError(f"the saved state is of {len(state)} environments, this run has {self.num_envs}")
        for env, own in zip(self._envs, state, strict=True):
            env.set_state(own, under_way=not own.get("needs_reset"))
        self._needs_reset = np.array([bool(own.get("needs_reset")) for own in state])

    def render(self) -> npt.NDArray[np.uint8]:
        """The first environment's scene, RGB [H, W, 3]."""
        self._check_idle()
        return self._envs[0].render()

    def close(self) -> None:
        """End the simulators."""
        for env in self._envs:
            env.close()

    def _check_idle(self) -> None:
        if self._is_under_way:
            raise RuntimeError("a step is under way: receive() must follow send() first")


class _Launcher:
    """Keeps one simulator running: launches it, and launches it anew after a crash.

    Attributes:
        task_state_dim: K, the length of the task's state; 0 unless it was asked for.
    """

    def __init__(self, task: str, options: dict[str, Any]) -> None:
        self._task, self._options = task, options
        self._process: SimulatorProcess | None = None
        self._last_crash: SimulatorCrash | None = None
        self.task_state_dim = 0
        try:
            self.running()
        except SimulatorCrash as crash:
            raise UserError(f"{task}: RLBench does not start ({crash})") from crash

    def running(self, *, relaunch: bool = True) -> SimulatorProcess:
        """The simulator, launched if there is none; raises SimulatorCrash where that fails or may not be."""
        if self._process is None:
            if not relaunch:
                raise self._last_crash or SimulatorCrash("it was not launched")
            process = SimulatorProcess(self._task, **self._options)
            self.task_state_dim = process.receive()
            self._process = process
        return self._process

    def lose(self, crash: SimulatorCrash) -> None:
        """Forget a simulator that has crashed; its process has ended."""
        self._process, self._last_crash = None, crash

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


def _draw_seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**32))  # what NumPy's global generator takes


def _stack(observations: Sequence[Obs]) -> Obs:
    return {name: np.stack([obs[name] for obs in observations]) for name in observations[0]}


def _is_worth_saying(count: int) -> bool:
    """1, 2, 4, 8, …: a policy that is refused all the time must not fill the screen."""
    return count & (count - 1) == 0


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
