"""Train an agent on a Gymnasium MuJoCo task, or any other Gymnasium task with a Box action space.

python experiments/train_mujoco.py dsac-t --task HalfCheetah-v5 --seed 1 --agent.hidden 256 256 256
python experiments/train_mujoco.py --resume results/runs/mujoco/HalfCheetah-v5/dsac-t/s1-20260101-000000
"""

from __future__ import annotations

from typing import Any

from envs.gym import make as mujoco_env
from experiments.presets import MUJOCO_TASKS
from experiments.runner.launch import Benchmark, main
from rlzoo.data.load import load_episodes
from rlzoo.run.cli import run_main
from rlzoo.types import Episode, VectorTask


def _make(task: str, num_envs: int, processes: bool, render: bool) -> VectorTask:
    return mujoco_env.make(task, num_envs, processes=processes, render=render)


def _load(task: str, given: str | None, copies: VectorTask) -> list[Episode] | None:
    if given is None:
        return None
    low, high = mujoco_env.action_bounds(task)
    spaces = copies.spaces
    return load_episodes(
        given,
        state_dim=spaces.state_dim,
        action_dim=spaces.action_dim,
        action_low=low,
        action_high=high,
        max_episode_steps=mujoco_env.find(task).max_episode_steps,
    )


def _preset(agent: str, task: str) -> dict[str, Any]:
    return MUJOCO_TASKS[task].preset.get(agent, {}) if task in MUJOCO_TASKS else {}


def _remark(task: str) -> str:
    if task not in MUJOCO_TASKS:
        return ""
    reported = MUJOCO_TASKS[task].paper_return
    return f"DSAC-T's paper reports {reported:g} for DSAC-T on this task (5 seeds, 30 M steps)"


BENCHMARK = Benchmark(
    name="mujoco", default_task="HalfCheetah-v5", make=_make, preset=_preset, load_data=_load, remark=_remark
)

if __name__ == "__main__":
    run_main(lambda: main(BENCHMARK))
