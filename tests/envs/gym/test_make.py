"""Gymnasium tasks by name, a module of one's own, and clear messages for names that cannot work."""

import copy
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box

from envs.gym import make as mujoco_env
from experiments.train_mujoco import MujocoSuite
from rlzoo.data.load import load_episodes
from rlzoo.errors import UserError
from tests.helpers.counting import play, zeros

OWN_TASKS = """
import gymnasium as gym

gym.register("Mine-v0", "own_helper:Mine", max_episode_steps=5)
gym.register("Endless-v0", "gymnasium.envs.classic_control:PendulumEnv")
"""
OWN_HELPER = "from gymnasium.envs.classic_control import PendulumEnv as Mine"
START = """
import sys
from envs.gym import make as mujoco_env
from experiments.train_mujoco import MujocoSuite
from rlzoo.data.load import load_episodes
from rlzoo.errors import UserError

if __name__ == "__main__":
    try:
        task = mujoco_env.make(sys.argv[1], 2, processes=len(sys.argv) > 2)
    except UserError as error:
        sys.exit(str(error))
    task.reset(0)
    task.send([[0], [0]])
    print(task.receive().reward.shape)
    task.close()
"""


@pytest.fixture
def own_tasks(tmp_path):
    """A folder with a module that registers tasks."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own_tasks.py").write_text(OWN_TASKS)
    (folder / "own_helper.py").write_text(OWN_HELPER)
    return folder


def start(folder, *arguments):
    """Run START as a console script runs: the current folder is not on its search path, the script's is."""
    script = folder.parent / "bin" / "start"
    script.parent.mkdir()
    script.write_text(START)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_make():
    task = mujoco_env.make("Reacher-v5", 3)
    assert (task.num_envs, task.spaces.state_dim, task.spaces.action_dim) == (3, 10, 2)
    task.reset(0)
    ends = [step.truncated.all() for step in play(task, zeros(task, 52))]
    assert ends == [step == 49 for step in range(52)]  # Gymnasium's own time limit


def test_success_is_what_the_task_says():
    task = mujoco_env.make("FetchReach-v4", 1)
    task.reset(0)
    assert play(task, zeros(task, 1))[0].success in (0, 1)


def test_a_maze_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mujoco_env.make("PointMaze_UMaze-v3", 2).reset(0)
    assert list(tmp_path.iterdir()) == []


def test_a_task_of_ones_own(own_tasks, monkeypatch):
    monkeypatch.syspath_prepend(own_tasks)
    task = mujoco_env.make("own_tasks:Mine-v0", 1)
    task.reset(0)
    assert [bool(step.truncated) for step in play(task, zeros(task, 5))] == [False] * 4 + [True]


@pytest.mark.parametrize("flags", [(), ("processes",)], ids=["in-process", "processes"])
def test_the_current_folder_is_searched_for_ones_own_module(own_tasks, flags):
    run = start(own_tasks, "own_tasks:Mine-v0", *flags)
    assert (run.stdout, run.stderr) == ("(2,)\n", "")


def test_a_file_in_the_current_folder_hides_no_package(own_tasks):
    (own_tasks / "gymnasium_robotics.py").write_text("1 / 0")
    (own_tasks / "h5py.py").write_text("1 / 0")
    (own_tasks / "own_helper.py").write_text(f"import h5py, gymnasium_robotics\n{OWN_HELPER}")
    run = start(own_tasks, "own_tasks:Mine-v0")
    assert (run.stdout, run.returncode) == ("(2,)\n", 0), run.stderr


def test_what_was_searched_for_a_module_is_said(own_tasks):
    run = start(own_tasks, "no_such_module:Task-v0")
    root = Path(__file__).parents[3]
    assert run.stderr == (
        "no_such_module:Task-v0: the module no_such_module cannot be imported (it is neither in the current "
        f"folder {own_tasks} nor in PYTHONPATH {root} nor among the installed packages)\n"
    )


def test_a_module_that_misses_another_is_not_said_to_be_missing(own_tasks):
    (own_tasks / "own_tasks.py").write_text("import own")
    run = start(own_tasks, "own_tasks:Mine-v0")
    assert run.stderr == (
        "own_tasks:Mine-v0: the module own_tasks cannot be imported (No module named 'own')\n"
    )


def test_a_task_without_a_time_limit_is_warned_of(own_tasks, monkeypatch, capsys):
    monkeypatch.syspath_prepend(own_tasks)
    for _ in range(2):
        mujoco_env.make("own_tasks:Endless-v0", 1).close()
    assert capsys.readouterr().err.count("has no time limit") == 1
    mujoco_env.make("Pendulum-v1", 1).close()
    assert capsys.readouterr().err == ""


def test_the_list_has_the_newest_versions_of_mujoco_s_tasks_and_the_range_of_each_is_known():
    tasks = mujoco_env.tasks()
    assert {"HalfCheetah-v5", "Ant-v5", "Humanoid-v5", "Pusher-v5"} <= set(tasks)
    assert len({name.rpartition("-")[0] for name in tasks}) == len(tasks)
    assert all(np.all(mujoco_env.action_range(name).low < 0) for name in tasks)
    np.testing.assert_array_equal(mujoco_env.action_range("InvertedPendulum-v5").high, np.float32([3]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("HalfCheeta-v5", "^unknown task 'HalfCheeta-v5', did you mean HalfCheetah-v5"),
        ("halfcheetah-v5", "^unknown task 'halfcheetah-v5', did you mean HalfCheetah-v5"),
        ("HalfCheetah", "did you mean HalfCheetah-v5"),  # the version is part of the task
        ("HalfCheetah-v9", "did you mean HalfCheetah-v5"),
        ("AntMaze_Umaze-v5", "did you mean .*AntMaze_UMaze-v5"),
        ("Pendulum-v0", "did you mean .*Pendulum-v1"),
        ("qqqqqqqq", r"^unknown task 'qqqqqqqq'\. A task that a module registers is written module:Name-v0$"),
        ("", r"^unknown task ''\. A task"),
        (
            "ALE/Pong-v5",
            "^unknown task 'ALE/Pong-v5'.* A task that a module registers is written module:Name-v0$",
        ),
        ("no_such_module:Task-v0", "^no_such_module:Task-v0: the module no_such_module cannot be imported"),
        (
            "./mine:Task-v0",
            "^./mine:Task-v0: './mine' is no module's name; for mine.py in this folder write mine:",
        ),
        ("envs/mine:Task-v0", "'envs/mine' is no module's name"),
        ("mine.py:Task-v0", "'mine.py' is no module's name"),
        (
            "CartPole-v1",
            r"^CartPole-v1: agents need actions in a bounded Box of floats .*, not in Discrete\(2\)$",
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


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r'^BipedalWalker-v3: Box2D is not installed.*"gymnasium\[box2d\]"'):
        mujoco_env.make("BipedalWalker-v3", 1)


@pytest.mark.filterwarnings("error")
def test_an_older_version_that_works_is_made_without_a_warning():
    mujoco_env.make("Walker2d-v4", 1).reset(0)


class Several(gym.Env):
    """Observes several arrays, one of them a column, and a choice; its names are not in their order."""

    action_space = Box(-1, 1, (2, 1), np.float32)
    observation_space = gym.spaces.Dict(
        {
            "speed": Box(-9, 9, (2, 1), np.float32),
            "hand": gym.spaces.Dict({"up": Box(-9, 9, (), np.float32), "held": gym.spaces.Discrete(3)}),
            "arms": gym.spaces.Tuple([Box(-9, 9, (1,), np.float32), Box(-9, 9, (2,), np.float32)]),
        }
    )

    def __init__(self, **options):
        self.observation_space = copy.deepcopy(self.observation_space)  # each draws from its own

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}


def stacked(observations):
    """Observations as Minari's buffers hold them: the arrays of all steps at each place."""
    if isinstance(observations[0], dict):
        return {name: stacked([obs[name] for obs in observations]) for name in observations[0]}
    if isinstance(observations[0], tuple):
        return tuple(map(stacked, zip(*observations, strict=True)))
    return np.stack(observations)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Minari would like an author and more
@pytest.mark.parametrize(
    ("task", "other"), [("Several-v0", "PointMaze_UMaze-v3"), ("PointMaze_UMaze-v3", "Several-v0")]
)
def test_minari_data_of_a_task_are_what_the_task_observes(task, other, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    own = gym.envs.registration.EnvSpec("Several-v0", f"{__name__}:Several", max_episode_steps=5)
    monkeypatch.setitem(gym.registry, own.id, own)
    env, copies = mujoco_env.make_env(task, {"max_episode_steps": 5}), mujoco_env.make(task, 1)
    recorded = [env.reset(seed=int(np.random.SeedSequence(7).generate_state(1)[0]))[0]]
    seen = [copies.reset(7)["state"][0]]
    action = np.array([0.5, -0.25], np.float32)
    for _ in range(5):
        recorded.append(env.step(action.reshape(env.action_space.shape))[0])
        copies.send(action[None])
        seen.append(copies.receive().obs["state"][0])
    buffer = minari.data_collector.EpisodeBuffer(
        observations=stacked(recorded),
        actions=np.tile(action, (5, 1)).reshape(5, *env.action_space.shape),
        rewards=[0.0] * 5,
        terminations=[False] * 5,
        truncations=[False] * 4 + [True],
    )
    minari.create_dataset_from_buffers(
        "several-v0", [buffer], observation_space=env.observation_space, action_space=env.action_space
    )
    (episode,) = MujocoSuite().load_data(task, "several-v0", copies.spaces)
    np.testing.assert_array_equal(episode.obs["state"], seen)
    np.testing.assert_array_equal(episode.action, np.tile(action, (5, 1)))
    with pytest.raises(UserError, match=f"not observations of {other}"):
        load_episodes("several-v0", flatten_obs=mujoco_env.flatten_obs(other))
    assert mujoco_env.flatten_obs("Pendulum-v1") is None
