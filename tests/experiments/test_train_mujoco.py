"""Environments of one's own, from the command line: what they return, what they draw, how they go on."""

import re
import sys
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch
from rich.console import Console

from envs.gym import rendering
from experiments import make_dataset
from experiments.compare import read_run
from experiments.runner.launch import main
from experiments.train_mujoco import MujocoSuite
from rlzoo.data.write import write_d4rl
from rlzoo.errors import UserError
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.run.progress import evaluation_table
from rlzoo.types import Episode

MODULE = '''
import itertools, os, random
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

class Walk(gym.Env):
    """A walk on a line, for nine steps."""
    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.uniform(-1, 1, 2), 0
        return self.state.copy(), {}

    def step(self, action):
        self.steps += 1
        self.state[0] += self.push(action)
        return self.state.copy(), -abs(self.state[0]), False, self.steps == 9, self.info()

    def push(self, action):
        return 0.1 * float(action[0])

    def info(self):
        return {}

class Fixed(Walk):
    action_space = Box(np.array([-1, 0]), np.array([1, 0]), dtype=np.float64)
    def push(self, action):
        assert action[1] == 0
        return super().push(action)

class Drawing(Walk):
    """Draws its goal and its noise from the generators of Python and NumPy."""
    def __init__(self):
        self.goal = random.random()
    def push(self, action):
        return super().push(action) + 0.1 * random.random() + 0.1 * np.random.normal() * self.goal

class Breaking(Walk):
    """Diverges in its hundredth step."""
    total = itertools.count(1)
    def push(self, action):
        return super().push(action) + (np.inf if next(Breaking.total) == int(os.environ["BREAKS_AT"]) else 0)

class Telling(Walk):
    """Tells of success only where it was one."""
    def info(self):
        is_solved = self.steps == 9 and abs(self.state[0]) < float(os.environ["SOLVED"])
        return {"is_success": True} if is_solved else {}

class Levels(Walk):
    """Cannot be made without an argument."""
    def __init__(self, level):
        self.level = level

class Engine(Walk):
    """Its world is somewhere else."""
    def __init__(self):
        self.world = (0.01 * i for i in itertools.count())
    def push(self, action):
        return super().push(action) + next(self.world)

class Shown(Walk):
    """Draws frames itself; its arguments have names that rlzoo uses too."""
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    def __init__(self, task, render, render_mode=None):
        assert (task, render) == ("pick", False)
        self.render_mode = render_mode
    def render(self):
        return np.zeros((16, 16, 3), np.uint8)

class Unseen(Walk):
    """Takes a render mode without drawing anything."""
    metadata = {"render_modes": ["rgb_array"]}
    def __init__(self, render_mode=None):
        self.render_mode = render_mode

class Seeing(Walk):
    """Observes an image beside its state, as agents see them with a CNN."""
    observation_space = gym.spaces.Dict(
        state=Walk.observation_space, pixels=Box(0, 255, (1, 3, 36, 36), np.uint8)
    )
    def reset(self, *, seed=None, options=None):
        return self.both(super().reset(seed=seed)[0]), {}
    def step(self, action):
        state, *rest = super().step(action)
        return self.both(state), *rest
    def both(self, state):
        return {"state": state, "pixels": np.zeros((1, 3, 36, 36), np.uint8)}

class Flat(Walk):
    """Observes an image alone."""
    observation_space = Box(0, 255, (4, 4, 3), np.uint8)

class Scalar(Walk):
    """Its action is one number."""
    action_space = Box(-1, 1, ())
    def push(self, action):
        assert action.shape == ()
        return 0.1 * float(action)

kinds = Walk, Fixed, Drawing, Breaking, Telling, Levels, Engine, Shown, Unseen, Seeing, Flat, Scalar
for kind in kinds:
    gym.register(f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=50)
'''
FLAGS = ["--warmup-steps", "20", "--batch-size", "8", "--agent.hidden", "8", "8", "--buffer-capacity", "1000"]
FLAGS += ["--eval-every", "50", "--eval-episodes", "4", "--log-every", "50", "--checkpoint-every", "50"]
FLAGS += ["--threads", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "walks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield
    sys.modules.pop("walks", None)
    for name in re.findall(r"class (\w+)", MODULE):
        gym.registry.pop(f"{name}-v0", None)


def train(name: str, task: str, *flags: str) -> Path:
    arguments = ["sac", "--task", f"walks:{task}-v0", *FLAGS, "--runs-dir", name, *flags]
    assert main(MujocoSuite, arguments) == 0
    return run_dir(name)


def run_dir(name: str) -> Path:
    (info,) = Path(name).rglob("run.json")
    return info.parent


def state(run: Path) -> dict:
    return load_checkpoint(run / "checkpoints" / "latest.pt")["trainer"]


def assert_same_runs(one: Path, other: Path) -> None:
    for part in ("agent", "replay"):
        torch.testing.assert_close(dict(state(one)[part]), dict(state(other)[part]), rtol=0, atol=0)
    assert read_run(one).curve("eval/return") == read_run(other).curve("eval/return")


# ---- What an environment returns ---------------------------------------------------------------------------


@pytest.mark.parametrize("breaks_at", ["60", "190"], ids=["in an evaluation", "in training"])
def test_a_value_that_is_not_finite_is_not_stored_and_new_episodes_begin(breaks_at, monkeypatch):
    # 72 of the environment's steps are played in evaluations, at 50 and at 100.
    monkeypatch.setenv("BREAKS_AT", breaks_at)
    after = state(train("broken", "Breaking", "--steps", "200"))
    assert (after["counters"]["env_steps"], after["counters"]["restarts"]) == (200, 1)
    assert torch.isfinite(after["replay"]["fields"]["state"]).all()


def test_values_that_are_not_finite_too_often_end_the_run_with_a_checkpoint(monkeypatch):
    monkeypatch.setenv("BREAKS_AT", "190")
    message = r"^walks:Breaking-v0: environment 0 returned observation\[0\] = inf in step . of its episode; "
    with pytest.raises(UserError, match=f"{message}stopped at step 117 with a checkpoint"):
        train("broken", "Breaking", "--steps", "200", "--max-restarts", "0")
    broken = run_dir("broken")
    assert main(MujocoSuite, ["--resume", str(broken)]) == 0
    assert state(broken)["counters"]["env_steps"] == 200


def test_the_same_command_goes_on_with_a_run_whose_environment_has_arguments():
    flags = ["--env", "level=1", "--run-dir", "given"]
    train("given", "Levels", "--steps", "60", *flags)
    train("given", "Levels", "--steps", "120", *flags)
    assert state(Path("given"))["counters"]["env_steps"] == 120


def test_a_run_without_an_update_says_so(capsys):
    for flags, warns in ((["--steps", "21"], True), (["--steps", "22"], False), (["--utd", "0"], True)):
        run = train(flags[-1], "Walk", "--steps", "60", *flags)
        assert (state(run)["counters"]["online_updates"] == 0) == warns
        assert ("no update will be made: --steps is" in capsys.readouterr().out) == warns


def test_a_folder_with_somebody_elses_metrics_is_left_alone():
    Path("other").mkdir()
    Path("other/metrics.csv").write_text("mine")
    for _ in range(2):
        with pytest.raises(UserError, match=r"other has a metrics\.csv, but it is not a run folder"):
            train("unused", "Walk", "--steps", "60", "--run-dir", "other")
    assert [path.name for path in Path("other").iterdir() if path.suffix] == ["metrics.csv"]


@pytest.mark.parametrize("backend", ["nothing", None])
def test_arguments_of_any_name_reach_the_environment_that_draws_its_own_frames(backend, monkeypatch):
    def no_backend():
        raise UserError("nothing draws here")

    if backend == "nothing":  # neither EGL nor OSMesa
        monkeypatch.setattr(rendering, "rendering_backend", no_backend)
    flags = ["--env", "task=pick", "--env", "render=false", "--steps", "60", "--video"]
    run = train("shown", "Shown", *flags)
    assert [path.suffix for path in (run / "videos").iterdir()] == [".mp4", ".mp4"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("Walk", r"^Walk-v0 cannot be made with render_mode='rgb_array': "),
        ("Unseen", "^walks:Unseen-v0 draws no frames: it has no method `render`$"),
    ],
)
def test_what_cannot_be_filmed_says_so(task, message):
    with pytest.raises(UserError, match=message):
        train("unseen", task, "--steps", "60", "--video")


def test_recorded_data_end_where_the_time_limit_of_the_command_line_is(tmp_path, capsys):
    path = Path(dataset(tmp_path / "d.hdf5", np.random.default_rng(1).uniform(-1, 1, (60, 2))))
    with h5py.File(path, "a") as file:
        del file["timeouts"]
    train("limit", "Walk", "--steps", "60", "--dataset", str(path), "--env", "max_episode_steps=5")
    said = capsys.readouterr()
    assert re.search(r"^episodes +12$", said.out, re.MULTILINE)
    assert "time limit" not in said.err
    train("none", "Walk", "--steps", "60", "--env", "max_episode_steps=-1")
    assert capsys.readouterr().err.count("walks:Walk-v0 has no time limit") == 1


def test_recorded_data_do_not_go_with_images(tmp_path, monkeypatch):
    path = dataset(tmp_path / "d.hdf5", np.zeros((60, 1)))
    with pytest.raises(UserError, match=r"^walks:Seeing-v0 observes images; recorded images are"):
        train("seeing", "Seeing", "--steps", "60", "--dataset", path)
    output = ("--task", "walks:Seeing-v0", "--steps", "20", "--output", "none.hdf5")
    monkeypatch.setattr("sys.argv", ["make_dataset.py", "random", *output])
    with pytest.raises(UserError, match=r"^the task observes images, for which D4RL's format has no place$"):
        make_dataset.main()


def test_an_image_that_is_flattened_is_said_once(capsys):
    MujocoSuite().make("walks:Flat-v0", 2).close()
    MujocoSuite().make("walks:Flat-v0", 2).close()
    assert capsys.readouterr().err.count("walks:Flat-v0: images are flattened") == 1
    MujocoSuite().make("walks:Seeing-v0", 2).close()
    assert "flattened" not in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--processes"]], ids=str)
def test_an_action_that_is_one_number(flags):
    assert state(train("scalar", "Scalar", "--steps", "60", *flags))["counters"]["env_steps"] == 60


def test_a_module_without_the_task_is_named_with_its_file(tmp_path):
    with pytest.raises(
        UserError, match=rf"^walks:Wlak-v0: the module walks \({tmp_path}/walks.py\) registers"
    ):
        train("none", "Wlak", "--steps", "60")


def dataset(path: Path, actions: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    steps = len(actions)
    with h5py.File(path, "w") as file:
        file["observations"] = rng.normal(size=(steps, 2)).astype(np.float32)
        file["actions"] = actions.astype(np.float32)
        file["rewards"] = rng.normal(size=steps).astype(np.float32)
        file["terminals"] = np.zeros(steps, np.bool_)
        file["timeouts"] = np.arange(1, steps + 1) % 9 == 0
    return str(path)


@pytest.mark.parametrize("flags", [[], ["--rescale-actions"], ["--offline"]], ids=str)
def test_a_fixed_dimension_of_the_actions_trains_with_a_dataset(flags, tmp_path):
    actions = np.stack([np.random.default_rng(1).uniform(-1, 1, 90), np.zeros(90)], axis=1)
    run = train("data", "Fixed", "--steps", "60", "--dataset", dataset(tmp_path / "d.hdf5", actions), *flags)
    demonstrations = state(run)["demos"]["fields"]["action"].numpy().reshape(-1, 2)
    assert not demonstrations[:, 1].any()  # the middle of a range that is a point
    assert np.abs(demonstrations[:, 0]).max() > 0.5
    assert np.isfinite(list(read_run(run).curve("eval/return").values())).all()


def test_a_fixed_dimension_trains_without_one_too():
    assert state(train("fixed", "Fixed", "--steps", "60"))["counters"]["env_steps"] == 60


@pytest.mark.parametrize("solved", ["0.0", "9.0"])
def test_a_task_that_is_first_solved_late_was_not_solved_before(solved, monkeypatch):
    monkeypatch.setenv("SOLVED", solved)
    run = train("telling", "Telling", "--steps", "60")
    assert state(run)["tells_success"] == (solved == "9.0")
    monkeypatch.setenv("SOLVED", "9.0" if solved == "0.0" else "0.0")
    assert main(MujocoSuite, ["--resume", str(run), "--steps", "120"]) == 0
    rates = [row["eval/success"] for row in state(run)["evaluations"]]
    assert rates[0] == (1.0 if solved == "9.0" else 0.0)
    assert rates[-1] == (0.0 if solved == "9.0" else 1.0)
    Console(quiet=True).print(evaluation_table(state(run)["evaluations"]))


def test_recorded_data_of_a_task_that_needs_arguments():
    state_rows, actions, rewards = (np.zeros(shape, np.float32) for shape in ((10, 2), (9, 2), 9))
    write_d4rl("walks.hdf5", [Episode({"state": state_rows}, actions, rewards, terminated=False)], {})
    run = train("levels", "Levels", "--steps", "60", "--env", "level=1", "--dataset", "walks.hdf5")
    assert state(run)["counters"]["env_steps"] == 60


# ---- Seeds and exact resumption ----------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [["--num-envs", "2"], ["--num-envs", "2", "--processes"]], ids=str)
def test_an_environment_that_draws_from_python_and_numpy_is_seeded_and_goes_on_exactly(flags):
    straight = train("a", "Drawing", "--steps", "120", *flags)
    interrupted = train("b", "Drawing", "--steps", "74", *flags)
    assert main(MujocoSuite, ["--resume", str(interrupted), "--steps", "120"]) == 0
    assert_same_runs(straight, interrupted)
    other = train("c", "Drawing", "--steps", "120", "--seed", "2", *flags)
    assert read_run(straight).curve("eval/return") != read_run(other).curve("eval/return")


def test_a_world_that_cannot_be_saved_is_said_at_the_start_and_on_resume(capsys):
    run = train("engine", "Engine", "--steps", "60", "--num-envs", "2")
    said = re.findall(r"^warning: walks:Engine-v0: (.*)", capsys.readouterr().err, re.MULTILINE)
    assert said == ["a checkpoint cannot keep Engine.world (generator); resuming begins new episodes"]
    assert main(MujocoSuite, ["--resume", str(run), "--steps", "120"]) == 0
    said = re.findall(r"^warning: walks:Engine-v0: (.*)", capsys.readouterr().err, re.MULTILINE)
    assert said[0] == "the checkpoint does not have Engine.world (generator); new episodes begin"
    assert state(run)["counters"]["env_steps"] == 120


def test_an_ordinary_environment_is_not_warned_of(capsys):
    run = train("walk", "Walk", "--steps", "60")
    assert main(MujocoSuite, ["--resume", str(run), "--steps", "120"]) == 0
    assert "cannot keep" not in capsys.readouterr().err


def test_a_run_ends_with_the_papers_returns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--steps", "20", "--eval-episodes", "1", "--runs-dir", str(tmp_path)]
    main(MujocoSuite, ["td3", "--task", "Swimmer-v5", *flags])
    assert (
        "DSAC-T's paper on Swimmer-v5 (5 seeds, 30 M steps): DSAC-T 138, SAC 140, TD3 134"
        in capsys.readouterr().out
    )
    main(MujocoSuite, ["td3", "--task", "Pusher-v5", *flags])
    assert "DSAC-T's paper on Pusher-v5 (5 seeds, 30 M steps): DSAC-T -19\n" in capsys.readouterr().out
