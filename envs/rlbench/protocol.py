"""The contract of RLBench's manipulation tasks, whatever simulates them: observations, actions, limits.

The protocol of CQN (Seo et al., arXiv 2407.07787) and ARSQ: a Franka Panda moved by changes of its joint
positions, seen by four cameras, with sparse rewards and demonstrations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rlzoo.actions import ActionRange
from rlzoo.errors import UserError
from rlzoo.interface import Interface
from rlzoo.types import Array, Episode, FloatArray

CAMERAS = ("front", "wrist", "left_shoulder", "right_shoulder")
IMAGE_SIZE = 84  # pixels, height and width
FRAME_STACK = 8
NUM_JOINTS = 7
ACTION_DIM = NUM_JOINTS + 1  # and the gripper
MAX_DELTA = 0.2  # rad per step; demonstrations that move faster are left out
ACTION_MARGIN = 0.2  # share by which the demonstrations' smallest and largest deltas are each widened
TIME_LIMITS = {  # steps; the tasks of ARSQ's and CQN's experiments
    "basketball_in_hoop": 125,
    "insert_usb_in_computer": 100,
    "lamp_on": 100,
    "meat_on_grill": 150,
    "open_door": 125,
    "open_drawer": 100,
    "open_microwave": 125,
    "open_oven": 225,
    "phone_on_base": 175,
    "pick_up_cup": 100,
    "press_switch": 100,
    "push_button": 75,  # not among theirs; as long as its neighbours' in steps and motion
    "put_books_on_bookshelf": 175,
    "put_money_in_safe": 150,
    "put_rubbish_in_bin": 150,
    "reach_target": 50,
    "slide_block_to_target": 150,
    "stack_wine": 150,
    "sweep_to_dustpan": 100,
    "take_lid_off_saucepan": 100,
    "take_plate_off_colored_dish_rack": 150,
    "toilet_seat_up": 150,
    "turn_tap": 125,
}
FULL_RANGE = ActionRange(  # of the robot's actions
    np.array([-MAX_DELTA] * NUM_JOINTS + [0.0], np.float32),
    np.array([MAX_DELTA] * NUM_JOINTS + [1.0], np.float32),
)
CONTROL_RATE = 20.0  # Hz
JOINT_UNIT, TASK_UNIT = 1.0, 0.1  # rad; m (also rad), see `least_std`
DEFAULT_TIME_LIMIT = 150  # steps, for a task that is not in TIME_LIMITS


@dataclass(frozen=True)
class Demonstration:
    """One successful episode of T steps as it was recorded: T + 1 observations.

    Attributes:
        joint_positions: f32 [T+1, 7], rad.
        gripper_open: f32 [T+1], 1 open, 0 closed.
        joint_targets: f32 [T+1, 7], where the step that led to each observation sent the joints
            (``misc["joint_position_action"]``; the first row is not used), or None in older recordings.
        task_state: f32 [T+1, K], the poses of the task's objects; K may be 0.
        frames: u8 [T+1, V, 3, H, W], RGB of V cameras in the order asked for, or None.
    """

    joint_positions: FloatArray
    gripper_open: FloatArray
    joint_targets: FloatArray | None
    task_state: FloatArray
    frames: npt.NDArray[np.uint8] | None = None

    @property
    def actions(self) -> FloatArray:
        """[T, 8]: change of the joint positions asked for by each step (rad), and whether the gripper is
        open after it."""
        reached = self.joint_positions if self.joint_targets is None else self.joint_targets
        deltas = reached[1:] - self.joint_positions[:-1]
        return np.concatenate([deltas, self.gripper_open[1:, None]], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Images:
    """What the cameras show of a task. Where this is None, the state of the task's objects is observed.

    Attributes:
        cameras: V names of CAMERAS, in the order of the views.
        size: height and width of every image, in pixels.
        stack: F, the number of images that an agent sees at once.
    """

    cameras: tuple[str, ...] = CAMERAS
    size: int = IMAGE_SIZE
    stack: int = FRAME_STACK


def action_range(demonstrations: Sequence[Demonstration]) -> ActionRange:
    """What an agent's -1 and 1 stand for: deltas of the joints [7] in rad, and the gripper, 0 to 1.

    The demonstrations' range of each joint's delta, each bound widened by a share of its own size, not of the
    range, as in CQN's and ARSQ's code. A delta of zero is always within, so that every joint can stand
    still: the references' statistics include an action of zeros per demonstration.
    """
    actions = np.concatenate([demonstration.actions for demonstration in demonstrations])
    low, high = np.minimum(actions.min(axis=0), 0.0), np.maximum(actions.max(axis=0), 0.0)
    low, high = low - ACTION_MARGIN * np.abs(low), high + ACTION_MARGIN * np.abs(high)
    high = np.maximum(high, low + 1e-4)  # a joint that no demonstration moves needs a width as well
    low[-1], high[-1] = 0.0, 1.0
    return ActionRange(low.astype(np.float32), high.astype(np.float32))


def robot_action(actions: ActionRange, action: FloatArray) -> FloatArray:
    """An agent's action [8] in [-1, 1] as the robot's: deltas within ±MAX_DELTA rad, the gripper in 0..1."""
    robot = np.asarray(actions.from_unit(np.asarray(action)), np.float32)
    robot[:NUM_JOINTS] = robot[:NUM_JOINTS].clip(-MAX_DELTA, MAX_DELTA)
    return robot


def interface(actions: ActionRange, images: Images | None) -> Interface:
    """What a policy sees and does, with the range of actions of its demonstrations."""
    seen = "7 joint positions (rad); gripper, 1 open, 0 closed"
    if images is None:
        seen += "; the task's state as its simulator gives it"
    else:
        seen += f"; RGB images {images.size} x {images.size} of {', '.join(images.cameras)}"
    return Interface(
        actions,
        limits=FULL_RANGE,
        observation=seen,
        action="changes of the 7 joint positions (rad); gripper, open above 0.5",
        control_rate=CONTROL_RATE,
    )


def is_within_limits(demonstration: Demonstration) -> bool:
    """Whether all deltas of the joints are at most MAX_DELTA."""
    return bool(np.abs(demonstration.actions[:, :NUM_JOINTS]).max() <= MAX_DELTA)


def observation_state(joints: FloatArray, gripper: FloatArray, task_state: FloatArray | None) -> FloatArray:
    """``obs["state"]`` [..., 8 (+ K)] from joints [..., 7], gripper [...] and the task's state [..., K]."""
    parts = [joints, gripper[..., None]] if task_state is None else [joints, gripper[..., None], task_state]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def least_std(task_state_dim: int) -> FloatArray:
    """What `observation_state` with the task's state is at least divided by when standardised, [8 + K].

    Demonstrations that all begin at one pose leave joints a standard deviation of 0.1 rad and less. Divided
    by that, a joint that an agent has moved a little off their paths is far outside of all that it was
    trained on. So joints count in rad at the finest, and the task's state in tenths of a metre.
    """
    units = [JOINT_UNIT] * NUM_JOINTS + [1.0] + [TASK_UNIT] * task_state_dim
    return np.array(units, np.float32)


def to_episodes(demos: Sequence[Demonstration], actions: ActionRange, *, pixels: bool) -> list[Episode]:
    """Episodes to learn from: reward 1 and termination at the last step, 0 before.

    With `pixels` the state is the robot's alone and the frames go along; without, it includes the task's.
    """
    episodes = []
    for demo in demos:
        action = actions.to_unit(demo.actions)
        reward = np.zeros(len(action), np.float32)
        reward[-1] = 1.0
        task_state = None if pixels else demo.task_state
        state = observation_state(demo.joint_positions, demo.gripper_open, task_state)
        obs: dict[str, Array] = {"state": state}
        if pixels:
            if demo.frames is None:
                raise UserError("the demonstrations hold no camera images; use --observations state")
            obs["pixels"] = demo.frames
        episodes.append(Episode(obs=obs, action=action, reward=reward, terminated=True, success=True))
    return episodes
