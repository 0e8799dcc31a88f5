"""Recorded data for an experiment: loading, choosing, scaling, and the buffers that hold it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from rlzoo.data.episodes import flattened, identity, observation_statistics, select_episodes, summary
from rlzoo.data.scaling import ObservationScaling, Scaling, action_range_of
from rlzoo.errors import UserError
from rlzoo.replay import ReplayBuffer
from rlzoo.seeding import BUFFERS, derived_seed
from rlzoo.settings import Count, Percent, Settings
from rlzoo.train import TrainConfig
from rlzoo.types import Episode, FloatArray, Spaces


@dataclasses.dataclass(frozen=True)
class DataConfig(Settings):
    """Recorded data: they seed the replay buffer, a selection of them are the demonstrations."""

    dataset: str | None = None
    """HDF5, pickle or Minari; RLBench: its folder; None: the task's own data."""
    offline: bool = False
    """Train on recorded data alone."""
    seed_replay: bool = True
    """Replay begins with the data."""
    replay_ratio: Annotated[Percent, Field(gt=0)] = 100.0
    """Share of it, the best, per cent."""
    demo_percentile: Percent = 50.0
    """Middle of the demonstrations' slice by return, 0 (worst) to 100."""
    demo_ratio: Percent = 100.0
    """Size of that slice, in per cent of all steps."""
    demo_count: Count | None = None
    """Episodes to draw from that slice; None: all."""
    standardize: bool = True
    """Standardise observations by the data's statistics."""
    rescale_actions: bool = False
    """Map the data's range of actions to [-1, 1]."""


@dataclasses.dataclass(frozen=True)
class Data:
    """The episodes of a run.

    Attributes:
        recorded: all of them, as recorded.
        replay: those that the replay buffer begins with, scaled.
        demos: the demonstrations, scaled.
        scaling: between the task and the agent.
        identity: which data these are; empty without.
    """

    recorded: Sequence[Episode] = ()
    replay: Sequence[Episode] = ()
    demos: Sequence[Episode] = ()
    scaling: Scaling = dataclasses.field(default_factory=Scaling)
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def prepare(
    episodes: Sequence[Episode],
    config: DataConfig,
    *,
    seed: int,
    normalized_score: Callable[[float], float] | None,
    least_std: FloatArray | float = 0.0,
) -> Data:
    """Choose the demonstrations, print what there is, standardise observations and rescale actions.

    Args:
        episodes: the whole data.
        config: what is chosen of it, and what is scaled.
        seed: of the choice.
        normalized_score: of a return, for the summary.
        least_std: what observations [S] are divided by where their standard deviation is less.

    Raises:
        UserError: if nothing is selected.
    """
    try:
        demos = select_episodes(
            episodes,
            percentile=config.demo_percentile,
            ratio=config.demo_ratio,
            count=config.demo_count,
            seed=seed,
        )
        replay = (
            select_episodes(episodes, percentile=100, ratio=config.replay_ratio, name="replay")
            if config.seed_replay
            else []
        )
    except UserError as error:
        raise UserError(f"{config.dataset or 'dataset'}: {error}") from error
    print("dataset\n" + summary(episodes, normalized_score=normalized_score))
    if len(demos) < len(episodes):
        print("demonstrations\n" + summary(demos, normalized_score=normalized_score, selected_from=episodes))
    if config.seed_replay and len(replay) < len(episodes):
        print("replay\n" + summary(replay, normalized_score=normalized_score, selected_from=episodes))
    obs = action = None
    if config.standardize:
        mean, std = observation_statistics(episodes)
        for line in flattened(episodes, std):
            print(f"warning: {line}")
        obs = ObservationScaling(mean, np.maximum(std, least_std).astype(np.float32))
    if config.rescale_actions:
        action = action_range_of(episodes)
        shares = (np.asarray(action.high) - action.low) / 2
        print(
            f"actions mapped from the data's ranges, {shares.min():.2g} to {shares.max():.2g} of the task's"
        )
    scaling = Scaling(obs, action)
    scaled = scaling.episodes(episodes)
    by_id = {id(episode): copy for episode, copy in zip(episodes, scaled, strict=True)}
    demos, replay = ([by_id[id(episode)] for episode in chosen] for chosen in (demos, replay))
    return Data(episodes, replay, demos, scaling, identity(episodes))


def rows_of(episodes: Sequence[Episode]) -> int:
    """Buffer rows that the episodes take: one per observation."""
    return sum(len(episode) + 1 for episode in episodes)


def make_buffers(
    spaces: Spaces,
    data: Data,
    config: TrainConfig,
    *,
    device: torch.device,
    seed: int,
    grows: bool,
    saved: Mapping[str, Any] | None,
) -> dict[str, ReplayBuffer | None]:
    """A run's buffers, filled with the data, as `Trainer` takes them.

    "replay", "demos" for the demonstrations and "joined" for successful online episodes that join them; the
    last two may be None.

    Args:
        grows: whether steps of the agent's own are to be added, which need `config.buffer_capacity` rows, and
            `config.join_capacity` where they may join the demonstrations.
        saved: a trainer's state, whose buffers are then made in the sizes they had, to be loaded.
    """
    rows = _rows(spaces, data, config, grows=grows) if saved is None else _saved_rows(saved)

    def make(name: str, lanes: int, stream: int) -> ReplayBuffer:
        return ReplayBuffer(
            spaces,
            capacity=rows[name] * lanes,
            lanes=lanes,
            device=device,
            discount=config.discount,
            n_step=config.n_step,
            reward_scale=config.reward_scale,
            is_demo=name != "replay",
            seed=derived_seed(seed, BUFFERS, stream),
        )

    replay = make("replay", config.num_envs, 0)
    demos, joined = (
        make(name, 1, i) if rows[name] else None for i, name in enumerate(("demos", "joined"), 1)
    )
    if data.replay:
        replay.add_episodes(data.replay)
    if demos is not None and data.demos:
        demos.add_episodes(data.demos)
    return {"replay": replay, "demos": demos, "joined": joined}


def _rows(spaces: Spaces, data: Data, config: TrainConfig, *, grows: bool) -> dict[str, int]:
    """Rows per lane of each buffer, 0 for none."""
    least = config.n_step + spaces.frame_stack + 1
    if data.demos and grows and 0 < config.join_capacity < least:
        raise UserError(f"--join-capacity is {config.join_capacity}, expected 0 or at least {least}")
    own = config.buffer_capacity if grows else least * config.num_envs
    # Lanes are filled as evenly as whole episodes allow: each may need up to one episode more than its share.
    longest = max((len(episode) + 1 for episode in data.replay), default=0)
    return {
        "replay": (own + rows_of(data.replay) + longest * config.num_envs) // config.num_envs,
        "demos": max(rows_of(data.demos), least) if data.demos else 0,
        "joined": config.join_capacity if data.demos and grows else 0,
    }


def _saved_rows(saved: Mapping[str, Any]) -> dict[str, int]:
    """The rows per lane that the buffers in a trainer's state had."""
    try:
        states = {name: saved[name] for name in ("replay", "demos", "joined")}
        return {name: 0 if state is None else len(state["starts_in_row"]) for name, state in states.items()}
    except (KeyError, TypeError, IndexError) as error:
        raise UserError("the checkpoint holds no replay buffer") from error
