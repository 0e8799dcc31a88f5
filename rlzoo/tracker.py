"""Following the episodes under way in parallel environments: where they end, and what they come to."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rlzoo.types import BoolArray, Step


class FinishedEpisode(NamedTuple):
    """What an episode came to."""

    lane: int
    episode_return: float
    """Undiscounted."""
    length: int
    """In environment steps."""
    success: float
    """1 or 0, NaN where the task does not say."""


class EpisodeTracker:
    """The episodes of N environments that start anew by themselves (Gymnasium's next-step autoreset).

    The step after an episode's last one only resets: its action and its reward belong to no episode.

    Args:
        lanes: N.

    Attributes:
        begins: lanes [N] whose latest observation is an episode's first; after `update`, those whose step
            only reset.
        ended: lanes [N] whose latest observation is an episode's last, and whose next step only resets.
    """

    def __init__(self, lanes: int) -> None:
        self.begins: BoolArray = np.ones(lanes, dtype=np.bool_)
        self.ended: BoolArray = np.zeros(lanes, dtype=np.bool_)
        self._return = np.zeros(lanes, dtype=np.float64)
        self._length = np.zeros(lanes, dtype=np.int64)
        self._success = np.full(lanes, np.nan, dtype=np.float32)

    def update(self, step: Step) -> list[FinishedEpisode]:
        """Count one step of every lane. Returns the episodes that it ended."""
        running = ~self.ended
        self._return[running] += step.reward[running]
        self._length[running] += 1
        # A task once solved counts as solved, also where the episode goes on.
        self._success[running] = np.fmax(self._success, step.success)[running]
        self.begins, self.ended = self.ended, (step.terminated | step.truncated) & running
        finished = []
        for lane in np.flatnonzero(self.ended).tolist():
            results = (self._return[lane].item(), self._length[lane].item(), self._success[lane].item())
            finished.append(FinishedEpisode(lane, *results))
            self._return[lane], self._length[lane], self._success[lane] = 0.0, 0, np.nan
        return finished

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The tracker's whole state by name, each [N]; writing into the arrays restores it."""
        return {
            "begins": self.begins,
            "ended": self.ended,
            "return": self._return,
            "length": self._length,
            "success": self._success,
        }
