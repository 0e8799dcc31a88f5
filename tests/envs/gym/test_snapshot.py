"""Snapshots: an environment that is put back goes on bit for bit."""

import io
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch

from envs.gym import make as mujoco_env
from envs.gym.vector import GymVectorTask
from rlzoo.errors import UserError
from tests.helpers.counting import (
    IN_PROCESS_AND_PROCESSES,
    QUIET_GYMNASIUM,
    Counting,
    assert_same_steps,
    counting,
    play,
    zeros,
)


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# ---- What a snapshot holds --------------------------------------------------------------------------------


class Everything(Counting):
    """Has an attribute of every kind that a snapshot holds, and some that it must not touch."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = Counting()  # another environment
        self.render_mode = "rgb_array"
        self.values = self.fill(0)
        self.scalar, self.array, self.view = np.float64(0), np.zeros(3), np.zeros((4, 4))[::-2, 1]
        self.names, self.maybe, self.text, self.opaque = {"a"}, None, "x", object()
        self.private = np.random.default_rng(0)

    def fill(self, x):
        return {"list": [x, x + 0.5], "tuple": (x, (None, True)), "arrays": [np.full(2, x)], 3: "three"}

    def reset(self, *, seed=None, options=None):
        self.inside.reset(seed=seed)
        return super().reset(seed=seed)

    def step(self, action):
        x = self.private.random()
        self.values = self.fill(x)
        self.scalar, self.array, self.view = np.float32(x), np.full(3, x), np.full((4, 4), x)[::-2, 1]
        self.names, self.maybe, self.text, self.new = {"b", "c"}, np.bool_(True), "y", np.uint64(2**63 + 1)
        self.inside.step(action)
        return super().step(action)


def test_a_snapshot_holds_plain_attributes_generators_and_environments_inside():
    old, new = (GymVectorTask("t", [Everything]) for _ in range(2))
    old.reset(1)
    play(old, zeros(old, 2))
    new.reset(2)
    env = new._lanes[0].env
    opaque, env.render_mode = env.opaque, "human"
    new.set_state(saved_and_loaded(old.get_state()))

    source = old._lanes[0].env
    assert repr(env.values) == repr(source.values)
    for name in ("scalar", "array", "view", "names", "maybe", "text", "new", "count", "start"):
        found, expected = getattr(env, name), getattr(source, name)
        assert type(found) is type(expected)
        assert np.asarray(found).dtype == np.asarray(expected).dtype
        np.testing.assert_array_equal(found, expected)
    assert env.inside.count == 2
    assert env.inside.np_random.random() == source.inside.np_random.random()
    assert env.np_random.bit_generator.state == source.np_random.bit_generator.state
    assert env.private.random() == source.private.random()
    assert env.opaque is opaque
    assert env.render_mode == "human"  # how it is shown is not its state


def test_a_snapshot_does_not_change_with_the_environment_nor_the_other_way_round():
    task = GymVectorTask("t", [Everything])
    task.reset(1)
    state = task.get_state()
    before = repr(state)
    for _ in range(2):
        task.set_state(state)
        env = task._lanes[0].env
        env.array += 1
        env.values["list"].append(3)
        play(task, zeros(task, 2))
        assert repr(state) == before


@IN_PROCESS_AND_PROCESSES
def test_a_restored_task_goes_on_exactly_even_when_an_episode_has_just_ended(processes):
    old, new = counting(2, length=4, processes=processes), counting(2, length=4, processes=processes)
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 2, 2)).astype(np.float32)
    for steps_before in (3, 4, 5):  # 4: the next step begins an episode
        old.reset(1)
        play(old, actions[:steps_before])
        state = saved_and_loaded(old.get_state())
        rest = play(old, actions[steps_before:])
        for steps_of_new in (2, 4):  # 4: it is about to begin an episode itself, which must be forgotten
            new.reset(2)
            play(new, actions[:steps_of_new])
            new.set_state(state)
            assert_same_steps(play(new, actions[steps_before:]), rest)
    old.close()
    new.close()


def test_a_snapshot_may_be_restored_before_the_first_reset():
    old, new = counting(2), counting(2)
    old.reset(1)
    new.set_state(saved_and_loaded(old.get_state()))
    assert_same_steps(play(new, zeros(new, 9)), play(old, zeros(old, 9)))


@IN_PROCESS_AND_PROCESSES
@QUIET_GYMNASIUM
def test_a_state_that_does_not_fit_is_refused(processes):
    task = counting(2, processes=processes)
    task.reset(0)
    with pytest.raises(
        UserError, match=r"^Counting-v0: the saved state is of 1 environments, this run has 2$"
    ):
        task.set_state(task.get_state()[:1])
    other = GymVectorTask("t", [Everything] * 2)
    with pytest.raises(UserError, match=r"^Counting-v0: the saved state is of another task"):
        task.set_state(other.get_state())
    task.close()


# ---- Tasks of Gymnasium and gymnasium-robotics ------------------------------------------------------------

TASKS = [
    *("HalfCheetah-v5", "Ant-v5", "Humanoid-v5", "Hopper-v5", "Walker2d-v5", "Swimmer-v5", "Pusher-v5"),
    *("Reacher-v5", "InvertedDoublePendulum-v5", "Pendulum-v1", "MountainCarContinuous-v0", "Hopper-v4"),
    # These change the model when they reset, hold an environment in an attribute, add noise to observations,
    # or keep goals and lists of solved tasks.
    *("AdroitHandDoor-v1", "AdroitHandPen-v1", "AdroitHandRelocate-v1", "AdroitHandHammer-v1"),
    *("AntMaze_UMaze-v5", "AntMaze_Medium_Diverse_GR-v4", "PointMaze_UMaze-v3", "FrankaKitchen-v1"),
    *("FetchReach-v4", "FetchPickAndPlace-v4", "HandManipulateBlock_BooleanTouchSensors-v1"),
]
EPISODE = 25


def short_episodes(name):
    return gym.wrappers.TimeLimit(mujoco_env.make_env(name), EPISODE)


def make(name, *, processes=False):
    return GymVectorTask(name, [partial(short_episodes, name)] * 2, processes=processes)


def actions_for(task, steps):
    # Beyond [-1, 1] in places, which is clipped.
    shape = (steps, task.num_envs, task.spaces.action_dim)
    return np.random.default_rng(0).uniform(-1.2, 1.2, shape).astype(np.float32)


def leaves(value, path=""):
    """Everything in a state by its path, tensors as their bytes."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, item in items for name, leaf in leaves(item, f"{path}/{key}").items()}
    return {path: value.numpy().tobytes() if isinstance(value, torch.Tensor) else value}


@pytest.mark.parametrize("name", TASKS)
def test_a_restored_task_goes_on_bit_for_bit(name):
    old, new = make(name), make(name)
    actions = actions_for(old, EPISODE + 1 + 11 + 60)
    old.reset(1)
    play(old, actions[:EPISODE])
    at_end = saved_and_loaded(old.get_state())  # the next step begins an episode
    begun = play(old, actions[EPISODE : EPISODE + 12])
    within = saved_and_loaded(old.get_state())
    rest = play(old, actions[EPISODE + 12 :])
    assert any(
        step.truncated.any() or step.terminated.any() for step in rest
    )  # it goes through ends of episodes

    new.reset(99)
    play(new, actions[:7])
    new.set_state(within)
    assert_same_steps(play(new, actions[EPISODE + 12 :]), rest)
    # float32 observations hide small differences, and not everything is observed.
    assert leaves(new.get_state()) == leaves(old.get_state())
    new.set_state(at_end)
    assert_same_steps(play(new, actions[EPISODE : EPISODE + 12]), begun)
    assert leaves(new.get_state()) == leaves(within)


@pytest.mark.parametrize("name", TASKS)
def test_the_seed_alone_decides_what_follows(name):
    used, fresh = make(name), make(name)
    actions = actions_for(used, EPISODE + 5)
    used.reset(1)
    play(used, actions[:9])
    np.testing.assert_array_equal(used.reset(2)["state"], fresh.reset(2)["state"])
    assert_same_steps(play(used, actions), play(fresh, actions))


def test_processes_save_and_restore_what_this_process_does():
    here, there = make("AntMaze_UMaze-v5"), make("AntMaze_UMaze-v5", processes=True)
    actions = actions_for(here, EPISODE + 12)
    for task in (here, there):
        task.reset(1)
        play(task, actions[:10])
    states = saved_and_loaded(here.get_state()), saved_and_loaded(there.get_state())
    rest = play(here, actions[10:])
    assert_same_steps(play(there, actions[10:]), rest)
    there.reset(3)
    there.set_state(states[0])
    assert_same_steps(play(there, actions[10:]), rest)
    here.set_state(states[1])
    assert_same_steps(play(here, actions[10:]), rest)
    there.close()


def test_a_state_of_another_task_is_refused():
    hopper, walker = make("Hopper-v5"), make("Walker2d-v5")
    with pytest.raises(UserError, match=r"^Hopper-v5: the saved state is of another task or version"):
        hopper.set_state(walker.get_state())
