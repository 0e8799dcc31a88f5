"""How far the door gets: reached, unlatched, opened; by the demonstrators and by trained agents.

python results/d4rl-door-human/progress.py DATASET STEPS [RUN_DIR ...]

Shares of the episodes in which the palm came within 3 cm of the handle, the latch was turned by more than 0.5
rad, the door opened by more than 0.2 rad, and by 1.35 rad, which is success, all within so many steps. Agents
play 100 episodes with their most likely actions; the task itself ends after 200 steps.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path[0] = str(Path(__file__).resolve().parents[2])

from envs import d4rl_env, d4rl_tasks
from experiments.trained import load_policy, read_run
from rlzoo.demos import load_episodes
from rlzoo.errors import UserError
from rlzoo.main import run_main
from rlzoo.train import CHECKPOINT
from rlzoo.types import FloatArray

TASK = "door-human-v1"
EPISODES = 100
# Where they lie in an observation: joint angles of latch and door, and from palm to handle [m].
LATCH, DOOR, TO_HANDLE = 27, 28, slice(35, 38)


def play(run_dir: Path, steps: int) -> list[FloatArray]:
    """The observations [T, 39] of episodes that the run's agent plays."""
    checkpoint = read_run(run_dir, CHECKPOINT)
    if checkpoint["task"] != TASK:
        raise UserError(f"{run_dir} is a run on {checkpoint['task']}, not on {TASK}")
    row = dataclasses.replace(d4rl_tasks.find(TASK), max_episode_steps=steps)
    d4rl_env.find = lambda name: row  # the task has no flag for its length
    task = d4rl_env.make(TASK, EPISODES)
    policy = load_policy(checkpoint, task.spaces, torch.device("cpu"))
    obs = task.reset(seed=7)
    states = [obs["state"]]
    for _ in range(steps):
        task.send(policy(obs))
        obs = task.receive().obs
        states.append(obs["state"])
    task.close()
    return list(np.stack(states, 1))


def report(name: str, episodes: Sequence[FloatArray]) -> None:
    """Print the shares of the episodes that got so far."""
    near = [np.linalg.norm(state[:, TO_HANDLE], axis=-1).min() < 0.03 for state in episodes]
    latch = [state[:, LATCH].max() > 0.5 for state in episodes]
    door = np.array([state[:, DOOR].max() for state in episodes])
    stages = {"at the handle": near, "unlatched": latch, "opened": door > 0.2, "success": door >= 1.35}
    shares = ", ".join(f"{stage} {np.mean(reached):.2f}" for stage, reached in stages.items())
    print(f"{name:24} {len(episodes):3} episodes: {shares}")


def main() -> None:
    """Print the demonstrators' progress, then each run's."""
    if len(sys.argv) < 3 or not sys.argv[2].isdigit():
        raise UserError("give the demonstrations, a number of steps and folders of runs")
    steps = int(sys.argv[2])
    demonstrations = load_episodes(sys.argv[1], state_dim=39, action_dim=28)
    report("humans", [episode.obs["state"][: steps + 1] for episode in demonstrations])
    for folder in map(Path, sys.argv[3:]):
        report(f"{folder.parent.name}/{folder.name}", play(folder, steps))


if __name__ == "__main__":
    run_main(main)
