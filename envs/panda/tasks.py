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

# Methods of the protocol `PandaTask` are described there.
# ruff: noqa: D102

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from envs.panda.scene import Vector, add_geom, fingers_touch, rotation, tip_position
from rlzoo.errors import UserError

if TYPE_CHECKING:
    from mujoco import MjData, MjModel, MjSpec

_RED, _STEEL = (0.9, 0.05, 0.05, 1), (0.5, 0.52, 0.55, 1)
_WOOD, _DARK = (0.75, 0.6, 0.4, 1), (0.12, 0.12, 0.12, 1)
# Of the distractors; the target is red.
_OTHER_COLOURS = np.array(
    [
        *((0, 0.6, 0), (0, 0.1, 0.9), (0.95, 0.9, 0.1), (0.1, 0.85, 0.9), (0.8, 0.1, 0.8)),
        *((0.95, 0.55, 0.1), (0.45, 0.45, 0.05), (0.1, 0.1, 0.1), (0.95, 0.95, 0.95)),
    ]
)
_UP = np.array([0.0, 0.0, 1.0])


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
    distance = 0.15  # m, at least, of the spheres from each other and from the tip
    spheres = ("target", "distractor0", "distractor1")

    def build(self, spec: MjSpec) -> None:
        for name in self.spheres:
            body = spec.worldbody.add_body(name=name)
            add_geom(body, "sphere", (self.radius,), _RED, name=name, solid=False)

    def place(self, model: MjModel, data: MjData, rng: np.random.Generator) -> None:
        taken = [tip_position(data).copy()]
        for name in self.spheres:
            position = rng.uniform(self.low, self.high)
            while min(np.linalg.norm(position - other) for other in taken) < self.distance:
                position = rng.uniform(self.low, self.high)
            taken.append(position)
            model.body(name).pos[:] = position
        colours = rng.choice(len(_OTHER_COLOURS), size=2, replace=False)
        for name, colour in zip(self.spheres[1:], _OTHER_COLOURS[colours], strict=True):
            model.geom(name).rgba[:3] = colour

    def state(self, model: MjModel, data: MjData) -> Vector:
        """[3]: the target's position."""
        return model.body("target").pos - tip_position(data)

    def is_solved(self, model: MjModel, data: MjData) -> bool:
        return bool(np.linalg.norm(self.state(model, data)) < self.radius)

    def waypoints(self, model: MjModel, data: MjData) -> list[Waypoint]:
        # RLBench's demonstrations too end at the target's centre, within 0.5 mm.
        return [Waypoint(model.body("target").pos.copy(), rotation(), gripper_open=True, tolerance=0.001)]


class PushButton:
    """Press the red button on its box, which is of one colour, with the closed gripper."""

    height = 0.06  # of the button's top above the table
    travel = 0.012
    pressed = 0.003  # m, RLBench's threshold
    low, high = np.array([0.33, -0.25, 0.0]), np.array([0.6, 0.25, 0.0])

    def build(self, spec: MjSpec) -> None:
        base = spec.worldbody.add_body(name="button_base")
        # The walls stand beside the button, as it sinks into the box.
        half, wall, colour = 0.05, 0.005, (0.5, 0.0, 0.0, 1)
        for side in (wall - half, half - wall):
            add_geom(base, "box", (half, wall, 0.02), colour, pos=(0, side, 0.02))
            add_geom(base, "box", (wall, half, 0.02), colour, pos=(side, 0, 0.02))
        add_geom(base, "box", (half, half, 0.005), colour, pos=(0, 0, 0.035), solid=False)
        button = base.add_body(name="button", pos=(0, 0, self.height))
        spring = {"stiffness": [150.0, 0.0, 0.0], "damping": [5.0, 0.0, 0.0], "springref": -0.004}
        _add_slide(button, "button_joint", (0, 0, -1), self.travel, **spring)
        add_geom(button, "cylinder", (0.03, 0.01), _RED, pos=(0, 0, -0.01), name="button", mass=0.05)

    def place(self, model: MjModel, data: MjData, rng: np.random.Generator) -> None:
        model.body("button_base").pos[:] = rng.uniform(self.low, self.high)

    def state(self, model: MjModel, data: MjData) -> Vector:
        """[4]: the button's top, and how deep it is pressed."""
        return np.append(data.body("button").xpos - tip_position(data), data.joint("button_joint").qpos)

    def is_solved(self, model: MjModel, data: MjData) -> bool:
        return bool(data.joint("button_joint").qpos[0] > self.pressed)

    def waypoints(self, model: MjModel, data: MjData) -> list[Waypoint]:
        top, down = data.body("button").xpos.copy(), rotation()
        return [
            Waypoint(top + 0.09 * _UP, down, gripper_open=False, tolerance=0.03),
            Waypoint(top - 0.005 * _UP, down, gripper_open=False, tolerance=np.inf),
        ]


class TakeLidOffSaucepan:
    """Grasp the lid by its knob and lift it off the pan."""

    pan_height, radius = 0.08, 0.09
    lift = 0.1  # m, from where on the lid counts as off
    low, high = np.array([0.36, -0.2, 0.0]), np.array([0.56, 0.2, 0.0])
    max_yaw = 0.75 * np.pi  # the handle points to the robot's sides or back

    def build(self, spec: MjSpec) -> None:
        pan = spec.worldbody.add_body(name="pan")  # fast to the table
        half = self.pan_height / 2
        add_geom(pan, "cylinder", (self.radius, half), _STEEL, pos=(0, 0, half), solid=False)
        handle = (self.radius + 0.06, 0, 0.065)
        add_geom(pan, "box", (0.06, 0.012, 0.008), _DARK, pos=handle, solid=False)
        lid = spec.worldbody.add_body(name="lid", pos=(0, 0, self.pan_height))  # 0.15 kg
        lid.add_freejoint(name="lid_joint")
        disc, colour = (self.radius + 0.003, 0.005), (0.75, 0.8, 0.85, 1)
        add_geom(lid, "cylinder", disc, colour, pos=(0, 0, 0.005), mass=0.0, solid=False)
        add_geom(lid, "capsule", (0.015,), _DARK, fromto=(0, 0, 0.02, 0, 0, 0.05), name="knob", mass=0.05)
        # Boxes, unseen, touch in place of the cylinders: a tenth of the time.
        side = self.radius / np.sqrt(2)
        add_geom(pan, "box", (side, side, half), pos=(0, 0, half))
        add_geom(lid, "box", (side, side, 0.005), pos=(0, 0, 0.005), mass=0.1)

    def place(self, model: MjModel, data: MjData, rng: np.random.Generator) -> None:
        position = rng.uniform(self.low, self.high)
        _stand(model, "pan", position, rng.uniform(-self.max_yaw, self.max_yaw))
        data.joint("lid_joint").qpos[:3] = position + self.pan_height * _UP

    def state(self, model: MjModel, data: MjData) -> Vector:
        """[4]: the knob's position, and the lid's height above the pan."""
        knob = data.geom("knob").xpos - tip_position(data)
        return np.append(knob, data.body("lid").xpos[2] - self.pan_height)

    def is_solved(self, model: MjModel, data: MjData) -> bool:
        # The lid is above the pan and between the fingers.
        offset = data.body("lid").xpos - model.body("pan").pos
        is_above = offset[2] > self.pan_height + self.lift and np.linalg.norm(offset[:2]) < self.radius
        return bool(is_above) and fingers_touch(model, data, "lid")

    def waypoints(self, model: MjModel, data: MjData) -> list[Waypoint]:
        knob, down = data.geom("knob").xpos.copy(), rotation()
        return [
            Waypoint(knob + 0.08 * _UP, down, gripper_open=True, tolerance=0.025),
            Waypoint(knob, down, gripper_open=True, tolerance=0.008),
            Waypoint(knob, down, gripper_open=False, tolerance=0.02),
            Waypoint(knob + (self.lift + 0.05) * _UP, down, gripper_open=False, tolerance=np.inf),
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
        # The cabinet's frame is its front's middle at the table's height; drawers open along its -x.
        cabinet = spec.worldbody.add_body(name="cabinet")
        depth, width, height = 0.1, 0.14, 0.155  # halves
        add_geom(cabinet, "box", (depth, 0.006, height), _WOOD, pos=(depth, width, height))
        add_geom(cabinet, "box", (depth, 0.006, height), _WOOD, pos=(depth, -width, height))
        add_geom(cabinet, "box", (depth, width, 0.006), _WOOD, pos=(depth, 0, 2 * height))
        add_geom(cabinet, "box", (0.006, width, height), _WOOD, pos=(2 * depth, 0, height))
        for level, name in enumerate(("top", "middle", "bottom")):
            drawer = cabinet.add_body(name=f"drawer_{name}", pos=(0, 0, -self.spacing * level))
            colour = (0.9, 0.8, 0.65, 1) if level == 0 else _WOOD
            add_geom(drawer, "box", (0.006, 0.13, 0.044), colour, pos=(0, 0, self.grip[2]), mass=0.1)
            self._add_handle(drawer, name)
        drawer = spec.body("drawer_top")
        add_geom(drawer, "box", (0.09, 0.12, 0.005), _WOOD, pos=(0.09, 0, 0.215), mass=0.1)
        friction = {"damping": [4.0, 0.0, 0.0], "frictionloss": 0.5}
        _add_slide(drawer, "drawer_joint", (-1, 0, 0), self.travel, **friction)

    def _add_handle(self, drawer: Any, name: str) -> None:
        x, _, z = self.grip
        bar, colour = (x, 0, z - 0.03, x, 0, z + 0.03), (0.12, 0.12, 0.15, 1)
        add_geom(drawer, "capsule", (0.009,), colour, fromto=bar, name=f"handle_{name}", mass=0.05)
        for end in (z - 0.03, z + 0.03):
            add_geom(drawer, "capsule", (0.006,), colour, fromto=(x, 0, end, 0, 0, end), mass=0.05)

    def place(self, model: MjModel, data: MjData, rng: np.random.Generator) -> None:
        yaw = rng.uniform(-self.max_yaw, self.max_yaw)
        _stand(model, "cabinet", rng.uniform(self.low, self.high), yaw)

    def state(self, model: MjModel, data: MjData) -> Vector:
        """[5]: the handle's position, the cabinet's yaw (rad), how far the drawer is open."""
        handle = data.geom("handle_top").xpos - tip_position(data)
        return np.concatenate((handle, [_yaw(model)], data.joint("drawer_joint").qpos))

    def is_solved(self, model: MjModel, data: MjData) -> bool:
        return bool(data.joint("drawer_joint").qpos[0] > self.opened)

    def waypoints(self, model: MjModel, data: MjData) -> list[Waypoint]:
        yaw = _yaw(model)
        forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        handle, pose = data.geom("handle_top").xpos.copy(), rotation(yaw, self.pitch)
        before = handle - 0.1 * forward + 0.03 * _UP
        return [
            Waypoint(before, pose, gripper_open=True, tolerance=0.025),
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


def _stand(model: MjModel, body: str, position: Vector, yaw: float) -> None:
    """Move a body that is fast to the table and turn it by `yaw` (rad)."""
    model.body(body).pos[:] = position
    model.body(body).quat[:] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)


def _yaw(model: MjModel) -> float:
    quaternion = model.body("cabinet").quat
    return float(2 * np.arctan2(quaternion[3], quaternion[0]))


def _add_slide(body: Any, name: str, axis: tuple[int, int, int], travel: float, **options: Any) -> None:
    import mujoco

    body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis, range=(0, travel), **options)
