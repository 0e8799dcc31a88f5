"""Train an agent on a D4RL task: online with demonstrations, offline, or offline first.

python experiments/train_d4rl.py arsq --task hopper-medium-replay-v2
python experiments/train_d4rl.py bc --task hopper-expert-v2 --offline --steps 100000
python experiments/train_d4rl.py dsac-t --task hopper-medium-v2 --offline-steps 50000 --steps 200000
python experiments/train_d4rl.py cqn --task hopper-medium-v2 --dataset my_data.hdf5
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from envs.d4rl import data, env
from envs.d4rl.tasks import LOCOMOTION, TASKS, find, normalized_score
from experiments.presets import d4rl as presets
from experiments.runner.flags import Experiment
from experiments.runner.launch import main
from experiments.runner.suite import Suite
from rlzoo.data.load import load_episodes
from rlzoo.interface import Interface
from rlzoo.run.cli import run_main
from rlzoo.types import Episode, Spaces, VectorTask


class D4RLSuite(Suite):
    """D4RL's tasks with their datasets."""

    name = "d4rl"
    default_task = "hopper-medium-v2"

    def tasks(self) -> list[str]:
        return list(TASKS)

    def preset(self, name: str, agent: str, task: str) -> dict[str, Any]:
        find(task)  # an unknown task is refused before any help is shown for it
        return presets.preset(name, agent, task)

    def prepare(self, experiment: Experiment[Any, Any], checkpoint: Mapping[str, Any] | None) -> None:
        family = find(experiment.task).family
        first, _, _ = family.differences.partition(". ")
        self.remark = (
            f"compare with published scores with care: {first}. More: {family.name} in envs/d4rl/tasks.py"
        )

    def make(self, task: str, num_envs: int, *, processes: bool = False, render: bool = False) -> VectorTask:
        return env.make(task, num_envs, processes=processes, render=render)

    def load_data(self, task: str, dataset: str | None, spaces: Spaces) -> list[Episode]:
        """The task's dataset, or another of its kind; downloaded where it is not on this machine."""
        limit = find(task).max_episode_steps
        recorded = load_episodes(
            data.find_dataset(task, dataset),
            state_dim=spaces.state_dim,
            action_dim=spaces.action_dim,
            max_episode_steps=limit,
            flatten_obs=env.flatten_obs(task),
        )
        episodes = env.task_rewards(task, recorded)
        if episodes is not recorded:
            print("rewards: recorded for every finished part in every step, now once each, as the task pays")
        # As the human demonstrations of door are: 18 of 25 never solve the task, one does so too late.
        if longer := sum(len(episode) > limit for episode in episodes):
            print(
                f"warning: {longer} of the {len(episodes)} episodes are longer than the {limit} steps that "
                f"{task} gives an agent, which may be too few for what they show"
            )
        return episodes

    def score(self, task: str) -> Callable[[float], float]:
        return partial(normalized_score, task)

    def interface(self, name: str, task: VectorTask) -> Interface:
        columns = f"the columns of D4RL's datasets of {name}"
        return replace(super().interface(name, task), observation=columns, action=columns)

    def gymnasium_id(self, task: str) -> str | None:
        """Locomotion's; D4RL's other tasks are more than Gymnasium's."""
        row = find(task)
        return row.env_id if row.family is LOCOMOTION and not row.env_id.startswith("Ant") else None


if __name__ == "__main__":
    run_main(lambda: main(D4RLSuite))
