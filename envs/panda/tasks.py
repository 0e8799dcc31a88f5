"""RLBench's tasks on MuJoCo: their objects, random starts, states, conditions of success and waypoints.

A stand-in: names, actions, cameras and conditions of success are those of RLBench's tasks, but shapes, sizes
and dynamics are not, so scores here are not RLBench scores. The conditions are in ``rlbench/tasks/<name>.py``
(github.com/stepjam/RLBench, 1.2.0). Where RLBench fastens an object to the gripper that closes on it, here
friction alone holds it.

RLBench's low-dimensional state has the objects' positions in the world. Here they are seen from the gripper's
tip, and not in the world as well: with that, an agent can tell 20 demonstrations apart by where their object
stood instead of learning to close a gap.

A task keeps nothing of an episode in itself: all of it is in the model (where fixed bodies stand) and the
data, which is what lets a run be resumed exactly.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from envs.panda.scene import OBJECT_CONTACT, Vector, fingers_touch, rotation, tip_position
from rlzoo.errors import UserError

if TYPE_CHECKING:
    from mujoco import MjData, MjModel, MjSpec

_DRAWN, _HIDDEN = 1, 3  # geom groups
_RED, _STEEL, _WOOD = (0.9, 0.05, 0.05, 1), (0.5, 0.52, 0.55, 1), (0.75, 0.6, 0.4, 1)
# Of the distractors; the target is red.
_OTHER_COLOURS = np.array(
    [
        *((0, 0.6, 0), (0, 0.1, 0.9), (0.95, 0.9, 0.1), (0.1, 0.85, 0.9), (0.8, 0.1, 0.8)),
        *((0.95, 0.55, 0.1), (0.45, 0.45, 0.05), (0.1, 0.1, 0.1), (0.95, 0.95, 0.95)),
    ]
)


@dataclass(frozen=True)
class Waypoint:
    """A pose for the scripted demonstrator to pass.

    Attributes:
        position: [3], of the gripper's tip.
        rotation: [3, 3], of the gripper (see `envs.panda.scene.rotation`).
        gripper_open: whether it is to be open on the way there.
        tolerance: m, how near counts as there. A demonstration ends when the task is solved and its last
            waypoint reached; inf: at any distance.
    """

    position: Vector
    rotation: Vector
    gripper_open: bool
    tolerance: float


class PandaTask(Protocol):
    """What an environment asks of a task."""

    def build(self, spec: MjSpec) -> None:
        """Add the objects."""

    def place(self, model: MjModel, data: MjData, rng: np.random.Generator) -> None:
        """Begin an episode: put the objects somewhere. The data have just been reset."""

    def state(self, model: MjModel, data: MjData) -> Vector:
        """[K], what has to be known of the objects to solve the task; positions in m from the tip."""

    def is_solved(self, model: MjModel, data: MjData) -> bool:
        """RLBench's condition of success."""

    def waypoints(self, model: MjModel, data: MjData) -> list[Waypoint]:
        """How to solve the episode that has just begun."""


class ReachTarget:
    """Bring the gripper's tip into the red sphere; two spheres of other colours are there to distract."""

    radius = 0.03
    low, high = np.array([0.3, -0.3, 0.06]), np.array([0.6, 0.3, 0.34])
    spheres = ("target", "distractor0", "distractor1")

    def build(self, spec: MjSpec) -> None:
        """Three spheres that nothing touches."""
        import mujoco

        for name in self.spheres:
            body = spec.worldbody.add_body(name=name)
            body.add_geom(
                name=name,
                type=mujoco.mjtGeom.mjGEOM_SPHERE,
                size=(self.radius, 0, 0),
                rgba=_RED,
                group=_DRAWN,
                contype=0,
                conaffinity=0,
            )

    def place(self, model: MjModel, data: MjData, rng: np.random.Generator) -> None:
        """Spheres 0.15 m apart from each other and from the tip."""
        taken = [tip_position(data).copy()]
        for name in self.spheres:
            position = rng.uniform(self.low, self.high)
            while min(np.linalg.norm(position - other) for other in taken) < 0.15:
                position = rng.uniform(self.low, self.high)
            taken.append(position)
            model.body(name).pos[:] = position
        colours = rng.choice(len(_OTHER_COLOURS), size=2, replace=False)
        for name, colour in zip(self.spheres[1:], _OTHER_COLOURS[colours], strict=True):
            model.geom(name).rgba[:3] = colour

    def state(self, model: MjModel, data: MjData) -> Vector:
        """[3]: the target's position from the tip."""
        return _seen_from_tip(data, model.body("target").pos)

    def is_solved(self, model: MjModel, data: MjData) -> bool:
        """The tip is inside the sphere."""
        return bool(np.linalg.norm(model.body("target").pos - tip_position(data)) < self.radius)

    def waypoints(self, model: MjModel, data: MjData) -> list[Waypoint]:
        """Straight to the target's centre, where RLBench's demonstrations end too (within 0.5 mm)."""
        return [Waypoint(model.body("target").pos.copy(), rotation(), gripper_open=True, tolerance=0.001)]


class PushButton:
    """Press the red button on its box, which is of one colour, with the closed gripper."""

    height = 0.06  # of the button's top above the table
    pressed = 0.003  # m, RLBench's threshold
    low, high = np.array([0.33, -0.25, 0.0]), np.array([0.6, 0.25, 0.0])

    def build(self, spec: MjSpec) -> None:
        """A box and a sprung button of 12 mm travel."""
        import mujoco

        base = spec.worldbody.add_body(name="button_base")
        box = mujoco.mjtGeom.mjGEOM_BOX
        # The walls stand beside the button, as it sinks into the box.
        half, wall = 0.05, 0.005
        for sign in (-1, 1):
            _add(base, box, (half, wall, 0.02), pos=(0, sign * (half - wall), 0.02), rgba=(0.5, 0.0, 0.0, 1))
            _add(base, box, (wall, half, 0.02), pos=(sign * (half - wall), 0, 0.02), rgba=(0.5, 0.0, 0.0, 1))
        _add(base, box, (half, half, 0.005), pos=(0, 0, 0.035), rgba=(0.5, 0.0, 0.0, 1), solid=False)
        button = base.add_body(name="button", pos=(0, 0, self.height))
        button.add_joint(
            name="button_joint",
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=(0, 0, -1),
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            range=(0, 0.012),
            stiffness=[150.0, 0.0, 0.0],
            damping=[5.0, 0.0, 0.0],
            springref=-0.004,
        )
        cylinder = mujoco.mjtGeom.mjGEOM_CYLINDER
        _add(button, cylinder, (0.03, 0.01, 0), pos=(0, 0, -0.01), rgba=_RED, name="button", mass=0.05)

    def place(self, model: MjModel, data: MjData, rng: np.random.Generator) -> None:
        """Somewhere on the table."""
        model.body("button_base").pos[:] = rng.uniform(self.low, self.high)

    def state(self, model: MjModel, data: MjData) -> Vector:
        """[4]: the button's top from the tip, and how deep it is pressed."""
        return np.append(_seen_from_tip(data, data.body("button").xpos), data.joint("button_joint").qpos)

    def is_solved(self, model: MjModel, data: MjData) -> bool:
        """The button is pressed."""
        return bool(data.joint("button_joint").qpos[0] > self.pressed)

    def waypoints(self, model: MjModel, data: MjData) -> list[Waypoint]:
        """Above the button, then down on it."""
        top = data.body("button").xpos.copy()
        return [
            Waypoint(top + np.array([0, 0, 0.09]), rotation(), gripper_open=False, tolerance=0.03),
            Waypoint(top - np.array([0, 0, 0.005]), rotation(), gripper_open=False, tolerance=np.inf),
        ]


class TakeLidOffSaucepan:
    """Grasp the lid by its knob and lift it off the pan."""

    pan_height, radius = 0.08, 0.09
    lift = 0.1  # m, from where on the lid counts as off
    low, high = np.array([0.36, -0.2, 0.0]), np.array([0.56, 0.2, 0.0])
    knob = np.array([0.0, 0.0, 0.035])  # of the knob's centre, from the lid's underside

    def build(self, spec: MjSpec) -> None:
        """A pan that is fast to the table and a lid of 0.15 kg that lies on it."""
        import mujoco

        cylinder, box = mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_BOX
        dark = (0.12, 0.12, 0.12, 1)
        pan = spec.worldbody.add_body(name="pan")
        half = self.pan_height / 2
        _add(pan, cylinder, (self.radius, half, 0), pos=(0, 0, half), rgba=_STEEL, solid=False)
        _add(pan, box, (0.06, 0.012, 0.008), pos=(self.radius + 0.06, 0, 0.065), rgba=dark, solid=False)
        lid = spec.worldbody.add_body(name="lid", pos=(0, 0, self.pan_height))
        lid.add_freejoint(name="lid_joint")
        disc = (self.radius + 0.003, 0.005, 0.0)
        _add(lid, cylinder, disc, pos=(0, 0, 0.005), rgba=(0.75, 0.8, 0.85, 1), mass=0.0, solid=False)
        ends = (0, 0, 0.02, 0, 0, self.knob[2] + 0.015)
        capsule = mujoco.mjtGeom.mjGEOM_CAPSULE
        _add(lid, capsule, (0.015, 0, 0), fromto=ends, rgba=dark, name="knob", mass=0.05)
        # Boxes, unseen, touch in place of the cylinders: a tenth of the time.
        side = self.radius / np.sqrt(2)
        _add(pan, box, (side, side, half), pos=(0, 0, half), group=_HIDDEN)
        _add(lid, box, (side, side, 0.005), pos=(0, 0, 0.005), group=_HIDDEN, mass=0.1)

    def place(self, model: MjModel, data: MjData, rng: np.random.Generator) -> None:
        """Somewhere on the table, its handle turned anyhow to the robot's sides and back."""
        position, yaw = rng.uniform(self.low, self.high), rng.uniform(-0.75 * np.pi, 0.75 * np.pi)
        model.body("pan").pos[:] = position
        model.body("pan").quat[:] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
        data.joint("lid_joint").qpos[:3] = position + np.array([0, 0, self.pan_height])

    def state(self, model: MjModel, data: MjData) -> Vector:
        """[4]: the knob's position from the tip, and the lid's height above the pan."""
        knob = data.geom("knob").xpos
        return np.append(_seen_from_tip(data, knob), data.body("lid").xpos[2] - self.pan_height)

    def is_solved(self, model: MjModel, data: MjData) -> bool:
        """The lid is above the pan and between the fingers."""
        offset = data.body("lid").xpos - model.body("pan").pos
        is_above = offset[2] > self.pan_height + self.lift and np.linalg.norm(offset[:2]) < self.radius
        return bool(is_above) and fingers_touch(model, data, "lid")

    def waypoints(self, model: MjModel, data: MjData) -> list[Waypoint]:
        """Above the knob, down, close, up."""
        knob, up = data.geom("knob").xpos.copy(), np.array([0.0, 0.0, 1.0])
        return [
            Waypoint(knob + 0.08 * up, rotation(), gripper_open=True, tolerance=0.025),
            Waypoint(knob, rotation(), gripper_open=True, tolerance=0.008),
            Waypoint(knob, rotation(), gripper_open=False, tolerance=0.02),
            Waypoint(knob + (self.lift + 0.05) * up, rotation(), gripper_open=False, tolerance=np.inf),
        ]


class OpenDrawer:
    """Pull the top drawer of a cabinet of three by its upright handle.

    RLBench's first variation is the bottom drawer; the top one is its third. A hand that reaches low between
    the handles from the front would bring this arm's wrist to a singularity.
    """

    opened = 0.15  # m, RLBench's threshold
    travel = 0.2
    low, high = np.array([0.6, -0.15, 0.0]), np.array([0.68, 0.15, 0.0])
    max_yaw = np.pi / 8
    pitch = np.deg2rad(15)  # of the grasping hand, from pointing down towards pointing forward
    grip = np.array([-0.05, 0.0, 0.25])  # the handle's middle, from the middle of the front at the table
    spacing = 0.1  # m, between the drawers

    def build(self, spec: MjSpec) -> None:
        """The cabinet's frame is its front's middle at the table's height; drawers open along its -x."""
        import mujoco

        box = mujoco.mjtGeom.mjGEOM_BOX
        cabinet = spec.worldbody.add_body(name="cabinet")
        depth, width, height = 0.1, 0.14, 0.155  # halves
        _add(cabinet, box, (depth, 0.006, height), pos=(depth, width, height), rgba=_WOOD)
        _add(cabinet, box, (depth, 0.006, height), pos=(depth, -width, height), rgba=_WOOD)
        _add(cabinet, box, (depth, width, 0.006), pos=(depth, 0, 2 * height), rgba=_WOOD)
        _add(cabinet, box, (0.006, width, height), pos=(2 * depth, 0, height), rgba=_WOOD)
        for level, name in enumerate(("top", "middle", "bottom")):
            colour = (0.9, 0.8, 0.65, 1) if level == 0 else _WOOD
            drawer = cabinet.add_body(name=f"drawer_{name}", pos=(0, 0, -self.spacing * level))
            _add(drawer, box, (0.006, 0.13, 0.044), pos=(0, 0, self.grip[2]), rgba=colour, mass=0.1)
            self._add_handle(drawer, name)
        drawer = spec.body("drawer_top")
        _add(drawer, box, (0.09, 0.12, 0.005), pos=(0.09, 0, 0.215), rgba=_WOOD, mass=0.1)
        drawer.add_joint(
            name="drawer_joint",
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=(-1, 0, 0),
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            range=(0, self.travel),
            damping=[4.0, 0.0, 0.0],
            frictionloss=0.5,
        )

    def _add_handle(self, drawer: Any, name: str) -> None:
        import mujoco

        capsule, (x, _, z) = mujoco.mjtGeom.mjGEOM_CAPSULE, self.grip
        options: dict[str, Any] = {"rgba": (0.12, 0.12, 0.15, 1), "mass": 0.05}
        bar = (x, 0, z - 0.03, x, 0, z + 0.03)
        _add(drawer, capsule, (0.009, 0, 0), fromto=bar, name=f"handle_{name}", **options)
        for end in (z - 0.03, z + 0.03):
            _add(drawer, capsule, (0.006, 0, 0), fromto=(x, 0, end, 0, 0, end), **options)

    def place(self, model: MjModel, data: MjData, rng: np.random.Generator) -> None:
        """In front of the robot, turned a little."""
        yaw = rng.uniform(-self.max_yaw, self.max_yaw)
        model.body("cabinet").pos[:] = rng.uniform(self.low, self.high)
        model.body("cabinet").quat[:] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)

    def state(self, model: MjModel, data: MjData) -> Vector:
        """[5]: the handle's position from the tip, the cabinet's yaw (rad), how far the drawer is open."""
        handle = _seen_from_tip(data, data.geom("handle_top").xpos)
        return np.concatenate((handle, [_yaw(model)], data.joint("drawer_joint").qpos))

    def is_solved(self, model: MjModel, data: MjData) -> bool:
        """The drawer is open."""
        return bool(data.joint("drawer_joint").qpos[0] > self.opened)

    def waypoints(self, model: MjModel, data: MjData) -> list[Waypoint]:
        """Before the handle, forward, close, back."""
        yaw = _yaw(model)
        forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        handle, pose = data.geom("handle_top").xpos.copy(), rotation(yaw, self.pitch)
        return [
            Waypoint(
                handle - 0.1 * forward + np.array([0, 0, 0.03]), pose, gripper_open=True, tolerance=0.025
            ),
            Waypoint(handle, pose, gripper_open=True, tolerance=0.01),
            Waypoint(handle, pose, gripper_open=False, tolerance=0.03),
            Waypoint(handle - (self.opened + 0.03) * forward, pose, gripper_open=False, tolerance=np.inf),
        ]


TASKS: dict[str, type[PandaTask]] = {
    "reach_target": ReachTarget,
    "push_button": PushButton,
    "take_lid_off_saucepan": TakeLidOffSaucepan,
    "open_drawer": OpenDrawer,
}


def find(name: str) -> PandaTask:
    """The task of that name.

    Raises:
        UserError: there is none; the message has the nearest names and all of them.
    """
    if name not in TASKS:
        nearest = difflib.get_close_matches(name.lower().replace("-", "_"), TASKS, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(nearest)}? " if nearest else ""
        raise UserError(f"unknown task {name!r}: {hint}MuJoCo has {', '.join(TASKS)}")
    return TASKS[name]()


def _seen_from_tip(data: MjData, position: Vector) -> Vector:
    gap: Vector = position - tip_position(data)
    return gap


def _yaw(model: MjModel) -> float:
    quaternion = model.body("cabinet").quat
    return float(2 * np.arctan2(quaternion[3], quaternion[0]))


def _add(
    body: Any, kind: Any, size: tuple[float, float, float], *, solid: bool = True, **options: Any
) -> None:
    contact = OBJECT_CONTACT if solid else {"contype": 0, "conaffinity": 0}
    body.add_geom(type=kind, size=size, **{"group": _DRAWN, **contact, **options})
