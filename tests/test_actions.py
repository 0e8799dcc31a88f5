"""The map between a task's actions and [-1, 1]."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlzoo.actions import ActionRange

numbers = st.floats(-100, 100, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5), st.floats(-2, 2, width=32))
def test_there_and_back_within_the_bounds(bounds: list[tuple[float, float]], unit: float) -> None:
    low, high = (np.float32([pick(pair) for pair in bounds]) for pick in (min, max))
    actions = ActionRange(low, high)
    action = actions.from_unit(np.full(len(low), unit, np.float32))
    assert (low <= action).all()
    assert (action <= high).all()
    wide = high - low > 1e-3
    np.testing.assert_allclose(actions.to_unit(action)[wide], np.clip(unit, -1, 1), atol=1e-4)


def test_the_ends_are_the_bounds_exactly_in_the_environments_dtype() -> None:
    low, high = np.float32([-0.1, -3, 0.7]), np.float32([0.3, 3, 0.9])
    actions = ActionRange(low, high)
    for unit, bound in ((-1, low), (1, high)):
        np.testing.assert_array_equal(
            actions.from_unit(np.full(3, unit, np.float32)).astype(np.float32), bound
        )


def test_a_dimension_that_cannot_change() -> None:
    actions = ActionRange(np.float32([-1, 0.5]), np.float32([1, 0.5]))
    np.testing.assert_array_equal(actions.from_unit(np.float32([[0.3, -1], [0.3, 1]]))[:, 1], [0.5, 0.5])
    np.testing.assert_array_equal(actions.to_unit(np.float32([0.3, 0.5])), np.float32([0.3, 0]))


def test_unit_bounds_change_nothing_but_what_lies_outside() -> None:
    action = np.float32([-2, -0.1234567, 0.7])
    for actions in (ActionRange(-1.0, 1.0), ActionRange(np.full(3, -1.0), np.ones(3))):
        assert actions.is_unit
        np.testing.assert_array_equal(actions.to_unit(action), np.float32([-1, -0.1234567, 0.7]))
        np.testing.assert_array_equal(actions.from_unit(action), np.float32([-1, -0.1234567, 0.7]))


@pytest.mark.parametrize("bounds", [(1.0, -1.0), (-np.inf, 1.0), (np.nan, 1.0)])
def test_bounds_that_are_none(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="not finite or not in order"):
        ActionRange(*bounds)
