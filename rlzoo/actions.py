"""The one map between the actions of a task and the [-1, 1] that agents act in."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rlzoo.types import Array, FloatArray


@dataclass(frozen=True)
class ActionRange:
    """The linear map from [low, high], dimension by dimension, to [-1, 1], and back.

    Attributes:
        low, high: what -1 and 1 stand for, each [A] or a number. Where they are equal, all of [-1, 1] stands
            for that, and it is seen as 0.
    """

    low: Array | float
    high: Array | float

    def __post_init__(self) -> None:
        low, high = np.asarray(self.low), np.asarray(self.high)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and np.less_equal(low, high).all()):
            raise ValueError(f"action bounds {self.low} and {self.high} are not finite or not in order")

    @functools.cached_property
    def is_unit(self) -> bool:
        """Whether the map changes nothing."""
        return bool(np.all(self.low == np.float64(-1)) and np.all(self.high == np.float64(1)))

    # In float64, so that rounding to an environment's dtype hits its bounds exactly.
    @functools.cached_property
    def _centre(self) -> npt.NDArray[np.float64]:
        return (np.asarray(self.high, np.float64) + self.low) / 2

    @functools.cached_property
    def _half_width(self) -> npt.NDArray[np.float64]:
        return (np.asarray(self.high, np.float64) - self.low) / 2

    @functools.cached_property
    def single(self) -> tuple[FloatArray, FloatArray]:
        """The outermost float32 numbers within the bounds: the nearest ones may lie outside."""
        low, high = (np.asarray(bound, np.float32) for bound in (self.low, self.high))
        up, down = np.float32(np.inf), np.float32(-np.inf)
        return (
            np.where(low < np.asarray(self.low, np.float64), np.nextafter(low, up), low),
            np.where(high > np.asarray(self.high, np.float64), np.nextafter(high, down), high),
        )

    def to_unit(self, action: Array) -> FloatArray:
        """The task's actions [..., A] in [-1, 1]; what lies outside the range is clipped."""
        width = np.where(self._half_width == 0, 1, self._half_width)
        unit = action if self.is_unit else (action - self._centre) / width
        return np.clip(unit, -1, 1).astype(np.float32, copy=False)

    def from_unit(self, unit: Array) -> Array:
        """Actions [..., A] in [-1, 1] in the task's units, float64 unless these are the same; clipped."""
        # Clipped after the mapping: the same as before it, and no rounding can leave the bounds.
        action = unit if self.is_unit else unit * self._half_width + self._centre
        return np.minimum(np.maximum(action, self.low), self.high)
