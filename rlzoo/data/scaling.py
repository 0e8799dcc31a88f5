"""What a dataset says of the units of observations and actions: means, deviations and ranges.

Applied between the simulator and everything else, so that buffers hold standardised observations and rescaled
actions, and no agent knows of it. The statistics go into the checkpoints.
"""

# ruff: noqa: D102  (the methods of `ScaledTask` are those of `VectorTask`)

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch

from rlzoo.actions import ActionRange
from rlzoo.errors import UserError
from rlzoo.types import Array, Episode, FloatArray, Step, VectorTask


@dataclasses.dataclass(frozen=True)
class ObservationScaling:
    """Mean and standard deviation of observations, each float32 [S]; no deviation is 0."""

    mean: FloatArray
    std: FloatArray


def action_range_of(episodes: Sequence[Episode]) -> ActionRange:
    """The range of each dimension of the episodes' actions, widened within [-1, 1]."""
    low = np.min([episode.action.min(0) for episode in episodes], 0)
    high = np.max([episode.action.max(0) for episode in episodes], 0)
    # A twentieth on either side; the least margin gives a dimension that never changes in the data a width.
    margin = np.maximum(0.05 * (high - low), 5e-4)
    low, high = np.maximum(low - margin, -1), np.minimum(high + margin, 1)
    return ActionRange(low.astype(np.float32), high.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Everything between a task and an agent.

    Attributes:
        obs: standardises observations; None leaves them as they are.
        action: the task's actions at an agent's -1 and 1, each float32 [A]; None leaves actions as they are.
    """

    obs: ObservationScaling | None = None
    action: ActionRange | None = None

    @staticmethod
    def of_checkpoint(checkpoint: Mapping[str, Any]) -> Scaling:
        """The scaling of the run that left the checkpoint (or an export's configuration, with lists).

        Raises:
            UserError: it is something else.
        """
        obs, action = checkpoint.get("scaling"), checkpoint.get("action_scaling")
        try:
            return Scaling(
                None if obs is None else ObservationScaling(*_arrays(obs, "mean", "std")),
                None if action is None else ActionRange(*_arrays(action, "low", "high")),
            )
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise UserError("the checkpoint does not say how observations and actions are scaled") from error

    @property
    def changes_nothing(self) -> bool:
        """Whether an agent sees the task as it is."""
        return self.obs is None and self.action is None

    def metadata(self) -> dict[str, Any]:
        """What `of_checkpoint` reads of a checkpoint."""
        return {
            "scaling": self.obs and _tensors(mean=self.obs.mean, std=self.obs.std),
            "action_scaling": self.action and _tensors(low=self.action.low, high=self.action.high),
        }

    def episodes(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Copies of the episodes as an agent is to see them; unchanged arrays are shared."""
        to_unit = (lambda action: action) if self.action is None else self.action.to_unit
        return [
            dataclasses.replace(episode, obs=self.scale_obs(episode.obs), action=to_unit(episode.action))
            for episode in episodes
        ]

    def scale_obs(self, obs: Mapping[str, Array]) -> dict[str, Array]:
        """A task's observations as an agent sees them."""
        if self.obs is None:
            return dict(obs)
        return {**obs, "state": ((obs["state"] - self.obs.mean) / self.obs.std).astype(np.float32)}

    def to_task(self, action: FloatArray) -> FloatArray:
        """An agent's actions [..., A] in the task's units."""
        return action if self.action is None else np.asarray(self.action.from_unit(action), np.float32)

    def wrap(self, task: VectorTask) -> VectorTask:
        """The task as an agent is to see it."""
        return task if self.changes_nothing else cast(VectorTask, ScaledTask(task, self))


def _tensors(**arrays: Array | float) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(array) for name, array in arrays.items()}


def _arrays(saved: Mapping[str, Any], *names: str) -> list[FloatArray]:
    return [np.asarray(saved[name], np.float32) for name in names]


class ScaledTask:
    """A `VectorTask` whose observations are standardised, whose actions are rescaled, or both."""

    def __init__(self, task: VectorTask, scaling: Scaling) -> None:
        self.task, self.scaling = task, scaling

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def reset(self, seed: int) -> dict[str, Array]:
        return self.scaling.scale_obs(self.task.reset(seed))

    def send(self, action: FloatArray) -> None:
        self.task.send(self.scaling.to_task(action))

    def receive(self) -> Step:
        step = self.task.receive()
        return step._replace(obs=self.scaling.scale_obs(step.obs))
