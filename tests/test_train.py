"""The loop: what it steps, when it updates, how it stops and goes on."""

import collections
import csv
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from algos import AGENTS
from algos.arsq import ARSQ, ARSQConfig
from envs.gym import make as gym_tasks
from rlzoo.agent import Agent, Update
from rlzoo.errors import SimulatorFailure, UserError
from rlzoo.evaluate import EVALUATION_TAGS, Evaluation
from rlzoo.replay import ReplayBuffer, map_batch
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.run.files import WriteError, cannot_write
from rlzoo.run.logger import Logger
from rlzoo.run.progress import Progress
from rlzoo.run.signals import StopSignal
from rlzoo.seeding import BUFFERS, EVALUATION, WARMUP, derived_seed
from rlzoo.train import BEST_POLICY, CHECKPOINT, TrainConfig, Trainer
from rlzoo.types import Array, Batch, Episode, FloatArray, Spaces, Step

CPU = torch.device("cpu")


class Corridor:
    """N lanes that count their steps: state = (lane, time); episodes of `length` steps, reward 1 each."""

    spaces = Spaces(state_dim=2, action_dim=1)

    def __init__(self, num_envs: int, length: int = 7) -> None:
        self.num_envs, self.length = num_envs, length
        self.time = np.zeros(num_envs, np.int64)
        self.seeds: list[int] = []
        self.actions: list[FloatArray] = []

    def _obs(self) -> dict[str, Array]:
        return {"state": np.stack((np.arange(self.num_envs), self.time), axis=1).astype(np.float32)}

    def reset(self, seed: int) -> dict[str, Array]:
        self.seeds.append(seed)
        self.time[:] = 0
        return self._obs()

    def send(self, action: FloatArray) -> None:
        self.actions.append(action.copy())

    def receive(self) -> Step:
        resets = self.time == self.length
        self.time = np.where(resets, 0, self.time + 1)
        ended = self.time == self.length
        reward = (~resets).astype(np.float32)
        nothing = np.full(self.num_envs, np.nan, np.float32)
        return Step(self._obs(), reward, ended & False, ended, nothing)

    def get_state(self) -> list[dict[str, Any]]:
        return [{"time": int(time)} for time in self.time]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        self.time[:] = [lane["time"] for lane in state]

    def render(self) -> np.ndarray:
        return np.full((8, 8, 3), 30 * self.time[0], np.uint8)

    def restart(self) -> None: ...

    def close(self) -> None: ...


class Counting(Agent):
    """Counts its updates, in two kinds; acts at random; can be told to produce a NaN."""

    def __init__(self, poison_at: int | None = None, weight: bool = False, passing: bool = False) -> None:
        super().__init__()
        self.passing = passing  # whether one update alone is poisoned
        self.weight = nn.Parameter(torch.zeros(3))
        self.optimizers = {}
        self.calls: list[tuple[str, Batch]] = []
        self.poison_at, self.poison_weight = poison_at, weight

    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        rows = len(obs["state"])
        return torch.zeros(rows, 1) if deterministic else torch.rand(rows, 1) * 2 - 1

    def update_cycle(self) -> tuple[Update, ...]:
        return (lambda batch: self._update("a", batch), lambda batch: self._update("b", batch))

    def _update(self, kind: str, batch: Batch) -> dict[str, Tensor]:
        self.calls.append((kind, map_batch(torch.clone, batch)))  # the loop fills the same tensors anew
        poisoned = self.poison_at is not None and len(self.calls) >= self.poison_at
        poisoned = poisoned and (not self.passing or len(self.calls) == self.poison_at)
        with torch.no_grad():
            self.weight += torch.randn(3) * (float("nan") if poisoned and self.poison_weight else 1.0)
        return {"loss/test": torch.tensor(float("nan") if poisoned and not self.poison_weight else 1.0)}


CONFIG = TrainConfig(
    steps=200,
    num_envs=4,
    warmup_steps=40,
    utd=0.25,
    batch_size=8,
    buffer_capacity=400,
    eval_every=100,
    eval_episodes=4,
    log_every=20,
    checkpoint_every=1000,
)


def make_trainer(
    config: TrainConfig = CONFIG,
    agent: Agent | None = None,
    demos: ReplayBuffer | None = None,
    film: bool = False,
) -> Trainer:
    torch.manual_seed(0)
    task = Corridor(config.num_envs)
    replay = ReplayBuffer(
        task.spaces, capacity=config.buffer_capacity, lanes=config.num_envs, device=CPU, discount=0.99
    )
    return Trainer(
        agent or Counting(),
        task,
        Corridor(2),
        config,
        replay=replay,
        device=CPU,
        seed=5,
        demos=demos,
        film=film,
    )


def train(trainer: Trainer, run_dir: Path, *, stop: StopSignal | None = None, resumed: bool = False) -> None:
    run_dir.mkdir(exist_ok=True)
    step = trainer.counters.step if resumed else None
    with Logger(run_dir, resume_step=step) as logger, Progress(1, "test") as progress:
        trainer.run(logger, progress, stop or StopSignal(), run_dir)


def rows(run_dir: Path) -> list[tuple[int, str, str]]:
    """metrics.csv without the clock's readings."""
    with (run_dir / "metrics.csv").open() as file:
        found = [(int(row["step"]), row["tag"], row["value"]) for row in csv.DictReader(file)]
    return [row for row in found if not row[1].startswith("time/")]


def test_updates_follow_the_steps_that_were_taken(tmp_path: Path) -> None:
    trainer = make_trainer()
    train(trainer, tmp_path)
    agent, task = trainer.agent, trainer.task
    assert isinstance(agent, Counting)
    assert isinstance(task, Corridor)
    # Every eighth call only resets (7-step episodes), and resets are no steps: 200 = 4 lanes x 50 steps.
    assert trainer.counters.env_steps == 200
    assert len(task.actions) == 50 + 50 // 7
    # Updates run between send and receive, so the last iteration's steps are not due yet.
    assert len(agent.calls) == int((200 - 4 - 40) * 0.25)
    assert [kind for kind, _ in agent.calls[:4]] == ["a", "b", "a", "b"]
    assert {len(batch.reward) for _, batch in agent.calls} == {8}


def test_episodes_are_reported_whole(tmp_path: Path) -> None:
    train(make_trainer(), tmp_path)
    values = {(step, tag): float(value) for step, tag, value in rows(tmp_path)}
    returns = [value for (_, tag), value in values.items() if tag == "train/episode_return"]
    assert returns
    assert set(returns) == {7.0}
    assert values[100, "eval/return"] == 7.0
    assert values[200, "eval/episode_length"] == 7.0


def test_warmup_actions_are_uniform_and_depend_on_the_seed_alone(tmp_path: Path) -> None:
    trainers = [make_trainer(dataclasses.replace(CONFIG, warmup_steps=150)) for _ in range(2)]
    torch.manual_seed(9)
    warm = []
    for index, trainer in enumerate(trainers):
        train(trainer, tmp_path / str(index))
        assert isinstance(trainer.task, Corridor)
        warm.append(np.concatenate(trainer.task.actions[:30]))
    assert np.array_equal(*warm)
    assert abs(warm[0].mean()) < 0.2
    assert np.abs(warm[0]).max() > 0.8


def test_evaluations_have_seeds_of_their_own(tmp_path: Path) -> None:
    trainer = make_trainer()
    train(trainer, tmp_path)
    assert isinstance(trainer.eval_task, Corridor)
    assert trainer.eval_task.seeds == [derived_seed(5, EVALUATION, 100), derived_seed(5, EVALUATION, 200)]
    assert (
        len({derived_seed(seed, EVALUATION, step) for seed in range(9) for step in range(0, 900, 100)}) == 81
    )


def test_offline_updates_come_first_and_count_as_steps(tmp_path: Path) -> None:
    episode = Episode({"state": np.full((6, 2), 7, np.float32)}, np.zeros((5, 1), np.float32),
                      np.ones(5, np.float32), terminated=True)  # fmt: skip
    demos = ReplayBuffer(Corridor.spaces, capacity=12, lanes=1, device=CPU, discount=0.99, is_demo=True)
    demos.add_episodes([episode])
    config = dataclasses.replace(CONFIG, offline_steps=50, warmup_steps=0, demo_fraction=0.25)
    trainer = make_trainer(config, demos=demos)
    trainer.replay.add_episodes([episode] * 4)
    train(trainer, tmp_path)
    assert isinstance(trainer.agent, Counting)
    assert trainer.counters.step == 250
    assert [batch.is_demo.sum() for _, batch in trainer.agent.calls] == [2] * len(trainer.agent.calls)
    assert bool((trainer.agent.calls[49][1].obs["state"] == 7).all())
    assert {step for step, tag, _ in rows(tmp_path) if tag == "eval/return"} == {102, 202, 250}


def test_offline_only(tmp_path: Path) -> None:
    trainer = make_trainer(dataclasses.replace(CONFIG, offline_steps=30, steps=0))
    episode = Episode({"state": np.zeros((6, 2), np.float32)}, np.zeros((5, 1), np.float32),
                      np.ones(5, np.float32), terminated=True)  # fmt: skip
    trainer.replay.add_episodes([episode] * 4)
    train(trainer, tmp_path)
    assert trainer.counters.updates == 30
    assert [row["step"] for row in trainer.evaluations] == [30]


FILLED = Episode(
    {"state": np.zeros((6, 2), np.float32)},
    np.zeros((5, 1), np.float32),
    np.ones(5, np.float32),
    terminated=True,
)
NOTE = "stopped: evaluation 7 at step "


def test_a_run_that_has_reached_its_goal_says_why_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(CONFIG, stop_at_return=6.5)
    trainer = make_trainer(config)
    train(trainer, tmp_path)
    assert trainer.counters.env_steps == 100
    assert f"{NOTE}100 reached --stop-at-return 6.5\n" in capsys.readouterr().out
    resumed = make_trainer(config)
    resumed.load_state_dict(load_checkpoint(tmp_path / "checkpoints" / CHECKPOINT)["trainer"])
    train(resumed, tmp_path, resumed=True)
    assert resumed.counters.env_steps == 100
    assert f"{NOTE}100 reached --stop-at-return 6.5\n" in capsys.readouterr().out
    for goal in (7.5, None):  # a higher goal, or none, lets it go on
        longer = make_trainer(dataclasses.replace(config, stop_at_return=goal, steps=120))
        longer.load_state_dict(load_checkpoint(tmp_path / "checkpoints" / CHECKPOINT)["trainer"])
        train(longer, tmp_path / str(goal), resumed=True)
        assert longer.counters.env_steps == 120
    assert "stopped" not in capsys.readouterr().out


def test_a_goal_reached_offline_says_that_no_online_step_was_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(CONFIG, stop_at_return=7.0, offline_steps=100)
    for offline_steps in (150, 100):  # in the middle of the offline steps, and with the last of them
        trainer = make_trainer(dataclasses.replace(config, offline_steps=offline_steps))
        trainer.replay.add_episodes([FILLED] * 4)
        train(trainer, tmp_path / str(offline_steps))
        assert (trainer.counters.offline_updates, trainer.counters.env_steps) == (100, 0)
        note = f"{NOTE}100 reached --stop-at-return 7; no online step was taken\n"
        assert note in capsys.readouterr().out
    # Nothing was left out where only offline steps were asked for.
    trainer = make_trainer(dataclasses.replace(config, steps=0))
    trainer.replay.add_episodes([FILLED] * 4)
    train(trainer, tmp_path / "offline")
    assert "stopped" not in capsys.readouterr().out


def test_a_goal_reached_with_the_last_step_or_never_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for steps, goal in ((100, 7.0), (120, 7.5)):
        trainer = make_trainer(dataclasses.replace(CONFIG, steps=steps, stop_at_return=goal))
        train(trainer, tmp_path / str(steps))
        assert trainer.counters.env_steps == steps
    assert "stopped" not in capsys.readouterr().out


def test_each_evaluation_is_filmed_in_tensorboard_and_as_a_file(tmp_path: Path) -> None:
    straight = make_trainer(film=True)
    train(straight, tmp_path / "straight")
    # With a closing evaluation, which a prolonged run does not have.
    short = make_trainer(dataclasses.replace(CONFIG, steps=132), film=True)
    train(short, tmp_path / "prolonged")
    assert films(tmp_path / "prolonged") == [100, 132]
    prolonged = make_trainer(film=True)
    prolonged.load_state_dict(load_checkpoint(tmp_path / "prolonged" / "checkpoints" / CHECKPOINT)["trainer"])
    assert not prolonged.evaluated
    with (
        Logger(tmp_path / "prolonged", prolonged.counters.step, drop_tags=EVALUATION_TAGS) as logger,
        Progress(1, "test") as progress,
    ):
        prolonged.run(logger, progress, StopSignal(), tmp_path / "prolonged")
    for name in ("straight", "prolonged"):
        assert films(tmp_path / name) == [100, 200]
        assert (tmp_path / name / "videos" / "step-200.mp4").exists()


def films(run_dir: Path) -> list[int]:
    """The steps at which TensorBoard has films."""
    events = EventAccumulator(str(run_dir)).Reload()
    return [event.step for event in events.Images("eval/video")]


@pytest.mark.parametrize("weight", [False, True], ids=["loss", "weight"])
def test_a_quantity_that_is_not_finite_stops_the_run(tmp_path: Path, weight: bool) -> None:
    config = dataclasses.replace(CONFIG, checkpoint_every=60)
    trainer = make_trainer(config, Counting(poison_at=20, weight=weight))
    with pytest.raises(
        UserError,
        match=r"(loss/test became nan|weight weight became not finite) by step \d+ \(now update \d+\)",
    ):
        train(trainer, tmp_path)
    state = load_checkpoint(tmp_path / "checkpoints" / CHECKPOINT)["trainer"]
    assert bool(torch.isfinite(state["agent"]["weight"]).all())
    assert state["counters"]["env_steps"] >= 60


def test_a_loss_that_is_not_finite_in_one_update_alone_stops_the_run(tmp_path: Path) -> None:
    """The 20th update is that of step 120, and the next row of losses has a later one's."""
    trainer = make_trainer(CONFIG, Counting(poison_at=20, passing=True))
    with pytest.raises(UserError, match=r"loss/test became not finite by step 120 .* no checkpoint yet"):
        train(trainer, tmp_path)
    assert not (tmp_path / "checkpoints" / CHECKPOINT).exists()


def test_the_first_metric_that_was_not_finite_is_named(tmp_path: Path) -> None:
    """DSAC-T's two kinds of update log different metrics."""
    trainer = make_trainer()
    bad = torch.tensor(float("nan"))
    trainer.counters.env_steps = 200
    trainer._watch({"loss/critic": torch.tensor(0.0), "policy/temperature": bad})
    trainer.counters.env_steps = 101
    trainer._watch({"loss/critic": bad})
    trainer._watch({})
    trainer.metrics, trainer.run_dir = {"loss/critic": torch.tensor(0.0), "policy/temperature": bad}, tmp_path
    with pytest.raises(UserError, match="loss/critic became not finite by step 101 "):
        trainer._check_finite()


def test_a_return_that_is_not_finite_is_no_best_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer()
    receive = trainer.eval_task.receive
    monkeypatch.setattr(
        trainer.eval_task, "receive", lambda: receive()._replace(reward=np.full(2, np.inf, np.float32))
    )
    with pytest.raises(UserError, match="eval/return became inf by step 100 "):
        train(trainer, tmp_path)
    assert not (tmp_path / "checkpoints" / BEST_POLICY).exists()


@pytest.mark.parametrize("middle", [100, 132])
def test_a_finished_run_that_is_prolonged_equals_a_longer_one(tmp_path: Path, middle: int) -> None:
    """Also where it ends between two evaluations, with one of its own to close it."""
    straight = make_trainer()
    train(straight, tmp_path / "straight")
    short = make_trainer(dataclasses.replace(CONFIG, steps=middle))
    train(short, tmp_path / "prolonged")
    assert short.evaluated
    prolonged = make_trainer()
    state = load_checkpoint(tmp_path / "prolonged" / "checkpoints" / CHECKPOINT)["trainer"]
    prolonged.load_state_dict(state)
    tags = () if prolonged.evaluated else EVALUATION_TAGS
    with (
        Logger(tmp_path / "prolonged", resume_step=prolonged.counters.step, drop_tags=tags) as logger,
        Progress(1, "test") as progress,
    ):
        prolonged.run(logger, progress, StopSignal(), tmp_path / "prolonged")
    assert rows(tmp_path / "prolonged") == rows(tmp_path / "straight")
    assert prolonged.counters == straight.counters
    assert prolonged.counters.training_s > short.counters.training_s > 0  # both sessions' time


def test_a_prolonged_run_keeps_its_best_policy_though_that_is_newer_than_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation that closes a run comes after its checkpoint, and is none of a longer run's."""
    returns = iter([1.0, 5.0, 3.0])  # at steps 100, 132 and 200
    monkeypatch.setattr(
        "rlzoo.train.evaluate",
        lambda *_, **__: Evaluation(np.array([next(returns)]), np.array([7]), np.full(1, np.nan), []),
    )
    train(make_trainer(dataclasses.replace(CONFIG, steps=132)), tmp_path)
    prolonged = make_trainer()
    prolonged.load_state_dict(load_checkpoint(tmp_path / "checkpoints" / CHECKPOINT)["trainer"])
    train(prolonged, tmp_path, resumed=True)
    assert next(returns, None) is None
    best = load_checkpoint(tmp_path / "checkpoints" / BEST_POLICY)
    assert (best["step"], best["return"]) == (132, 5.0)
    assert prolonged.counters.best_return == 3.0


def test_a_damaged_best_policy_is_replaced_and_ends_no_run(tmp_path: Path) -> None:
    train(make_trainer(dataclasses.replace(CONFIG, steps=132)), tmp_path)
    path = tmp_path / "checkpoints" / BEST_POLICY
    path.write_bytes(path.read_bytes()[:100])
    prolonged = make_trainer()
    prolonged.load_state_dict(load_checkpoint(tmp_path / "checkpoints" / CHECKPOINT)["trainer"])
    train(prolonged, tmp_path, resumed=True)
    assert load_checkpoint(path)["step"] == 200


def test_no_two_runs_or_parts_of_a_run_share_a_random_stream() -> None:
    streams = [
        *((EVALUATION, step) for step in (0, 100)),
        (WARMUP,),
        *((BUFFERS, index) for index in range(3)),
    ]
    seeds = [derived_seed(seed, *stream) for seed in range(1, 6) for stream in streams]
    assert len({*seeds, *range(1, 6)}) == len(seeds) + 5
    trainer = make_trainer()
    assert trainer.warmup_generator.initial_seed() == derived_seed(trainer.seed, WARMUP)


class StopAt(StopSignal):
    """Asks to stop once the trainer has done so many steps."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        super().__init__()
        self.trainer, self.step = trainer, step

    @property
    def requested(self) -> signal.Signals | None:
        return signal.SIGTERM if self.trainer.counters.step >= self.step else None

    @requested.setter
    def requested(self, value: signal.Signals | None) -> None: ...


@pytest.mark.parametrize("stop_at", [8, 52, 100, 131])
def test_a_stopped_run_goes_on_exactly(tmp_path: Path, stop_at: int) -> None:
    straight = make_trainer()
    train(straight, tmp_path / "straight")
    stopped = make_trainer()
    train(stopped, tmp_path / "resumed", stop=StopAt(stopped, stop_at))
    assert stopped.counters.step < 200
    resumed = make_trainer()
    torch.manual_seed(77)
    resumed.load_state_dict(load_checkpoint(tmp_path / "resumed" / "checkpoints" / CHECKPOINT)["trainer"])
    train(resumed, tmp_path / "resumed", resumed=True)
    assert rows(tmp_path / "resumed") == rows(tmp_path / "straight")
    assert torch.equal(*(t.agent.state_dict()["weight"] for t in (straight, resumed)))


class Goals(Corridor):
    """A corridor seen by two cameras, whose pixels say lane and time; some episodes end early, in success."""

    spaces = Spaces(state_dim=2, action_dim=1, pixels=(2, 6, 8, 8), frame_stack=2)

    def _obs(self) -> dict[str, Array]:
        obs = super()._obs()
        values = np.stack((np.arange(self.num_envs), self.time), axis=1)  # [N, V]
        shape = (self.num_envs, 2, 3, 8, 8)
        obs["pixels"] = np.broadcast_to(values[:, :, None, None, None], shape).astype(np.uint8)
        return obs

    def reset(self, seed: int) -> dict[str, Array]:
        self.ended = np.zeros(self.num_envs, np.bool_)
        return super().reset(seed)

    def receive(self) -> Step:
        self.time = np.where(self.ended, 0, self.time + 1)
        # Odd lanes succeed after 4 steps when they feel like it, which their actions decide.
        solved = (np.arange(self.num_envs) % 2 == 1) & (self.time == 4) & (self.actions[-1][:, 0] > 0)
        timeout = (self.time == self.length) & ~solved
        self.ended = solved | timeout
        return Step(self._obs(), solved.astype(np.float32), solved, timeout, solved.astype(np.float32))

    def get_state(self) -> list[dict[str, Any]]:
        return [{"time": int(t), "ended": bool(e)} for t, e in zip(self.time, self.ended, strict=True)]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        super().set_state(state)
        self.ended = np.array([lane["ended"] for lane in state])


GIVEN = Episode(
    {"state": np.full((6, 2), 99, np.float32), "pixels": np.full((6, 2, 3, 8, 8), 99, np.uint8)},
    np.zeros((5, 1), np.float32),
    np.ones(5, np.float32),
    terminated=True,
)


def make_goals_trainer(
    config: TrainConfig, agent: Agent | None = None, join_capacity: int = 40
) -> tuple[Trainer, ReplayBuffer]:
    torch.manual_seed(0)
    task = Goals(config.num_envs)

    def make_buffer(capacity: int, lanes: int, seed: int) -> ReplayBuffer:
        return ReplayBuffer(
            task.spaces,
            capacity=capacity,
            lanes=lanes,
            device=CPU,
            discount=0.99,
            is_demo=seed > 0,
            seed=seed,
        )

    demos = make_buffer(6, 1, 1)
    demos.add_episodes([GIVEN])
    joined = make_buffer(join_capacity, 1, 2)
    replay = make_buffer(config.buffer_capacity, config.num_envs, 0)
    trainer = Trainer(
        agent or Counting(),
        task,
        Goals(2),
        config,
        replay=replay,
        device=CPU,
        seed=5,
        demos=demos,
        joined=joined,
    )
    return trainer, joined


@pytest.mark.parametrize("bootstraps", [False, True])
def test_success_is_bootstrapped_through_where_asked_for(tmp_path: Path, bootstraps: bool) -> None:
    config = dataclasses.replace(CONFIG, bootstrap_through_success=bootstraps)
    trainer, joined = make_goals_trainer(config)
    train(trainer, tmp_path)
    for buffer in (trainer.replay, joined):
        batch = buffer.sample(500)
        solved = batch.reward == 1
        assert solved.any()
        assert torch.equal(batch.discount, torch.where(solved & (not bootstraps), 0.0, 0.99))
    assert trainer.demos is not None
    given = trainer.demos.sample(200)
    assert bool((given.discount == 0).any())  # the demonstration's end


@pytest.mark.parametrize("capacity", [10_000, 11, 4])
def test_successful_episodes_join_the_demonstrations_whole(tmp_path: Path, capacity: int) -> None:
    trainer, joined = make_goals_trainer(CONFIG, join_capacity=capacity)
    train(trainer, tmp_path)
    if capacity == 4:  # no room for an episode's five rows
        assert len(joined) == 0
        return
    batch = joined.sample(500)
    assert set(batch.obs["state"][:, 0].tolist()) <= {1, 3}  # the lanes that can succeed
    assert set(batch.obs["state"][:, 1].tolist()) == {0, 1, 2, 3}
    assert bool((batch.is_demo == 1).all())
    assert torch.equal(batch.next_obs["state"][:, 1], batch.obs["state"][:, 1] + 1)
    last = batch.obs["state"][:, 1] == 3
    assert torch.equal(batch.reward, last.float())
    assert torch.equal(batch.discount == 0, last)
    # Two frames of two views: the lane in the first view, the time in the second, the first frame repeated.
    pixels = batch.obs["pixels"].unflatten(2, (2, 3))[..., 0, 0, 0]  # [B, V, F]
    assert torch.equal(pixels[:, 0].float(), batch.obs["state"][:, :1].expand(-1, 2))
    assert torch.equal(pixels[:, 1, 1].float(), batch.obs["state"][:, 1])
    assert torch.equal(pixels[:, 1, 0].float(), (batch.obs["state"][:, 1] - 1).clamp(min=0))
    assert len(joined) % 4 == 0 or capacity == 11
    if capacity == 11:  # full: the oldest go, the given ones stay
        assert 4 <= len(joined) <= 8
    assert trainer.demos is not None
    assert bool((trainer.demos.sample(50).obs["state"] == 99).all())


def test_joined_episodes_that_fit_one_at_a_time_replace_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack_of_3 = Spaces(state_dim=2, action_dim=1, pixels=(2, 9, 8, 8), frame_stack=3)
    monkeypatch.setattr(Goals, "spaces", stack_of_3)
    trainer, joined = make_goals_trainer(CONFIG, join_capacity=6)  # an episode takes five rows
    train(trainer, tmp_path)
    assert len(joined) == 4
    state = joined.sample(100).obs["state"]
    assert len(set(state[:, 0].tolist())) == 1
    assert set(state[:, 1].tolist()) == {0, 1, 2, 3}


def test_joined_episodes_have_their_share_of_the_demonstrations(tmp_path: Path) -> None:
    trainer, joined = make_goals_trainer(dataclasses.replace(CONFIG, batch_size=80, demo_fraction=0.5))
    assert trainer._sample().is_demo.sum() == 80  # nothing to replay yet
    train(trainer, tmp_path)
    demos = len(joined) + 5
    batch = trainer._sample()
    assert batch.is_demo.sum() == 40
    given = (batch.obs["state"][:40, 0] == 99).sum()
    assert given == 40 - round(40 * len(joined) / demos)
    assert len(joined) > 10
    logged = [float(value) for _, tag, value in rows(tmp_path) if tag == "train/joined_transitions"]
    assert logged == sorted(logged)
    assert logged[-1] == len(joined)


def pixel_agent() -> Agent:
    torch.manual_seed(0)
    config = ARSQConfig(
        levels=2, bins=3, hidden=(8, 8), layer_norm=True, encoder_channels=(4, 4), feature_dim=4
    )
    return ARSQ(Goals.spaces, config, CPU)


@pytest.mark.parametrize("stop_at", [19, 52, 73])
def test_a_run_with_images_and_joining_episodes_goes_on_exactly(tmp_path: Path, stop_at: int) -> None:
    config = dataclasses.replace(CONFIG, steps=120, eval_every=60, batch_size=16)
    straight, _ = make_goals_trainer(config, pixel_agent())
    train(straight, tmp_path / "straight")
    stopped, _ = make_goals_trainer(config, pixel_agent())
    train(stopped, tmp_path / "resumed", stop=StopAt(stopped, stop_at))
    assert stopped.counters.step < 120
    resumed, joined = make_goals_trainer(config, pixel_agent())
    torch.manual_seed(77)
    resumed.load_state_dict(load_checkpoint(tmp_path / "resumed" / "checkpoints" / CHECKPOINT)["trainer"])
    train(resumed, tmp_path / "resumed", resumed=True)
    assert rows(tmp_path / "resumed") == rows(tmp_path / "straight")
    for ours, theirs in zip(straight.agent.parameters(), resumed.agent.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert straight.joined is not None
    assert len(joined) == len(straight.joined) > 0
    assert torch.equal(joined.sample(99).obs["pixels"], straight.joined.sample(99).obs["pixels"])


def test_a_checkpoint_between_success_and_reset_keeps_the_episode(tmp_path: Path) -> None:
    """The final observation is recorded one iteration after the success; a checkpoint may come between."""
    config = dataclasses.replace(CONFIG, steps=200)
    trainer, _ = make_goals_trainer(config)
    while not trainer.joining.any():
        trainer._iterate()
    other, joined = make_goals_trainer(config)
    other.load_state_dict(trainer.state_dict())
    assert len(joined) == 0
    other._iterate()
    assert len(joined) == 4 * int((trainer.joining > 0).sum())


def test_a_checkpoint_of_another_shape_is_refused() -> None:
    state = make_trainer().state_dict()
    with pytest.raises(UserError, match="does not fit this run"):
        make_trainer(dataclasses.replace(CONFIG, num_envs=2)).load_state_dict(state)


@pytest.mark.parametrize(
    ("tag", "value"),
    [("step", None), ("step", math.inf), ("eval/return", math.nan), ("eval/return_std", None)],
)
def test_a_checkpoint_with_an_odd_evaluation_is_refused(tag: str, value: float | None) -> None:
    trainer = make_trainer()
    row = {"step": 3.0, "eval/return": 1.0, "eval/return_std": 0.5}
    trainer.evaluations = [row]
    state = trainer.state_dict()
    make_trainer().load_state_dict(state)
    odd = {name: other for name, other in row.items() if name != tag}
    state["evaluations"] = [odd if value is None else {**odd, tag: value}]
    with pytest.raises(UserError, match="does not fit this run"):
        make_trainer().load_state_dict(state)


@pytest.mark.parametrize(
    ("field", "value"), [("steps", -1), ("utd", float("nan")), ("demo_fraction", 1.5), ("batch_size", 0)]
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(UserError, match="--" + field.replace("_", "-")):
        dataclasses.replace(CONFIG, **{field: value})


class Reads(TorchDispatchMode):
    """Counts the operations for which a GPU's host would wait: their result depends on values."""

    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.names: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        has_mask = name.startswith("index") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool
            for indices in args[1:2]
            for each in (indices if isinstance(indices, list | tuple) else (indices,))
        )
        if name.startswith(self.waiting) or has_mask:
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", AGENTS)
def test_nothing_but_actions_comes_back_from_the_device_between_two_logs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU whatever reads a tensor's value waits for all that was asked of it before."""
    task = gym_tasks.make("Pendulum-v1", 2)
    spaces = task.spaces
    torch.manual_seed(0)
    agent = AGENTS[name](spaces, AGENTS[name].Config(hidden=(8, 8)), CPU)
    never = {"log_every": 10**9, "eval_every": 10**9}
    config = dataclasses.replace(CONFIG, num_envs=2, warmup_steps=4, utd=1.0, **never)
    buffer = ReplayBuffer(spaces, capacity=1000, lanes=2, device=CPU, discount=0.99)
    trainer = Trainer(agent, task, task, config, replay=buffer, device=CPU, seed=0)
    with Logger(tmp_path) as logger, Progress(1, "") as progress:
        trainer.logger, trainer.progress, trainer.run_dir = logger, progress, tmp_path
        trainer.start_clock()
        for _ in range(5):
            trainer._iterate()
        read: collections.Counter[str] = collections.Counter()
        for method in ("cpu", "numpy", "tolist", "__bool__", "__float__", "__int__", "__index__"):
            original = getattr(torch.Tensor, method)

            def counted(*arguments: Any, method: str = method, original: Any = original) -> Any:
                read[method] += 1
                return original(*arguments)

            monkeypatch.setattr(torch.Tensor, method, counted)
        with Reads() as reads:
            for _ in range(20):
                trainer._iterate()
                trainer._after_step()
        monkeypatch.undo()
    assert trainer.counters.online_updates >= 40
    assert read == {"cpu": 20, "numpy": 20}
    assert not reads.names


def test_batches_lie_in_the_same_tensors_every_time(tmp_path: Path) -> None:
    """Which a captured update reads; what is written there is what a buffer samples by itself."""
    trainer, joined = make_goals_trainer(dataclasses.replace(CONFIG, batch_size=12, n_step=2))
    train(trainer, tmp_path)
    first = trainer._sample()
    assert trainer._sample() is first
    assert len(joined) > 0
    trainer.replay.generator.manual_seed(3)
    alone = trainer.replay.sample(4)
    trainer.replay.generator.manual_seed(3)
    part = map_batch(lambda tensor: tensor[8:], first)
    trainer.replay.sample(4, part)
    for one, other in zip(_flat(alone), _flat(part), strict=True):
        assert torch.equal(one, other)
    assert part.obs["pixels"].data_ptr() == first.obs["pixels"][8:].data_ptr()


def _flat(batch: Batch) -> list[Tensor]:
    return [each for part in batch for each in (part.values() if isinstance(part, dict) else (part,))]


# ---- Signals in mid-step and in evaluations --------------------------------------------------------------


class Scripted(Corridor):
    """A corridor in which something happens in the `at`th call of `receive`, or in all from then on."""

    def __init__(
        self, num_envs: int, at: int, happens: Callable[[], None], *, length: int = 7, always: bool = False
    ) -> None:
        super().__init__(num_envs, length)
        self.at, self.happens, self.always, self.calls, self.restarts = at, happens, always, 0, 0

    def receive(self) -> Step:
        self.calls += 1
        if self.calls == self.at or (self.always and self.calls > self.at):
            self.happens()
        return super().receive()

    def restart(self) -> None:
        self.restarts += 1
        self.time[:] = 99  # of no use before the next reset


def signalled(number: signal.Signals = signal.SIGUSR1) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)


def checkpoint(run_dir: Path) -> dict[str, Any]:
    return load_checkpoint(run_dir / "checkpoints" / CHECKPOINT)["trainer"]


@pytest.mark.parametrize(("length", "film"), [(7, False), (2**40, False), (7, True)])
def test_an_evaluation_is_given_up_for_a_signal_and_made_again(
    tmp_path: Path, length: int, film: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that would never end; and while its film is being written."""
    straight = make_trainer(film=film)
    train(straight, tmp_path / "straight")
    stopped = make_trainer(film=film)
    if film:
        monkeypatch.setattr("rlzoo.run.video.write_video", lambda *_, **__: (signalled(), time.sleep(60)))
    else:
        stopped.eval_task = Scripted(2, 5, signalled, length=length)
    with StopSignal() as stop:
        started = time.monotonic()
        train(stopped, tmp_path / "resumed", stop=stop)
        assert time.monotonic() - started < 10
    assert stop.requested == signal.SIGUSR1
    assert stopped.counters.step == 100
    assert not stopped.evaluations
    monkeypatch.undo()
    resumed = make_trainer(film=film)
    resumed.load_state_dict(checkpoint(tmp_path / "resumed"))
    train(resumed, tmp_path / "resumed", resumed=True)
    assert rows(tmp_path / "resumed") == rows(tmp_path / "straight")
    assert resumed.counters == straight.counters
    assert torch.equal(*(t.agent.state_dict()["weight"] for t in (straight, resumed)))


def test_the_closing_evaluation_is_made_again_too(tmp_path: Path) -> None:
    stopped = make_trainer(dataclasses.replace(CONFIG, steps=132, eval_every=1000))
    stopped.eval_task = Scripted(2, 3, signalled)
    with StopSignal() as stop:
        train(stopped, tmp_path, stop=stop)
    assert not rows_of(tmp_path, "eval/return")
    resumed = make_trainer(dataclasses.replace(CONFIG, steps=132, eval_every=1000))
    resumed.load_state_dict(checkpoint(tmp_path))
    train(resumed, tmp_path, resumed=True)
    assert rows_of(tmp_path, "eval/return") == [(132, 7.0)]


def rows_of(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    return [(step, float(value)) for step, name, value in rows(run_dir) if name == tag]


def hang() -> None:
    signalled(signal.SIGTERM)
    time.sleep(60)


@pytest.mark.parametrize("call", ["receive", "reset", "get_state"])
def test_simulators_that_hang_are_not_waited_for_after_a_signal(
    tmp_path: Path, call: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlzoo.train.STATE_GRACE", 0.5)
    trainer = make_trainer()
    if call == "receive":
        trainer.task = Scripted(4, 20, hang)
    else:
        hangs = hang if call == "reset" else lambda: time.sleep(60 if trainer.counters.step >= 72 else 0)
        monkeypatch.setattr(trainer.task, call, lambda *_: hangs())
    stopping = StopAt(trainer, 72) if call == "get_state" else StopSignal()
    with stopping:
        started = time.monotonic()
        train(trainer, tmp_path, stop=stopping)
        assert time.monotonic() - started < 4
    at = {"receive": 68, "reset": 0, "get_state": 72}[call]
    assert trainer.counters.env_steps == at
    assert "after a resume they begin new episodes" in capsys.readouterr().out
    state = checkpoint(tmp_path)
    assert state["task"] is None
    resumed = make_trainer()
    resumed.load_state_dict(state)
    assert torch.equal(*(t.agent.state_dict()["weight"] for t in (trainer, resumed)))
    train(resumed, tmp_path, resumed=True)
    assert resumed.counters.env_steps == 200
    assert_transitions_are_whole(resumed.replay)


def assert_transitions_are_whole(replay: ReplayBuffer) -> None:
    """In a corridor, what follows on time t is t + 1, and no end is terminal."""
    batch = replay.sample(2000)
    assert torch.equal(batch.next_obs["state"][:, 1], batch.obs["state"][:, 1] + 1)
    assert torch.equal(batch.next_obs["state"][:, 0], batch.obs["state"][:, 0])
    assert bool((batch.discount == 0.99).all())
    assert bool((batch.reward == 1).all())


# ---- Simulators that fail --------------------------------------------------------------------------------


CAUSE = "Corridor: environment failed in step(): OSError: gone (x.py:7)"


def fail() -> None:
    raise SimulatorFailure(CAUSE)


def test_after_a_failure_every_environment_begins_anew_and_the_learner_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer()
    task = trainer.task = Scripted(4, 20, fail)
    weights: list[Tensor] = []
    task.restart = lambda: weights.append(trainer.agent.state_dict()["weight"].clone())  # type: ignore[method-assign]
    train(trainer, tmp_path)
    assert trainer.counters.env_steps == 200
    assert len(weights) == 1
    assert bool(weights[0].any())  # trained, and not begun anew
    assert len(set(task.seeds)) == 2  # other episodes than those of the run's beginning
    assert rows_of(tmp_path, "faults/restarts") == [(68, 1.0)]
    shown = [line for line in capsys.readouterr().out.splitlines() if "OSError" in line]
    assert shown == [f"warning: {CAUSE}; every environment begins anew"]
    assert {value for _, value in rows_of(tmp_path, "train/episode_return")} == {7.0}
    assert_transitions_are_whole(trainer.replay)
    assert checkpoint(tmp_path)["counters"]["restarts"] == 1


@pytest.mark.parametrize("where", ["send", "reset", "get_state"])
def test_failures_elsewhere_are_no_worse(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(dataclasses.replace(CONFIG, checkpoint_every=60))
    method, calls = getattr(trainer.task, where), []

    def fails_once(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            fail()
        return method(*arguments)

    monkeypatch.setattr(trainer.task, where, fails_once)
    train(trainer, tmp_path)
    assert trainer.counters.env_steps == 200
    assert trainer.counters.restarts == 1
    assert_transitions_are_whole(trainer.replay)


@pytest.mark.parametrize(("most", "at"), [(3, 20), (0, 1)])
def test_after_too_many_failures_the_run_stops_with_a_checkpoint_and_the_cause(
    tmp_path: Path, most: int, at: int
) -> None:
    """Also in the very first step, as a mistake in the environment's own code would."""
    trainer = make_trainer(dataclasses.replace(CONFIG, max_restarts=most))
    task = trainer.task = Scripted(4, at, fail, always=True)
    with pytest.raises(SimulatorFailure) as caught:
        train(trainer, tmp_path)
    step = 68 if at == 20 else 0
    assert str(caught.value) == (
        f"{CAUSE}; stopped at step {step} with a checkpoint, after {most} restarts within 10,000 steps "
        "(--max-restarts)"
    )
    assert task.restarts == most
    state = checkpoint(tmp_path)
    assert state["counters"]["env_steps"] == step
    resumed = make_trainer()
    resumed.load_state_dict(state)
    train(resumed, tmp_path, resumed=True)
    assert resumed.counters.env_steps == 200
    assert_transitions_are_whole(resumed.replay)


@pytest.mark.parametrize("most", [0, 3])
def test_an_evaluation_that_fails_begins_elsewhere(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same episodes, numbers that are not finite would come again, in a resumed run too."""
    trainer, resumed = (make_trainer(dataclasses.replace(CONFIG, max_restarts=most)) for _ in range(2))
    first, again, last = (derived_seed(5, EVALUATION, *parts) for parts in ((100,), (100, 1), (200, 1)))
    reset, seeds = Corridor.reset, []

    def fails_for_one_seed(task: Corridor, seed: int) -> dict[str, Array]:
        if seed in (first, again, last):
            seeds.append(seed)
        if seed == first:
            fail()
        return reset(task, seed)

    monkeypatch.setattr(Corridor, "reset", fails_for_one_seed)
    if most:
        train(trainer, tmp_path)
    else:
        with pytest.raises(SimulatorFailure):
            train(trainer, tmp_path)
        resumed.load_state_dict(checkpoint(tmp_path))
        train(resumed, tmp_path, resumed=True)
    assert seeds == [first, again, last]


def test_an_evaluation_that_cannot_be_written_is_made_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, log = make_trainer(), Logger.log

    def full(logger: Logger, step: int, values: dict[str, float]) -> None:
        log(logger, step, values)
        if "eval/return" in values:
            raise cannot_write("events", OSError(28, "no space left"))

    monkeypatch.setattr(Logger, "log", full)
    with pytest.raises(WriteError):
        train(trainer, tmp_path)
    monkeypatch.setattr(Logger, "log", log)
    trainer.rescue(cannot_write("events", OSError(28, "no space left")), tmp_path)
    resumed = make_trainer()
    resumed.load_state_dict(checkpoint(tmp_path))
    assert (resumed.counters.step, resumed.evaluated) == (100, False)
    with Logger(tmp_path, 100, drop_tags=EVALUATION_TAGS) as logger, Progress(1, "test") as progress:
        resumed.run(logger, progress, StopSignal(), tmp_path)
    assert [step for step, _ in rows_of(tmp_path, "eval/return")] == [100, 200]
    assert [row["step"] for row in resumed.evaluations] == [100, 200]


def test_failures_that_are_far_apart_stop_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlzoo.train.RESTART_PERIOD", 30)
    trainer = make_trainer(dataclasses.replace(CONFIG, max_restarts=1))
    task = trainer.task = Scripted(4, 10, lambda: None)

    def every_tenth_call_fails() -> None:
        task.at += 10
        fail()

    task.happens = every_tenth_call_fails
    train(trainer, tmp_path)
    assert trainer.counters.env_steps == 200
    assert task.restarts == trainer.counters.restarts > 3


@pytest.mark.parametrize("at", [3, 13])
def test_a_failed_evaluation_is_begun_again(tmp_path: Path, at: int) -> None:
    straight = make_trainer()
    train(straight, tmp_path / "straight")
    trainer = make_trainer()
    trainer.eval_task = Scripted(2, at, fail)
    train(trainer, tmp_path / "failing")
    assert rows_of(tmp_path / "failing", "faults/restarts") == [(100, 1.0)]
    without = [row for row in rows(tmp_path / "failing") if row[1] != "faults/restarts"]
    assert without == rows(tmp_path / "straight")
    assert trainer.eval_task.restarts == 1


def test_evaluations_that_always_fail_stop_the_run_and_are_made_again_on_resume(tmp_path: Path) -> None:
    straight = make_trainer()
    train(straight, tmp_path / "straight")
    trainer = make_trainer()
    trainer.eval_task = Scripted(2, 1, fail, always=True)
    with pytest.raises(SimulatorFailure, match="stopped at step 100 with a checkpoint"):
        train(trainer, tmp_path / "failing")
    resumed = make_trainer()
    resumed.load_state_dict(checkpoint(tmp_path / "failing"))
    train(resumed, tmp_path / "failing", resumed=True)
    assert [row for row in rows(tmp_path / "failing") if row[1] != "faults/restarts"] == rows(
        tmp_path / "straight"
    )


@pytest.mark.parametrize("evaluating", [False, True])
def test_a_step_without_an_answer_in_time_is_a_failure(
    tmp_path: Path, evaluating: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(dataclasses.replace(CONFIG, env_timeout=0.3))
    if evaluating:
        trainer.eval_task = Scripted(2, 3, lambda: time.sleep(60))
    else:
        trainer.task = Scripted(4, 20, lambda: time.sleep(60))
    with StopSignal() as stop:
        train(trainer, tmp_path, stop=stop)
    assert trainer.counters.env_steps == 200
    assert trainer.counters.restarts == 1
    assert "the environments have not answered in time (--env-timeout 0.3)" in capsys.readouterr().out
    assert_transitions_are_whole(trainer.replay)


def test_making_simulators_anew_may_take_longer_than_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(dataclasses.replace(CONFIG, env_timeout=0.3))
    trainer.task = Scripted(4, 20, fail)
    restart = trainer.task.restart
    monkeypatch.setattr(trainer.task, "restart", lambda: (time.sleep(1), restart()))
    with StopSignal() as stop:
        train(trainer, tmp_path, stop=stop)
    assert (trainer.counters.env_steps, trainer.counters.restarts) == (200, 1)


def test_a_failing_step_while_stopping_is_no_fault(tmp_path: Path) -> None:
    """A batch system's signal ends programs of the simulator's own, too."""

    def both() -> None:
        signalled()
        fail()

    trainer = make_trainer()
    trainer.task = Scripted(4, 20, both)
    with StopSignal() as stop:
        train(trainer, tmp_path, stop=stop)
    assert checkpoint(tmp_path)["counters"]["env_steps"] == 68
    assert trainer.counters.restarts == 0


def test_images_and_joining_episodes_survive_a_failure(tmp_path: Path) -> None:
    trainer, joined = make_goals_trainer(dataclasses.replace(CONFIG, max_restarts=1000))
    receive, calls = trainer.task.receive, []

    def every_ninth_call_fails() -> Step:
        calls.append(1)
        if len(calls) % 9 == 0:
            fail()
        return receive()

    trainer.task.receive = every_ninth_call_fails  # type: ignore[method-assign]
    train(trainer, tmp_path)
    assert trainer.counters.restarts > 3
    for buffer in (trainer.replay, joined):
        batch = buffer.sample(1000)
        assert torch.equal(batch.next_obs["state"][:, 1], batch.obs["state"][:, 1] + 1)
        pixels = batch.next_obs["pixels"].unflatten(2, (2, 3))[..., 0, 0, 0]  # [B, V, F]
        assert torch.equal(pixels[:, 1, 1].float(), batch.next_obs["state"][:, 1])
        assert torch.equal(pixels[:, 1, 0].float(), batch.obs["state"][:, 1])
        assert torch.equal(batch.discount == 0, batch.reward == 1)
    assert len(joined) > 4
