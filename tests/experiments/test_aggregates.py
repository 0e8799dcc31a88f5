"""Statistics over seeds and tasks, against closed forms and cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from experiments.aggregates import (
    bootstrap,
    improvement,
    interquartile_mean,
    latex_table,
    mean_interval,
    on_common_steps,
    profile,
    with_interval,
)


def array(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


def test_curves_are_interpolated_within_the_range_that_all_cover() -> None:
    steps, values = on_common_steps([{0: 0.0, 10: 10.0, 20: 20.0, 30: 0.0}, {5: 1.0, 25: 3.0}])
    assert steps.tolist() == [5, 10, 20, 25]
    assert values.tolist() == [[5, 10, 20, 10], [1, 1.5, 2.5, 3]]


@pytest.mark.parametrize(
    ("steps", "common"), [((1003, 1000), [1001.5]), ((1000, 1000), [1000]), ((1000, 2000), [])]
)
def test_single_evaluations_share_a_step_if_they_are_near(
    steps: tuple[int, int], common: list[float]
) -> None:
    found, values = on_common_steps([{step: float(index)} for index, step in enumerate(steps)])
    assert found.tolist() == common
    assert values.tolist() == [[0.0] * len(common), [1.0] * len(common)]


def test_the_interval_of_a_mean_is_students() -> None:
    values = array(1, 2, 6)  # mean 3, deviation sqrt(7), t(0.975, 2) = 4.302653
    mean, low, high = mean_interval(values)
    assert (mean - low, high - mean) == pytest.approx([4.302653 * np.sqrt(7 / 3)] * 2)
    assert mean == 3
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((reference.low, reference.high))
    rows = np.stack([values, values + 1], axis=1)
    np.testing.assert_allclose(np.stack(mean_interval(rows))[:, 1], [mean + 1, low + 1, high + 1])


def test_one_seed_has_no_interval() -> None:
    mean, low, high = mean_interval(array(4)[:, None])
    assert mean.tolist() == [4]
    assert np.isnan([low, high]).all()
    assert np.isnan(bootstrap([array(1, 2, 3), array(4)], interquartile_mean)).all()
    assert with_interval(0.5, np.nan, np.nan) == "0.50"
    assert with_interval(12.34, 10.0, 15.0) == "12.3 [10.0, 15.0]"


def test_the_interquartile_mean_is_of_the_middle_half() -> None:
    assert interquartile_mean([array(0, 1, 2, 3), array(4, 5, 6, 1000)]) == (2 + 3 + 4 + 5) / 4
    assert interquartile_mean([array(-50, 1, 2, 90)]) == 1.5
    assert interquartile_mean([array(3, 9)]) == 6  # of two, a quarter is none
    drawn = np.array([[0.0, 1, 2, 3], [3, 3, 3, 3]])
    assert interquartile_mean([drawn, drawn]).tolist() == [1.5, 3]


def test_improvement_is_mann_and_whitneys_u() -> None:
    assert improvement([array(3, 4)], [array(1, 2, 3)]) == pytest.approx((2 + 0.5 + 3) / 6)
    assert improvement([array(1, 1)], [array(1, 1)]) == 0.5
    rng = np.random.default_rng(1)
    first, second = [rng.normal(0.4, 1, 6), rng.normal(0, 1, 5)], [rng.normal(0, 1, 4), rng.normal(1, 1, 7)]
    expected = np.mean(
        [stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in zip(first, second, strict=True)]
    )
    assert improvement(first, second) == pytest.approx(expected)
    assert improvement(second, first) == pytest.approx(1 - expected)


def test_a_profile_is_the_share_of_runs_above_averaged_over_tasks() -> None:
    thresholds = array(-1, 0, 1.5, 9)
    assert profile([array(0, 1, 2, 3), array(5)], thresholds).tolist() == [
        1,
        (0.75 + 1) / 2,
        (0.5 + 1) / 2,
        0,
    ]


def test_the_bootstrap_finds_the_standard_error_of_a_mean() -> None:
    def mean(scores: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(scores, axis=-1).mean(axis=-1)

    scores = [np.random.default_rng(0).normal(0, 1, 400), np.random.default_rng(1).normal(100, 1, 400)]
    low, high = bootstrap(scores, mean)
    # Within the tasks, whose means are far apart: else the interval would be some 50 times as wide.
    error = np.sqrt(sum(each.var() for each in scores) / 400) / 2
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert (low + high) / 2 == pytest.approx(mean(scores), abs=0.1 * error)
    assert (low, high) == bootstrap(scores, mean)
    assert bootstrap([array(7, 7, 7)], mean) == (7, 7)


def test_the_bootstrap_of_two_seeds_by_hand() -> None:
    # Drawn again, 0 and 1 have the mean 0, 1/2, 1 with probability 1/4, 1/2, 1/4: both ends are reached.
    assert bootstrap([array(0, 1)], lambda scores: scores[0].mean(axis=-1)) == (0, 1)


def test_latex_is_escaped() -> None:
    text = latex_table([{"task": "a_b & 50 %", "ARSQ": "-1.2 ± 0.3 (3)", "empty": ""}])
    assert text.splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"task & ARSQ \\",
        r"\midrule",
        r"a\_b \& 50 \% & $-$1.2 $\pm$ 0.3 (3) \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
