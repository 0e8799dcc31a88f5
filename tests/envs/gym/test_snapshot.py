"""Snapshots: an environment that is put back goes on bit for bit."""

import enum
import io
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict, deque, namedtuple
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.wrappers import (
    FrameStackObservation,
    NormalizeObservation,
    NormalizeReward,
    RescaleAction,
    RescaleObservation,
    TransformObservation,
)

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

ROOT = Path(__file__).resolve().parents[3]


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# ---- What a snapshot holds --------------------------------------------------------------------------------


class Everything(Counting):
    """Has attributes that change their types."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = Counting()  # another environment
        self.values = self.fill(0)
        self.scalar, self.array, self.view = np.float64(0), np.zeros(3), np.zeros((4, 4))[::-2, 1]
        self.names, self.maybe, self.text = {"a"}, None, "x"
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
    new.set_state(saved_and_loaded(old.get_state()))

    env, source = new._lanes[0].env, old._lanes[0].env
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


# ---- Attributes of every kind ------------------------------------------------------------------------------


class Hidden(gym.Env):
    """Shows a number that depends on all that has happened; `begin` and `change` keep the state."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Box(-1, 1, (1,))

    def __init__(self):
        self.made()

    def made(self):
        pass

    def begin(self):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        self.begin()
        return np.array([0.0]), {}

    def step(self, action):
        self.count += 1
        return np.array([float(self.change(self.np_random.random()))]), 1.0, False, self.count == 9, {}


class Views(Hidden):
    def made(self):
        self.state = np.zeros(4)
        self.position, self.velocity = self.state[:2], self.state[2:]
        self.backwards = self.state[::-2]

    def change(self, x):
        self.velocity += x
        self.position += self.velocity
        return self.state @ [1, 2, 3, 4] + self.backwards[0]


class LaterViews(Hidden):
    """Views of a new array in every episode, in Fortran's order, and the array itself under no name."""

    def begin(self):
        grid = np.zeros((3, 2), order="F")
        self.row, self.column = grid[1], grid[:, 1]

    def change(self, x):
        self.row += x
        return self.column.sum() + 10 * self.row[0]


class TwoNames(Hidden):
    def made(self):
        self.log = self.same = []
        self.inventory = {"items": self.log}

    def change(self, x):
        self.log.append(x)
        return len(self.same) + sum(self.inventory["items"])


class Cycle(Hidden):
    def begin(self):
        self.nodes = [[0.0], [1.0]]
        for node, other in zip(self.nodes, self.nodes[::-1], strict=True):
            node.append(other)

    def change(self, x):
        self.nodes[0][0] += x
        return self.nodes[1][1][0] + self.nodes[0][1][1][0]


class Queue(Hidden):
    def begin(self):
        self.delayed = deque([0.0] * 3, maxlen=3)

    def change(self, x):
        self.delayed.append(x)
        return self.delayed[0]


class Phase(enum.Enum):
    UP = 1
    DOWN = -1


Pose = namedtuple("Pose", "x y")


class Ball:
    __slots__ = ("at", "friend")

    def __init__(self, at):
        self.at, self.friend = at, None


class Filter:
    def __init__(self):
        self.mean = 0.0

    def apply(self, x):
        self.mean = 0.9 * self.mean + x
        return self.mean


class OwnObjects(Hidden):
    """One from the beginning, others that come and know each other, behind a method and a function."""

    def made(self):
        self.smooth = Filter().apply
        total = 0.0

        def add(x):
            nonlocal total
            total += x
            return total

        self.add = add
        self.setting = SimpleNamespace(gain=1.0)

    def begin(self):
        self.balls, self.known, self.phase, self.pose = [], set(), Phase.UP, Pose(0, np.float32(0))

    def change(self, x):
        ball = Ball(x)
        ball.friend = self.balls[0] if len(self.balls) == 1 else ball
        self.balls.append(ball)
        self.known.add(ball.friend)
        self.phase = Phase.DOWN if x < 0.5 else Phase.UP
        self.pose = Pose(self.pose.y, np.float32(x))
        self.setting.gain += self.phase.value
        known = sum(ball.friend.at for ball in self.balls if ball in self.known)
        return known + self.setting.gain + self.pose.x + self.smooth(x) + self.add(x)


class Enclosed(Hidden):
    """Arrays and a list in functions around those that use them, as wrappers that rescale have."""

    def made(self):
        scale, memory, log = np.full(1, 3.0), np.zeros(2), []

        def add(x):
            memory[0] += scale[0] * x
            log.append(x)
            return memory.sum() + len(log)

        self.add = add

    def change(self, x):
        return self.add(x)


class Joint(NamedTuple):
    name: str
    of: Ball


class Named(Hidden):
    """Dicts whose keys are objects, and a set of objects that stay what they were."""

    def made(self):
        self.joints = {Joint(name, Ball(i)): np.zeros(2) for i, name in enumerate(["hip", "knee"])}
        self.filters = {Filter(): [0.0], Filter(): [1.0]}
        self.idle = {Ball(1), Ball(2)}

    def change(self, x):
        *_, (knee, angle) = self.joints.items()
        angle += x
        knee.of.at += x
        for smooth, seen in self.filters.items():
            seen.append(smooth.apply(x + seen[0]))
        return angle.sum() + knee.of.at + sum(map(sum, self.filters.values()))


class Generators(Hidden):
    def made(self):
        self.first = self.second = random.Random(3)
        self.action_space = Box(-1, 1, (1,), seed=4)

    def begin(self):
        self.old = np.random.RandomState(5)
        self.new = [np.random.Generator(np.random.Philox(int(self.first.random() * 1000)))]

    def change(self, x):
        own = self.first.gauss(0, 1) + self.second.random() + self.old.normal() + self.new[0].random()
        return own + self.action_space.sample()[0]


class GlobalGenerators(Hidden):
    def change(self, x):
        return random.random() + np.random.normal()  # noqa: NPY002


class Keys(Hidden):
    def begin(self):
        self.visits = {(0, 0): 1, (0, "b"): 2, None: 3, 2.5: 4}
        self.counts, self.lists = Counter(), defaultdict(list)

    def change(self, x):
        cell = (int(3 * x), "b")
        self.visits[cell] = self.visits.get(cell, 0) + 1
        self.counts[cell] += 1
        self.lists[int(2 * x)].append(x)
        return sum(i * n for i, n in enumerate(self.visits.values())) + sum(map(sum, self.lists.values()))


class Numbers(Hidden):
    """Arrays that PyTorch does not know; numbers that are equal and not the same."""

    def made(self):
        self.zero = 0
        self.big, self.long = np.zeros(3, ">f8"), np.zeros(2, np.longdouble)

    def begin(self):
        self.rows = np.zeros(2, [("x", "<i4"), ("y", ">f4")])
        self.names = np.array(["a", [1.0]], dtype=object)

    def change(self, x):
        self.zero = -0.0
        self.big += x
        self.long += np.longdouble(x) / 3
        self.rows["x"] += int(10 * x)
        self.rows["y"] += x
        self.names[1].append(x)
        big = self.big.sum() + float(self.long[0] - np.float64(self.long[0])) * 1e18
        return (
            big + self.rows["x"].sum() + self.rows["y"].sum() + sum(self.names[1]) + str(self.zero).count("-")
        )


KINDS = [Views, LaterViews, TwoNames, Cycle, Queue, OwnObjects, Enclosed, Named, Generators, Keys, Numbers]
KINDS += [GlobalGenerators]


@pytest.mark.parametrize(
    ("kind", "processes"),
    [*((kind, False) for kind in KINDS), (Named, True), (Numbers, True), (GlobalGenerators, True)],
    ids=lambda value: getattr(value, "__name__", "processes" if value else "in-process"),
)
def test_state_of_every_kind_goes_on(kind, processes):
    old, new = (GymVectorTask("t", [kind] * 2, processes=processes) for _ in range(2))
    actions = zeros(old, 20)
    old.reset(1)
    play(old, actions[:5])
    state = saved_and_loaded(old.get_state())
    rest = play(old, actions)  # through the ends of two episodes
    new.reset(1)
    new.set_state(state)
    assert leaves(new.get_state()) == leaves(state)
    assert_same_steps(play(new, actions), rest)
    old.close()
    new.close()


HASHED = """
import enum, pickle, sys
import gymnasium as gym
from envs.gym.snapshot import Snapshots

class Side(enum.Enum):
    LEFT, RIGHT, UP, DOWN = range(4)

class Body:
    def __init__(self, at):
        self.at = at

class Robot(gym.Env):
    def __init__(self):
        names = {"hip", "knee", "foot", "toe"}
        keys = [*((name, "x") for name in names), *set(Side), *map(frozenset, names)]
        keys += {Body, gym.Env, Snapshots}
        self.seen = {key: [] for key in keys}
        bodies = [Body(i) for i in range(4)]
        self.active, self.one, self.zeroth = set(bodies), frozenset(["x", Body(9)]), bodies

    def change(self):
        for i, key in enumerate(sorted(self.seen, key=self.text)):
            self.seen[key].append(i)
        for body in self.zeroth:
            body.at += 10
        self.active.discard(self.zeroth[2])

    def text(self, key):
        if isinstance(key, type):
            return key.__name__
        return str(sorted(key) if isinstance(key, frozenset) else key)

    def show(self):
        seen = sorted((self.text(key), value) for key, value in self.seen.items())
        return seen, [body.at for body in self.zeroth], sorted(body.at for body in self.active)

robot = Robot()
snapshots = Snapshots(robot)
if sys.argv[1] == "save":
    robot.change()
    state = snapshots.take()
    assert state["lost"] == []
    pickle.dump((state, robot.show()), open(sys.argv[2], "wb"))
else:
    state, expected = pickle.load(open(sys.argv[2], "rb"))
    snapshots.restore(state)
    assert robot.show() == expected, (robot.show(), expected)
"""


def test_another_process_whose_sets_have_another_order_goes_on(tmp_path):
    for number, mode in enumerate(["save", "load", "load", "load"], 1):
        subprocess.run(
            [sys.executable, "-c", HASHED, mode, str(tmp_path / "state")],
            env={**os.environ, "PYTHONHASHSEED": str(number)}, cwd=ROOT, check=True,
        )  # fmt: skip


def normalized():
    return NormalizeReward(NormalizeObservation(short_episodes("Pendulum-v1")))


def stacked():
    return TransformObservation(
        FrameStackObservation(short_episodes("Hopper-v5"), 3), np.ravel, Box(-np.inf, np.inf, (33,))
    )


def rescaled():
    low, high = np.full(3, -1, np.float32), np.full(3, 1, np.float32)
    scaled = RescaleObservation(short_episodes("Pendulum-v1"), low, high)
    return RescaleAction(scaled, np.float32([-0.5]), np.float32([0.5]))


def test_running_statistics_are_warned_of(capsys):
    for _ in range(2):  # once
        GymVectorTask("running", [normalized])
    said = capsys.readouterr().err
    assert said.startswith("warning: running: every copy of the environment has its own running statistics")
    assert "(NormalizeReward, NormalizeObservation)" in said
    assert said.count("\n") == 1
    GymVectorTask("fixed", [rescaled])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("wrapped", [normalized, stacked, rescaled])
def test_statistics_and_frames_of_wrappers_go_on(wrapped):
    old, new = (GymVectorTask("t", [wrapped]) for _ in range(2))
    actions = actions_for(old, 60)
    old.reset(1)
    play(old, actions[:30])
    state = saved_and_loaded(old.get_state())
    new.reset(1)
    new.set_state(state)
    assert_same_steps(play(new, actions[30:]), play(old, actions[30:]))


class Rewired(gym.Env):
    """Changes gravity and friction, and keeps the simulator's own memory in an attribute."""

    action_space = Box(-1, 1, (1,))
    observation_space = Box(-np.inf, np.inf, (3,), np.float64)

    def __init__(self):
        import mujoco

        self.model = mujoco.MjModel.from_xml_string(
            "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
        )
        self.data = mujoco.MjData(self.model)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.model.opt.gravity[2] = -self.np_random.uniform(1, 9)
        self.model.opt.timestep = self.np_random.uniform(0.001, 0.01)
        self.height = self.data.qpos[2:3]
        return np.zeros(3), {}

    def step(self, action):
        import mujoco

        mujoco.mj_step(self.model, self.data)
        return np.array([*self.height, self.data.qvel[2], self.data.time]), 0.0, False, False, {}


def test_a_simulators_options_and_views_of_its_memory_go_on():
    old, new = (GymVectorTask("t", [Rewired]) for _ in range(2))
    old.reset(1)
    play(old, zeros(old, 5))
    new.reset(2)
    new.set_state(saved_and_loaded(old.get_state()))
    assert_same_steps(play(new, zeros(new, 9)), play(old, zeros(old, 9)))


# ---- What belongs to a process, and what cannot be saved ---------------------------------------------------


class Folder(Hidden):
    """Writes into a folder of its own."""

    def made(self):
        self.folder = tempfile.mkdtemp()
        self.settings = {"folder": self.folder, "steps": 0}

    def change(self, x):
        self.settings["steps"] += 1
        Path(self.settings["folder"], "step").write_text(str(x))
        return self.settings["steps"]

    def close(self):
        shutil.rmtree(self.folder)


class Port(Hidden):
    """Is known by a port that it was given when it was made."""

    ports = itertools.count(5000)
    given: ClassVar = set()

    def made(self):
        self.port, self.speed = next(Port.ports), 0.0
        Port.given.add(self.port)

    def change(self, x):
        assert self.port in Port.given
        self.speed += x
        return self.speed

    def close(self):
        Port.given.remove(self.port)


@pytest.mark.parametrize("kind", [Folder, Port])
def test_what_belongs_to_a_process_stays_that_of_the_new_one(kind, capsys):
    old = GymVectorTask("t", [kind])
    old.reset(1)
    play(old, zeros(old, 3))
    state = saved_and_loaded(old.get_state())
    rest = play(old, zeros(old, 9))
    old.close()
    new = GymVectorTask("t", [kind])
    new.reset(1)
    new.set_state(state)
    assert_same_steps(play(new, zeros(new, 9)), rest)
    new.close()
    assert capsys.readouterr().err == ""


def engine():
    """A world in C, as Box2D's: nothing of it can be seen from outside."""
    position = 0.0
    while True:
        position += yield position


class Engine(Hidden):
    def made(self):
        self.level = 0

    def begin(self):
        self.world = engine()
        self.level += next(self.world) == 0

    def change(self, x):
        return self.world.send(x) + 100


class OpenFile(Hidden):
    def made(self):
        self.file = tempfile.TemporaryFile("w+")  # noqa: SIM115

    def change(self, x):
        self.file.write("x")
        return self.file.tell()

    def close(self):
        self.file.close()


class TemporaryPath(Hidden):
    """A file in a temporary folder holds the state."""

    def begin(self):
        handle, self.path = tempfile.mkstemp()
        os.close(handle)

    def change(self, x):
        with open(self.path, "a") as file:
            file.write("x")
        return os.path.getsize(self.path)


class Counter_(Hidden):  # noqa: N801
    """An iterator, which can be pickled."""

    def made(self):
        self.ids = itertools.count(1)

    def change(self, x):
        return next(self.ids)


class SetOfObjects(Hidden):
    """Which of them is which nothing tells in the next process."""

    def made(self):
        self.filters = {Filter(), Filter()}

    def change(self, x):
        return sum(smooth.apply(x + i) for i, smooth in enumerate(self.filters))


class Mean(gym.Wrapper):
    """Shows the mean of all it has seen besides the observation."""

    def __init__(self, env):
        super().__init__(env)
        self.seen = deque(maxlen=1000)
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float64)

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        return np.append(obs, len(self.seen)), info

    def step(self, action):
        obs, *rest = self.env.step(action)
        self.seen.append(obs[0])
        return np.append(obs, len(self.seen)), *rest


@pytest.mark.filterwarnings("ignore:Pickle.*itertools")
@pytest.mark.parametrize("kind", [Engine, OpenFile, TemporaryPath, Counter_, SetOfObjects])
def test_what_cannot_be_saved_is_said_and_a_new_episode_begins(kind, capsys):
    make_envs = [lambda: Mean(kind()), Counted]
    old, new = (GymVectorTask("Own-v0", make_envs) for _ in range(2))
    old.reset(1)
    last = play(old, zeros(old, 4))[-1]
    state = saved_and_loaded(old.get_state())
    assert capsys.readouterr().err.startswith(f"warning: Own-v0: a checkpoint cannot keep {kind.__name__}")
    old.get_state()
    assert capsys.readouterr().err == ""  # once
    rest = play(old, zeros(old, 4))

    new.reset(1)
    new.set_state(state)
    told = capsys.readouterr().err
    assert told.startswith(f"warning: Own-v0: the checkpoint does not have {kind.__name__}")
    assert told.count("\n") == 1
    cut, first, second = play(new, zeros(new, 3))
    # The episode is cut where it was, and the next begins as any other does.
    np.testing.assert_array_equal(cut.obs["state"][0], last.obs["state"][0])
    assert (cut.reward[0], cut.terminated[0], cut.truncated[0]) == (0, False, True)
    np.testing.assert_array_equal(first.obs["state"][0], [0, 4])  # the wrapper goes on counting
    assert (first.truncated[0], second.obs["state"][0, 1]) == (False, 5)
    # Other lanes go on exactly.
    np.testing.assert_array_equal(
        [step.obs["state"][1] for step in (cut, first, second)], [step.obs["state"][1] for step in rest[:3]]
    )
    # A second resume begins the same episode.
    again = GymVectorTask("Own-v0", make_envs)
    again.set_state(state)
    assert_same_steps(play(again, zeros(again, 3)), [cut, first, second])
    for task in (old, new, again):
        task.close()


def Counted():  # noqa: N802
    return Mean(Views())


@pytest.mark.parametrize("name", ["LunarLanderContinuous-v3", "BipedalWalker-v3"])
def test_box2d_begins_a_new_episode_and_wrappers_statistics_survive(name, capsys):
    """Its classes, made by SWIG, have not even a module."""
    pytest.importorskip("Box2D")
    made = [gym.wrappers.NormalizeObservation(gym.make(name)) for _ in range(2)]
    old, new = (GymVectorTask(name, [lambda env=env: env]) for env in made)
    old.reset(1)
    last = play(old, zeros(old, 30))[-1]
    capsys.readouterr()
    new.set_state(saved_and_loaded(old.get_state()))
    assert capsys.readouterr().err.startswith(f"warning: {name}: a checkpoint cannot keep ")
    cut, *_ = play(new, zeros(new, 2))
    np.testing.assert_array_equal(cut.obs["state"], last.obs["state"])
    assert (cut.reward[0], cut.truncated[0]) == (0, True)
    assert made[1].obs_rms.count > made[0].obs_rms.count > 30
    old.close()
    new.close()


def test_a_state_can_be_taken_again_before_the_cut_episode_has_ended(capsys):
    old, new, third = (GymVectorTask("t", [partial(Mean, Engine())]) for _ in range(3))
    old.reset(1)
    last = play(old, zeros(old, 4))[-1]
    new.set_state(saved_and_loaded(old.get_state()))
    third.set_state(saved_and_loaded(new.get_state()))
    cut, first = play(third, zeros(third, 2))
    np.testing.assert_array_equal(cut.obs["state"], last.obs["state"])
    assert (cut.truncated[0], first.truncated[0], first.obs["state"][0, 1]) == (True, False, 4)


class Watched:
    def __del__(self):
        raise AssertionError


@pytest.mark.parametrize(
    ("module", "name"),
    [("subprocess", "Popen"), ("not_imported", "Thing"), (__name__, "Watched"), ("numpy", "ndarray")],
)
def test_no_object_of_a_strange_class_is_made(module, name):
    task = GymVectorTask("t", [OwnObjects])
    task.reset(1)
    play(task, zeros(task, 1))
    state = task.get_state()
    (ball,) = (node for node in state[0]["nodes"] if node[1][-1] == "Ball")
    ball[1][1:] = [module, name]
    with pytest.raises(UserError, match=r"^t: the saved state is of another task"):
        task.set_state(state)


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
