"""Scripted demonstrations: all of them succeed, also when an agent's actions replay them."""

import functools

import numpy as np
import pytest

from envs.gym import rendering
from envs.panda.demonstrations import DELTA_NOISE, collect, demonstrate
from envs.panda.env import PandaEnv
from envs.panda.tasks import TASKS, ReachTarget
from envs.rlbench.protocol import MAX_DELTA, TIME_LIMITS, Images, action_range, to_episodes
from rlzoo.errors import UserError

EVERY_TASK = pytest.mark.parametrize("name", TASKS)
SEEDS = range(15)


@functools.cache
def recorded(name):
    """The environment and what was shown in the episodes of some seeds."""
    env = PandaEnv(name)
    return env, [demonstrate(env, seed) for seed in SEEDS]


@functools.cache
def can_draw():
    return any(rendering._works(name) for name in ("egl", "osmesa"))


@EVERY_TASK
def test_nearly_every_attempt_succeeds(name):
    _, demonstrations = recorded(name)
    assert sum(demonstration is not None for demonstration in demonstrations) >= len(SEEDS) - 1


@EVERY_TASK
def test_collected_demonstrations_keep_to_the_contract(name):
    demonstrations = collect(name, 6, seed=3, images=None)
    assert len(demonstrations) == 6
    for demonstration in demonstrations:
        steps = len(demonstration.actions)
        assert steps < TIME_LIMITS[name]
        solved = steps
        if name == "reach_target":  # what follows is the way on to the centre
            distances = np.linalg.norm(demonstration.task_state, axis=1)
            solved = int(np.flatnonzero(distances < ReachTarget.radius)[0])
        assert 4 < solved < 0.7 * TIME_LIMITS[name]
        assert demonstration.joint_positions.shape == (steps + 1, 7)
        assert demonstration.joint_targets.shape == (steps + 1, 7)
        assert demonstration.gripper_open.shape == (steps + 1,)
        assert len(demonstration.task_state) == steps + 1
        assert demonstration.frames is None
        assert np.abs(demonstration.actions[:, :7]).max() <= MAX_DELTA
        for array in (demonstration.joint_positions, demonstration.gripper_open, demonstration.task_state):
            assert array.dtype == np.float32
    scale = action_range(demonstrations)
    assert np.all(scale.high[:7] - scale.low[:7] > 0.01)  # no joint's range is degenerate
    episode = to_episodes(demonstrations, scale, pixels=False)[0]
    env = PandaEnv(name)
    assert episode.obs["state"].shape[1:] == env.observation_space.shape


@EVERY_TASK
def test_normalised_actions_replayed_from_the_same_start_succeed(name):
    """At the last step, where a demonstration has its reward, also where the environment ended before."""
    env, demonstrations = recorded(name)
    env.actions = action_range([demonstration for demonstration in demonstrations if demonstration])
    replayed = 0
    for seed, demonstration in zip(SEEDS, demonstrations, strict=True):
        if demonstration is None:
            continue
        start, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(start[:7], demonstration.joint_positions[0])
        steps = [env.step(action) for action in env.actions.to_unit(demonstration.actions)]
        _, reward, terminated, _, info = steps[-1]
        replayed += terminated and reward == info["success"] == 1
        ends = [step[2] for step in steps]
        # Only reach_target's go on after the environment has ended the episode.
        assert any(ends[:-1]) == (name == "reach_target")
    # Rounding to float32 may tip a contact now and then.
    assert replayed >= sum(demonstration is not None for demonstration in demonstrations) - 1


def test_reaching_slows_down_and_ends_at_the_target_s_centre():
    """As RLBench's own demonstrations do, which end 0.3 to 0.5 mm from it."""
    for demonstration in collect("reach_target", 6, seed=3, images=None):
        distances = np.linalg.norm(demonstration.task_state, axis=1)
        inside = np.flatnonzero(distances < ReachTarget.radius)
        assert distances[-1] < 0.001
        assert len(inside) >= 3
        assert np.linalg.norm(np.diff(demonstration.task_state[-2:], axis=0)) < 0.005
        episode = to_episodes([demonstration], action_range([demonstration]), pixels=False)[0]
        assert episode.reward.tolist() == [0] * (len(episode) - 1) + [1]
        assert episode.terminated


@EVERY_TASK
def test_demonstrations_cover_a_tube_around_the_path(name):
    """What differs from one action to the next is mostly noise: 2 ** 0.5 times its deviation."""
    _, demonstrations = recorded(name)
    changes = [np.diff(demo.actions[:8, :7], axis=0) for demo in demonstrations if demo]
    assert np.std(np.concatenate(changes)[:, [0, 2, 4]]) > 1.2 * DELTA_NOISE >= 0.012


def test_the_seed_alone_decides():
    first, again, more, other = (
        collect("push_button", count, seed=seed, images=None)
        for count, seed in ((2, 1), (2, 1), (3, 1), (2, 2))
    )
    for a, b, c, d in zip(first, again, more[:2], other, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)
        np.testing.assert_array_equal(a.actions, c.actions)
        assert not np.array_equal(a.task_state[0], d.task_state[0])


def test_frames_are_recorded_where_asked_for():
    if not can_draw():
        pytest.skip("no EGL or OSMesa")
    (with_frames,) = collect("reach_target", 1, seed=0, images=Images(("front", "wrist"), 24))
    (without,) = collect("reach_target", 1, seed=0, images=None)
    np.testing.assert_array_equal(with_frames.actions, without.actions)
    assert with_frames.frames.shape == (len(without.actions) + 1, 2, 3, 24, 24)
    assert with_frames.frames.dtype == np.uint8
    assert with_frames.frames[0].std() > 5
    assert (with_frames.frames[0] != with_frames.frames[-1]).any()


def test_unknown_tasks():
    with pytest.raises(UserError, match=r"^unknown task 'open_draw': did you mean open_drawer"):
        collect("open_draw", 1, seed=0, images=None)
