"""Train an agent on one of RLBench's tasks, in RLBench itself or in its stand-in on MuJoCo.

python experiments/train_rlbench.py arsq --task reach_target --demos 100
python experiments/train_rlbench.py arsq --task push_button --observations state --demos 20
python experiments/train_rlbench.py cqn --task open_drawer --simulator rlbench --dataset /data/rlbench_demos

Without --simulator, RLBench where the package is installed, else MuJoCo. Scores on the stand-in are not
RLBench's. Runs with images film each evaluation; --no-video turns that off.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from envs.gym.rendering import rendering_backend
from envs.panda import demonstrations as panda_demos
from envs.panda import env as panda_env
from envs.panda import scene as panda_scene
from envs.panda import tasks as panda_tasks
from envs.rlbench import env as rlbench_env
from envs.rlbench import simulator as rlbench_simulator
from envs.rlbench.demonstrations import load_rlbench
from envs.rlbench.protocol import (
    CAMERAS,
    FRAME_STACK,
    IMAGE_SIZE,
    ActionScale,
    Demonstration,
    least_std,
    to_episodes,
)
from experiments.presets import rlbench_preset
from experiments.runner.launch import Benchmark, Experiment, main
from rlzoo.errors import UserError
from rlzoo.run.cli import run_main
from rlzoo.types import Episode, VectorTask

START_TOLERANCE = 0.05  # rad
_BACKENDS = {"egl": "EGL", "osmesa": "OSMesa (software)", "glfw": "GLFW (a window)"}
Simulator = Literal["rlbench", "mujoco"]
Observations = Literal["pixels", "state"]


@dataclasses.dataclass(frozen=True)
class RLBenchOptions:
    """What is simulated, seen and demonstrated."""

    simulator: Literal["auto", "rlbench", "mujoco"] = "auto"
    """rlbench needs CoppeliaSim and PyRep; mujoco is a stand-in for a few tasks; auto: rlbench where that
    package is installed."""
    observations: Observations = "pixels"
    """pixels: camera images and the robot's joints. state: the joints and the poses of the task's objects."""
    demos: int = 100
    """Demonstrations to learn from: of --dataset, or recorded before training (scripted on MuJoCo, planned by
    RLBench). They also set the range of the actions."""
    cameras: tuple[str, ...] = CAMERAS
    """Views, in this order."""
    image_size: int = IMAGE_SIZE
    """Height and width of the images, in pixels."""
    frame_stack: int = FRAME_STACK
    """Images that an agent sees at once."""

    def __post_init__(self) -> None:
        if self.demos < 1:
            raise UserError(
                f"--demos is {self.demos}, expected at least 1: they set the range of the actions"
            )
        if self.image_size < 1 or self.frame_stack < 1:
            raise UserError("--image-size and --frame-stack must be at least 1")
        if unknown := sorted(set(self.cameras) - set(CAMERAS)):
            raise UserError(f"--cameras: no camera {', '.join(unknown)}; there are {', '.join(CAMERAS)}")
        if not self.cameras:
            raise UserError("--cameras names none; for no images there is --observations state")


def choose_simulator(asked: str, *, draws: bool) -> Simulator:
    """The simulator asked for, or for "auto" the one that is there; `draws`: whether it needs a display.

    Whoever has installed the package `rlbench` wants RLBench: where it cannot run, for want of a display say,
    the stand-in does not take its place unasked.

    Raises:
        UserError: RLBench is asked for or installed and cannot run; the message names what is missing.
    """
    if asked == "mujoco" or (asked == "auto" and not rlbench_simulator.is_installed()):
        return "mujoco"
    rlbench_simulator.check(pixels=draws)
    return "rlbench"


def demonstrations_of(
    simulator: Simulator, task: str, dataset: str | None, options: RLBenchOptions, seed: int
) -> list[Demonstration]:
    """The demonstrations: those of `dataset` (a folder in RLBench's layout), or new ones."""
    cameras = options.cameras if options.observations == "pixels" else ()
    if dataset is not None:
        loaded = load_rlbench(
            protocol_variation(Path(dataset), task),
            task=task,
            cameras=cameras,
            image_size=options.image_size,
            count=options.demos,
            need_task_state=options.observations == "state",
        )
        print(loaded.summary())
        if simulator == "mujoco":
            _check_starts(dataset, loaded.demonstrations)
        return loaded.demonstrations
    print(f"recording {options.demos} demonstrations of {task} in {simulator}")
    if simulator == "mujoco":
        return panda_demos.collect(
            task, options.demos, seed=seed, cameras=cameras or None, image_size=options.image_size
        )
    kept, too_fast = rlbench_env.collect_demonstrations(
        task, options.demos, seed=seed, cameras=cameras, image_size=options.image_size, report=print
    )
    if too_fast:
        print(f"{too_fast} demonstrations moved too fast and were left out")
    return kept


def protocol_variation(dataset: Path, task: str) -> Path:
    """The folder of variation 0, which the protocol uses and the tasks run, or `dataset` if it is in none."""
    for folder in (dataset / task / "variation0", dataset / "variation0"):
        if folder.expanduser().is_dir():
            return folder
    return dataset


def _check_starts(dataset: str, demonstrations: Sequence[Demonstration]) -> None:
    """Refuse demonstrations of RLBench's robot for the stand-in's: other joints, cameras and objects."""
    starts = np.stack([demonstration.joint_positions[0] for demonstration in demonstrations])
    if np.abs(starts - panda_scene.HOME).max() > START_TOLERANCE:
        raise UserError(
            f"{dataset}: the robot does not start where the stand-in's does, so it is not the stand-in's; "
            "demonstrations recorded in RLBench are for --simulator rlbench"
        )


def configure(
    benchmark: Benchmark, experiment: Experiment[Any, RLBenchOptions], checkpoint: dict[str, Any] | None
) -> tuple[Benchmark, Experiment[Any, RLBenchOptions]]:
    """The benchmark on the simulator, with the observations and the demonstrations, that the options name.

    The demonstrations set what an action means, so a resumed run takes that from its checkpoint: it needs
    none, and new ones would differ in RLBench, whose planner cannot be seeded.
    """
    options, task = experiment.options, experiment.task
    if experiment.data.rescale_actions:
        raise UserError("--rescale-actions: RLBench's actions are in the demonstrations' range already")
    pixels = options.observations == "pixels"
    draws = pixels or experiment.video
    simulator = choose_simulator(options.simulator, draws=draws)
    options = dataclasses.replace(options, simulator=simulator)
    if simulator == "mujoco":
        panda_tasks.find(task)
        print("simulator: MuJoCo, a stand-in; scores on it are not RLBench scores")
        if draws:  # known to work before demonstrations are recorded
            print(f"images are drawn with {_BACKENDS[rendering_backend()]}; MUJOCO_GL chooses another way")
    elif experiment.train.processes:
        raise UserError("--processes: RLBench's simulators run in processes of their own anyway")
    demonstrations: list[Demonstration] = []
    task_state_dim = 0
    if checkpoint is None:
        dataset = experiment.data.dataset
        demonstrations = demonstrations_of(simulator, task, dataset, options, experiment.seed)
        scale = ActionScale.of(demonstrations)
        task_state_dim = 0 if pixels else demonstrations[0].task_state.shape[1]
    else:
        scale = _saved_scale(checkpoint)

    def make(task: str, num_envs: int, processes: bool, render: bool) -> VectorTask:
        if simulator == "rlbench":
            return rlbench_env.make(
                task,
                num_envs,
                scale,
                cameras=options.cameras if pixels else (),
                image_size=options.image_size,
                frame_stack=options.frame_stack,
                render=render,
            )
        return panda_env.make(
            task,
            num_envs,
            processes=processes,
            observations=options.observations,
            cameras=options.cameras,
            image_size=options.image_size,
            frame_stack=options.frame_stack,
            scale=scale,
            render=render,
        )

    def load_data(task: str, given: str | None, copies: VectorTask) -> list[Episode]:
        episodes = to_episodes(demonstrations, scale, pixels=pixels)
        demonstrations.clear()  # the buffers hold the images from now on
        found, expected = episodes[0].obs["state"].shape[1], copies.spaces.state_dim
        if found != expected:
            raise UserError(
                f"{given}: observations of {found} numbers, but {task} in {simulator} has {expected}; "
                "demonstrations recorded in RLBench are for --simulator rlbench"
            )
        return episodes

    configured = dataclasses.replace(
        benchmark,
        name=f"rlbench-{simulator}-{options.observations}",
        make=make,
        load_data=load_data,
        eval_lanes=1 if simulator == "rlbench" else None,  # a CoppeliaSim each
        least_std=least_std(task_state_dim),  # for new runs: a resumed one has its scaling in its checkpoint
        metadata={"action_low": torch.from_numpy(scale.low), "action_high": torch.from_numpy(scale.high)},
    )
    return configured, dataclasses.replace(experiment, options=options)


def _saved_scale(checkpoint: dict[str, Any]) -> ActionScale:
    try:
        return ActionScale(checkpoint["action_low"].numpy(), checkpoint["action_high"].numpy())
    except KeyError as error:
        raise UserError("the checkpoint holds no range of actions: it is not of an RLBench run") from error


def _not_configured(task: str, num_envs: int, processes: bool, render: bool) -> VectorTask:
    raise RuntimeError("`configure` comes first")


def benchmark_of(observations: Observations) -> Benchmark:
    """The benchmark with the presets for these observations."""
    return Benchmark(
        name="rlbench",
        default_task="reach_target",
        make=_not_configured,
        preset=lambda agent, task: rlbench_preset(agent, task, pixels=observations == "pixels"),
        options=RLBenchOptions(observations=observations),
        configure=configure,
        script="experiments/train_rlbench.py",
        video=observations == "pixels",
    )


def run_script(arguments: Sequence[str]) -> int:
    """Run on `arguments`; what is observed decides the presets, so that flag is looked at first."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--observations", choices=("pixels", "state"), default="pixels")
    known, _ = early.parse_known_args(arguments)
    return main(benchmark_of(known.observations), arguments)


if __name__ == "__main__":
    run_main(lambda: run_script(sys.argv[1:]))
