"""What a dataset says of the units of observations and actions: means, deviations and ranges.

Applied between the simulator and everything else, so that buffers hold standardised observations and rescaled
actions, and no agent knows of it. The statistics go into the checkpoints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rlzoo.types import Array, Episode, FloatArray, Step, VectorTask

# What an agent may do beyond the data's range on either side: a share of that range, and no less than this in
# the task's units, so that a dimension which the data leave alone has a width.
ACTION_MARGIN, LEAST_MARGIN = 0.05, 5e-4


@dataclasses.dataclass(frozen=True)
class ObservationScaling:
    """mean and std, each float32 [S]; std has no zeros."""

    mean: FloatArray
    std: FloatArray

    def __call__(self, obs: Mapping[str, Array]) -> dict[str, Array]:
        """The observations with "state" [..., S] standardised."""
        return {**obs, "state": ((obs["state"] - self.mean) / self.std).astype(np.float32)}

    def scale_episodes(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Copies of the episodes with standardised observations; other arrays are shared."""
        return [dataclasses.replace(episode, obs=self(episode.obs)) for episode in episodes]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"mean": torch.from_numpy(self.mean), "std": torch.from_numpy(self.std)}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> ObservationScaling:
        """What `state_dict` returned."""
        return ObservationScaling(state["mean"].numpy(), state["std"].numpy())


@dataclasses.dataclass(frozen=True)
class ActionScaling:
    """The linear map between the actions of a task, in [-1, 1], and those of an agent, in [-1, 1] as well.

    Attributes:
        low, high: float32 [A], the task's actions at an agent's -1 and 1; each low is below its high.
    """

    low: FloatArray
    high: FloatArray

    @staticmethod
    def of(episodes: Sequence[Episode]) -> ActionScaling:
        """The range of each dimension of the episodes' actions in [-1, 1], widened within these bounds."""
        low = np.min([episode.action.min(0) for episode in episodes], 0)
        high = np.max([episode.action.max(0) for episode in episodes], 0)
        margin = np.maximum(ACTION_MARGIN * (high - low), LEAST_MARGIN)
        return ActionScaling(
            np.maximum(low - margin, -1).astype(np.float32), np.minimum(high + margin, 1).astype(np.float32)
        )

    def to_agent(self, action: FloatArray) -> FloatArray:
        """The task's actions [..., A] in an agent's units, cut to [-1, 1]."""
        scaled = 2 * (action - self.low) / (self.high - self.low) - 1
        return np.asarray(scaled.clip(-1, 1), np.float32)

    def to_task(self, action: FloatArray) -> FloatArray:
        """An agent's actions [..., A] in the task's units; those beyond [-1, 1] are cut."""
        scaled = self.low + (action.clip(-1, 1) + 1) / 2 * (self.high - self.low)
        return np.asarray(scaled, np.float32)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"low": torch.from_numpy(self.low), "high": torch.from_numpy(self.high)}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> ActionScaling:
        """What `state_dict` returned."""
        return ActionScaling(state["low"].numpy(), state["high"].numpy())


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Everything between a task and an agent; None where nothing is changed."""

    obs: ObservationScaling | None = None
    action: ActionScaling | None = None

    @staticmethod
    def of_checkpoint(checkpoint: Mapping[str, Any]) -> Scaling:
        """That of the run which left the checkpoint."""
        obs, action = checkpoint.get("scaling"), checkpoint.get("action_scaling")  # one from before has none
        return Scaling(
            None if obs is None else ObservationScaling.from_state(obs),
            None if action is None else ActionScaling.from_state(action),
        )

    @property
    def changes_nothing(self) -> bool:
        """Whether an agent sees the task as it is."""
        return self.obs is None and self.action is None

    def metadata(self) -> dict[str, Any]:
        """What `of_checkpoint` reads of a checkpoint."""
        return {
            "scaling": None if self.obs is None else self.obs.state_dict(),
            "action_scaling": None if self.action is None else self.action.state_dict(),
        }

    def episodes(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Copies of the episodes as an agent is to see them; unchanged arrays are shared."""
        if self.obs is not None:
            episodes = self.obs.scale_episodes(episodes)
        if self.action is None:
            return list(episodes)
        to_agent = self.action.to_agent
        return [dataclasses.replace(episode, action=to_agent(episode.action)) for episode in episodes]

    def scale_obs(self, obs: dict[str, Array]) -> dict[str, Array]:
        """A task's observations as an agent sees them."""
        return obs if self.obs is None else self.obs(obs)

    def to_task(self, action: FloatArray) -> FloatArray:
        """An agent's actions [..., A] in the task's units."""
        return action if self.action is None else self.action.to_task(action)

    def wrap(self, task: VectorTask) -> VectorTask:
        """The task as an agent is to see it."""
        return task if self.changes_nothing else ScaledTask(task, self)


class ScaledTask:
    """A `VectorTask` whose observations are standardised, whose actions are rescaled, or both."""

    def __init__(self, task: VectorTask, scaling: Scaling) -> None:
        self.task, self.scaling = task, scaling
        self.num_envs, self.spaces = task.num_envs, task.spaces
        self.render_fps: float = getattr(task, "render_fps", 30.0)

    def reset(self, seed: int) -> dict[str, Array]:
        """As the task's, with observations as an agent sees them."""
        return self.scaling.scale_obs(self.task.reset(seed))

    def send(self, action: FloatArray) -> None:
        """As the task's, of an agent's actions."""
        self.task.send(self.scaling.to_task(action))

    def receive(self) -> Step:
        """As the task's, with observations as an agent sees them."""
        step = self.task.receive()
        return step._replace(obs=self.scaling.scale_obs(step.obs))

    def get_state(self) -> list[dict[str, Any]]:
        """As the task's."""
        return self.task.get_state()

    def set_state(self, state: list[dict[str, Any]]) -> None:
        """As the task's."""
        self.task.set_state(state)

    def render(self) -> npt.NDArray[np.uint8]:
        """As the task's."""
        return self.task.render()

    def close(self) -> None:
        """As the task's."""
        self.task.close()
