"""Gymnasium tasks by name: exact continuation, and clear messages for names that cannot work."""

import importlib.util
import io
import tempfile
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch

from envs.gym import make as mujoco_env
from envs.gym.vector import GymVectorTask
from rlzoo.errors import UserError

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


def play(task, actions):
    steps = []
    for action in actions:
        task.send(action)
        step = task.receive()
        steps.append([step.obs["state"], *step[1:]])
    return steps


def assert_same(left, right):
    for step, (a, b) in enumerate(zip(left, right, strict=True)):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y, err_msg=f"step {step}", strict=True)


def saved(task):
    file = io.BytesIO()
    torch.save(task.get_state(), file)
    return file


def loaded(file):
    file.seek(0)
    return torch.load(file, weights_only=True)


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
    at_end = saved(old)  # the next step begins an episode
    begun = play(old, actions[EPISODE : EPISODE + 12])
    within = saved(old)
    rest = play(old, actions[EPISODE + 12 :])
    assert any(step[3].any() or step[2].any() for step in rest)  # it goes through ends of episodes

    new.reset(99)
    play(new, actions[:7])
    new.set_state(loaded(within))
    assert_same(play(new, actions[EPISODE + 12 :]), rest)
    # float32 observations hide small differences, and not everything is observed.
    assert leaves(new.get_state()) == leaves(old.get_state())
    new.set_state(loaded(at_end))
    assert_same(play(new, actions[EPISODE : EPISODE + 12]), begun)
    assert leaves(new.get_state()) == leaves(loaded(within))


@pytest.mark.parametrize("name", TASKS)
def test_the_seed_alone_decides_what_follows(name):
    used, fresh = make(name), make(name)
    actions = actions_for(used, EPISODE + 5)
    used.reset(1)
    play(used, actions[:9])
    np.testing.assert_array_equal(used.reset(2)["state"], fresh.reset(2)["state"])
    assert_same(play(used, actions), play(fresh, actions))


def test_processes_save_and_restore_what_this_process_does():
    here, there = make("AntMaze_UMaze-v5"), make("AntMaze_UMaze-v5", processes=True)
    actions = actions_for(here, EPISODE + 12)
    for task in (here, there):
        task.reset(1)
        play(task, actions[:10])
    states = saved(here), saved(there)
    rest = play(here, actions[10:])
    assert_same(play(there, actions[10:]), rest)
    there.reset(3)
    there.set_state(loaded(states[0]))
    assert_same(play(there, actions[10:]), rest)
    here.set_state(loaded(states[1]))
    assert_same(play(here, actions[10:]), rest)
    there.close()


def test_a_state_of_another_task_is_refused():
    hopper, walker = make("Hopper-v5"), make("Walker2d-v5")
    with pytest.raises(UserError, match=r"^Hopper-v5: the saved state is of another task or version"):
        hopper.set_state(walker.get_state())


def test_make():
    task = mujoco_env.make("Reacher-v5", 3)
    assert (task.num_envs, task.spaces.state_dim, task.spaces.action_dim) == (3, 10, 2)
    task.reset(0)
    ends = [step[3].all() for step in play(task, actions_for(task, 52))]
    assert ends == [step == 49 for step in range(52)]  # Gymnasium's own time limit


def test_success_is_what_the_task_says():
    task = mujoco_env.make("FetchReach-v4", 1)
    task.reset(0)
    assert play(task, actions_for(task, 1))[0][4] in (0, 1)


def test_a_maze_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mujoco_env.make("PointMaze_UMaze-v3", 2).reset(0)
    assert list(tmp_path.iterdir()) == []


def test_a_module_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_tasks.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('Mine-v0', 'gymnasium.envs.classic_control:PendulumEnv', max_episode_steps=5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = mujoco_env.make("own_tasks:Mine-v0", 1)
    task.reset(0)
    assert [bool(step[3]) for step in play(task, actions_for(task, 5))] == [False] * 4 + [True]


def test_a_task_without_a_time_limit_is_warned_of(tmp_path, monkeypatch, capsys):
    (tmp_path / "endless_tasks.py").write_text(
        "import gymnasium as gym\ngym.register('Endless-v0', 'gymnasium.envs.classic_control:PendulumEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        mujoco_env.make("endless_tasks:Endless-v0", 1).close()
    assert capsys.readouterr().err.count("registered without a time limit") == 1
    mujoco_env.make("Pendulum-v1", 1).close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("HalfCheeta-v5", "^unknown task 'HalfCheeta-v5', did you mean HalfCheetah-v5"),
        ("halfcheetah-v5", "^unknown task 'halfcheetah-v5', did you mean HalfCheetah-v5"),
        ("HalfCheetah", "did you mean HalfCheetah-v5"),  # the version is part of the task
        ("HalfCheetah-v9", "did you mean HalfCheetah-v5"),
        ("AntMaze_Umaze-v5", "did you mean .*AntMaze_UMaze-v5"),
        ("Pendulum-v0", "did you mean .*Pendulum-v1"),
        ("qqqqqqqq", "^unknown task 'qqqqqqqq'$"),
        ("", "^unknown task ''$"),
        ("ALE/Pong-v5", "^unknown task 'ALE/Pong-v5': nothing registers the namespace 'ALE'"),
        ("no_such_module:Task-v0", "^no_such_module:Task-v0: the module no_such_module cannot be imported"),
        (
            "CartPole-v1",
            r"^CartPole-v1: agents need actions in a bounded Box of floats, not in Discrete\(2\)$",
        ),
        ("MountainCar-v0", r"^MountainCar-v0: agents need .* not in Discrete\(3\)$"),
        ("HalfCheetah-v2", "^HalfCheetah-v2: this version needs mujoco-py.*; use HalfCheetah-v5$"),
        ("Hopper-v3", "^Hopper-v3: this version needs mujoco-py.*; use Hopper-v5$"),
        ("FetchReach-v1", "^FetchReach-v1: this version needs mujoco-py.*; use FetchReach-v4$"),
    ],
)
def test_names_that_do_not_work_are_refused_in_one_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        mujoco_env.make(name, 1)
    assert "\n" not in str(caught.value)


def test_suggestions_have_continuous_actions():
    with pytest.raises(UserError) as caught:
        mujoco_env.make("CartPole-v7", 1)
    assert "CartPole-v" not in str(caught.value).replace("CartPole-v7", "")


@pytest.mark.skipif(importlib.util.find_spec("Box2D") is not None, reason="Box2D is installed")
def test_a_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(UserError, match=r'^BipedalWalker-v3: Box2D is not installed.*"gymnasium\[box2d\]"'):
        mujoco_env.make("BipedalWalker-v3", 1)


@pytest.mark.filterwarnings("error")
def test_an_older_version_that_works_is_made_without_a_warning():
    mujoco_env.make("Walker2d-v4", 1).reset(0)
