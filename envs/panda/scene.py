"""A Franka Panda at a table with four cameras, in MuJoCo: what the tasks of `envs.panda.tasks` stand on.

The robot is the one inside gymnasium-robotics (its `kitchen_franka` assets: kinematics, masses, the hand's
contact shapes). Changed here: gravity is compensated as the real arm's controller does, the position
controllers are stiff enough to follow a target within a control step or two, the robot cannot touch itself,
and what is drawn is capsules and boxes in place of meshes of 130,000 triangles.

World frame: the robot's base at the origin, x forward, z up, the table's top at z = 0; metres and radians.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from envs.gym.rendering import rendering_backend
from rlzoo.errors import UserError

if TYPE_CHECKING:
    from mujoco import MjData, MjModel, MjSpec

Vector = npt.NDArray[np.float64]

TIMESTEP = 0.005  # s
CONTROL_STEPS = 10  # simulator steps per control step, so that control runs at 20 Hz
GRIPPER_STEPS = 24  # added to a control step in which the gripper opens or closes, until it has done so

# The robot comes first in the model: its joints are the first of qpos, its actuators the first of ctrl.
ARM = slice(0, 7)
FINGERS = slice(7, 9)
FINGER_OPEN = 0.04  # m, each finger's travel
OPEN_AMOUNT = 0.9  # of the travel; RLBench calls a gripper open beyond it

# The gripper points down, 0.4 m above the table (this model's joints 6 and 7 count from other zeros than the
# real robot's).
HOME = np.array([0.0, -0.345, 0.0, -2.217, 0.0, 0.302, 0.0])

_DRAWN, _HIDDEN = 1, 3  # geom groups
_WHITE, _GREY, _DARK = (0.93, 0.94, 0.92, 1), (0.55, 0.57, 0.6, 1), (0.2, 0.2, 0.22, 1)

# Drawn in place of the meshes: link, end points of a capsule in the link's frame, radius, colour.
_CAPSULES: tuple[tuple[str, tuple[float, ...], float, tuple[float, ...]], ...] = (
    ("link0", (-0.08, 0, 0.06, 0, 0, 0.08), 0.075, _WHITE),
    ("link1", (0, 0, -0.2, 0, 0, -0.02), 0.06, _WHITE),
    ("link2", (0, 0, -0.06, 0, 0, 0.06), 0.06, _GREY),
    ("link2", (0, 0, 0, 0, -0.13, 0), 0.058, _WHITE),
    ("link3", (0, 0, -0.16, 0, 0, -0.06), 0.058, _WHITE),
    ("link3", (0, 0, -0.06, 0.0825, 0, 0), 0.055, _WHITE),
    ("link4", (0, 0, -0.06, 0, 0, 0.06), 0.055, _GREY),
    ("link4", (0, 0, 0, -0.0825, 0.1, 0), 0.052, _WHITE),
    ("link5", (0, 0, -0.26, 0, 0.05, -0.1), 0.05, _WHITE),
    ("link5", (0, 0.05, -0.1, 0, 0, 0), 0.05, _WHITE),
    ("link6", (0, 0, -0.05, 0, 0, 0.05), 0.05, _GREY),
    ("link6", (0, 0, 0, 0.088, 0, 0), 0.045, _WHITE),
    ("link7", (0, 0, 0.02, 0, 0, 0.08), 0.045, _WHITE),
)
_HAND_QUAT = (0.92388, 0, 0, -0.382683)  # the hand is turned by -45 degrees on the flange
# Between the pads of the fingers, which in this model end 5 cm beyond the real ones'.
_TIP_POSITION = (0.0, 0.0, 0.243)

# Camera, position, point looked at: roughly RLBench's. The wrist camera is in the flange's frame.
_VIEWS = {
    "front": ((1.4, 0.0, 0.8), (0.35, 0.0, 0.16)),
    "left_shoulder": ((-0.2, 0.65, 0.9), (0.45, 0.0, 0.15)),
    "right_shoulder": ((-0.2, -0.65, 0.9), (0.45, 0.0, 0.15)),
    "wrist": ((0.064, -0.064, 0.06), (0.0, 0.0, 0.28)),
}
_FIELD_OF_VIEW = {"front": 45.0, "left_shoulder": 50.0, "right_shoulder": 50.0, "wrist": 65.0}


def make_spec() -> MjSpec:
    """The robot, the table and the cameras, for a task to add its objects to.

    Raises:
        UserError: gymnasium-robotics is not installed.
    """
    import mujoco

    spec = mujoco.MjSpec.from_string(_robot_xml())
    spec.option.timestep = TIMESTEP
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    # Friction as a cone, and stiffer than the contact's normal: grasped objects do not creep.
    spec.option.cone, spec.option.impratio = mujoco.mjtCone.mjCONE_ELLIPTIC, 10
    _simplify_robot(spec)
    _tune_controllers(spec)
    _draw_robot(spec)
    flange = spec.body("panda0_link7")
    flange.add_site(name="tip", pos=_TIP_POSITION, quat=_HAND_QUAT)
    table = (0.62, 0.5, 0.38, 1)
    add_geom(spec.worldbody, "box", (0.6, 0.6, 0.02), table, name="table", pos=(0.4, 0, -0.02))
    for name, (position, target) in _VIEWS.items():
        body = flange if name == "wrist" else spec.worldbody
        body.add_camera(name=name, pos=position, quat=_look_at(position, target), fovy=_FIELD_OF_VIEW[name])
    _draw_plainly(spec)
    return spec


def add_geom(
    body: Any, kind: str, size: Sequence[float], rgba: Any = None, *, solid: bool = True, **options: Any
) -> None:
    """Add a shape to a body; without a colour it is not drawn.

    Args:
        body: of an `MjSpec`.
        kind: "box", "sphere", "capsule" or "cylinder".
        size: in m, half the sides of a box, otherwise the radius and half the length.
        rgba: the colour.
        solid: whether it touches others. Objects touch everything, the robot touches objects only.
        options: of MuJoCo's `add_geom`.
    """
    import mujoco

    shape = getattr(mujoco.mjtGeom, f"mjGEOM_{kind.upper()}")
    look = {"group": _HIDDEN} if rgba is None else {"group": _DRAWN, "rgba": rgba}
    contact = {"contype": 2, "conaffinity": 3} if solid else {"contype": 0, "conaffinity": 0}
    body.add_geom(type=shape, size=[*size, 0, 0][:3], **look, **contact, **options)


def rotation(yaw: float = 0.0, pitch: float = 0.0) -> Vector:
    """Orientation [3, 3] of the gripper: pointing down at 0, tilted forward by `pitch`, then turned by `yaw`.

    The columns are the tip's axes in the world; the fingers open along y, the gripper points along z.
    """
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    turn = np.array([[cos_yaw, -sin_yaw, 0], [sin_yaw, cos_yaw, 0], [0, 0, 1]])
    tilt = np.array([[cos_pitch, 0, -sin_pitch], [0, 1, 0], [sin_pitch, 0, cos_pitch]])
    result: Vector = turn @ tilt @ np.diag([1.0, -1.0, -1.0])
    return result


def tip_position(data: MjData) -> Vector:
    """[3], the point between the fingers' pads, in the simulator's memory."""
    position: Vector = data.site("tip").xpos
    return position


def fingers_touch(model: MjModel, data: MjData, body: str) -> bool:
    """Whether both fingers are in contact with a body: it is grasped."""
    target = model.body(body).id
    fingers = {model.body("panda0_leftfinger").id, model.body("panda0_rightfinger").id}
    pairs = model.geom_bodyid[data.contact.geom]  # [contacts, 2]
    touching = {int(other) for pair in pairs if target in pair for other in pair}
    return fingers <= touching


class Cameras:
    """Draws one simulation from some of its cameras.

    A small renderer of its own, because `mujoco.Renderer` takes its OpenGL from what MUJOCO_GL was when
    mujoco was first imported, and Gymnasium's reads the depth back with every frame.
    """

    def __init__(self, model: MjModel, names: Sequence[str], height: int, width: int) -> None:
        """Open a context of the backend in MUJOCO_GL (see `envs.gym.rendering`) for V cameras."""
        import mujoco

        backend = (os.environ.get("MUJOCO_GL") or rendering_backend()).lower()
        self._gl = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        self._gl.make_current()
        self._model = model
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=100)
        self._scene.flags[:] = 0  # no shadows, reflections, haze, sky
        self._scene.flags[mujoco.mjtRndFlag.mjRND_CULL_FACE] = 1
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = 0
        self._options.geomgroup[_DRAWN] = 1
        self._options.sitegroup[:] = 0
        self._perturbation = mujoco.MjvPerturb()
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._views = []
        for name in names:
            camera = mujoco.MjvCamera()
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera(name).id
            self._views.append(camera)
        self._frame = np.empty((height, width, 3), np.uint8)
        # Before OpenGL's own end, which was registered when it was loaded.
        atexit.register(self.close)

    def draw(self, data: MjData) -> npt.NDArray[np.uint8]:
        """RGB [V, H, W, 3]."""
        import mujoco

        self._gl.make_current()
        frames = np.empty((len(self._views), *self._frame.shape), np.uint8)
        # The shapes once, then the cameras one after the other.
        shown = self._options, self._perturbation, self._views[0], mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, *shown, self._scene)
        for index, camera in enumerate(self._views):
            mujoco.mjv_updateCamera(self._model, data, camera, self._scene)
            mujoco.mjr_render(self._viewport, self._scene, self._context)
            mujoco.mjr_readPixels(self._frame, None, self._viewport, self._context)
            frames[index] = self._frame[::-1]  # OpenGL's rows go upwards
        return frames

    def close(self) -> None:
        """Free the context, to be called once."""
        atexit.unregister(self.close)
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def _robot_xml() -> str:
    found = importlib.util.find_spec("gymnasium_robotics")
    if found is None or found.origin is None:
        raise UserError("the MuJoCo stand-in needs the robot of gymnasium-robotics: pip install it")
    folder = Path(found.origin).parent / "envs/assets/kitchen_franka/franka_assets"
    # assets.xml names a folder of meshes relative to another file, so it is named again after it.
    return f"""
<mujoco model="panda">
  <include file="{folder}/assets.xml"/>
  <compiler angle="radian" meshdir="{folder}/meshes"/>
  <worldbody><include file="{folder}/chain.xml"/></worldbody>
  <include file="{folder}/actuator.xml"/>
</mujoco>"""


def _simplify_robot(spec: MjSpec) -> None:
    for geom in spec.geoms:
        if geom.meshname.endswith("_viz"):
            spec.delete(geom)
        else:
            geom.contype, geom.conaffinity, geom.group = 1, 0, _HIDDEN
    for mesh in spec.meshes:
        if mesh.name.endswith("_viz") or mesh.name == "finger_col":
            spec.delete(mesh)
    for body in spec.bodies:
        body.gravcomp = 1.0


def _tune_controllers(spec: MjSpec) -> None:
    # Armature, stiffness and damping of the joints and fingers, in the model's order. They are ours; the
    # limits of the forces, 87 and 12 N m, are the robot's.
    gains = [(0.1, 2000.0, 120.0)] * 4 + [(0.1, 600.0, 24.0)] * 3 + [(0.5, 3000.0, 80.0)] * 2
    rows = zip(spec.joints, spec.actuators, gains, strict=True)
    for joint, actuator, (armature, stiffness, damping) in rows:
        joint.damping[0], joint.armature = 1.0, armature
        actuator.gainprm[0] = stiffness
        actuator.biasprm[:3] = 0.0, -stiffness, -damping


def _draw_robot(spec: MjSpec) -> None:
    drawn: dict[str, Any] = {"solid": False, "mass": 0.0}
    for link, ends, radius, colour in _CAPSULES:
        add_geom(spec.body(f"panda0_{link}"), "capsule", (radius,), colour, fromto=ends, **drawn)
    hand: dict[str, Any] = {"pos": (0, 0, 0.14), "quat": _HAND_QUAT}
    add_geom(spec.body("panda0_link7"), "box", (0.03, 0.1, 0.033), _WHITE, **hand, **drawn)
    for side, y in (("left", 0.009), ("right", -0.009)):
        finger = spec.body(f"panda0_{side}finger")
        add_geom(finger, "box", (0.012, 0.009, 0.044), _DARK, pos=(0, y, 0.05), **drawn)


def _draw_plainly(spec: MjSpec) -> None:
    """Without what costs time in a software renderer and shows little at 84 pixels."""
    import mujoco

    visual = spec.visual
    visual.quality.shadowsize, visual.quality.offsamples = 0, 0
    visual.quality.numslices, visual.quality.numstacks, visual.quality.numquads = 12, 6, 1
    # A lamp at rest instead of one on the camera, so that a view does not depend on the views drawn before.
    visual.headlight.active = 0
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=(0.4, 0, 2),
        dir=(0.3, 0.25, -1),
        ambient=(0.45, 0.45, 0.45),
        diffuse=(0.6, 0.6, 0.6),
        specular=(0, 0, 0),
        castshadow=False,
    )
    visual.map.znear, visual.map.zfar = 0.02, 5.0
    spec.stat.extent, spec.stat.center = 1.0, (0.4, 0.0, 0.2)


def _look_at(position: Sequence[float], target: Sequence[float]) -> Vector:
    """Quaternion of a camera at `position` that looks at `target`, upright (its -z forward, y up)."""
    import mujoco

    forward = np.subtract(target, position, dtype=np.float64)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    axes = np.stack((right, np.cross(right, forward), -forward), axis=1)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, axes.ravel())
    return quaternion
