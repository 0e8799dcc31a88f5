"""Evaluation: whole episodes, in environments of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from rlzoo.agent import Agent
from rlzoo.replay import FrameStacker
from rlzoo.types import Array, FloatArray, VectorTask

VIDEO_TAG = "eval/video"
# All tags that an evaluation may log.
EVALUATION_TAGS = (
    "eval/return",
    "eval/return_std",
    "eval/episode_length",
    "eval/success",
    "eval/normalized_score",
    VIDEO_TAG,
)


@dataclass(frozen=True)
class Evaluation:
    """What the episodes of one evaluation came to.

    Attributes:
        returns: [E], undiscounted.
        lengths: [E], in environment steps.
        success: [E], 1 or 0, NaN where the task does not say.
        frames: the first episode's frames, RGB [H, W, 3], if they were asked for.
    """

    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    success: FloatArray
    frames: list[npt.NDArray[np.uint8]]

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


def policy_action(
    agent: Agent, obs: dict[str, Array], device: torch.device, *, deterministic: bool
) -> FloatArray:
    """The agent's actions [N, A] on the host for host observations [N, ...]."""
    tensors = {name: torch.from_numpy(value).to(device) for name, value in obs.items()}
    action: FloatArray = agent.act(tensors, deterministic=deterministic).cpu().numpy()
    return action


def evaluate(
    agent: Agent,
    task: VectorTask,
    *,
    episodes: int,
    seed: int,
    device: torch.device,
    record: bool = False,
    deterministic: bool = True,
) -> Evaluation:
    """Run `episodes` episodes, spread evenly over the task's lanes.

    Each lane plays the same number of episodes, so that short ones are not counted more often than long
    ones. `seed` alone decides the episodes' starts. With `record`, the first lane's first episode is filmed.
    Not `deterministic`, actions are sampled, by PyTorch's generator.

    Raises:
        ValueError: if `episodes` is not a multiple of the number of lanes.
    """
    lanes = task.num_envs
    if episodes % lanes:
        raise ValueError(f"{episodes} episodes cannot be spread evenly over {lanes} environments")
    obs = task.reset(seed)
    stacker = FrameStacker(task.spaces)
    begins = np.ones(lanes, dtype=np.bool_)  # lanes whose observation is an episode's first
    ended = np.zeros(lanes, dtype=np.bool_)  # lanes whose next step only resets
    current_return = np.zeros(lanes, dtype=np.float64)
    current_length = np.zeros(lanes, dtype=np.int64)
    current_success = np.full(lanes, np.nan, dtype=np.float32)
    finished: list[list[tuple[float, int, float]]] = [[] for _ in range(lanes)]
    frames = [task.render()] if record else []
    while min(map(len, finished)) < episodes // lanes:
        action = policy_action(agent, stacker(obs, begins), device, deterministic=deterministic)
        task.send(action)
        step = task.receive()
        running = ~ended
        current_return[running] += step.reward[running]
        current_length[running] += 1
        # A task once solved counts as solved, also where the episode goes on.
        current_success[running] = np.fmax(current_success, step.success)[running]
        if record and not finished[0]:
            frames.append(task.render())
        begins, ended = ended, (step.terminated | step.truncated) & running
        for lane in np.flatnonzero(ended):
            finished[lane].append((current_return[lane], current_length[lane], current_success[lane]))
            current_return[lane], current_length[lane], current_success[lane] = 0.0, 0, np.nan
        obs = step.obs
    results = [result for lane in finished for result in lane[: episodes // lanes]]
    returns, lengths, success = zip(*results, strict=True)
    return Evaluation(np.array(returns), np.array(lengths), np.array(success, dtype=np.float32), frames)
