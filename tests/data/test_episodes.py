"""Choosing among demonstrations, their statistics and their summary."""

import dataclasses
import re

import numpy as np
import pytest

from rlzoo.data.episodes import (
    discounted_returns,
    flattened,
    identity,
    observation_statistics,
    select_episodes,
    summary,
)
from rlzoo.errors import UserError
from rlzoo.types import Episode


def episode(steps: int, total: float, *, terminated: bool = False, success: bool | None = None) -> Episode:
    return Episode(
        obs={"state": np.zeros((steps + 1, 1), np.float32)},
        action=np.zeros((steps, 1), np.float32),
        reward=np.full(steps, total / steps, np.float32),
        terminated=terminated,
        success=success,
    )


def returns(episodes) -> list[float]:
    return [round(e.episode_return) for e in episodes]


TEN = [episode(10, total) for total in (3, 9, 0, 6, 1, 8, 2, 7, 5, 4)]


def test_everything_is_the_default():
    assert select_episodes(TEN) == TEN


@pytest.mark.parametrize(
    ("percentile", "ratio", "chosen"),
    [
        (100, 10, [9]),
        (100, 30, [9, 8, 7]),
        (0, 20, [0, 1]),
        (50, 20, [6, 5, 4][1:]),
        (95, 30, [9, 8, 7]),  # moved inwards
        (25, 10, [2]),
        (30, 60, [3, 0, 1, 2, 5, 4]),
        (50, 100, list(range(10))),
    ],
)
def test_slice_by_return(percentile, ratio, chosen):
    selected = select_episodes(TEN, percentile=percentile, ratio=ratio)
    assert sorted(returns(selected)) == sorted(chosen)
    assert returns(selected) == [r for r in returns(TEN) if r in chosen]  # in the original order


def test_slices_next_to_each_other_share_no_episode():
    rng = np.random.default_rng(0)
    episodes = [episode(int(rng.integers(1, 50)), float(rng.normal())) for _ in range(40)]
    parts = [select_episodes(episodes, percentile=5 + 10 * i, ratio=10) for i in range(10)]
    assert sum(map(len, parts)) == 40
    assert len({id(e) for part in parts for e in part}) == 40


def test_the_ratio_is_of_steps_and_no_episode_is_cut():
    episodes = [episode(100, 1), episode(100, 2), episode(800, 3)]
    (best,) = select_episodes(episodes, percentile=100, ratio=50 + 10)
    assert len(best) == 800  # its middle is in the best 60 per cent, the others' are not
    assert returns(select_episodes(episodes, percentile=0, ratio=20)) == [1, 2]


def test_count_and_seed():
    first = select_episodes(TEN, count=4, seed=1)
    assert len({id(e) for e in first}) == 4
    assert returns(first) == returns(select_episodes(TEN, count=4, seed=1))
    assert len({tuple(returns(select_episodes(TEN, count=4, seed=s))) for s in range(20)}) > 5
    assert set(returns(select_episodes(TEN, percentile=100, ratio=30, count=2))) <= {7, 8, 9}


@pytest.mark.parametrize(
    "options",
    [
        {"percentile": 101},
        {"ratio": 0},
        {"ratio": 101},
        {"percentile": float("nan")},
        {"percentile": 50, "ratio": 0.1},
        {"count": 11},
        {"count": 0},
        {"percentile": 100, "ratio": 10, "count": 2},
    ],
)
def test_empty_selections_and_bad_arguments(options):
    with pytest.raises(UserError) as caught:
        select_episodes(TEN, **options)
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)


def test_nothing_to_select_from():
    with pytest.raises(UserError, match="none of 0 episodes"):
        select_episodes([])


def test_observation_statistics_are_those_of_the_states_acted_on():
    first = Episode(
        obs={"state": np.float32([[1, 5, 1e6, 1], [3, 5, 1e6 + 1, 1], [99, 99, 99, 1]])},
        action=np.zeros((2, 1), np.float32),
        reward=np.zeros(2, np.float32),
        terminated=True,
    )
    second = Episode(
        obs={"state": np.float32([[8, 5, 1e6 + 2, 1.0001], [-99, 99, 99, 1]])},
        action=np.zeros((1, 1), np.float32),
        reward=np.zeros(1, np.float32),
        terminated=False,
    )
    mean, std = observation_statistics([first, second])
    np.testing.assert_allclose(mean, [4, 5, 1e6 + 1, 1], rtol=1e-4)
    # A column that never changes keeps its unit, one that hardly does is not blown up.
    np.testing.assert_allclose(std, [np.std([1, 3, 8]), 1, np.std([0, 1, 2]), 1e-3], rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32
    assert observation_statistics([first], floor=2.0)[1][0] == 2.0


def test_summary_names_every_quantity():
    episodes = [episode(10, 4, terminated=True, success=True), episode(30, 8, success=False)]
    episodes[0].action[:3] = np.float32([[1], [-1], [0.99]])  # two of 40 at a bound
    text = summary(
        episodes, normalized_score=lambda value: 10 * value, selected_from=[*episodes, episode(1, 1)]
    )
    rows = dict(
        re.split(r"  +", line) for line in text.splitlines() if not line.startswith(("steps per", "norm"))
    )
    assert rows["episodes"] == "2 of 3"
    assert rows["steps"] == "40"
    assert rows["return"] == "mean 6, quartiles 4 | 5 | 6 | 7 | 8"
    assert rows["actions at bounds"] == "5.0%"
    assert rows["terminations"] == "1"
    assert rows["time-outs"] == "1"
    assert rows["successes"] == "1 of 2"
    assert "normalised score   mean 60, quartiles 40 | 50 | 60 | 70 | 80" in text
    assert "steps per episode  mean 20, quartiles 10 | 15 | 20 | 25 | 30" in text
    assert "success" not in summary([episode(2, 1)])
    assert "score" not in summary([episode(2, 1)])


def test_an_identity_is_of_what_was_recorded_alone():
    first = identity(TEN)
    assert first == identity([dataclasses.replace(each) for each in TEN])
    assert (first["episodes"], first["steps"], first["mean_return"]) == (10, 100, pytest.approx(4.5))
    changes = [
        {"obs": {"state": np.full((11, 1), 1e-7, np.float32)}},
        {"action": np.full((10, 1), 1e-7, np.float32)},
        {"reward": np.full(10, 0.3000001, np.float32)},
        {"terminated": True},
    ]
    others = [identity([dataclasses.replace(TEN[0], **change), *TEN[1:]])["sha256"] for change in changes]
    assert len({first["sha256"], *others, identity(TEN[:-1])["sha256"], identity(TEN[::-1])["sha256"]}) == 7


def test_discounted_returns_are_those_of_every_step_to_its_episodes_end():
    rewards = [[1.0, 0.0, -4.0], [2.0]]
    episodes = [
        Episode({"state": np.zeros((len(r) + 1, 1), np.float32)}, np.zeros((len(r), 1), np.float32),
                np.array(r, np.float32), True)
        for r in rewards
    ]  # fmt: skip
    # By hand, gamma 0.5: 1 - 4/4 = 0, -4/2 = -2, -4; 2.
    assert discounted_returns(episodes, 0.5) == (-4.0, 2.0)


def test_discounted_returns_go_on_where_an_episode_was_only_cut():
    rewards = np.array([-100.0, *[1.0] * 5, *[3.0] * 5], np.float32)
    states = {"state": np.zeros((12, 1), np.float32)}
    cut = Episode(states, np.zeros((11, 1), np.float32), rewards, terminated=False)
    # 2 a step, the mean of the last ten, for ever: 4. By hand: 3 + 4/2 = 5, 3 + 5/2 = 5.5, ... below 6.
    low, high = discounted_returns([cut], 0.5)
    assert high == 3 + (3 + (3 + (3 + (3 + 4 / 2) / 2) / 2) / 2) / 2
    assert low == pytest.approx(-100 + (1 + (1 + (1 + (1 + (1 + high / 2) / 2) / 2) / 2) / 2) / 2)
    assert discounted_returns([cut], 1.0) == (-80.0, 20.0)


def noisy_episodes(steps: int, count: int) -> list[Episode]:
    """Four columns: two of noise, one that never changes, one that is seldom anything but 0, as a contact."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(count):
        contact = np.where(rng.random(steps + 1) < 0.02, rng.exponential(1000, steps + 1), 0)
        state = np.stack([*rng.normal(5, 2, (2, steps + 1)), np.ones(steps + 1), contact], axis=1)
        zeros = np.zeros(steps, np.float32)
        episodes.append(Episode({"state": state.astype(np.float32)}, zeros[:, None], zeros, terminated=False))
    return episodes


@pytest.mark.parametrize("value", [1e30, -1e7])
def test_an_outlier_that_flattens_an_observation_is_named(value):
    episodes = noisy_episodes(500, 40)
    assert flattened(episodes, observation_statistics(episodes)[1]) == []
    episodes[7].obs["state"][123, 1] = value
    (line,) = flattened(episodes, observation_statistics(episodes)[1])
    assert line.startswith(f"observation 1 is {value:.3g} at step 123 of episode 7, while 98 % of its values")
    assert "--no-standardize" in line


def test_what_is_never_acted_on_flattens_nothing():
    episodes = noisy_episodes(500, 2)
    episodes[0].obs["state"][-1] = 1e30
    assert flattened(episodes, observation_statistics(episodes)[1]) == []
