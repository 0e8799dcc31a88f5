"""Frames without a screen."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
from gymnasium.spaces import Box

from envs.gym import make as mujoco_env
from envs.gym import rendering
from experiments.runner.launch import main
from experiments.train_mujoco import MujocoSuite
from rlzoo.errors import UserError

ROOT = Path(__file__).parents[3]


@functools.cache
def works(backend):
    return rendering._works(backend)


@pytest.fixture(autouse=True)
def _environment_is_put_back(monkeypatch):
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(name, "")  # so that it is put back whatever happens
        monkeypatch.delenv(name)


def in_a_fresh_process(backend, code):
    """Run code that may choose one backend: a process cannot change it later."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    environment |= {"MUJOCO_GL": backend} if backend else {}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout


DRAW = """
import os
from envs.gym import make as mujoco_env
if __name__ == "__main__":
    task = mujoco_env.make("HalfCheetah-v5", 2, render=True, processes={processes})
    task.reset(0)
    frame = task.render()
    assert frame.flags.c_contiguous
    print(frame.shape, frame.dtype, len(set(frame.ravel().tolist())) > 20, os.environ["MUJOCO_GL"])
    task.close()
"""


@pytest.mark.parametrize(
    ("backend", "processes"), [("egl", False), ("osmesa", False), (None, False), (None, True)]
)
def test_frames(backend, processes):
    usable = [name for name in ("egl", "osmesa") if works(name) and backend in (name, None)]
    if not usable:
        pytest.skip(f"no {backend or 'EGL or OSMesa'} on this machine that can draw")
    # The choice must work after mujoco has been imported, as it is when some environment exists already.
    code = "import gymnasium.envs.mujoco.mujoco_rendering\n" + DRAW.format(processes=processes)
    assert in_a_fresh_process(backend, code) == f"(480, 480, 3) uint8 True {usable[0]}\n"


def test_egl_comes_before_osmesa(monkeypatch):
    for usable in (["egl", "osmesa"], ["osmesa"]):
        monkeypatch.setattr(rendering, "_works", lambda name, usable=usable: name in usable)
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        assert rendering.rendering_backend() == usable[0]
        assert os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"] == usable[0]


def test_mujoco_gl_decides(monkeypatch):
    monkeypatch.setattr(rendering, "_works", lambda name: True)
    for name in ("osmesa", "egl", "glfw"):
        monkeypatch.setenv("MUJOCO_GL", name.upper())
        assert rendering.rendering_backend() == os.environ["MUJOCO_GL"] == name


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("", "^neither EGL nor OSMesa can draw frames here: .*libegl1.*libosmesa6.*MUJOCO_GL"),
        ("egl", "^MUJOCO_GL=egl cannot draw frames here: .*libegl1.*libosmesa6.*MUJOCO_GL"),
        ("off", "^MUJOCO_GL is 'off', expected egl, osmesa, glfw or nothing$"),
    ],
)
def test_without_any_the_message_says_what_to_install(asked, message, monkeypatch):
    monkeypatch.setattr(rendering, "_works", lambda name: False)
    monkeypatch.setenv("MUJOCO_GL", asked)
    with pytest.raises(UserError, match=message):
        mujoco_env.make("HalfCheetah-v5", 1, render=True)


def test_a_backend_that_crashes_does_not_take_this_process_with_it(monkeypatch):
    monkeypatch.setattr(rendering, "_PROBE", "import os; os.abort()")
    assert not rendering._works.__wrapped__("egl")


def test_tasks_drawn_by_pygame_need_no_opengl(monkeypatch):
    monkeypatch.setattr(rendering, "_works", lambda name: False)
    task = mujoco_env.make("Pendulum-v1", 1, render=True)
    task.reset(0)
    try:
        assert task.render().dtype == np.uint8
    except UserError as error:  # without pygame
        assert "pip install" in str(error)  # noqa: PT017


class Draws(gym.Env):
    """Draws itself: each frame of another kind and size."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = Box(-1, 1, (1,), np.float32)
    observation_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None, fails=False):
        self.render_mode, self.fails, self.steps = render_mode, fails, 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, False, False, {}

    def render(self):
        if self.fails:
            raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")
        side = 16 + 2 * self.steps
        return [np.full((side, 16, 4), 200, np.uint8), np.full((16, side, 3), 0.8)][self.steps % 2]


@pytest.fixture
def drawing_tasks(monkeypatch):
    for name, fails in (("Draws-v0", False), ("Fails-v0", True)):
        own = gym.envs.registration.EnvSpec(name, Draws, max_episode_steps=5, kwargs={"fails": fails})
        monkeypatch.setitem(gym.registry, name, own)


@pytest.mark.usefixtures("drawing_tasks")
@pytest.mark.parametrize("asked", ["", "egl", "off"])
def test_tasks_that_draw_themselves_need_no_opengl(asked, monkeypatch):
    monkeypatch.setattr(rendering, "_works", lambda name: False)
    monkeypatch.setenv("MUJOCO_GL", asked)
    task = mujoco_env.make("Draws-v0", 1, render=True)
    task.reset(0)
    assert task.render().mean() == 200
    with pytest.raises(UserError, match=r"draw frames here|MUJOCO_GL is 'off'"):
        mujoco_env.make("Fails-v0", 1, render=True)


@pytest.mark.usefixtures("drawing_tasks")
@pytest.mark.parametrize("episodes", [1, 2])
def test_frames_of_every_kind_do_not_end_training(episodes, tmp_path):
    flags = ["--task", "Draws-v0", "--steps", "20", "--eval-every", "10", "--warmup-steps", "50", "--video"]
    flags += ["--eval-episodes", str(episodes), "--runs-dir", str(tmp_path), "--device", "cpu"]
    flags += ["--num-envs", "1", "--threads", "1", "--buffer-capacity", "1000"]
    assert main(MujocoSuite, ["sac", *flags]) == 0
    films = sorted(tmp_path.rglob("*.mp4"))
    assert [film.name for film in films] == ["step-10.mp4", "step-20.mp4"]
    for film in films:
        with imageio.get_reader(film) as reader:
            frames = np.stack([np.asarray(frame) for frame in reader])
        assert frames.shape == (6, 16, 16, 3)
        np.testing.assert_allclose(frames[:, 8, 8], 202, atol=8)  # the floats are 204
