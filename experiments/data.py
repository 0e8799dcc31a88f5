"""Recorded data for an experiment: loading, choosing, scaling, and the buffers that hold it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from rlzoo.demos import observation_statistics, select_episodes, summary
from rlzoo.errors import UserError
from rlzoo.normalize import ObservationScaling
from rlzoo.replay import ReplayBuffer
from rlzoo.train import TrainConfig
from rlzoo.types import Episode, Spaces


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Recorded data: the whole of it seeds the replay buffer, a selection of it are the demonstrations."""

    dataset: str | None = None
    """A D4RL HDF5 file, an Adroit pickle, or a Minari dataset's folder or name; None: the task's own data,
    where it has any."""
    offline: bool = False
    """Train on the data alone: --steps counts updates, and environments are stepped for evaluation only."""
    seed_replay: bool = True
    """Begin with the whole dataset in the replay buffer, which is enlarged by its size."""
    demo_percentile: float = 50.0
    """Demonstrations: the middle of the slice of episodes by return, 0 (worst) to 100 (best)."""
    demo_ratio: float = 100.0
    """Demonstrations: the size of that slice, in per cent of all steps."""
    demo_count: int | None = None
    """Demonstrations: how many episodes to draw from that slice; None: all."""
    standardize: bool = True
    """Standardise observations with the dataset's mean and standard deviation."""


@dataclasses.dataclass(frozen=True)
class Data:
    """The episodes of a run, with observations standardised if there is a scaling."""

    replay: Sequence[Episode] = ()
    demos: Sequence[Episode] = ()
    scaling: ObservationScaling | None = None


def prepare(
    episodes: Sequence[Episode],
    config: DataConfig,
    *,
    seed: int,
    normalized_score: Callable[[float], float] | None,
    note: Callable[[str], None],
) -> Data:
    """Choose the demonstrations, say what there is, and standardise.

    Raises:
        UserError: if nothing is selected.
    """
    demos = select_episodes(
        episodes,
        percentile=config.demo_percentile,
        ratio=config.demo_ratio,
        count=config.demo_count,
        seed=seed,
    )
    note("dataset\n" + summary(episodes, normalized_score=normalized_score))
    if len(demos) < len(episodes):
        note("demonstrations\n" + summary(demos, normalized_score=normalized_score, selected_from=episodes))
    replay = episodes if config.seed_replay else ()
    if not config.standardize:
        return Data(replay, demos)
    scaling = ObservationScaling(*observation_statistics(episodes))
    return Data(scaling.scale_episodes(replay), scaling.scale_episodes(demos), scaling)


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
    saved: Mapping[str, Any] | None,
) -> tuple[ReplayBuffer, ReplayBuffer | None]:
    """The replay buffer, and that of the demonstrations if there are any, filled with the data.

    Args:
        saved: a trainer's state, whose buffers are then made in the sizes they had, to be loaded.
    """

    def make(capacity: int, lanes: int, *, demos: bool) -> ReplayBuffer:
        return ReplayBuffer(
            spaces,
            capacity=capacity,
            lanes=lanes,
            device=device,
            discount=config.discount,
            n_step=config.n_step,
            is_demo=demos,
            seed=seed + demos,
        )

    if saved is not None:
        try:
            replay = make(
                len(saved["replay"]["starts_in_row"]) * config.num_envs, config.num_envs, demos=False
            )
            rows = None if saved["demos"] is None else len(saved["demos"]["starts_in_row"])
        except (KeyError, TypeError) as error:
            raise UserError(f"the checkpoint holds no replay buffer: {error} is missing") from error
        return replay, None if rows is None else make(rows, 1, demos=True)
    # Lanes are filled as evenly as whole episodes allow: each may need up to one episode more than its share.
    longest = max((len(episode) + 1 for episode in data.replay), default=0)
    extra = rows_of(data.replay) + longest * config.num_envs
    replay = make(config.buffer_capacity + extra, config.num_envs, demos=False)
    if data.replay:
        replay.add_episodes(data.replay)
    if not data.demos:
        return replay, None
    demos = make(max(rows_of(data.demos), config.n_step + spaces.frame_stack + 1), 1, demos=True)
    demos.add_episodes(data.demos)
    return replay, demos
