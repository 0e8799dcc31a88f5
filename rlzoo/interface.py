"""What a task's observations and actions are outside of rlzoo, for whoever plays a policy there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlzoo.actions import ActionRange
from rlzoo.errors import UserError
from rlzoo.types import FloatArray

UNIT = ActionRange(-1.0, 1.0)


@dataclass(frozen=True)
class Interface:
    """The way from an agent's actions to the task's own, and what the numbers mean.

    Attributes:
        actions: what -1 and 1 stand for in the task's units.
        limits: what the task's actions are cut to besides; None: nothing.
        observation, action: their meaning, in a phrase each.
        control_rate: steps per second of the task's time, in Hz; None: not known.
    """

    actions: ActionRange = UNIT
    limits: ActionRange | None = None
    observation: str = "the task's own"
    action: str = "the task's own"
    control_rate: float | None = None

    @staticmethod
    def of_checkpoint(checkpoint: Mapping[str, Any]) -> Interface:
        """The interface of the task whose run left the checkpoint.

        Raises:
            UserError: it holds none.
        """
        if "interface" not in checkpoint:
            raise UserError("the checkpoint is of an earlier rlzoo: the range of actions is missing")
        saved = dict(checkpoint["interface"])
        actions, limits = saved.pop("actions"), saved.pop("limits")
        return Interface(_range(actions), limits and _range(limits), **saved)

    def metadata(self) -> dict[str, Any]:
        """What `of_checkpoint` reads of a checkpoint."""
        ranges = {"actions": _bounds(self.actions), "limits": self.limits and _bounds(self.limits)}
        return {"interface": {**vars(self), **ranges}}

    def to_task(self, action: FloatArray) -> FloatArray:
        """An agent's actions [..., A] in [-1, 1] in the task's units."""
        own = self.actions.from_unit(action)
        if self.limits is not None:
            own = np.clip(own, self.limits.low, self.limits.high)
        return np.asarray(own, np.float32)


def _bounds(actions: ActionRange) -> list[Any]:
    return [np.asarray(actions.low).tolist(), np.asarray(actions.high).tolist()]


def _range(bounds: list[Any]) -> ActionRange:
    return ActionRange(np.array(bounds[0]), np.array(bounds[1]))
