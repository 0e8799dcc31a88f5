from rlbench.fake import note, reach
from rlbench.observation_config import ObservationConfig
from rlbench.task_environment import TaskEnvironment


class Environment:
    def __init__(
        self,
        action_mode,
        dataset_root: str = "",
        obs_config: ObservationConfig | None = None,
        headless: bool = False,
        static_positions: bool = False,
        robot_setup: str = "panda",
        randomize_every=None,
        frequency: int = 1,
        visual_randomization_config=None,
        dynamics_randomization_config=None,
        attach_grasped_objects: bool = True,
        shaped_rewards: bool = False,
        arm_max_velocity: float = 1.0,
        arm_max_acceleration: float = 4.0,
    ):
        self._action_mode = action_mode
        self._obs_config = obs_config or ObservationConfig()
        cameras = self._obs_config.cameras()
        note(
            "launched",
            {
                "absolute_mode": action_mode.arm_action_mode._absolute_mode,
                "gripper": type(action_mode.gripper_action_mode).__name__,
                "headless": headless,
                "limits": [arm_max_velocity, arm_max_acceleration],
                "cameras": {
                    name: [list(camera.image_size), camera.render_mode.name]
                    for name, camera in cameras.items()
                    if camera.rgb
                },
                "other_images": any(c.depth or c.mask or c.point_cloud for c in cameras.values()),
            },
        )

    def launch(self):
        reach("launch")

    def shutdown(self):
        reach("shutdown")

    def get_task(self, task_class):
        return TaskEnvironment(task_class(), self._action_mode, self._obs_config)
