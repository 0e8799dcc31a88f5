"""What a task's observations and actions are outside of rlzoo, for whoever plays a policy there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        parts: where a Dict of arrays is observed, their names and shapes, in the order of the flat state.
    """

    actions: ActionRange = UNIT
    limits: ActionRange | None = None
    observation: str = "the task's own"
    action: str = "the task's own"
    control_rate: float | None = None
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

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
        parts = {name: tuple(shape) for name, shape in saved.pop("parts", {}).items()}
        return Interface(_range(actions), limits and _range(limits), parts=parts, **saved)

    def metadata(self) -> dict[str, Any]:
        """What `of_checkpoint` reads of a checkpoint."""
        ranges = {"actions": _bounds(self.actions), "limits": self.limits and _bounds(self.limits)}
        parts = {name: list(shape) for name, shape in self.parts.items()}
        return {"interface": {**vars(self), **ranges, "parts": parts}}

    def check_same_actions(self, earlier: Interface, task: str) -> None:
        """Raise a UserError if the task's actions have other bounds than when a policy learnt them."""
        now, then = (np.broadcast_arrays(each.actions.low, each.actions.high) for each in (self, earlier))
        if np.shape(now) != np.shape(then) or not np.allclose(now, then, rtol=1e-6):
            raise UserError(
                f"{task}: actions lie between {now[0]} and {now[1]}, and lay between {then[0]} and {then[1]} "
                "when its policy was trained"
            )

    def to_task(self, action: FloatArray) -> FloatArray:
        """An agent's actions [..., A] in [-1, 1] in the task's units."""
        own = np.asarray(self.actions.from_unit(action), np.float32)
        return np.clip(own, *(self.limits or self.actions).single)


def _bounds(actions: ActionRange) -> list[Any]:
    return [np.asarray(actions.low).tolist(), np.asarray(actions.high).tolist()]


def _range(bounds: list[Any]) -> ActionRange:
    return ActionRange(np.array(bounds[0]), np.array(bounds[1]))
