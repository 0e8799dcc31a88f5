"""Train an agent on a Gymnasium MuJoCo task, or any other Gymnasium task with a Box action space.

python experiments/train_mujoco.py dsac-t --task HalfCheetah-v5 --seed 1 --agent.hidden 256 256 256
python experiments/train_mujoco.py sac --task my_module:MyTask-v0 --steps 100000
python experiments/train_mujoco.py sac --task Ant-v5 --env healthy_reward=0.5 --env frame_skip=4
python experiments/train_mujoco.py --resume results/runs/mujoco/HalfCheetah-v5/dsac-t/s1-20260101-000000
"""

from __future__ import annotations

import ast
import dataclasses
import re
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


class _Yaml(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2; PyYAML's 1.1 takes it for a text."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)e[-+]?\d+$", re.I), list("-+.0123456789")
)

# Python's infinity, as in Gymnasium's healthy_z_range=(0.7, float("inf")); its literals have none.
_INFINITE = re.compile(r"""float\(['"]([+-]?)inf['"]\)""")


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
        """By name, each value read as YAML: a number, true, a text, a list; a tuple as Python writes it.

        Raises:
            UserError: one is not NAME=VALUE.
        """
        found = {}
        for given in self.env:
            name, equals, text = given.partition("=")
            if not (equals and name.isidentifier()):
                raise UserError(f"--env is {given!r}, expected NAME=VALUE, such as frame_skip=4")
            is_tuple = text.startswith("(")
            try:
                if is_tuple:
                    found[name] = ast.literal_eval(_INFINITE.sub(r"\g<1>1e999", text))
                else:
                    found[name] = yaml.load(text, _Yaml)
            except (yaml.YAMLError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
                kind = "a tuple" if is_tuple else "YAML"
                raise UserError(f"--env {given}: {text!r} cannot be read as {kind}") from error
        return found


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
