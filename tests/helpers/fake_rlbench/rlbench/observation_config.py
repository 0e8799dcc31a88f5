from pyrep.const import RenderMode

LOW_DIM = ("joint_velocities", "joint_positions", "joint_forces", "gripper_open", "gripper_pose")
LOW_DIM += ("gripper_matrix", "gripper_joint_positions", "gripper_touch_forces", "task_low_dim_state")


class CameraConfig:
    def __init__(self, rgb=True, depth=True, point_cloud=True, mask=True, image_size=(128, 128)):
        self.rgb = rgb
        self.depth = depth
        self.point_cloud = point_cloud
        self.mask = mask
        self.image_size = image_size
        self.render_mode = RenderMode.OPENGL

    def set_all(self, value: bool):
        self.rgb = self.depth = self.point_cloud = self.mask = value


class ObservationConfig:
    def __init__(self):
        self.left_shoulder_camera = CameraConfig()
        self.right_shoulder_camera = CameraConfig()
        self.overhead_camera = CameraConfig()
        self.wrist_camera = CameraConfig()
        self.front_camera = CameraConfig()
        for name in LOW_DIM:
            setattr(self, name, name in ("joint_velocities", "joint_positions", "joint_forces"))

    def cameras(self):
        return {n.removesuffix("_camera"): c for n, c in vars(self).items() if n.endswith("_camera")}

    def set_all(self, value: bool):
        for camera in self.cameras().values():
            camera.set_all(value)
        for name in LOW_DIM:
            setattr(self, name, value)
