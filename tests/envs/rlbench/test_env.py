"""The RLBench adapter, against stand-ins for the packages rlbench and PyRep with their real signatures."""

import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import envs.rlbench.process as rlbench_process
from envs.rlbench.env import collect_demonstrations, make
from envs.rlbench.protocol import MAX_DELTA, Images
from envs.rlbench.simulator import InvalidAction, Simulator, check, missing
from rlzoo.actions import ActionRange
from rlzoo.errors import SimulatorFailure, UserError
from rlzoo.run.signals import SIGNALS
from tests.helpers import rlbench_fakes

RANGE = ActionRange(np.float32([-0.2] * 7 + [0]), np.float32([0.2] * 7 + [1]))
STILL = np.zeros((1, 8), np.float32)
FORWARD = np.ones((1, 8), np.float32)  # 0.2 rad, gripper open


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A machine with the stand-ins and a CoppeliaSim folder; the value is where the stand-ins are."""
    root = tmp_path / "packages"
    shutil.copytree(rlbench_fakes.FAKES, root)
    coppelia = tmp_path / "CoppeliaSim"
    coppelia.mkdir()
    (coppelia / "libcoppeliaSim.so.1").touch()
    monkeypatch.syspath_prepend(root)
    monkeypatch.setenv("DISPLAY", ":99")
    for variable in ("COPPELIASIM_ROOT", "LD_LIBRARY_PATH", "QT_QPA_PLATFORM_PLUGIN_PATH"):
        monkeypatch.setenv(variable, str(coppelia))
    monkeypatch.setattr(rlbench_process, "_serve", rlbench_fakes.serve)
    yield root
    rlbench_fakes.forget()


@pytest.fixture
def events(fake):
    """Says what the stand-in is to do at the n-th call of a place."""
    return lambda *what: (fake / "events.json").write_text(json.dumps(what))


@pytest.fixture
def task(fake):
    """Makes tasks and closes them afterwards."""
    made = []

    def build(name="reach_target", count=1, cameras=("front", "wrist"), **options):
        images = Images(cameras, 12) if cameras else None
        made.append(make(name, count, RANGE, images=images, **options))
        return made[-1]

    yield build
    for each in made:
        each.close()


def advance(task, action):
    task.send(np.repeat(action, task.num_envs, axis=0) if len(action) < task.num_envs else action)
    return task.receive()


# --- the simulator -----------------------------------------------------------------------------------------


def test_the_protocols_settings_reach_rlbench(fake):
    Simulator("reach_target", images=Images()).close()
    launched = json.loads((fake / "launched.json").read_text())
    assert launched == {
        "absolute_mode": False,
        "gripper": "Discrete",
        "headless": True,
        "limits": [2.0, 8.0],
        "cameras": {
            name: [[84, 84], "OPENGL3"] for name in ("left_shoulder", "right_shoulder", "wrist", "front")
        },
        "other_images": False,
    }


def test_global_generators_are_left_alone_and_seeds_decide_the_episodes(fake):
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    simulator = Simulator("reach_target", task_state=True)
    first = simulator.reset(seed=1)
    simulator.step(np.zeros(8))
    assert simulator.demonstration(seed=3).task_state.shape[1] == 3
    again = simulator.reset(seed=1)
    other = simulator.reset(seed=2)
    simulator.close()
    np.testing.assert_array_equal(first.joint_positions, again.joint_positions)
    np.testing.assert_array_equal(first.task_state, again.task_state)
    assert (first.joint_positions != other.joint_positions).all()
    drawn = np.random.rand(), random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    assert drawn == (np.random.rand(), random.random())  # noqa: NPY002


def test_global_generators_are_put_back_after_an_error(fake, events):
    simulator = Simulator("reach_target")
    simulator.reset(seed=1)
    events(["step", 1, "invalid"])
    np.random.seed(7)  # noqa: NPY002
    with pytest.raises(InvalidAction):
        simulator.step(np.zeros(8))
    drawn = np.random.rand()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    assert drawn == np.random.rand()  # noqa: NPY002


@pytest.mark.parametrize("what", ["invalid", "inverse kinematics", "no path"])
def test_actions_that_rlbench_refuses(fake, events, what):
    simulator = Simulator("reach_target")
    simulator.reset(seed=1)
    events(["step", 1, what])
    with pytest.raises(InvalidAction):
        simulator.step(np.zeros(8))
    simulator.step(np.zeros(8))  # the simulator itself is well


def test_a_wrong_name_ends_in_one_line(fake):
    with pytest.raises(UserError, match=r"reach_targets.*reach_target[?]") as caught:
        Simulator("reach_targets")
    assert "\n" not in str(caught.value)


# --- what is missing ---------------------------------------------------------------------------------------


def test_nothing_is_missing_on_a_complete_machine(fake):
    assert missing() == []
    check()


def test_everything_that_is_missing_is_named_in_one_line(monkeypatch):
    for variable in ("COPPELIASIM_ROOT", "DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        make("reach_target", 1, RANGE, images=Images())
    message = str(caught.value)
    assert "\n" not in message
    for part in ("package rlbench", "PyRep", "COPPELIASIM_ROOT", "display", "xvfb-run", "--simulator mujoco"):
        assert part in message


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("COPPELIASIM_ROOT", "/nowhere", "no libcoppeliaSim.so there"),
        ("LD_LIBRARY_PATH", "/usr/lib", "$COPPELIASIM_ROOT in LD_LIBRARY_PATH"),
        ("QT_QPA_PLATFORM_PLUGIN_PATH", "", "$COPPELIASIM_ROOT in QT_QPA_PLATFORM_PLUGIN_PATH"),
        ("DISPLAY", "", "a display"),
    ],
)
def test_one_thing_missing(fake, monkeypatch, variable, value, part):
    monkeypatch.setenv(variable, value)
    (only,) = missing()
    assert part in only


def test_cameras_need_a_display_and_states_can_do_without(fake, monkeypatch):
    monkeypatch.delenv("DISPLAY")
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    assert missing(pixels=False) == []
    assert len(missing(pixels=True)) == 1


def test_pypis_pyrep_is_recognised(fake, monkeypatch):
    shutil.rmtree(fake / "pyrep")
    (fake / "pyrep").mkdir()
    (fake / "pyrep" / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (lack,) = missing()
    assert "something else" in lack


def test_neither_package_is_imported_before_a_task_is_made():
    code = "import sys, envs.rlbench.env; print([m for m in sys.modules if m in ('rlbench', 'pyrep')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the contract ------------------------------------------------------------------------------------------


def test_pixels(task):
    made = task(count=2)
    assert made.spaces.pixels == (2, 24, 12, 12)
    assert (made.spaces.state_dim, made.spaces.action_dim, made.spaces.frame_stack) == (8, 8, 8)
    obs = made.reset(3)
    assert obs["state"].shape == (2, 8)
    assert obs["state"].dtype == np.float32
    assert obs["pixels"].shape == (2, 2, 3, 12, 12)
    assert obs["pixels"].dtype == np.uint8
    assert (obs["state"][0, :7] != obs["state"][1, :7]).all()  # seeded differently
    step = advance(made, STILL)
    # The stand-in writes (1, 2, step) into row 0, column 1, of every view, front last of its cameras.
    assert step.obs["pixels"][0, 0, :, 0, 1].tolist() == [1, 2, 1]
    assert step.obs["pixels"][0, :, 0, 5, 5].tolist() == [200, 150]  # front, wrist
    np.testing.assert_array_equal(made.reset(3)["state"], obs["state"])


def test_state_observations_have_the_tasks_state(task):
    made = task(cameras=())
    assert made.spaces.pixels is None
    assert (made.spaces.state_dim, made.spaces.frame_stack) == (11, 1)
    obs = made.reset(0)
    assert set(obs) == {"state"}
    assert obs["state"].shape == (1, 11)


def test_actions_are_scaled_and_the_gripper_is_open_above_a_half(task):
    made = task(cameras=())
    before = made.reset(0)["state"][0]
    action = np.float32([[1, -1, 0.5, 0, 0, 0, 2, 0.02]])  # beyond 1 is clipped
    after = advance(made, action).obs["state"][0]
    np.testing.assert_allclose(after[:7] - before[:7], [0.2, -0.2, 0.1, 0, 0, 0, 0.2], atol=1e-6)
    assert after[7] == 1.0
    action[0, 7] = 0.0  # exactly a half
    assert advance(made, action).obs["state"][0, 7] == 0.0


def test_success_ends_the_episode_with_reward_one_and_the_next_step_begins_another(task):
    made = task(cameras=())
    made.reset(0)
    for _ in range(10):
        step = advance(made, FORWARD)
        if step.terminated[0]:
            break
        assert (step.reward[0], step.success[0]) == (0.0, 0.0)
    assert step.terminated[0]
    assert not step.truncated[0]
    assert (step.reward[0], step.success[0]) == (1.0, 1.0)
    first = advance(made, FORWARD)
    assert np.abs(first.obs["state"][0, :7]).max() <= 0.1  # a start, the action was ignored
    assert (first.reward[0], first.terminated[0], first.truncated[0]) == (0.0, False, False)
    assert np.isnan(first.success[0])


def test_failure_for_good_terminates_without_reward(task, events):
    made = task(cameras=())
    made.reset(0)
    events(["step", 1, "failed for good"])
    step = advance(made, STILL)
    assert (step.terminated[0], step.reward[0], step.success[0]) == (True, 0.0, 0.0)


def test_the_protocols_time_limit(task):
    made = task(cameras=())
    made.reset(0)
    for count in range(1, 51):
        step = advance(made, STILL)
        assert step.truncated[0] == (count == 50)
    assert not step.terminated[0]


def test_misuse(task):
    made = task(cameras=())
    made.reset(0)
    with pytest.raises(ValueError, match="expected"):
        made.send(np.zeros((1, 7), np.float32))
    with pytest.raises(AssertionError, match="send"):
        made.receive()
    made.send(STILL)
    with pytest.raises(AssertionError, match="before receive"):
        made.send(STILL)
    made.receive()
    with pytest.raises(UserError, match="render=True"):
        made.render()


# --- crashes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["segfault", "exit", "simulator error"])
def test_a_crash_cuts_the_episode_and_the_next_step_begins_another(task, events, what, capfd):
    made = task()
    made.reset(0)
    before = advance(made, STILL)
    events(["step", 2, what])
    step = advance(made, FORWARD)
    assert (step.terminated[0], step.truncated[0], step.reward[0], step.success[0]) == (False, True, 0.0, 0.0)
    np.testing.assert_array_equal(step.obs["state"], before.obs["state"])
    np.testing.assert_array_equal(step.obs["pixels"], before.obs["pixels"])
    assert made._lanes[0].crashes == 1
    error = capfd.readouterr().err
    assert "simulator crashed" in error
    assert "1 so far" in error
    assert ("SIGSEGV" in error) == (what == "segfault")
    first = advance(made, FORWARD)
    assert not first.truncated[0]
    assert np.abs(first.obs["state"][0, :7]).max() <= 0.1
    assert not advance(made, STILL).truncated[0]
    assert made._lanes[0].crashes == 1


def test_other_environments_go_on_when_one_crashes(task, events):
    made = task(count=2, cameras=())
    made.reset(0)
    events(["step", 2, "segfault"])
    step = advance(made, STILL)
    assert step.truncated.sum() == 1
    assert advance(made, STILL).truncated.sum() == 0


def test_a_hung_simulator_is_replaced(task, events, monkeypatch):
    made = task(cameras=())
    made.reset(0)
    events(["step", 1, "hang"])
    monkeypatch.setitem(rlbench_process.TIMEOUTS, "step", 0.2)
    assert advance(made, STILL).truncated[0]
    assert not advance(made, STILL).truncated[0]
    assert made._lanes[0].crashes == 1


@pytest.mark.parametrize("what", ["segfault", "no place"])
def test_a_crash_while_an_episode_begins_is_not_seen(task, events, what):
    made = task(cameras=("front",))
    expected = made.reset(0)
    events(["reset", 2, what])
    obs = made.reset(0)
    np.testing.assert_array_equal(obs["state"], expected["state"])
    assert made._lanes[0].crashes == 1


def test_a_simulator_that_never_begins_ends_the_run_in_one_line(task, events):
    made = task(cameras=("front",))
    events(["reset", "always", "simulator error"])
    with pytest.raises(SimulatorFailure, match="does not begin an episode") as caught:
        made.reset(0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("is_under_way", [False, True])
def test_all_simulators_can_be_launched_anew(task, is_under_way):
    made = task(count=2, cameras=())
    expected = made.reset(0)
    before = [lane._simulator._process for lane in made._lanes]
    if is_under_way:
        made.send(np.repeat(STILL, 2, axis=0))
        before[0].kill()
    made.restart()
    assert not any(process.is_alive() for process in before)
    np.testing.assert_array_equal(made.reset(0)["state"], expected["state"])
    assert not advance(made, STILL).truncated.any()


def test_signals_are_left_to_the_training_process(task):
    made = task(cameras=())
    made.reset(0)
    for number in SIGNALS:
        os.kill(made._lanes[0]._simulator._process.pid, number)
    assert not advance(made, STILL).truncated[0]
    assert made._lanes[0].crashes == 0


def test_a_simulator_that_does_not_start_ends_the_run_in_one_line(task, events):
    events(["launch", "always", "segfault"])
    with pytest.raises(UserError, match=r"RLBench does not start.*SIGSEGV") as caught:
        task()
    assert "\n" not in str(caught.value)


def test_wrong_tasks_end_in_one_line_from_the_other_process(task):
    with pytest.raises(UserError, match="did you mean reach_target"):
        task("reach_targt")


def test_a_refused_action_cuts_the_episode_without_a_new_launch(task, events, fake, capfd):
    made = task(cameras=())
    before = made.reset(0)
    events(["step", 1, "invalid"])
    step = advance(made, STILL)
    assert (step.terminated[0], step.truncated[0], step.reward[0], step.success[0]) == (False, True, 0.0, 0.0)
    np.testing.assert_array_equal(step.obs["state"], before["state"])
    assert not advance(made, STILL).truncated[0]
    assert (made._lanes[0].invalid_actions, made._lanes[0].crashes) == (1, 0)
    assert (fake / "launch.count").stat().st_size == 1
    assert "A path could not be found" in capfd.readouterr().err


def test_a_crash_while_rendering(task, events):
    made = task(cameras=(), render=True)
    made.reset(0)
    assert made.render().shape == (192, 320, 3)
    assert made.render().max() == 127
    events(["render", 3, "segfault"])
    assert made.render().max() == 0
    assert advance(made, STILL).truncated[0]
    assert not advance(made, STILL).truncated[0]
    assert made.render().max() == 127


def test_no_process_is_left_behind(task):
    made = task(cameras=())
    process = made._lanes[0]._simulator._process
    assert process.is_alive()
    made.close()
    made.close()
    assert not process.is_alive()


# --- resuming ----------------------------------------------------------------------------------------------


def test_a_resumed_run_cuts_the_episode_and_goes_on_with_the_same_seeds(task, tmp_path):
    made = task(count=2)
    made.reset(0)
    last = advance(made, STILL)
    torch.save(made.get_state(), tmp_path / "state.pt")
    other = task(count=2)
    other.reset(0)
    other.set_state(torch.load(tmp_path / "state.pt", weights_only=True))
    cut = advance(other, FORWARD)
    assert cut.truncated.all()
    assert (cut.reward == 0).all()
    np.testing.assert_array_equal(cut.obs["pixels"], last.obs["pixels"])
    begun = advance(other, FORWARD)
    assert not begun.truncated.any()
    assert [lane.crashes for lane in other._lanes] == [0, 0]
    # The next episode is the one that would have come.
    for lane in made._lanes:
        lane.needs_reset = True
    np.testing.assert_array_equal(advance(made, STILL).obs["state"], begun.obs["state"])


def test_what_a_checkpoint_lacks_is_said_once_and_on_resume(task, capfd):
    made = task(cameras=())
    made.reset(0)
    advance(made, STILL)
    states = made.get_state(), made.get_state()
    told = (
        "warning: reach_target: a checkpoint cannot keep CoppeliaSim's scene; resuming begins new episodes\n"
    )
    assert capfd.readouterr().err == told
    made.set_state(states[0])
    told = "warning: reach_target: the checkpoint does not have CoppeliaSim's scene; new episodes begin\n"
    assert capfd.readouterr().err == told


@pytest.mark.parametrize("cameras", [("front",), ()])
def test_joints_that_are_not_finite_are_refused(task, events, cameras):
    made = task(count=2, cameras=cameras)
    events(["step", 4, "not finite"])  # of one of the two, in its second step
    made.reset(0)
    advance(made, STILL)
    message = r"^reach_target: environment [01] returned observation\[2\] = nan in step 2 of its episode$"
    with pytest.raises(SimulatorFailure, match=message):
        advance(made, STILL)


def test_a_target_that_is_not_finite_is_refused_with_the_reset(task, events):
    made = task(cameras=())
    events(["reset", "always", "not finite"])
    with pytest.raises(SimulatorFailure, match=r"environment 0 returned observation\[9\] = inf on its reset"):
        made.reset(0)


def test_a_run_resumed_between_episodes_loses_nothing(task, capfd):
    made = task(cameras=())
    made.reset(0)
    while not advance(made, FORWARD).terminated[0]:
        pass
    state = made.get_state()
    expected = advance(made, STILL)
    capfd.readouterr()
    made.set_state(state)
    assert capfd.readouterr().err == ""
    again = advance(made, STILL)
    assert not again.truncated[0]
    np.testing.assert_array_equal(again.obs["state"], expected.obs["state"])


def test_foreign_states_are_refused(task):
    made = task(cameras=())
    made.reset(0)
    state = made.get_state()
    with pytest.raises(UserError, match="2 environments"):
        made.set_state(state * 2)
    with pytest.raises(UserError, match="another task"):
        made.set_state([{"needs_reset": False}])
    state[0]["obs"]["state"] = torch.zeros(8)
    with pytest.raises(UserError, match="other observations"):
        made.set_state(state)


# --- demonstrations ----------------------------------------------------------------------------------------


def test_live_demonstrations(fake, events):
    events(["demo", 2, "fast"], ["demo", 3, "segfault"])
    lines = []
    kept, too_fast = collect_demonstrations(
        "reach_target", 3, seed=0, images=Images(("wrist", "front"), 12), report=lines.append
    )
    assert (len(kept), too_fast) == (3, 1)
    assert lines[-1] == "3 of 3 demonstrations, 1 too fast, 1 failed"
    for demonstration in kept:
        steps = len(demonstration.actions)
        assert demonstration.frames.shape == (steps + 1, 2, 3, 12, 12)
        assert demonstration.frames[2, 1, :, 0, 1].tolist() == [1, 2, 2]
        assert demonstration.task_state.shape == (steps + 1, 3)
        # 0.1 rad a step, and 0.01 that the arm lags behind where it is sent.
        np.testing.assert_allclose(demonstration.actions[:, :7], 0.11, atol=1e-6)
        assert np.abs(demonstration.actions[:, :7]).max() <= MAX_DELTA
    assert (kept[0].joint_positions[0] != kept[1].joint_positions[0]).all()


def test_demonstrations_that_always_fail_end_in_one_line(fake, events):
    events(["demo", "always", "simulator error"])
    with pytest.raises(UserError, match="makes no demonstrations"):
        collect_demonstrations("reach_target", 1, seed=0, images=None)


def test_warnings_become_rarer(task, events, capfd):
    made = task(cameras=())
    made.reset(0)
    events(["step", "always", "invalid"])
    for _ in range(20):  # ten of them begin an episode
        advance(made, STILL)
    said = [line.partition(" so far")[0].split()[-1] for line in capfd.readouterr().err.splitlines()]
    assert said == ["1", "2", "4", "8"]
