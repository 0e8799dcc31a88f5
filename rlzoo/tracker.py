"""Following the episodes under way in parallel environments: where they end, and what they come to."""

from __future__ import annotations

import math
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
    """1 or 0, NaN where the task has not said anything of it in this episode or any before."""


class EpisodeTracker:
    """The episodes of N environments that start anew by themselves (Gymnasium's next-step autoreset).

    The step after an episode's last one only resets: its action and its reward belong to no episode.

    Args:
        lanes: N.

    Attributes:
        begins: lanes [N] whose latest observation is an episode's first; after `update`, those whose step
            only reset.
        ended: lanes [N] whose latest observation is an episode's last, and whose next step only resets.
        tells_success: whether the task has ever said that it was solved, or that it was not. Some only ever
            say that it was: from then on, silence is failure.
    """

    def __init__(self, lanes: int, *, tells_success: bool = False) -> None:
        self.begins: BoolArray = np.ones(lanes, dtype=np.bool_)
        self.ended: BoolArray = np.zeros(lanes, dtype=np.bool_)
        self.tells_success = tells_success
        self._return = np.zeros(lanes, dtype=np.float64)
        self._length = np.zeros(lanes, dtype=np.int64)
        self._success = np.full(lanes, np.nan, dtype=np.float32)

    def update(self, step: Step) -> list[FinishedEpisode]:
        """Count one step of every lane. Returns the episodes that it ended."""
        running = ~self.ended
        self._return[running] += step.reward[running]
        self._length[running] += 1
        self.tells_success = self.tells_success or bool((step.success >= 0).any())  # NaN is neither
        # A task once solved counts as solved, also where the episode goes on.
        self._success[running] = np.fmax(self._success, step.success)[running]
        self.begins, self.ended = self.ended, (step.terminated | step.truncated) & running
        finished = []
        for lane in np.flatnonzero(self.ended).tolist():
            success = self._success[lane].item()
            if self.tells_success and math.isnan(success):
                success = 0.0
            finished.append(
                FinishedEpisode(lane, self._return[lane].item(), self._length[lane].item(), success)
            )
            self._return[lane], self._length[lane], self._success[lane] = 0.0, 0, np.nan
        return finished

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The lanes' state by name, each [N]; writing into the arrays restores it."""
        return {
            "begins": self.begins,
            "ended": self.ended,
            "return": self._return,
            "length": self._length,
            "success": self._success,
        }
