"""The loop: what it steps, when it updates, how it stops and goes on."""

import csv
import dataclasses
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlzoo.agent import Agent, Update
from rlzoo.checkpoint import load_checkpoint
from rlzoo.errors import UserError
from rlzoo.evaluate import EVALUATION_TAGS
from rlzoo.logger import Logger
from rlzoo.main import StopSignal
from rlzoo.progress import Progress
from rlzoo.replay import ReplayBuffer
from rlzoo.train import CHECKPOINT, TrainConfig, Trainer, evaluation_seed
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
        return np.zeros((8, 8, 3), np.uint8)

    def close(self) -> None: ...


class Counting(Agent):
    """Counts its updates, in two kinds; acts at random; can be told to produce a NaN."""

    def __init__(self, poison_at: int | None = None, weight: bool = False) -> None:
        super().__init__()
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
        self.calls.append((kind, batch))
        poisoned = self.poison_at is not None and len(self.calls) >= self.poison_at
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
    config: TrainConfig = CONFIG, agent: Agent | None = None, demos: ReplayBuffer | None = None
) -> Trainer:
    torch.manual_seed(0)
    task = Corridor(config.num_envs)
    replay = ReplayBuffer(
        task.spaces, capacity=config.buffer_capacity, lanes=config.num_envs, device=CPU, discount=0.99
    )
    return Trainer(agent or Counting(), task, Corridor(2), replay, config, device=CPU, seed=5, demos=demos)


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
    assert trainer.eval_task.seeds == [evaluation_seed(5, 100), evaluation_seed(5, 200)]
    assert len({evaluation_seed(seed, step) for seed in range(9) for step in range(0, 900, 100)}) == 81


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


@pytest.mark.parametrize("weight", [False, True], ids=["loss", "weight"])
def test_a_quantity_that_is_not_finite_stops_the_run(tmp_path: Path, weight: bool) -> None:
    config = dataclasses.replace(CONFIG, checkpoint_every=60)
    trainer = make_trainer(config, Counting(poison_at=20, weight=weight))
    with pytest.raises(
        UserError, match=r"(loss/test became nan|weight weight became not finite) by step \d+ \(update \d+\)"
    ):
        train(trainer, tmp_path)
    state = load_checkpoint(tmp_path / "checkpoints" / CHECKPOINT)["trainer"]
    assert bool(torch.isfinite(state["agent"]["weight"]).all())
    assert state["counters"]["env_steps"] >= 60


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


def test_a_checkpoint_of_another_shape_is_refused() -> None:
    state = make_trainer().state_dict()
    with pytest.raises(UserError, match="does not fit this run"):
        make_trainer(dataclasses.replace(CONFIG, num_envs=2)).load_state_dict(state)


@pytest.mark.parametrize(
    ("field", "value"), [("steps", -1), ("utd", float("nan")), ("demo_fraction", 1.5), ("batch_size", 0)]
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(UserError, match="--" + field.replace("_", "-")):
        dataclasses.replace(CONFIG, **{field: value})
