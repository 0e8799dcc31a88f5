"""The training loop: any agent, any vectorised task, offline steps and then online ones."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter
from torch import Tensor

from rlzoo.agent import Agent
from rlzoo.capture import Capture, capture, capture_sampling
from rlzoo.errors import SimulatorFailure, UserError, one_line
from rlzoo.evaluate import VIDEO_TAG, Evaluation, evaluate
from rlzoo.replay import FrameStacker, ReplayBuffer, empty_batch, map_batch, row_fields
from rlzoo.run.checkpoint import best_return, save_checkpoint
from rlzoo.run.files import WriteError
from rlzoo.run.machine import trim_memory
from rlzoo.run.progress import Progress
from rlzoo.run.signals import CutShort, StopSignal, TimedOut, begin_limit
from rlzoo.seeding import EVALUATION, RESTART, WARMUP, derived_seed
from rlzoo.settings import Count, CountOrZero, Fraction, NotNegative, Positive, Settings
from rlzoo.tracker import EpisodeTracker
from rlzoo.types import Array, Batch, BoolArray, FloatArray, Step, VectorTask

if TYPE_CHECKING:  # TensorBoard's imports, of which `--help` has no need
    from rlzoo.run.logger import Logger

CHECKPOINT = "latest.pt"  # everything a run needs to go on
BEST_POLICY = "best.pt"  # the agent alone, at its best evaluation
NEVER = 2**62  # later than any step
RESTART_PERIOD = 10_000  # steps, over which `max_restarts` counts
STATE_GRACE = 5.0  # seconds that simulators are given to tell their state after a signal


@dataclass(frozen=True)
class TrainConfig(Settings):
    """The loop's settings. "Steps" are environment steps, over all parallel environments."""

    steps: CountOrZero = 1_000_000
    """Environment steps (--offline: updates)."""
    num_envs: Count = 1
    """Parallel environments."""
    processes: bool = False
    """A process per environment, for slow simulators."""
    warmup_steps: CountOrZero = 10_000
    """Steps of random actions before any update."""
    utd: NotNegative = 1.0
    """Updates per environment step after the warm-up."""
    offline_steps: CountOrZero = 0
    """Updates on recorded data before the first step."""
    batch_size: Count = 256
    """Transitions per update."""
    demo_fraction: Fraction = 0.5
    """Demonstrations' share of each batch."""
    join_capacity: CountOrZero = 0
    """Rows for successes that join the demonstrations."""
    bootstrap_through_success: bool = False
    """Store success as truncated."""
    discount: Fraction = 0.99
    """gamma, per environment step."""
    n_step: Count = 1
    """n of the n-step returns."""
    reward_scale: Positive = 1.0
    """Factor of the rewards learnt from."""
    buffer_capacity: Count = 1_000_000
    """Rows of the replay buffer."""
    eval_every: Count = 50_000
    """Steps between evaluations."""
    eval_episodes: Count = 10
    """Episodes per evaluation."""
    stop_at_return: float | None = None
    """End once an evaluation's mean return is this."""
    log_every: Count = 2_000
    """Steps between two rows in the log."""
    checkpoint_every: Count = 250_000
    """Steps between checkpoints."""
    capture: Capture = "auto"
    """Updates as CUDA graphs on a GPU."""
    max_restarts: CountOrZero = 3
    """Most restarts in 10,000 steps."""
    env_timeout: NotNegative = 0.0
    """Seconds a step may take (beginning anew a minute), 0: any."""


@dataclass
class Counters:
    """How far a run is."""

    env_steps: int = 0
    online_updates: int = 0
    offline_updates: int = 0
    next_log: int = 0
    next_eval: int = 0
    next_checkpoint: int = 0
    best_return: float = -math.inf
    restarts: int = 0  # of all simulators, after failures; a failure that ended the run counts, too
    # Seconds of training, without evaluations and checkpoints of policies; no part of what a run computes.
    training_s: float = field(default=0.0, compare=False)

    @property
    def step(self) -> int:
        """The x-axis: environment steps, after as many steps as there were offline updates."""
        return self.offline_updates + self.env_steps

    @property
    def updates(self) -> int:
        """Gradient updates so far."""
        return self.online_updates + self.offline_updates


class Trainer:
    """Trains one agent and owns all that changes while it does.

    Args:
        agent, task, eval_task: on `device`; `eval_task` has as many lanes as it plays episodes, or a divisor
            of that.
        replay: the agent's own steps, and recorded data to begin with.
        demos: the demonstrations, sampled as a fixed share of each batch; None without.
        joined: takes the successful online episodes that join the demonstrations; None if none does.
        seed: of the environments; the warm-up and evaluations get seeds derived from it.
        normalized_score: of a mean return, for tasks that define one.
        metadata: goes into the checkpoints (agent name, configuration, observation scaling).
        film: whether to film the first episode of each evaluation (`eval_task` must render).
    """

    def __init__(
        self,
        agent: Agent,
        task: VectorTask,
        eval_task: VectorTask,
        config: TrainConfig,
        *,
        replay: ReplayBuffer,
        device: torch.device,
        seed: int,
        demos: ReplayBuffer | None = None,
        joined: ReplayBuffer | None = None,
        normalized_score: Callable[[float], float] | None = None,
        metadata: Mapping[str, Any] | None = None,
        film: bool = False,
    ) -> None:
        self.agent, self.task, self.eval_task = agent, task, eval_task
        self.replay, self.demos, self.joined, self.config = replay, demos, joined, config
        self.device, self.seed, self.film = device, seed, film
        self.normalized_score, self.metadata = normalized_score, dict(metadata or {})
        self.cycle = [capture(update, device, config.capture) for update in agent.update_cycle()]
        self.sample_action = capture_sampling(agent, device, config.capture)
        self.demo_rows = round(config.batch_size * config.demo_fraction) if demos is not None else 0
        self.batch: Batch | None = None  # what updates read, from the first one on
        self.metrics: dict[str, Tensor] = {}
        # For the metrics of each kind of update, the step at which they were first not finite, or NEVER.
        self.first_bad: dict[tuple[str, ...], Tensor] = {}
        self.counters = Counters(
            next_log=config.log_every, next_eval=config.eval_every, next_checkpoint=config.checkpoint_every
        )
        self.warmup_generator = torch.Generator().manual_seed(derived_seed(seed, WARMUP))
        self.stacker = FrameStacker(task.spaces)
        self.obs: dict[str, Array] | None = None  # None before the first episode
        self.tracker = EpisodeTracker(task.num_envs)
        # Length of a successful episode that lacks only its final observation in the replay buffer, else 0.
        self.joining = np.zeros(task.num_envs, dtype=np.int64)
        self.finished: list[tuple[float, int]] = []  # (return, length) of episodes since the last log row
        self.restarted: list[int] = []  # steps at which this session had to make simulators anew
        self.stop = StopSignal()
        self.evaluations: list[dict[str, float]] = []

    def describe(self) -> str:
        """What it trains with, for the start of a run."""
        return f"replay buffer {self.replay.describe()}"

    # ------------------------------------------------------------------------------------------- loop

    def run(self, logger: Logger, progress: Progress, stop: StopSignal, run_dir: Path) -> None:
        """Train to the end, or to the first step after a signal; a checkpoint is written either way.

        Raises:
            UserError: a quantity stopped being finite, or a file could not be written; the last checkpoint
                is then as it was.
            SimulatorFailure: simulators failed too often; a checkpoint is written first.
        """
        self.logger, self.progress, self.run_dir, self.stop = logger, progress, run_dir, stop
        self.best_saved = self._return_of_best_policy()
        self.start_clock()
        self._after_step()  # in a resumed run: the evaluation that a signal cut short
        while self.counters.offline_updates < self.config.offline_steps and self._goes_on(stop):
            self._update()
            self.counters.offline_updates += 1
            self._after_step()
        while self.counters.env_steps < self.config.steps and self._goes_on(stop):
            try:
                self._iterate()
            except (SimulatorFailure, CutShort) as failure:
                self._cut_episodes()
                self._restart(self.task, failure)
            else:
                self._after_step()
        if not stop.requested:
            self._announce_goal()
        self._checkpoint()
        # After the checkpoint: a longer run has no evaluation here, and a resumed one must equal it.
        if not stop.requested and not self.evaluated:
            self._evaluate()

    def _return_of_best_policy(self) -> float:
        """The return of the saved best policy, which may be newer than the checkpoint a run resumes from."""
        try:
            return best_return(self.run_dir / "checkpoints" / BEST_POLICY)
        except UserError:  # none yet, or a damaged one, which the next evaluation replaces
            return -math.inf

    def start_clock(self) -> None:
        """Begin to measure time, or go on where a resumed run's checkpoint was written."""
        self.clock, self.clock_counters = time.monotonic(), (self.counters.env_steps, self.counters.updates)
        self.began = self.clock - self.counters.training_s  # had all of it been training without a pause

    @property
    def evaluated(self) -> bool:
        """Whether there has been an evaluation at the current step."""
        return bool(self.evaluations) and self.evaluations[-1]["step"] == self.counters.step

    def _goes_on(self, stop: StopSignal) -> bool:
        """Whether nothing but the number of steps ends the run: no signal, and no return that was enough."""
        return not (stop.requested or self._has_reached_goal())

    def _has_reached_goal(self) -> bool:
        """Whether the latest evaluation was enough for `stop_at_return`."""
        goal = self.config.stop_at_return
        return goal is not None and bool(self.evaluations) and self.evaluations[-1]["eval/return"] >= goal

    def _announce_goal(self) -> None:
        """Say so if `stop_at_return` has ended the run before its steps did."""
        counters, config = self.counters, self.config
        is_short = counters.offline_updates < config.offline_steps or counters.env_steps < config.steps
        if is_short and self._has_reached_goal():
            last = self.evaluations[-1]
            none_online = "; no online step was taken" if config.steps and not counters.env_steps else ""
            self.progress.note(
                f"stopped: evaluation {last['eval/return']:g} at step {int(last['step']):,} reached "
                f"--stop-at-return {config.stop_at_return:g}{none_online}"
            )

    def _iterate(self) -> None:
        """One step of all environments, and the updates that are due meanwhile."""
        if self.obs is None:
            with self.stop.waiting(begin_limit(self.config.env_timeout)):
                self.obs = self.task.reset(self._reset_seed())
                self.task.get_state()  # warns at the start of what a checkpoint cannot keep
        obs = self.obs
        action = self._choose_action(self.stacker(obs, self.tracker.begins))
        self.task.send(action)
        # Between `send` and `receive`: processes step the simulators, and a GPU trains, at the same time.
        for _ in range(self._updates_due()):
            self._update()
            self.counters.online_updates += 1
        with self.stop.waiting(self.config.env_timeout):
            step = self.task.receive()
        self.replay.add(obs, action, step.reward, *self._stored_ends(step))
        self._join_demonstrations()
        self._count(step)
        self.obs = step.obs

    def _reset_seed(self) -> int:
        """The seed of the environments' next episodes: the run's own, but after a restart."""
        restart = (self.counters.env_steps, self.counters.restarts)
        return derived_seed(self.seed, RESTART, *restart) if any(restart) else self.seed

    def _cut_episodes(self) -> None:
        """Give the step and the episodes under way up: the next step begins new ones everywhere."""
        if self.stop.requested:
            self.progress.note(
                "the environments have not ended their step in time: after a resume they begin new episodes"
            )
        if self.obs is not None:
            self.replay.cut(self.obs)
            self._join_demonstrations()
        self.obs, self.stacker.frames = None, None
        self.tracker = EpisodeTracker(self.task.num_envs, tells_success=self.tracker.tells_success)

    def _restart(self, task: VectorTask, failure: SimulatorFailure | CutShort) -> None:
        """Make a task's simulators anew after a failure, unless a signal has ended the run anyway.

        Raises:
            SimulatorFailure: that has happened too often; a checkpoint is written first.
        """
        limit = self.config.env_timeout
        while not self.stop.requested:
            cause = str(failure)
            if isinstance(failure, TimedOut):
                cause = f"the environments have not answered in time (--env-timeout {limit:g})"
            step, most = self.counters.step, self.config.max_restarts
            self.restarted = [earlier for earlier in self.restarted if earlier > step - RESTART_PERIOD]
            self.counters.restarts += 1
            if len(self.restarted) >= most:
                self._checkpoint()
                raise SimulatorFailure(
                    f"{cause}; stopped at step {step:,} with a checkpoint, after {most} restarts within "
                    f"{RESTART_PERIOD:,} steps (--max-restarts)"
                )
            self.restarted.append(step)
            self.logger.log(step, {"faults/restarts": self.counters.restarts})
            self.progress.note(f"warning: {cause}; every environment begins anew")
            try:
                with self.stop.waiting(begin_limit(limit)):
                    task.restart()
                return
            except (SimulatorFailure, CutShort) as again:
                failure = again

    def _stored_ends(self, step: Step) -> tuple[BoolArray, BoolArray]:
        """Which lanes ended in a terminal state and which were cut [N], as the replay buffer is to see it."""
        if not self.config.bootstrap_through_success:
            return step.terminated, step.truncated
        solved = step.terminated & (step.success == 1)
        return step.terminated & ~solved, step.truncated | solved

    def _choose_action(self, obs: dict[str, Array]) -> FloatArray:
        if self.counters.env_steps < self.config.warmup_steps:
            size = (self.task.num_envs, self.task.spaces.action_dim)
            action: FloatArray = (torch.rand(size, generator=self.warmup_generator) * 2 - 1).numpy()
            return action
        tensors = {name: torch.from_numpy(value).to(self.device) for name, value in obs.items()}
        return self.sample_action(tensors).cpu().numpy()

    def _updates_due(self) -> int:
        due = int(max(0, self.counters.env_steps - self.config.warmup_steps) * self.config.utd)
        known = len(self.replay) or self.demos is not None
        return max(0, due - self.counters.online_updates) if known else 0

    def _update(self) -> None:
        update = self.cycle[self.counters.updates % len(self.cycle)]
        metrics = update(self._sample())
        self.metrics.update(metrics)
        self._watch(metrics)

    def _watch(self, metrics: Mapping[str, Tensor]) -> None:
        """Note, without waiting for the device, what is not finite: the next update may hide it again."""
        if not metrics:
            return
        finite = torch.isfinite(torch.stack(list(metrics.values())))
        bad = torch.where(finite, NEVER, self.counters.step)
        names = tuple(metrics)
        known = self.first_bad.get(names)
        self.first_bad[names] = bad if known is None else torch.minimum(known, bad)

    def _check_finite(self) -> None:
        """Raise a UserError that names the first metric since the start that was not finite, if one was."""
        known = [zip(steps.tolist(), names, strict=True) for names, steps in self.first_bad.items()]
        step, name = min(itertools.chain(*known), default=(NEVER, ""))
        if step < NEVER:
            value = float(self.metrics[name])
            self._fail_not_finite(name, "not finite" if math.isfinite(value) else value, step)

    def _sample(self) -> Batch:
        """A fixed number of demonstrations, and the rest from the replay buffer, in the same tensors."""
        rows = self.config.batch_size
        demo_rows = self.demo_rows if len(self.replay) or self.demos is None else rows
        # Joined episodes have their share among the demonstrations by the number of transitions.
        demos, joined = len(self.demos or ()), len(self.joined or ())
        joined_rows = round(demo_rows * joined / max(demos + joined, 1))
        if self.batch is None:
            self.batch = empty_batch(self.task.spaces, rows, self.device)
        start = 0
        for buffer, count in (
            (self.demos, demo_rows - joined_rows),
            (self.joined, joined_rows),
            (self.replay, rows - demo_rows),
        ):
            if buffer is not None and count:
                part = slice(start, start + count)
                buffer.sample(count, map_batch(lambda tensor, part=part: tensor[part], self.batch))
                start += count
        return self.batch

    def _join_demonstrations(self) -> None:
        """Copy the successful episodes whose final observation has just been recorded."""
        for lane in np.flatnonzero(self.joining):
            length = int(self.joining[lane])
            # Longer ones cannot be kept whole.
            if self.joined is not None and length < min(self.joined.rows, self.replay.rows):
                self.joined.add_episodes([self.replay.newest_episode(int(lane), length)])
        self.joining[:] = 0

    def _count(self, step: Step) -> None:
        for episode in self.tracker.update(step):
            self.finished.append((episode.episode_return, episode.length))
            self.joining[episode.lane] = episode.length if episode.success == 1 else 0
        self.counters.env_steps += int((~self.tracker.begins).sum())  # a step that only resets is none

    def _after_step(self) -> None:
        counters, step = self.counters, self.counters.step
        if step >= counters.next_log:
            counters.next_log = _next_multiple(step, self.config.log_every)
            self._log()
        if step >= counters.next_eval and self._evaluate():
            counters.next_eval = _next_multiple(step, self.config.eval_every)
        if step >= counters.next_checkpoint:
            counters.next_checkpoint = _next_multiple(step, self.config.checkpoint_every)
            if not self.stop.requested:  # else the loop ends with one
                self._checkpoint()
        self.progress.update(step, counters.updates)

    # ---------------------------------------------------------------------------------------- results

    def _log(self) -> None:
        values = self._read_metrics()
        if self.finished:
            returns, lengths = zip(*self.finished, strict=True)
            values["train/episode_return"] = float(np.mean(returns))
            values["train/episode_length"] = float(np.mean(lengths))
            self.finished.clear()
        if self.joined is not None:
            values["train/joined_transitions"] = float(len(self.joined))
        now, counts = time.monotonic(), (self.counters.env_steps, self.counters.updates)
        seconds = max(now - self.clock, 1e-9)
        values["time/env_steps_per_s"] = (counts[0] - self.clock_counters[0]) / seconds
        values["time/updates_per_s"] = (counts[1] - self.clock_counters[1]) / seconds
        self.clock, self.clock_counters = now, counts
        values["time/training_s"] = self.counters.training_s = now - self.began
        self.logger.log(self.counters.step, values)
        self.progress.update(self.counters.step, self.counters.updates, **values)

    def _read_metrics(self) -> dict[str, float]:
        """The latest metrics on the host.

        Raises:
            UserError: if one is not finite, or has not been since the start.
        """
        self._check_finite()
        if not self.metrics:
            return {}
        return dict(zip(self.metrics, torch.stack(list(self.metrics.values())).tolist(), strict=True))

    def _fail_not_finite(self, name: str, value: float | str, step: int | None = None) -> None:
        checkpoint = self.run_dir / "checkpoints" / CHECKPOINT
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint.exists() else "no checkpoint yet"
        raise UserError(
            f"{name} became {value} by step {self.counters.step if step is None else step} "
            f"(now update {self.counters.updates}); training stops, {kept}"
        )

    def _evaluate(self) -> bool:
        """Evaluate the agent. Returns whether that has been done: a signal gives it up."""
        # Evaluation must not disturb training: not its random numbers, not its clock.
        self._check_finite()  # it waits for the updates under way, which are training
        started = time.monotonic()
        result = self._play()
        done = result is not None
        if result is not None:
            self._report(result)
        if self.film:
            del result
            trim_memory()  # a frame of every step
        pause = time.monotonic() - started
        self.clock += pause
        self.began += pause
        return done

    def _play(self) -> Evaluation | None:
        """Play and film an evaluation, anew where a simulator fails; None where a signal comes."""
        while not self.stop.requested:
            try:
                result = evaluate(
                    self.agent,
                    self.eval_task,
                    episodes=self.config.eval_episodes,
                    seed=self._evaluation_seed(),
                    device=self.device,
                    record=self.film,
                    tells_success=self.tracker.tells_success,
                    stop=self.stop,
                    limit=self.config.env_timeout,
                )
                if self.film:
                    self._film(result)
                return result
            except (SimulatorFailure, CutShort) as failure:
                self._restart(self.eval_task, failure)
            except UserError:
                if not self.stop.requested:  # else ffmpeg may have got the signal, too
                    raise
        return None

    def _evaluation_seed(self) -> int:
        """The evaluation's seed, another after each failure: the same episodes may fail again."""
        restarts = [self.counters.restarts] if self.counters.restarts else []
        return derived_seed(self.seed, EVALUATION, self.counters.step, *restarts)

    def _film(self, result: Evaluation) -> None:
        from rlzoo.run.video import encode_gif, write_video

        path = self.run_dir / "videos" / f"step-{self.counters.step}.mp4"
        fps = getattr(self.eval_task, "render_fps", 30.0)
        with self.stop.waiting():  # seconds, for a long episode
            write_video(path, result.frames, fps=fps)
            gif = encode_gif(result.frames, fps=fps)
        self.logger.film(self.counters.step, VIDEO_TAG, gif)

    def _report(self, result: Evaluation) -> None:
        """Log an evaluation, show it, and keep the agent if it is the best so far."""
        values = self._score(result)
        if "eval/success" in values:  # from which on silence is failure, also in hindsight
            self.tracker.tells_success = True
            for row in self.evaluations:
                row.setdefault("eval/success", 0.0)
        step = self.counters.step
        if not math.isfinite(values["eval/return"]):
            self._fail_not_finite("eval/return", values["eval/return"])
        if values["eval/return"] > self.best_saved:
            self._check_weights()
            best = {"agent": self.agent.state_dict(), "step": step, "return": values["eval/return"]}
            self._save(BEST_POLICY, best)
            self.best_saved = values["eval/return"]
        self.logger.log(step, values)
        # Only now: one that could not be written is made again by the run that goes on.
        self.evaluations.append({"step": step, **values})
        self.counters.best_return = max(self.counters.best_return, values["eval/return"])
        self.progress.evaluation(step, values)

    def _score(self, result: Evaluation) -> dict[str, float]:
        values = result.values()
        if self.normalized_score is not None:
            values["eval/normalized_score"] = self.normalized_score(values["eval/return"])
        return values

    # ------------------------------------------------------------------------------------ checkpoints

    def _checkpoint(self) -> None:
        # Only a run in good health may replace its last checkpoint.
        self._read_metrics()
        self._check_weights()
        self.logger.flush()
        self.counters.training_s = time.monotonic() - self.began
        try:
            state = self.state_dict()
        except (SimulatorFailure, CutShort) as failure:
            self._cut_episodes()
            self._restart(self.task, failure)
            state = self.state_dict()
        self._save(CHECKPOINT, {"trainer": state})
        del state
        trim_memory()  # a copy of the buffers

    def _save(self, name: str, content: dict[str, Any]) -> None:
        save_checkpoint(self.run_dir / "checkpoints" / name, {**self.metadata, **content})

    def rescue(self, error: WriteError, folder: Path) -> str:
        """Keep what can be kept of a run that could not write a file. Returns what that is, for a message.

        It is a whole checkpoint in `folder`, where the run's folder lies by now. If there is no room for one,
        and none from before, it is the agent alone, without which nothing would be left of the run.

        Raises:
            UserError: the run is not in good health: it has numbers that are not finite.
        """
        self.run_dir, step = folder, self.counters.step
        path = folder / "checkpoints" / CHECKPOINT
        self._read_metrics()
        self._check_weights()
        if error.path.name != CHECKPOINT:
            with contextlib.suppress(WriteError):
                self._save(CHECKPOINT, {"trainer": self.state_dict()})
                return f"the checkpoint of step {step:,} is {path}"
        if path.exists():
            return f"the last checkpoint is as it was: {path}"
        try:
            self._save(CHECKPOINT, {"agent": self.agent.state_dict(), "step": step})
        except WriteError:
            return "nothing could be kept of the run"
        return f"the agent of step {step:,} is kept in {path}, from which the run cannot be resumed"

    def _check_weights(self) -> None:
        """Raise a UserError if a weight is not finite: a finite loss may have a gradient that is not."""
        for name, parameter in self.agent.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                self._fail_not_finite(f"weight {name}", "not finite")

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the run goes on."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        with self.stop.waiting(self.config.env_timeout, grace=STATE_GRACE):
            task = None if self.obs is None else self.task.get_state()
        return {
            "agent": self.agent.state_dict(),
            "replay": self.replay.state_dict(),
            "demos": None if self.demos is None else self.demos.state_dict(),
            "joined": None if self.joined is None else self.joined.state_dict(),
            "task": task,
            "obs": None if self.obs is None else {k: torch.from_numpy(v.copy()) for k, v in self.obs.items()},
            "frames": None if self.stacker.frames is None else torch.from_numpy(self.stacker.frames.copy()),
            "counters": vars(self.counters).copy(),
            "metrics": {name: value.cpu() for name, value in self.metrics.items()},
            "lanes": {name: torch.from_numpy(value.copy()) for name, value in self._lane_arrays().items()},
            "tells_success": self.tracker.tells_success,
            "finished": list(self.finished),
            "evaluations": [dict(row) for row in self.evaluations],
            "generators": {
                "torch": torch.get_rng_state(),
                "cuda": cuda,
                "warmup": self.warmup_generator.get_state(),
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned.

        Raises:
            UserError: if it came from a run of another agent, task or shape.
        """
        try:
            self._load(state)
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
            reason = one_line(error)
            raise UserError(
                f"the checkpoint does not fit this run (another agent, task or setting?): {reason}"
            ) from error

    def _load(self, state: Mapping[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.replay.load_state_dict(state["replay"])
        if self.demos is not None:
            self.demos.load_state_dict(state["demos"])
        if self.joined is not None:
            self.joined.load_state_dict(state["joined"])
        if state["obs"] is not None:
            self._check_obs(state["obs"])
            self.task.set_state(state["task"])
            self.obs = {name: value.numpy() for name, value in state["obs"].items()}
        self.stacker.frames = None if state["frames"] is None else state["frames"].numpy()
        self.counters = TypeAdapter(Counters).validate_python(state["counters"])
        self.metrics = {n: value.to(self.device).reshape(()) for n, value in state["metrics"].items()}
        for name, array in self._lane_arrays().items():
            array[:] = state["lanes"][name].numpy()
        self.tracker.tells_success = state.get("tells_success", False)
        self.finished = TypeAdapter(list[tuple[float, int]]).validate_python(state["finished"])
        self.evaluations = TypeAdapter(list[dict[str, float]]).validate_python(state["evaluations"])
        for row in self.evaluations:
            if not all(math.isfinite(row[tag]) for tag in ("step", "eval/return", "eval/return_std")):
                raise ValueError(f"an evaluation says {row}")
        generators = state["generators"]
        self.warmup_generator.set_state(generators["warmup"])
        torch.set_rng_state(generators["torch"])
        if generators["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(generators["cuda"], self.device)

    def _check_obs(self, obs: Mapping[str, Tensor]) -> None:
        """Raise a ValueError unless these are observations of the task."""
        lanes, fields = self.task.num_envs, row_fields(self.task.spaces)
        expected = {
            name: ((lanes, *fields[name][0]), fields[name][1])
            for name in ("state", "pixels")
            if name in fields
        }
        found = {name: (tuple(value.shape), value.dtype) for name, value in obs.items()}
        if found != expected:
            raise ValueError(f"observations {found} found, {expected} expected")

    def _lane_arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {**self.tracker.arrays(), "joining": self.joining}


def _next_multiple(step: int, every: int) -> int:
    return (step // every + 1) * every
