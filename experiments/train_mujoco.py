"""Train an agent on a Gymnasium MuJoCo task, or any other Gymnasium task with a Box action space.

python experiments/train_mujoco.py dsac-t --task HalfCheetah-v5 --seed 1 --agent.hidden 256 256 256
python experiments/train_mujoco.py sac --task my_module:MyTask-v0 --steps 100000
python experiments/train_mujoco.py sac --task Ant-v5 --env healthy_reward=0.5 --env frame_skip=4
python experiments/train_mujoco.py --resume results/runs/mujoco/HalfCheetah-v5/dsac-t/s1-20260101-000000
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any

import tyro
import yaml

from envs.gym import make as gym_tasks
from experiments.presets import mujoco as presets
from experiments.runner.flags import Experiment
from experiments.runner.launch import main
from experiments.runner.suite import Suite
from rlzoo.actions import ActionRange
from rlzoo.data.load import load_episodes
from rlzoo.errors import UserError
from rlzoo.run.cli import run_main
from rlzoo.settings import Settings
from rlzoo.types import Episode, Spaces, VectorTask


@dataclasses.dataclass(frozen=True)
class GymOptions(Settings):
    """What the environment is made with."""

    env: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Environment argument NAME=VALUE."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.arguments()
        # Of each name the last: given again for a run that goes on, a flag stands behind its earlier self.
        of_name = {given.partition("=")[0]: given for given in self.env}
        object.__setattr__(self, "env", tuple(of_name.values()))

    def arguments(self) -> dict[str, Any]:
        """By name: each value as Python writes it, such as (0.7, 2.0), else as YAML, such as true or a text.

        Raises:
            UserError: one is not NAME=VALUE.
        """
        found = {}
        for given in self.env:
            name, equals, text = given.partition("=")
            if not (equals and name.isidentifier()):
                raise UserError(f"--env is {given!r}, expected NAME=VALUE, such as frame_skip=4")
            try:
                found[name] = _value(text)
            except yaml.YAMLError as error:
                raise UserError(f"--env {given}: {text!r} cannot be read as YAML") from error
        return found


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # what it raises
        return yaml.safe_load(text)


class MujocoSuite(Suite):
    """Gymnasium's tasks."""

    name = "mujoco"
    default_task = "HalfCheetah-v5"
    presets = (*Suite.presets, "dsac-t-paper")
    options: GymOptions = GymOptions()

    def tasks(self) -> list[str]:
        """Those of Gymnasium's MuJoCo; others with continuous actions go by their Gymnasium id."""
        return gym_tasks.tasks()

    def preset(self, name: str, agent: str, task: str) -> dict[str, Any]:
        return presets.preset(name, agent, task)

    def complete(self, experiment: Experiment[Any, Any]) -> Experiment[Any, Any]:
        self.options = experiment.options
        self.metadata = {"env": list(self.options.env)}
        return experiment

    def prepare(self, experiment: Experiment[Any, Any], checkpoint: Mapping[str, Any] | None) -> None:
        if reported := presets.PAPER_RETURNS.get(experiment.task):
            returns = ", ".join(
                f"{name} {value}" for name, value in zip(presets.PAPER_AGENTS, reported, strict=False)
            )
            self.remark = f"DSAC-T's paper on {experiment.task} (5 seeds, 30 M steps): {returns}"

    def make(self, task: str, num_envs: int, *, processes: bool = False, render: bool = False) -> VectorTask:
        arguments = self.options.arguments()
        return gym_tasks.make(task, num_envs, processes=processes, render=render, arguments=arguments)

    def load_data(self, task: str, dataset: str | None, spaces: Spaces) -> list[Episode] | None:
        """The episodes of `dataset`, whose actions are in the task's own bounds."""
        if dataset is None:
            return None
        if spaces.pixels is not None:
            raise UserError(f"{task} observes images; recorded images are read for RLBench alone")
        return load_episodes(
            dataset,
            state_dim=spaces.state_dim,
            action_dim=spaces.action_dim,
            action_range=self.action_range(task),
            max_episode_steps=gym_tasks.time_limit(task, self.options.arguments()),
            flatten_obs=gym_tasks.flatten_obs(task, self.options.arguments()),
        )

    def action_range(self, task: str) -> ActionRange:
        return gym_tasks.action_range(task, self.options.arguments())

    def gymnasium_id(self, task: str) -> str | None:
        return None if self.options.env else task


if __name__ == "__main__":
    run_main(lambda: main(MujocoSuite))
