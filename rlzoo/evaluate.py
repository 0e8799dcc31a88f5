"""Evaluation: whole episodes, in environments of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from rlzoo.agent import Agent
from rlzoo.replay import FrameStacker
from rlzoo.run.signals import StopSignal, begin_limit
from rlzoo.seeding import global_generators_kept
from rlzoo.tracker import EpisodeTracker, FinishedEpisode
from rlzoo.types import Array, FloatArray, Frame, VectorTask

VIDEO_TAG = "eval/video"
# All tags that an evaluation may log.
EVALUATION_TAGS = (
    *("eval/return", "eval/return_std", "eval/episode_length", "eval/success", "eval/normalized_score"),
    VIDEO_TAG,
)


@dataclass(frozen=True)
class Evaluation:
    """What the episodes of one evaluation came to.

    Attributes:
        returns: [E], undiscounted.
        lengths: [E], in environment steps.
        success: [E], 1 or 0; all NaN where the task says nothing of it.
        frames: the first episode's frames, RGB [H, W, 3], if they were asked for.
    """

    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    success: FloatArray
    frames: list[Frame]

    @classmethod
    def of(
        cls,
        played: Sequence[Sequence[FinishedEpisode]],
        episodes: int,
        frames: list[Frame],
        *,
        tells_success: bool,
    ) -> Evaluation:
        """The evaluation of `episodes` episodes that the lanes have `played`, or of those that have ended.

        How many count of each lane is fixed beforehand, so that short ones are not counted more often than
        long ones.
        """
        counted = [
            episode
            for lane, quota in zip(played, quotas(episodes, len(played)), strict=True)
            for episode in lane[:quota]
        ]
        success = np.array([episode.success for episode in counted], dtype=np.float32)
        return cls(
            np.array([episode.episode_return for episode in counted]),
            np.array([episode.length for episode in counted]),
            np.nan_to_num(success) if tells_success else success,
            frames,
        )

    def values(self) -> dict[str, float]:
        """The evaluation's TensorBoard tags."""
        values = {
            "eval/return": float(self.returns.mean()),
            "eval/return_std": float(self.returns.std()),
            "eval/episode_length": float(self.lengths.mean()),
        }
        if not np.isnan(self.success).any():
            values["eval/success"] = float(self.success.mean())
        return values


def quotas(episodes: int, lanes: int) -> list[int]:
    """How many of the episodes each lane plays: the same number, or one more."""
    return [episodes // lanes + (lane < episodes % lanes) for lane in range(lanes)]


def policy_action(
    agent: Agent, obs: dict[str, Array], device: torch.device, *, deterministic: bool
) -> FloatArray:
    """The agent's actions [N, A] on the host for host observations [N, ...]."""
    tensors = {name: torch.from_numpy(value).to(device) for name, value in obs.items()}
    action: FloatArray = agent.act(tensors, deterministic=deterministic).cpu().numpy()
    return action


@global_generators_kept()
def evaluate(
    agent: Agent,
    task: VectorTask,
    *,
    episodes: int,
    seed: int,
    device: torch.device,
    record: bool = False,
    deterministic: bool = True,
    tells_success: bool = False,
    stop: StopSignal | None = None,
    limit: float = 0.0,
) -> Evaluation:
    """Run `episodes` episodes, spread evenly over the task's lanes (see `Evaluation.of`).

    `seed` alone decides the episodes' starts. With `record`, the first lane's first episode is filmed. Not
    `deterministic`, actions are sampled, by PyTorch's generator. The generators of Python and NumPy
    themselves, which environments may draw from, are left as they were.

    Where the task says that it was solved, in one of the episodes or earlier (`tells_success`), episodes of
    which it says nothing have failed.

    A request of `stop` ends it within two seconds; `limit` is what a step may take, in seconds (0: any
    time).

    Raises:
        Stopped, TimedOut: it was cut short.
        SimulatorFailure: a simulator failed.
    """
    lanes = task.num_envs
    stop = stop or StopSignal()
    stop.check()
    with stop.waiting(begin_limit(limit)):
        obs = task.reset(seed)
    stacker = FrameStacker(task.spaces)
    tracker = EpisodeTracker(lanes, tells_success=tells_success)
    finished: list[list[FinishedEpisode]] = [[] for _ in range(lanes)]
    frames = [task.render()] if record else []
    wanted = quotas(episodes, lanes)
    while any(len(lane) < quota for lane, quota in zip(finished, wanted, strict=True)):
        stop.check()
        action = policy_action(agent, stacker(obs, tracker.begins), device, deterministic=deterministic)
        with stop.waiting(limit):
            task.send(action)
            step = task.receive()
            if record and not finished[0]:
                frames.append(task.render())
        for episode in tracker.update(step):
            finished[episode.lane].append(episode)
        obs = step.obs
    return Evaluation.of(finished, episodes, frames, tells_success=tracker.tells_success)
