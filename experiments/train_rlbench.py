"""Train an agent on one of RLBench's tasks, in RLBench itself or in its stand-in on MuJoCo.

python experiments/train_rlbench.py arsq --task reach_target --demos 100
python experiments/train_rlbench.py arsq --task push_button --observations state --demos 20
python experiments/train_rlbench.py cqn --task open_drawer --simulator rlbench --dataset /data/rlbench_demos

Without --simulator, RLBench where the package is installed, else MuJoCo. Scores on the stand-in are not
RLBench's. Runs with images film each evaluation; --no-video turns that off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field

from envs.gym.rendering import rendering_backend
from envs.panda import demonstrations as panda_demos
from envs.panda import env as panda
from envs.panda import scene
from envs.panda import tasks as panda_tasks
from envs.rlbench import env as rlbench
from envs.rlbench import simulator
from envs.rlbench.demonstrations import load_rlbench
from envs.rlbench.protocol import (
    CAMERAS,
    FRAME_STACK,
    IMAGE_SIZE,
    TIME_LIMITS,
    Demonstration,
    Images,
    action_range,
    interface,
    least_std,
    to_episodes,
)
from experiments.presets import rlbench as presets
from experiments.runner.flags import Experiment
from experiments.runner.launch import main
from experiments.runner.suite import Suite
from rlzoo.actions import ActionRange
from rlzoo.errors import UserError
from rlzoo.interface import Interface
from rlzoo.run.cli import EarlyParser, run_main
from rlzoo.run.files import expand_user
from rlzoo.settings import Count, Settings
from rlzoo.types import Episode, Spaces, VectorTask

START_TOLERANCE = 0.05  # rad
_BACKENDS = {"egl": "EGL", "osmesa": "OSMesa (software)", "glfw": "GLFW (a window)"}
Camera = Literal["front", "wrist", "left_shoulder", "right_shoulder"]
assert get_args(Camera) == CAMERAS


@dataclass(frozen=True)
class RLBenchOptions(Settings):
    """What is simulated, seen and demonstrated."""

    simulator: Literal["auto", "rlbench", "mujoco"] = "auto"
    """auto: rlbench where installed, else its stand-in."""
    observations: Literal["pixels", "state"] = "pixels"
    """Camera images, or the task's state."""
    demos: Count = 100
    """Demonstrations, of --dataset or newly recorded."""
    cameras: Annotated[tuple[Camera, ...], Field(min_length=1)] = CAMERAS
    """Views, in this order."""
    image_size: Count = IMAGE_SIZE
    """Height and width of the images."""
    frame_stack: Count = FRAME_STACK
    """Images that an agent sees at once."""

    @property
    def images(self) -> Images | None:
        """What is seen of the cameras; None where the task's state is."""
        if self.observations == "state":
            return None
        return Images(self.cameras, self.image_size, self.frame_stack)


class RLBenchSuite(Suite):
    """RLBench's tasks: their demonstrations set what an action means, so they come before the task."""

    name = "rlbench"
    default_task = "reach_target"

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        """What is observed decides the presets, so that flag is looked at first."""
        super().__init__(arguments)
        early = EarlyParser()
        early.add_argument("--observations", choices=("pixels", "state"), default="pixels")
        observations = early.parse_known_args(arguments)[0].observations
        self.film = observations == "pixels"
        self.options: RLBenchOptions = RLBenchOptions(observations=observations)
        self.range: ActionRange | None = None  # of the robot's actions; known once `prepare` has been called
        self.demonstrations: list[Demonstration] = []  # of a new run, until they have been loaded

    def tasks(self) -> list[str]:
        """Those of the published experiments; the stand-in has a few of them."""
        return [f"{task} (also on MuJoCo)" if task in panda_tasks.TASKS else task for task in TIME_LIMITS]

    def preset(self, name: str, agent: str, task: str) -> dict[str, Any]:
        return presets.preset(name, agent, task, pixels=self.options.observations == "pixels")

    def complete(self, experiment: Experiment[Any, Any]) -> Experiment[Any, Any]:
        """Choose the simulator, and see that it can do what is asked.

        Whoever has installed the package `rlbench` wants RLBench: where it cannot run, for want of a display
        say, the stand-in does not take its place unasked.
        """
        options: RLBenchOptions = experiment.options
        if experiment.data.rescale_actions:
            raise UserError("--rescale-actions: RLBench's actions are in the demonstrations' range already")
        draws = options.images is not None or experiment.video
        if options.simulator == "mujoco" or (options.simulator == "auto" and not simulator.is_installed()):
            chosen: Literal["rlbench", "mujoco"] = "mujoco"
            panda_tasks.find(experiment.task)
            print("simulator: MuJoCo, a stand-in; scores on it are not RLBench scores")
            if draws:  # known to work before demonstrations are recorded
                print(
                    f"images are drawn with {_BACKENDS[rendering_backend()]}; MUJOCO_GL chooses another way"
                )
        else:
            chosen = "rlbench"
            simulator.check(pixels=draws)
            if experiment.train.processes:
                raise UserError("--processes: RLBench's simulators run in processes of their own anyway")
            self.lanes = 1  # a CoppeliaSim each
        self.options = replace(options, simulator=chosen)
        self.folder = f"rlbench-{chosen}-{options.observations}"
        return replace(experiment, options=self.options)

    def prepare(self, experiment: Experiment[Any, Any], checkpoint: Mapping[str, Any] | None) -> None:
        """The range of the actions: from demonstrations, or from the checkpoint of an earlier run.

        New demonstrations would differ in RLBench, whose planner cannot be seeded.
        """
        if checkpoint is None:
            self.demonstrations = self._demonstrations(experiment)
            self.range = action_range(self.demonstrations)
            if self.options.images is None:
                self.least_std = least_std(self.demonstrations[0].task_state.shape[1])
        else:
            self.range = Interface.of_checkpoint(checkpoint).actions

    def interface(self, name: str, task: VectorTask) -> Interface:
        assert self.range is not None
        return interface(self.range, self.options.images)

    def make(self, task: str, num_envs: int, *, processes: bool = False, render: bool = False) -> VectorTask:
        assert self.range is not None
        images = self.options.images
        if self.options.simulator == "rlbench":
            return rlbench.make(task, num_envs, self.range, images=images, render=render)
        return panda.make(task, num_envs, self.range, images=images, processes=processes, render=render)

    def load_data(self, task: str, dataset: str | None, spaces: Spaces) -> list[Episode]:
        """The demonstrations as episodes; the buffers hold their images from then on."""
        assert self.range is not None
        episodes = to_episodes(self.demonstrations, self.range, pixels=self.options.images is not None)
        self.demonstrations = []
        found = episodes[0].obs["state"].shape[1]
        if found != spaces.state_dim:
            raise UserError(
                f"{dataset}: observations of {found} numbers, but {task} in {self.options.simulator} has "
                f"{spaces.state_dim}; demonstrations recorded in RLBench are for --simulator rlbench"
            )
        return episodes

    def _demonstrations(self, experiment: Experiment[Any, Any]) -> list[Demonstration]:
        """Those of --dataset (a folder in RLBench's layout), or new ones."""
        options, task, dataset = self.options, experiment.task, experiment.data.dataset
        if dataset is not None:
            loaded = load_rlbench(
                protocol_variation(Path(dataset), task),
                task=task,
                images=options.images,
                count=options.demos,
                need_task_state=options.images is None,
            )
            print(loaded.summary())
            if options.simulator == "mujoco":
                _check_starts(dataset, loaded.demonstrations)
            return loaded.demonstrations
        print(f"recording {options.demos} demonstrations of {task} in {options.simulator}")
        if options.simulator == "mujoco":
            return panda_demos.collect(task, options.demos, seed=experiment.seed, images=options.images)
        kept, too_fast = rlbench.collect_demonstrations(
            task, options.demos, seed=experiment.seed, images=options.images, report=print
        )
        if too_fast:
            print(f"{too_fast} demonstrations moved too fast and were left out")
        return kept


def protocol_variation(dataset: Path, task: str) -> Path:
    """The folder of variation 0, which the protocol uses and the tasks run, or `dataset` if it is in none."""
    dataset = expand_user(dataset)
    for folder in (dataset / task / "variation0", dataset / "variation0"):
        if folder.is_dir():
            return folder
    return dataset


def _check_starts(dataset: str, demonstrations: Sequence[Demonstration]) -> None:
    """Refuse demonstrations of RLBench's robot for the stand-in's: other joints, cameras and objects."""
    starts = np.stack([demonstration.joint_positions[0] for demonstration in demonstrations])
    if np.abs(starts - scene.HOME).max() > START_TOLERANCE:
        raise UserError(
            f"{dataset}: the robot does not start where the stand-in's does, so it is not the stand-in's; "
            "demonstrations recorded in RLBench are for --simulator rlbench"
        )


if __name__ == "__main__":
    run_main(lambda: main(RLBenchSuite))
