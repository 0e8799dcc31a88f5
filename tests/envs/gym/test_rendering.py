"""Frames without a screen."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from envs.gym import make as mujoco_env
from envs.gym import rendering
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
