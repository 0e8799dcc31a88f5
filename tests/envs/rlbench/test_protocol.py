"""The contract of RLBench's tasks: the range of the actions."""

import numpy as np

from envs.rlbench.protocol import Demonstration, action_range, robot_action


def moving(*deltas: float) -> Demonstration:
    """The first joint moves by these deltas (rad), the second by their opposites, the others stay."""
    joints = np.zeros((len(deltas) + 1, 7), np.float32)
    joints[1:, 0], joints[1:, 1] = np.cumsum(deltas), -np.cumsum(deltas)
    rows = len(joints)
    return Demonstration(joints, np.ones(rows, np.float32), None, np.zeros((rows, 0), np.float32))


def test_a_joint_that_always_turns_one_way_can_still_stand_still() -> None:
    scale = action_range([moving(0.05, 0.1), moving(0.02)])
    np.testing.assert_allclose(scale.low[:2], [0.0, -0.12], rtol=1e-5)
    np.testing.assert_allclose(scale.high[:2], [0.12, 0.0], rtol=1e-5, atol=1e-8)
    still = np.array([0, 0, 0, 0, 0, 0, 0, 1], np.float32)
    np.testing.assert_allclose(robot_action(scale, scale.to_unit(still)), still, atol=1e-7)


def test_each_bound_is_widened_by_a_fifth_of_itself() -> None:
    scale = action_range([moving(-0.05, 0.1)])
    np.testing.assert_allclose((scale.low[0], scale.high[0]), (-0.06, 0.12), rtol=1e-5)
    assert (scale.low[7], scale.high[7]) == (0, 1)
