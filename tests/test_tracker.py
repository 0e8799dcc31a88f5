"""Following episodes: what they come to, and what silence about success means."""

import numpy as np
import pytest

from rlzoo.tracker import EpisodeTracker
from rlzoo.types import Step

NAN = float("nan")


def play(tracker: EpisodeTracker, success: list[list[float]], ended: list[list[bool]]) -> list[float]:
    """The success of each finished episode, in steps of one lane or more."""
    found = []
    for told, ends in zip(success, ended, strict=True):
        lanes = len(told)
        obs, none = {"state": np.zeros((lanes, 1), np.float32)}, np.zeros(lanes, np.bool_)
        step = Step(obs, np.ones(lanes, np.float32), none, np.array(ends), np.array(told, np.float32))
        found += [episode.success for episode in tracker.update(step)]
    return found


def test_after_success_was_told_silence_is_failure() -> None:
    tracker = EpisodeTracker(1)
    told = [[NAN], [NAN], [1.0], [NAN], [NAN], [NAN], [NAN]]
    ends = [[True], [False], [True], [False], [True], [False], [True]]
    # The first episode ended before anything was told; the steps after an end only reset.
    np.testing.assert_array_equal(play(tracker, told, ends), [NAN, 1, 0, 0])
    assert tracker.tells_success


@pytest.mark.parametrize(("told", "expected"), [(NAN, NAN), (0.0, 0.0)])
def test_a_task_that_never_tells_of_success_has_none_and_one_that_tells_of_failure_has(
    told: float, expected: float
) -> None:
    tracker = EpisodeTracker(2)
    found = play(tracker, [[told, NAN], [NAN, NAN]], [[False, False], [True, True]])
    np.testing.assert_array_equal(found, [expected, expected])


def test_another_lane_or_an_earlier_session_tells_as_well() -> None:
    assert play(EpisodeTracker(2), [[1.0, NAN]], [[False, True]]) == [0]
    assert play(EpisodeTracker(1, tells_success=True), [[NAN]], [[True]]) == [0]
