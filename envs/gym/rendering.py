"""Choosing how MuJoCo draws frames on a machine without a screen."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Callable

from envs.gym.snapshot import Environment
from rlzoo.errors import UserError
from rlzoo.run.video import rgb_frame

# Draws nothing into a real context: importing the libraries is not enough to know that the driver works.
_PROBE = """
import mujoco
context = mujoco.GLContext(64, 64)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100).free()
context.free()
print("works")
"""

_in_use: set[str] = set()  # the backends that `use_backend` was called with


def rendering_backend() -> str:
    """Choose what draws frames offscreen, for this process and those it starts, and return its name.

    The environment variable MUJOCO_GL decides where it is set ("egl", "osmesa" or "glfw"). Otherwise EGL (on
    a GPU where there is one) is tried before OSMesa (software); each is tried in a process of its own, so
    that a driver that crashes does no harm here. MUJOCO_GL and PYOPENGL_PLATFORM are set to the result.

    Gymnasium reads MUJOCO_GL when it draws the first frame, so this works after `mujoco` has been imported;
    `mujoco.Renderer` reads it on import and does not notice.

    Raises:
        UserError: nothing works, or what MUJOCO_GL names does not.
    """
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if asked not in ("", "egl", "osmesa", "glfw"):
        raise UserError(f"MUJOCO_GL is {asked!r}, expected egl, osmesa, glfw or nothing")
    for backend in [asked] if asked else ["egl", "osmesa"]:
        if _works(backend):
            use_backend(backend)
            return backend
    failed = f"MUJOCO_GL={asked} cannot" if asked else "neither EGL nor OSMesa can"
    raise UserError(
        f"{failed} draw frames here: install EGL (Debian package libegl1) or OSMesa (libosmesa6), and set "
        "MUJOCO_GL to egl or osmesa to choose one"
    )


def backend_of(make_env: Callable[[], Environment]) -> str | None:
    """`rendering_backend()` for a task that may draw its frames without MuJoCo.

    Only where nothing works is it made: None if it is none of Gymnasium's MuJoCo environments and draws a
    frame all the same.
    """
    try:
        return rendering_backend()
    except UserError:
        # Any exception of the task: each library has its own for a missing driver.
        with contextlib.suppress(Exception), contextlib.closing(make_env()) as env:
            if not hasattr(env.unwrapped, "mujoco_renderer"):
                env.reset()
                rgb_frame(env.render())
                return None
        raise


def import_mujoco() -> None:
    """Import MuJoCo in such a way that nothing has to be installed for drawing.

    With MUJOCO_GL set, the import loads the library that it names and fails where that is not installed,
    though nothing may ever be drawn. It is hidden meanwhile: Gymnasium reads it again when it draws.
    """
    # What `use_backend` has set works, and `mujoco.Renderer` needs it on import.
    chosen = None if _in_use else os.environ.pop("MUJOCO_GL", None)
    try:
        importlib.import_module("mujoco")
    finally:
        if chosen is not None:
            os.environ["MUJOCO_GL"] = chosen


def use_backend(backend: str) -> None:
    """Make this process draw with `backend`: "egl", "osmesa" or "glfw"."""
    os.environ.update(_variables(backend))
    _in_use.add(backend)


def _variables(backend: str) -> dict[str, str]:
    return {"MUJOCO_GL": backend} | ({} if backend == "glfw" else {"PYOPENGL_PLATFORM": backend})


@functools.cache
def _works(backend: str) -> bool:
    # -P: the current folder may have a file that is called like a package.
    command = [sys.executable, "-P", "-c", _PROBE]
    environment = os.environ | _variables(backend)
    try:
        probe = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return False
    return probe.stdout.strip() == "works"  # the exit code may be that of a driver's clean-up
