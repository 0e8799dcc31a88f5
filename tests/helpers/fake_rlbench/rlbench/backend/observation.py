NAMES = [
    f"{camera}_{kind}"
    for camera in ("left_shoulder", "right_shoulder", "overhead", "wrist", "front")
    for kind in ("rgb", "depth", "mask", "point_cloud")
]
NAMES += ["joint_velocities", "joint_positions", "joint_forces", "gripper_open", "gripper_pose"]
NAMES += ["gripper_matrix", "gripper_joint_positions", "gripper_touch_forces", "task_low_dim_state", "misc"]


class Observation:
    def __init__(self, **values):
        assert set(values) == set(NAMES)
        self.__dict__.update(values)
