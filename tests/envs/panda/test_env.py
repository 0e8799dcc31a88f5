"""RLBench's tasks on MuJoCo: the contract, exact continuation, pictures, and clear messages."""

import functools
import io

import numpy as np
import pytest
import torch

from envs.gym import rendering
from envs.panda import env as panda_env
from envs.panda.env import PandaEnv
from envs.panda.scene import ARM, FINGERS, HOME, tip_position
from envs.panda.tasks import TASKS, ReachTarget
from envs.rlbench.protocol import CAMERAS, FRAME_STACK, MAX_DELTA, TIME_LIMITS, Images
from rlzoo.actions import ActionRange
from rlzoo.errors import UserError
from rlzoo.replay import FrameStacker

STATE_DIMS = {"reach_target": 11, "push_button": 12, "take_lid_off_saucepan": 12, "open_drawer": 13}
OPEN, STILL = np.eye(8, dtype=np.float32)[7], np.zeros(8, np.float32)
EVERY_TASK = pytest.mark.parametrize("name", TASKS)


@functools.cache
def can_draw():
    return any(rendering._works(name) for name in ("egl", "osmesa"))


@pytest.fixture
def pictures():
    if not can_draw():
        pytest.skip("no EGL or OSMesa on this machine that can draw")


needs_pictures = pytest.mark.usefixtures("pictures")


def random_actions(task, steps, seed=0):
    shape = (steps, task.num_envs, 8)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def play(task, actions):
    steps = []
    for action in actions:
        task.send(action)
        steps.append(task.receive())
    return steps


def assert_same(left, right):
    for a, b in zip(left, right, strict=True):
        assert a.obs.keys() == b.obs.keys()
        for name in a.obs:
            np.testing.assert_array_equal(a.obs[name], b.obs[name], strict=True)
        for x, y in zip(a[1:], b[1:], strict=True):
            np.testing.assert_array_equal(x, y, strict=True)


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# ---- The contract ----------------------------------------------------------------------------------------


@EVERY_TASK
def test_states(name):
    task = panda_env.make(name, 2)
    assert (task.spaces.state_dim, task.spaces.action_dim) == (STATE_DIMS[name], 8)
    assert (task.spaces.pixels, task.spaces.frame_stack) == (None, 1)
    state = task.reset(0)["state"]
    assert (state.shape, state.dtype) == ((2, STATE_DIMS[name]), np.float32)
    np.testing.assert_allclose(state[:, :8], [[*HOME, 1]] * 2, rtol=1e-6)
    (step,) = play(task, random_actions(task, 1))
    assert step.success.tolist() == step.reward.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "where", "others"),
    [
        ("reach_target", lambda env: env.data.body("target").xpos, 0),
        ("push_button", lambda env: env.data.body("button").xpos, 1),
        ("take_lid_off_saucepan", lambda env: env.data.geom("knob").xpos, 1),
        ("open_drawer", lambda env: env.data.geom("handle_top").xpos, 2),
    ],
)
def test_objects_are_seen_from_the_tip_alone(name, where, others):
    env = PandaEnv(name)
    for seed in range(3):
        env.reset(seed=seed)
        env.step(random_actions(panda_env.make(name, 1), 1, seed)[0, 0])
        assert len(env.task_state) == 3 + others
        np.testing.assert_allclose(env.task_state[:3], where(env) - tip_position(env.data), atol=1e-6)


@EVERY_TASK
def test_starts_differ_by_seed_and_repeat(name):
    task, other = panda_env.make(name, 3), panda_env.make(name, 3)
    starts = [task.reset(seed)["state"] for seed in (1, 2)]
    assert len(np.unique(np.concatenate(starts)[:, 8:], axis=0)) == 6
    play(other, other.reset(5)["state"][None, :, :8] * 0)  # whatever happened before
    np.testing.assert_array_equal(other.reset(1)["state"], starts[0])


@EVERY_TASK
def test_time_is_up_after_the_task_s_limit(name):
    task = panda_env.make(name, 1)
    task.reset(0)
    steps = play(task, np.tile(OPEN, (TIME_LIMITS[name], 1, 1)))
    assert [step.truncated[0] for step in steps] == [False] * (TIME_LIMITS[name] - 1) + [True]
    assert not any(step.terminated[0] or step.success[0] for step in steps)


@EVERY_TASK
def test_random_actions_rarely_succeed(name):
    task = panda_env.make(name, 10)
    task.reset(0)
    steps = play(task, random_actions(task, TIME_LIMITS[name]))
    assert sum(step.terminated.sum() for step in steps) <= 1  # of at least 10 episodes


def test_deltas_count_from_where_the_joints_are():
    env = PandaEnv("reach_target")
    env.reset(seed=0)
    # Action 0.5 is 0.1 rad on the full scale.
    env.step(np.array([0.5, 0, 0, 0, 0, 0, 0, 1], np.float32))
    np.testing.assert_allclose(env.joint_targets, HOME + np.eye(7)[0] * MAX_DELTA / 2, atol=1e-6)
    reached = env.joint_positions
    assert 0.03 < reached[0] < 0.1
    env.step_robot(np.array([0.05, 0, 0, 0, 0, 0, 0, 1]))
    np.testing.assert_allclose(env.joint_targets[0], reached[0] + 0.05, atol=1e-6)
    for _ in range(6):
        env.step_robot(OPEN)
    before = env.joint_positions
    env.step_robot(OPEN)
    np.testing.assert_allclose(env.joint_positions, before, atol=1e-4)  # gravity does not pull it down


def test_the_scale_says_what_an_action_stands_for():
    low, high = np.full(8, -0.1, np.float32), np.full(8, 0.02, np.float32)
    low[7], high[7] = 0, 1
    env = PandaEnv("reach_target", actions=ActionRange(low, high))
    env.reset(seed=0)
    env.step(np.ones(8, np.float32))
    np.testing.assert_allclose(env.joint_targets, HOME + 0.02, atol=1e-6)


def test_the_gripper_opens_and_closes_within_a_step():
    env = PandaEnv("push_button")
    env.reset(seed=0)
    for is_open in (0, 1, 1, 0, 0, 1):
        env.step_robot(STILL + is_open * OPEN)
        assert env.gripper_open == is_open
        np.testing.assert_allclose(env.data.qpos[FINGERS], 0.04 * is_open, atol=2e-3)


def test_joints_stay_within_their_limits():
    env = PandaEnv("reach_target")
    env.reset(seed=0)
    for _ in range(40):
        env.step_robot(np.array([0, 0, 0, 0.2, 0, 0.2, 0, 1]))
    limits = env.model.jnt_range[ARM]
    assert np.all(env.joint_positions > limits[:, 0] - 0.02)
    assert np.all(env.joint_positions < limits[:, 1] + 0.02)


def test_success_ends_the_episode_with_reward_1():
    task = panda_env.make("reach_target", 1)
    task.reset(0)
    env = task._lanes[0].unwrapped
    env.model.body("target").pos[:] = env.data.site("tip").xpos + np.array([0, 0, 0.02])
    (step,) = play(task, OPEN[None, None])
    assert (step.reward[0], step.terminated[0], step.truncated[0], step.success[0]) == (1, True, False, 1)


def test_a_distractor_does_not_count():
    env = PandaEnv("reach_target")
    env.reset(seed=0)
    env.model.body("distractor0").pos[:] = env.data.site("tip").xpos
    assert not env.step_robot(OPEN)[2]


# ---- Exact continuation ----------------------------------------------------------------------------------


@EVERY_TASK
def test_a_restored_task_goes_on_bit_for_bit(name):
    old, new = panda_env.make(name, 2), panda_env.make(name, 2)
    actions = random_actions(old, 130)
    old.reset(1)
    play(old, actions[:17])
    state = saved_and_loaded(old.get_state())
    rest = play(old, actions[17:])  # through the end of an episode
    assert any(step.truncated.any() for step in rest)
    new.reset(99)
    play(new, actions[:5])
    new.set_state(state)
    assert_same(play(new, actions[17:]), rest)


@needs_pictures
def test_pictures_are_restored_too_and_the_same_in_processes():
    make = functools.partial(panda_env.make, "take_lid_off_saucepan", 2, images=Images(size=32))
    here, there = make(), make(processes=True)
    assert here.spaces == there.spaces
    actions = random_actions(here, 12)
    first, same = here.reset(3), there.reset(3)
    for name in first:
        np.testing.assert_array_equal(first[name], same[name], strict=True)
    assert_same(play(here, actions[:4]), play(there, actions[:4]))
    state = saved_and_loaded(here.get_state())
    rest = play(here, actions[4:])
    there.reset(8)
    there.set_state(state)
    assert_same(play(there, actions[4:]), rest)
    assert there.render().shape == (256, 256, 3)
    here.close()
    there.close()


# ---- Pictures --------------------------------------------------------------------------------------------


@needs_pictures
@EVERY_TASK
def test_every_camera_shows_something(name):
    task = panda_env.make(name, 1, images=Images())
    assert (task.spaces.state_dim, task.spaces.frame_stack) == (8, FRAME_STACK)
    assert task.spaces.pixels == (4, 3 * FRAME_STACK, 84, 84)
    obs = task.reset(0)
    pixels = obs["pixels"]
    assert (pixels.shape, pixels.dtype, obs["state"].shape) == ((1, 4, 3, 84, 84), np.uint8, (1, 8))
    assert FrameStacker(task.spaces)(obs, np.ones(1, np.bool_))["pixels"].shape == (1, *task.spaces.pixels)
    views = pixels[0].reshape(4, -1)
    assert np.all(views.std(axis=1) > 10)
    assert len(np.unique(views, axis=0)) == 4
    # All of them see that the arm moves, and where the objects are.
    moved = play(task, np.tile(OPEN * 1 + 0.4 * np.eye(8)[3], (6, 1, 1)).astype(np.float32))[-1]
    changed = (np.abs(moved.obs["pixels"].astype(int) - pixels) > 20).any(axis=2).sum(axis=(2, 3))[0]
    assert np.all(changed > 20)
    task.close()


@needs_pictures
def test_the_target_can_be_told_from_the_distractors_in_front():
    rendering.rendering_backend()
    env = PandaEnv("reach_target", images=Images(("front",)))
    env.reset(seed=0)
    body, red = env.model.body("target").pos, []
    for position in ([0.45, -0.2, 0.1], [0.45, 0.2, 0.1]):
        body[:] = position
        env.step_robot(OPEN)
        frame = env.frames()[0].astype(int)  # [3, H, W]
        is_red = (frame[0] > 100) & (frame[1:].max(axis=0) < 60)
        assert is_red.sum() >= 8
        red.append(np.argwhere(is_red).mean(axis=0))
    # Seen from the front, the robot's left is on the picture's right.
    assert red[1][1] - red[0][1] > 15
    env.close()


@needs_pictures
def test_cameras_and_size_are_chosen():
    task = panda_env.make("reach_target", 1, images=Images(("wrist", "front"), 48))
    every = panda_env.make("reach_target", 1, images=Images(size=48, stack=2))
    assert task.spaces.pixels == (2, 3 * FRAME_STACK, 48, 48)
    assert every.spaces.pixels == (4, 6, 48, 48)
    some, all_views = task.reset(0)["pixels"], every.reset(0)["pixels"]
    np.testing.assert_array_equal(some, all_views[:, [CAMERAS.index("wrist"), 0]])
    task.close()
    every.close()


@needs_pictures
def test_states_are_filmed_where_asked_for():
    task = panda_env.make("push_button", 1, render=True)
    task.reset(0)
    assert task.render().shape == (256, 256, 3)
    task.close()


# ---- Messages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: panda_env.make("reach_targt", 1), "^unknown task 'reach_targt': did you mean reach_target"),
        (lambda: panda_env.make("zzz", 1), "^unknown task 'zzz': MuJoCo has reach_target, push_button, "),
    ],
)
def test_what_there_is_not_is_said_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_without_a_gl_library_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(rendering, "_works", lambda name: False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(UserError, match=r"^neither EGL nor OSMesa can draw frames here: .*libegl1"):
        panda_env.make("reach_target", 1, images=Images())
    panda_env.make("reach_target", 1).close()  # states need none


def test_targets_are_apart():
    env = PandaEnv("reach_target")
    for seed in range(20):
        env.reset(seed=seed)
        at = np.array([env.model.body(name).pos for name in ReachTarget.spheres])
        gaps = np.linalg.norm(at[:, None] - at, axis=-1)[np.triu_indices(3, 1)]
        assert gaps.min() >= 0.15
        colours = {tuple(env.model.geom(name).rgba.tolist()) for name in ReachTarget.spheres}
        assert len(colours) == 3
