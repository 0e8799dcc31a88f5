"""Train an agent on a Gymnasium MuJoCo task, or any other Gymnasium task with a Box action space.

python experiments/train_mujoco.py dsac-t --task HalfCheetah-v5 --seed 1 --agent.hidden 256 256 256
python experiments/train_mujoco.py sac --task my_module:MyTask-v0 --steps 100000
python experiments/train_mujoco.py --resume results/runs/mujoco/HalfCheetah-v5/dsac-t/s1-20260101-000000
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envs.gym import make as gym_tasks
from experiments.presets import mujoco as presets
from experiments.runner.flags import Experiment
from experiments.runner.launch import main
from experiments.runner.suite import Suite
from rlzoo.actions import ActionRange
from rlzoo.data.load import load_episodes
from rlzoo.run.cli import run_main
from rlzoo.types import Episode, Spaces, VectorTask


class MujocoSuite(Suite):
    """Gymnasium's tasks."""

    name = "mujoco"
    default_task = "HalfCheetah-v5"
    presets = (*Suite.presets, "dsac-t-paper")

    def tasks(self) -> list[str]:
        """Those of Gymnasium's MuJoCo; others with continuous actions go by their Gymnasium id."""
        return gym_tasks.tasks()

    def preset(self, name: str, agent: str, task: str) -> dict[str, Any]:
        return presets.preset(name, agent, task)

    def prepare(self, experiment: Experiment[Any, Any], checkpoint: Mapping[str, Any] | None) -> None:
        if (reported := presets.PAPER_RETURNS.get(experiment.task)) is not None:
            self.remark = f"DSAC-T's paper reports {reported:g} for DSAC-T on this task (5 seeds, 30 M steps)"

    def make(self, task: str, num_envs: int, *, processes: bool = False, render: bool = False) -> VectorTask:
        return gym_tasks.make(task, num_envs, processes=processes, render=render)

    def load_data(self, task: str, dataset: str | None, spaces: Spaces) -> list[Episode] | None:
        """The episodes of `dataset`, whose actions are in the task's own bounds."""
        if dataset is None:
            return None
        return load_episodes(
            dataset,
            state_dim=spaces.state_dim,
            action_dim=spaces.action_dim,
            action_range=self.action_range(task),
            max_episode_steps=gym_tasks.find(task).max_episode_steps,
        )

    def action_range(self, task: str) -> ActionRange:
        return gym_tasks.action_range(task)

    def gymnasium_id(self, task: str) -> str | None:
        return task


if __name__ == "__main__":
    run_main(lambda: main(MujocoSuite))
