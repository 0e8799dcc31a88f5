"""Train an agent on a D4RL task: online with demonstrations, offline, or offline first.

python experiments/train_d4rl.py arsq --task hopper-medium-replay-v2
python experiments/train_d4rl.py bc --task hopper-expert-v2 --offline --steps 100000
python experiments/train_d4rl.py dsac-t --task hopper-medium-v2 --offline-steps 50000 --steps 200000
python experiments/train_d4rl.py cqn --task hopper-medium-v2 --dataset my_data.hdf5
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from envs.d4rl import data as d4rl_data
from envs.d4rl import env as d4rl_env
from envs.d4rl import tasks as d4rl_tasks
from experiments.presets import d4rl_preset
from experiments.runner.launch import Benchmark, main
from rlzoo.data.load import load_episodes
from rlzoo.run.cli import run_main
from rlzoo.types import Episode, VectorTask


def _make(task: str, num_envs: int, processes: bool, render: bool) -> VectorTask:
    return d4rl_env.make(task, num_envs, processes=processes, render=render)


def _load(task: str, given: str | None, copies: VectorTask) -> list[Episode]:
    limit = d4rl_tasks.find(task).max_episode_steps
    episodes = load_episodes(
        d4rl_data.find_dataset(task, given),
        state_dim=copies.spaces.state_dim,
        action_dim=copies.spaces.action_dim,
        max_episode_steps=limit,
        flatten_obs=d4rl_env.flatten_obs(task),
    )
    recorded, episodes = episodes, d4rl_env.task_rewards(task, episodes)
    if episodes is not recorded:
        print("rewards: recorded for every finished part in every step, now once for each, as the task pays")
    longer = sum(len(episode) > limit for episode in episodes)
    if longer:  # as the human demonstrations of door are: 18 of 25 never solve the task, one does so too late
        print(
            f"warning: {longer} of the {len(episodes)} episodes are longer than the {limit} steps that "
            f"{task} gives an agent, which may be too few for what they show"
        )
    return episodes


def _preset(agent: str, task: str) -> dict[str, Any]:
    d4rl_tasks.find(task)  # an unknown task is refused before any help is shown for it
    return d4rl_preset(agent, task)


def _score(task: str) -> Callable[[float], float]:
    return lambda mean_return: float(d4rl_tasks.normalized_score(task, mean_return))


def _remark(task: str) -> str:
    family = d4rl_tasks.find(task).family
    first, _, _ = family.differences.partition(". ")
    return f"compare with published scores with care: {first}. More: {family.name} in envs/d4rl/tasks.py"


BENCHMARK = Benchmark(
    name="d4rl",
    script="experiments/train_d4rl.py",
    default_task="hopper-medium-v2",
    make=_make,
    preset=_preset,
    load_data=_load,
    normalized_score=_score,
    remark=_remark,
)

if __name__ == "__main__":
    run_main(lambda: main(BENCHMARK))
