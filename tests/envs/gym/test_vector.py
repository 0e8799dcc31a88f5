"""Closed-form tests of the Gymnasium adapter with an environment that counts."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text

from envs.gym.vector import GymVectorTask, Lane
from rlzoo.errors import SimulatorFailure, UserError
from rlzoo.seeding import seed_global_generators
from tests.helpers.counting import (
    HIGH,
    IN_PROCESS_AND_PROCESSES,
    LOW,
    QUIET_GYMNASIUM,
    Counting,
    assert_same_steps,
    counting,
    play,
    zeros,
)


class Fixed(gym.Env):
    """Returns the same observation for ever."""

    def __init__(self, observation_space, obs=None, action_space=Counting.action_space):
        self.observation_space, self.action_space, self.obs = observation_space, action_space, obs

    def reset(self, *, seed=None, options=None):
        return self.obs, {}

    def step(self, action):
        self.action = action
        return self.obs, 0.0, False, False, {}


# ---- Episodes --------------------------------------------------------------------------------------------


@IN_PROCESS_AND_PROCESSES
@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_the_step_after_the_end_ignores_its_action_and_begins_an_episode(ending, processes):
    task = counting(2, length=3, ending=ending, processes=processes)
    first = task.reset(7)["state"]
    steps = play(task, zeros(task, 6))
    task.close()

    count = [step.obs["state"][0, 1] for step in steps]
    assert count == [1, 2, 3, 0, 1, 2]  # the final observation is seen, then the first of the next episode
    assert [step.reward[0] for step in steps] == [1, 2, 3, 0, 1, 2]
    ends = [False, False, True, False, False, False]
    assert [step.terminated[0] for step in steps] == (ends if ending == "terminated" else [False] * 6)
    assert [step.truncated[0] for step in steps] == (ends if ending == "truncated" else [False] * 6)
    np.testing.assert_array_equal(steps[3].obs["state"][:, 2:], 0)  # not the centre of the bounds
    start = [step.obs["state"][0, 0] for step in steps]
    assert start[0] == start[2] == first[0, 0]
    assert start[3] == start[5] != start[2]


def test_lanes_end_on_their_own():
    task = GymVectorTask("t", [partial(Counting, length=2), partial(Counting, length=3)])
    task.reset(0)
    counts = [step.obs["state"][:, 1].tolist() for step in play(task, zeros(task, 5))]
    assert counts == [[1, 1], [2, 2], [0, 3], [1, 0], [2, 1]]


def test_types_and_shapes():
    task = counting(3)
    obs = task.reset(0)["state"]
    assert (obs.shape, obs.dtype) == ((3, 4), np.float32)
    assert (task.num_envs, task.spaces.state_dim, task.spaces.action_dim) == (3, 4, 2)
    (step,) = play(task, zeros(task, 1))
    assert (step.obs["state"].shape, step.obs["state"].dtype) == ((3, 4), np.float32)
    assert [array.dtype for array in step[1:]] == [np.float32, np.bool_, np.bool_, np.float32]
    assert all(array.shape == (3,) for array in step[1:])


@IN_PROCESS_AND_PROCESSES
def test_what_is_returned_and_passed_belongs_to_the_caller(processes):
    task = counting(2, processes=processes)
    obs = task.reset(0)["state"]
    steps = play(task, zeros(task, 1))
    kept = [array.copy() for array in (obs, steps[0].obs["state"], *steps[0][1:])]
    action = np.ones((2, 2), np.float32)
    task.send(action)
    action[:] = -1
    seen = task.receive().obs["state"][:, 2:]
    play(task, zeros(task, 3))
    task.close()
    for array, copy in zip((obs, steps[0].obs["state"], *steps[0][1:]), kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(seen, [HIGH, HIGH])


@IN_PROCESS_AND_PROCESSES
@pytest.mark.parametrize("key", ["success", "is_success", None])
def test_success_is_nan_where_the_task_says_nothing(key, processes):
    task = counting(1, success_key=key, processes=processes)
    task.reset(0)
    success = [step.success[0] for step in play(task, zeros(task, 4))]
    task.close()
    # On the step that begins an episode nothing has been done yet.
    np.testing.assert_array_equal(success, [0, 0, 1, np.nan] if key else [np.nan] * 4)


def test_processes_give_the_same_results():
    def make(processes):
        make_envs = [partial(gym.make, "Pendulum-v1", max_episode_steps=7 + i) for i in range(2)]
        return GymVectorTask("Pendulum-v1", make_envs, processes=processes)

    here, there = make(False), make(True)
    actions = np.random.default_rng(0).uniform(-1.5, 1.5, (20, 2, 1)).astype(np.float32)
    np.testing.assert_array_equal(here.reset(4)["state"], there.reset(4)["state"], strict=True)
    assert_same_steps(play(here, actions), play(there, actions))
    there.close()


# ---- Seeds -----------------------------------------------------------------------------------------------


def test_seeds():
    def starts(seed):
        return counting(8).reset(seed)["state"][:, 0].tolist()

    assert starts(1) == starts(1)
    assert len({*starts(1), *starts(2)}) == 16  # every lane differs, and no lane of seed 2 repeats one of 1


def test_the_seed_alone_decides_what_follows():
    used, fresh = counting(2), counting(2)
    used.reset(3)
    play(used, zeros(used, 3))  # the next step would begin an episode
    np.testing.assert_array_equal(used.reset(5)["state"], fresh.reset(5)["state"])
    assert_same_steps(play(used, zeros(used, 9)), play(fresh, zeros(fresh, 9)))


# ---- Actions and observations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ([-1, -1], LOW),
        ([1, 1], HIGH),
        ([0, 0], [1, 0.4]),
        ([0.5, -0.5], [2.5, 0.25]),
        ([-7, np.inf], [LOW[0], HIGH[1]]),
    ],
)
def test_actions_are_clipped_and_mapped(action, expected):
    task = counting(1)
    task.reset(0)
    (step,) = play(task, np.array([[action]], np.float32))
    np.testing.assert_array_equal(step.obs["state"][0, 2:], np.array(expected, np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mapped_actions_hit_their_bounds_and_never_leave_them(dtype):
    rng = np.random.default_rng(0)
    low = rng.uniform(-5, 5, 500).astype(dtype)
    high = (low + rng.uniform(1e-3, 9, 500)).astype(dtype)
    lane = Lane(Fixed(Box(0, 1, (1,)), action_space=Box(low, high, dtype=dtype)), "t")
    tight = {"rtol": 0, "atol": 4 * np.finfo(dtype).eps * 10 if dtype == np.float64 else 0}
    np.testing.assert_allclose(lane.inner_action(-np.ones(500, np.float32)), low, **tight)
    np.testing.assert_allclose(lane.inner_action(np.ones(500, np.float32)), high, **tight)
    inner = lane.inner_action(rng.uniform(-1.01, 1.01, (200, 500)).astype(np.float32))
    assert inner.dtype == dtype
    assert np.all(inner >= low)
    assert np.all(inner <= high)


def test_an_environment_that_keeps_its_action_keeps_its_value():
    for space in (Box(-1, 1, (2,)), Box(LOW, HIGH)):
        env = Fixed(Box(0, 1, (1,)), np.zeros(1, np.float32), space)
        lane = Lane(env, "t")
        given = np.array([1, 1], np.float32)
        lane.step(given)
        given[:] = 0
        lane.step(np.zeros(2, np.float32))
        last = env.action
        lane.step(np.ones(2, np.float32))
        np.testing.assert_allclose(last, (space.low + space.high) / 2)


@pytest.mark.parametrize(
    "space",
    [
        Box(np.array([-1, 0]), np.array([1, 0]), dtype=np.float64),
        Box(np.float32([[2, -3], [5, 5]]), np.float32([[2, 3], [5, 5]])),
    ],
    ids=str,
)
def test_a_dimension_may_be_fixed(space):
    lane = Lane(Fixed(Box(0, 1, (1,)), action_space=space), "t")
    size = space.low.size
    for unit, bound in ((-1, space.low), (1, space.high)):
        np.testing.assert_array_equal(lane.inner_action(np.full(size, unit, np.float32)), bound)


def test_actions_of_any_shape():
    env = Fixed(Box(0, 1, (1,)), np.zeros(1, np.float32), Box(-3, 3, (2, 2)))
    task = GymVectorTask("t", [lambda: env])
    assert task.spaces.action_dim == 4
    task.reset(0)
    play(task, np.array([[[1, 0, -1, 0.5]]], np.float32))
    np.testing.assert_array_equal(env.action, [[3, 0], [-3, 1.5]])


@pytest.mark.parametrize(
    "space",
    [
        Discrete(2),
        MultiDiscrete([2, 3]),
        Box(0, 255, (2,), np.uint8),
        Box(-np.inf, np.inf, (2,)),
        Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32)),
        Box(np.array([0, 3], np.float32), np.array([0, 3], np.float32)),
        Box(-3.4e38, 3.4e38, (2,)),
        Box(np.array([-1, -np.finfo(np.float64).max]), np.array([1, 0]), dtype=np.float64),
    ],
    ids=str,
)
def test_other_action_spaces_are_refused_in_one_line(space):
    with pytest.raises(UserError, match=r"^Walk-v1: agents need .*(Box|Discrete)") as caught:
        Lane(Fixed(Box(0, 1, (1,)), action_space=space), "Walk-v1")
    assert "\n" not in str(caught.value)


def test_observations_are_flattened():
    space = Dict({"b": Box(0, 9, (2, 2)), "a": Box(0, 9, (1,), np.float64), "c": Dict({"d": Discrete(3)})})
    obs = {"b": np.float32([[1, 2], [3, 4]]), "a": np.array([5.0]), "c": {"d": 1}}
    lane = Lane(Fixed(space, obs), "t")
    flat, info = lane.reset()
    np.testing.assert_array_equal(flat["state"], [5, 1, 2, 3, 4, 0, 1, 0])
    assert info == {}
    assert lane.observation_space["state"].shape == (8,)

    lane = Lane(Fixed(Box(0, 9, (2, 2)), obs["b"]), "t")
    np.testing.assert_array_equal(lane.step(np.zeros(2, np.float32))[0]["state"], [1, 2, 3, 4])


@pytest.mark.parametrize("stack", [1, 3])
def test_a_dict_of_state_and_pixels_stays_one(stack):
    space = Dict({"state": Box(0, 9, (2,), np.float64), "pixels": Box(0, 255, (2, 3, 4, 5), np.uint8)})
    obs = {"state": np.array([1.0, 2.0]), "pixels": np.arange(120, dtype=np.uint8).reshape(2, 3, 4, 5)}
    task = GymVectorTask("t", [partial(Fixed, space, obs)] * 2, frame_stack=stack)
    assert (task.spaces.state_dim, task.spaces.frame_stack) == (2, stack)
    assert task.spaces.pixels == (2, 3 * stack, 4, 5)
    (step,) = play(task, zeros(task, 1))
    for seen in (task.reset(0), step.obs):
        np.testing.assert_array_equal(seen["state"], np.float32([[1, 2]] * 2), strict=True)
        np.testing.assert_array_equal(seen["pixels"], np.stack([obs["pixels"]] * 2), strict=True)


def test_pixels_of_another_kind_are_refused():
    space = Dict({"state": Box(0, 9, (2,)), "pixels": Box(0, 1, (3, 4, 5))})
    with pytest.raises(UserError, match=r"^t: expected state \[S\] and pixels uint8"):
        Lane(Fixed(space), "t")


def test_observations_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match=r"^Talk-v1: observations .*Sequence"):
        Lane(Fixed(gym.spaces.Sequence(Text(3))), "Talk-v1")


# ---- Values that do not fit -------------------------------------------------------------------------------


class Returning(gym.Env):
    """Returns `wrong` in place of what is right in the third step of its second episode, or on its reset."""

    action_space = Box(-1, 1, (1,))

    def __init__(self, space, where, wrong):
        self.observation_space, self.where, self.wrong = space, where, wrong
        self.good = space.sample()
        self.episode = self.count = 0

    def reset(self, *, seed=None, options=None):
        self.episode, self.count = self.episode + 1, 0
        return (self.wrong if self.where == "reset" and self.episode == 2 else self.good), {}

    def step(self, action):
        self.count += 1
        found = {"observation": self.good, "reward": 1.0, "terminated": self.count == 4, "truncated": False}
        found["success"] = True
        if self.episode == 2 and self.count == 3 and self.where in found:
            found[self.where] = self.wrong
        return *list(found.values())[:4], {"success": found["success"]}


THREE = Box(-9, 9, (3,))


def play_until_wrong(where, wrong, *, space=THREE, processes=False):
    """Returns the last step if no error comes. The first lane is never wrong."""
    make_envs = [partial(Returning, space, right_or_wrong, wrong) for right_or_wrong in (None, where)]
    task = GymVectorTask("Own-v0", make_envs, processes=processes)
    try:
        task.reset(0)
        return play(task, zeros(task, 8))[-1]
    finally:
        task.close()


@IN_PROCESS_AND_PROCESSES
@pytest.mark.parametrize(
    ("where", "wrong", "which"),
    [
        ("observation", np.array([0, 1, np.nan]), r"observation\[2\] = nan"),
        ("observation", np.array([0, -np.inf, np.nan]), r"observation\[1\] = -inf"),
        ("observation", np.array([1e300, 0, 0]), r"observation\[0\] = inf"),  # as float32, which agents see
        ("observation", [0.0, None, 1.0], r"observation\[1\] = nan"),
        ("reward", np.nan, "reward = nan"),
        ("reward", -np.inf, "reward = -inf"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
@QUIET_GYMNASIUM
def test_what_is_not_finite_is_refused_before_anybody_gets_it(where, wrong, which, processes):
    message = rf"^Own-v0: environment 1 returned {which} in step 3 of its episode$"
    with pytest.raises(SimulatorFailure, match=message) as caught:
        play_until_wrong(where, wrong, processes=processes)
    assert "\n" not in str(caught.value)


def test_a_reset_is_checked_too():
    wrong = np.array([0, np.nan, 0])
    with pytest.raises(SimulatorFailure, match=r"environment 1 returned observation\[1\] = nan on its reset"):
        play_until_wrong("reset", wrong)
    first = GymVectorTask("Own-v0", [partial(Fixed, Box(0, 9, (3,)), wrong)])
    with pytest.raises(SimulatorFailure, match=r"environment 0 returned observation\[1\] = nan on its reset"):
        first.reset(0)


@pytest.mark.parametrize("key", ["reward", "terminated", "truncated", "success"])
@pytest.mark.parametrize("form", [lambda x: [x], lambda x: np.array([[x]]), np.bool_, torch.tensor])
def test_a_single_number_may_be_in_an_array(key, form):
    step = play_until_wrong(key, form(True))
    assert getattr(step, key)[1] == 1


def test_none_as_success_is_unknown():
    assert np.isnan(play_until_wrong("success", None).success[1])


@pytest.mark.parametrize(
    ("space", "fitting"),
    [
        (Box(-9, 9, (3,)), np.array([[1.0], [2], [3]])),  # a column for a vector
        (Box(-9, 9, (3,)), [1, 2, 3]),
        (Box(-9, 9, (1,)), 1.0),
        (Box(-9, 9, ()), np.array([[1.0]])),
        (Dict({"a": Box(-9, 9, (2,)), "b": Discrete(3)}), {"b": np.int64(0), "a": np.array([[1], [2]])}),
        (Box(-9, 9, (3,), np.int64), np.array([1, 2, 3], np.uint8)),
    ],
    ids=str,
)
def test_dimensions_of_one_at_the_end_do_not_matter(space, fitting):
    seen = play_until_wrong("observation", fitting, space=space).obs["state"][1]
    assert seen.tolist() == ([1, 2, 1, 0, 0] if isinstance(space, Dict) else [1, 2, 3][: len(seen)])


IMAGES = Dict({"state": Box(-9, 9, (2,)), "pixels": Box(0, 255, (1, 3, 4, 4), np.uint8)})


@IN_PROCESS_AND_PROCESSES
@pytest.mark.parametrize(
    ("where", "space", "wrong", "message"),
    [
        ("observation", THREE, 1.0, r"observation is 1.0, expected float32 \(3,\)"),
        ("observation", THREE, np.zeros((1, 3)), r"observation is float64 \(1, 3\), expected .*"),
        ("observation", THREE, None, r"observation is None, expected .*"),
        ("observation", Box(-9, 9, (2, 3)), np.zeros((3, 2)), r"observation is float64 \(3, 2\), .*"),
        (
            "observation",
            Dict({"a": Box(-9, 9, (2,)), "b": Box(-9, 9, (2,))}),
            {"a": np.zeros(3), "b": np.zeros(1)},
            r"observation\['a'\] is float64 \(3,\), expected float32 \(2,\)",
        ),
        ("observation", Dict({"a": Box(-9, 9, (2,))}), {"b": np.zeros(2)}, r"observation is {'b'.*"),
        ("observation", IMAGES, {"state": np.zeros(2), "pixels": np.zeros((1, 3, 4, 4))},
         r"observation\['pixels'\] is float64 \(1, 3, 4, 4\), expected uint8 \(1, 3, 4, 4\)"),
        ("observation", IMAGES, {"state": np.zeros(3), "pixels": np.zeros((1, 3, 4, 4), np.uint8)},
         r"observation\['state'\] is float64 \(3,\), expected float32 \(2,\)"),
        ("reward", THREE, np.array([1.0, 2.0]), r"reward is float64 \(2,\), expected one number"),
        ("reward", THREE, None, r"reward is None, expected one number"),
        ("success", THREE, "yes", r"success is 'yes', expected one number"),
        ("terminated", THREE, np.array([True, False]), r"terminated is bool \(2,\), expected .*"),
    ],
)  # fmt: skip
@QUIET_GYMNASIUM
def test_everything_else_is_one_line(where, space, wrong, message, processes):
    with pytest.raises(UserError, match=rf"^Own-v0: {message}$") as caught:
        play_until_wrong(where, wrong, space=space, processes=processes)
    assert "\n" not in str(caught.value)


# ---- Generators of Python and NumPy -----------------------------------------------------------------------


class Global(Counting):
    """Draws from the generators of Python and NumPy themselves, also while it is made."""

    def __init__(self):
        super().__init__()
        self.goal = random.random() + np.random.normal()  # noqa: NPY002

    def observe(self, action):
        return np.array([self.goal, random.random(), np.random.uniform(), self.count])  # noqa: NPY002


@IN_PROCESS_AND_PROCESSES
def test_generators_of_python_and_numpy_are_seeded(processes):
    def draw(seed):
        seed_global_generators(seed)
        task = GymVectorTask("t", [Global] * 2, processes=processes)
        random.seed(), np.random.seed()  # noqa: NPY002
        first = task.reset(seed)["state"]
        values = [first, *(step.obs["state"] for step in play(task, zeros(task, 6)))]
        task.close()
        return np.stack(values)

    one, again, other = draw(1), draw(1), draw(2)
    np.testing.assert_array_equal(one, again)
    assert not (one[..., :3] == other[..., :3]).any()
    assert not (one[:, 0, :3] == one[:, 1, :3]).any()  # nor do the copies draw the same


# ---- Failures and closing --------------------------------------------------------------------------------


@IN_PROCESS_AND_PROCESSES
@QUIET_GYMNASIUM
def test_a_failing_environment_gives_one_clear_error(processes):
    task = counting(2, fails_at=2, processes=processes)
    task.reset(0)
    play(task, zeros(task, 1))
    task.send(zeros(task, 1)[0])
    with pytest.raises(SimulatorFailure) as caught:
        task.receive()
    assert re.fullmatch(
        r"Counting-v0: environment failed in step\(\): ZeroDivisionError: the count is one too high "
        r"\(counting.py:\d+\)",
        str(caught.value),
    )
    task.close()
    task.close()


@pytest.mark.parametrize("is_under_way", [False, True])
def test_a_killed_process_gives_one_clear_error(is_under_way):
    task = counting(2, processes=True)
    task.reset(0)
    assert task._workers is not None
    victim = task._workers.processes[0]
    if is_under_way:
        os.kill(victim.pid, signal.SIGSTOP)  # or it might answer before it is killed
        task.send(zeros(task, 1)[0])
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    cause = r"^Counting-v0: a simulator's process ended unexpectedly \(killed by SIGKILL\)$"
    with pytest.raises(SimulatorFailure, match=cause):
        task.receive() if is_under_way else play(task, zeros(task, 2))
    task.close()
    task.close()
    assert not any(process.is_alive() for process in task._workers.processes)


@IN_PROCESS_AND_PROCESSES
def test_closing_twice_and_with_a_step_under_way(processes):
    task = counting(2, processes=processes)
    task.reset(0)
    task.send(zeros(task, 1)[0])
    task.close()
    task.close()


def test_what_an_agent_gets_wrong_is_told():
    task = counting(2)
    task.reset(0)
    with pytest.raises(AssertionError, match=r"without send\(\)"):
        task.receive()
    with pytest.raises(ValueError, match=r"actions \(2, 3\), expected \(2, 2\)"):
        task.send(np.zeros((2, 3), np.float32))


@IN_PROCESS_AND_PROCESSES
def test_frames_need_a_task_that_was_made_for_them(processes):
    task = counting(1, processes=processes)
    with pytest.raises(UserError, match=r"^Counting-v0 draws no frames: .*rgb_array"):
        task.render()
    task.close()


INTERRUPTED = """
import os, signal, sys, time
sys.path.insert(0, os.getcwd())
import numpy as np
from tests.helpers.counting import counting

if __name__ == "__main__":
    signals = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: signals.append(signal.Signals(number).name))
    task = counting(2, length=9, processes=True)
    task.reset(0)
    task.send(np.zeros((2, 2), np.float32))
    print(*(process.pid for process in task._workers.processes), flush=True)
    while len(signals) < 5:
        time.sleep(0.01)
    print(task.receive().reward.tolist(), len(task.get_state()), *signals, flush=True)
    task.close()
"""


def test_signals_to_every_process_leave_the_workers_alive_and_quiet(tmp_path):
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    root = Path(__file__).parents[3]
    command = [sys.executable, str(script)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=root, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as run:
        workers = list(map(int, run.stdout.readline().split()))
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
            number = getattr(signal, name)
            os.killpg(run.pid, number)  # as a terminal does for Ctrl-C, and `timeout` at its end
            for worker in workers:  # as Slurm does
                os.kill(worker, number)
            time.sleep(0.2)
        out, err = run.communicate(timeout=60)
    assert out == "[1.0, 1.0] 2 SIGINT SIGTERM SIGHUP SIGUSR1 SIGUSR2\n"
    assert err == ""
    assert run.returncode == 0


# ---- New simulators --------------------------------------------------------------------------------------


class Failing(Counting):
    """Fails in the step in which a file says so: by leaving Python, by a signal, or for good."""

    def __init__(self, how, trigger):
        super().__init__(length=9)
        self.how, self.trigger = how, trigger

    def step(self, action):
        if self.trigger.exists():
            if self.how == "exit":
                sys.exit(3)
            if self.how == "die":
                os._exit(3)
            if self.how == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)
        return super().step(action)


@pytest.mark.parametrize(
    ("how", "processes", "cause"),
    [
        ("exit", False, r"environment failed in step\(\): SystemExit: 3 \(test_vector.py:\d+\)"),
        ("exit", True, r"environment failed in step\(\): SystemExit: 3 \(test_vector.py:\d+\)"),
        ("die", True, r"process ended unexpectedly \(exit code 3\)"),
        ("crash", True, r"process ended unexpectedly \(killed by SIGSEGV\)"),
        ("hang", True, None),
    ],
)
def test_failed_simulators_are_replaced_by_new_ones(how, processes, cause, tmp_path):
    trigger = tmp_path / "now"
    # Lane 0 fails, lane 1 does not.
    make_envs = [partial(Failing, how, trigger), partial(Failing, how, tmp_path / "never")]
    task = GymVectorTask("Failing-v0", make_envs, processes=processes)
    task.reset(0)
    play(task, zeros(task, 2))
    trigger.touch()
    task.send(zeros(task, 1)[0])
    if cause:
        with pytest.raises(SimulatorFailure, match=cause):
            task.receive()
    trigger.unlink()
    task.restart()
    fresh = counting(2, length=9)
    np.testing.assert_array_equal(task.reset(5)["state"], fresh.reset(5)["state"])
    assert_same_steps(play(task, zeros(task, 9)), play(fresh, zeros(fresh, 9)))
    assert len(task.get_state()) == 2
    task.close()


def test_simulators_that_cannot_be_made_anew_say_why():
    made = []

    def make():
        if made:
            raise OSError("the licence server is away")
        made.append(1)
        return Counting()

    task = GymVectorTask("Counting-v0", [make])
    with pytest.raises(
        SimulatorFailure, match=r"^Counting-v0: the environments cannot be made anew: OSError: "
    ):
        task.restart()


def test_processes_that_hang_are_closed_within_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr("envs.gym.vector.CLOSING", 0.5)
    (tmp_path / "now").touch()
    task = GymVectorTask("Failing-v0", [partial(Failing, "hang", tmp_path / "now")], processes=True)
    task.reset(0)
    task.send(zeros(task, 1)[0])
    task.close()
    assert not any(process.is_alive() for process in task._workers.processes)


UNCLOSED = """
import os, sys
sys.path.insert(0, os.getcwd())
from tests.helpers.counting import counting

if __name__ == "__main__":
    task = counting(2, processes=True)
    print(*(process.pid for process in task._workers.processes))
    raise SystemExit(7)
"""


def test_a_script_that_forgets_to_close_ends_all_the_same(tmp_path):
    script = tmp_path / "unclosed.py"
    script.write_text(UNCLOSED)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, str(script)], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert not [pid for pid in done.stdout.split() if Path(f"/proc/{pid}").exists()]
