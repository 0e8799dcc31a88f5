"""Standardised observations: (state - mean) / std, with the statistics of a dataset.

Done between the simulator and everything else, so that buffers hold standardised observations and no agent
knows of it. The statistics go into the checkpoints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rlzoo.types import Array, Episode, FloatArray, Step, VectorTask


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

    @staticmethod
    def of_checkpoint(checkpoint: Mapping[str, Any]) -> ObservationScaling | None:
        """That of the run which left the checkpoint, None where it did not standardise."""
        saved = checkpoint.get("scaling")
        return None if saved is None else ObservationScaling.from_state(saved)


class StandardizedTask:
    """A `VectorTask` whose observations are standardised."""

    def __init__(self, task: VectorTask, scaling: ObservationScaling) -> None:
        self.task, self.scaling = task, scaling
        self.num_envs, self.spaces = task.num_envs, task.spaces
        self.render_fps: float = getattr(task, "render_fps", 30.0)

    def reset(self, seed: int) -> dict[str, Array]:
        """As the task's, standardised."""
        return self.scaling(self.task.reset(seed))

    def send(self, action: FloatArray) -> None:
        """As the task's."""
        self.task.send(action)

    def receive(self) -> Step:
        """As the task's, standardised."""
        step = self.task.receive()
        return step._replace(obs=self.scaling(step.obs))

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
