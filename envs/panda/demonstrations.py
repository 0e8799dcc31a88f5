"""Scripted demonstrations of RLBench's tasks on MuJoCo, recorded in the environment itself.

The demonstrator moves the gripper's tip straight from waypoint to waypoint: at every control step it looks
where the robot is, and a step of damped least squares (Wampler 1986; Nakamura and Hanafusa 1986) turns the
remaining gap into changes of the joint positions. Looking again at every step makes its actions a function of
the state, which is what an agent can learn. Noise on the actions, corrected in the next step, has the
demonstrations cover a tube around the path, so that an agent that strays from it has seen the way back.

A demonstration ends at its last waypoint with the task solved. As in RLBench's `get_demo`, success does not
stop it on the way there: that of reach_target goes on to the target's centre, slowing down, while the
environment would have ended the episode when the tip entered the target. Its reward and its termination are
at its last step all the same.
"""

from __future__ import annotations

import numpy as np

from envs.gym.rendering import rendering_backend
from envs.panda.env import PandaEnv
from envs.panda.scene import ARM, Vector, tip_position
from envs.panda.tasks import Waypoint
from envs.rlbench.protocol import MAX_DELTA, Demonstration, Images, is_within_limits
from rlzoo.types import Array

STEP_LENGTH = 0.025  # m, how far ahead of the tip a control step aims
STEP_ANGLE = 0.2  # rad, likewise of the gripper's orientation
MAX_ANGLE = 0.25  # rad, how far the gripper may be turned from a waypoint's orientation to have reached it
DAMPING = 0.05  # of the least squares
ELBOW_GAIN = 0.2  # of the pull of joint 3 towards 0, an upright elbow, in the one motion a pose leaves free
SPEED_NOISE, WAYPOINT_NOISE = 0.1, 0.003  # share; m, of the waypoints on the way
DELTA_NOISE = 0.015  # rad, standard deviation; it fades in the last `STEP_LENGTH` before a waypoint
ATTEMPTS = 3  # per demonstration asked for, before giving up


def collect(task: str, count: int, *, seed: int, images: Images | None) -> list[Demonstration]:
    """Record `count` demonstrations: all successful, within the time limit and no delta above the limit.

    Args:
        task: RLBench's name, one of `envs.panda.tasks.TASKS`.
        count: how many.
        seed: alone decides them; with a larger `count` the same ones come first.
        images: views to record as well; with None nothing is drawn, which is faster.

    Raises:
        UserError: there is no such task, or nothing here can draw frames.
        RuntimeError: too few attempts succeed.
    """
    if images is not None:
        rendering_backend()
    env = PandaEnv(task, images=images)
    kept: list[Demonstration] = []
    for attempt in np.random.SeedSequence(seed).spawn(ATTEMPTS * count):
        if len(kept) == count:
            break
        demonstration = demonstrate(env, int(attempt.generate_state(1)[0]))
        if demonstration is not None and is_within_limits(demonstration):
            kept.append(demonstration)
    env.close()
    if len(kept) < count:
        raise RuntimeError(f"{task}: {len(kept)} of {ATTEMPTS * count} scripted episodes succeeded")
    return kept


def demonstrate(env: PandaEnv, seed: int) -> Demonstration | None:
    """Play the episode that ``env.reset(seed=seed)`` begins. None if the task was not solved in time."""
    env.reset(seed=seed)
    # A stream of its own: with `seed` alone it would repeat the draws that placed the objects.
    rng = np.random.default_rng([seed, 1])
    speed = 1 + SPEED_NOISE * rng.uniform(-1, 1)
    waypoints = env.task.waypoints(env.model, env.data)
    offsets = rng.uniform(-WAYPOINT_NOISE, WAYPOINT_NOISE, (len(waypoints), 3))
    offsets[-1] = 0.0  # it ends where it should
    rows = [_recorded(env)]
    index = 0
    for _ in range(env.time_limit):
        while index < len(waypoints) - 1 and _is_reached(env, waypoints[index]):
            index += 1
        waypoint = waypoints[index]
        position = waypoint.position + offsets[index]
        delta = _joint_delta(env, position, waypoint.rotation, speed)
        gap = float(np.linalg.norm(position - tip_position(env.data)))
        delta += DELTA_NOISE * min(1.0, gap / STEP_LENGTH) * rng.standard_normal(7)
        delta = delta.clip(-0.99 * MAX_DELTA, 0.99 * MAX_DELTA)
        solved = env.step_robot(np.append(delta, waypoint.gripper_open).astype(np.float32))[2]
        rows.append(_recorded(env))
        if solved and index == len(waypoints) - 1 and _is_reached(env, waypoints[-1]):
            return Demonstration(*(np.stack(column) for column in zip(*rows, strict=True)))
    return None


def _recorded(env: PandaEnv) -> list[Array]:
    """What a `Demonstration` holds of a step, in the order of its attributes."""
    row: list[Array] = [env.joint_positions, env.gripper_open, env.joint_targets, env.task_state]
    return row if env.images is None else [*row, env.frames()]


def _gap(env: PandaEnv, position: Vector, rotation: Vector) -> tuple[Vector, Vector]:
    """What is missing to a pose: metres [3], and the turn as a vector of radians [3], both in the world."""
    import mujoco

    turn = rotation @ env.data.site("tip").xmat.reshape(3, 3).T
    quaternion, angles = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, turn.ravel())
    mujoco.mju_quat2Vel(angles, quaternion, 1.0)
    return position - tip_position(env.data), angles


def _is_reached(env: PandaEnv, waypoint: Waypoint) -> bool:
    gap, angles = _gap(env, waypoint.position, waypoint.rotation)
    is_there = np.linalg.norm(gap) < waypoint.tolerance and np.linalg.norm(angles) < MAX_ANGLE
    return bool(is_there) and bool(env.gripper_open) == waypoint.gripper_open


def _joint_delta(env: PandaEnv, position: Vector, rotation: Vector, speed: float) -> Vector:
    """[7], rad: a step towards a pose, slower in the last centimetres."""
    import mujoco

    data, model = env.data, env.model
    gap, angles = _gap(env, position, rotation)
    far, turned = float(np.linalg.norm(gap)), float(np.linalg.norm(angles))
    shares = min(1.0, speed * STEP_LENGTH / (far + 1e-9)), min(1.0, STEP_ANGLE / (turned + 1e-9))
    step = np.concatenate((gap * shares[0], angles * shares[1]))
    jacobian = np.empty((6, model.nv))
    mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], model.site("tip").id)
    arm = jacobian[:, ARM]
    inverse = arm.T @ np.linalg.inv(arm @ arm.T + DAMPING**2 * np.eye(6))  # [7, 6]
    free = np.eye(7) - inverse @ arm
    upright = np.zeros(7)
    upright[2] = -ELBOW_GAIN * data.qpos[ARM][2]
    delta: Vector = inverse @ step + free @ upright
    # All joints slowed alike where one would be too fast, so that the tip stays on its line.
    return delta * min(1.0, 0.9 * MAX_DELTA / float(np.abs(delta).max()))
