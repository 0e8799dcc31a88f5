"""Whose states a run's agent visits: the medium policy's or the expert's.

python results/d4rl-hopper-mixed/whose_states.py MEDIUM EXPERT RUN_DIR ...

Plays 20 episodes and prints, by step of the episode, what share of the ten nearest recorded states of a
visited one are the expert's (of 50,000 of both; distances in units of their deviation), and how many episodes
still run; the same for the first 100 episodes of either file.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import torch

sys.path[0] = str(Path(__file__).resolve().parents[2])

from envs import d4rl_env
from experiments.trained import load_policy, read_run
from rlzoo.demos import load_episodes
from rlzoo.errors import UserError
from rlzoo.main import run_main
from rlzoo.train import CHECKPOINT
from rlzoo.types import FloatArray

EPISODES, NEIGHBOURS, RECORDED = 20, 10, 50_000
BORDERS = (0, 1, 10, 25, 50, 100, 200, 400, 1000)  # in steps of an episode


def play(run_dir: Path) -> list[FloatArray]:
    """The states [T, S] of each episode that the run's agent plays."""
    checkpoint = read_run(run_dir, CHECKPOINT)
    task = d4rl_env.make(checkpoint["task"], EPISODES)
    policy = load_policy(checkpoint, task.spaces, torch.device("cpu"))
    obs = task.reset(seed=1)
    running = np.ones(EPISODES, dtype=np.bool_)
    states: list[list[FloatArray]] = [[] for _ in range(EPISODES)]
    while running.any():
        for lane in np.flatnonzero(running):
            states[lane].append(obs["state"][lane].copy())
        task.send(policy(obs))
        step = task.receive()
        running &= ~(step.terminated | step.truncated)
        obs = step.obs
    task.close()
    return [np.stack(episode) for episode in states]


def main() -> None:
    """Print the shares of the data themselves, then each run's."""
    if len(sys.argv) < 4:
        raise UserError("give the medium's and the expert's data, and folders of runs")
    files = [[episode.obs["state"] for episode in load_episodes(name)] for name in sys.argv[1:3]]
    recorded = np.concatenate([state for episodes in files for state in episodes])
    is_expert = np.repeat([0.0, 1.0], [sum(map(len, episodes)) for episodes in files])
    kept = np.random.default_rng(0).permutation(len(recorded))[:RECORDED]
    scale = recorded.std(0) + 1e-6
    known, expert = torch.as_tensor(recorded[kept] / scale), torch.as_tensor(is_expert[kept])

    def share(episodes: list[FloatArray]) -> None:
        for first, end in itertools.pairwise(BORDERS):
            visited = [state[first:end] for state in episodes if len(state) > first]
            if not visited:
                return
            rows = torch.as_tensor(np.concatenate(visited)[:: (end - first) // 50 + 1] / scale)
            near = torch.cdist(rows, known).topk(NEIGHBOURS, largest=False).indices
            running = len(visited) / len(episodes)
            nearest = expert[near].mean()
            print(f"  from step {first:3}: {nearest:.2f} the expert's, {running:.2f} of the episodes run")

    for name, episodes in zip(sys.argv[1:3], files, strict=True):
        print(Path(name).name)
        share(episodes[:100])
    for folder in map(Path, sys.argv[3:]):
        print(f"{folder.parent.name}/{folder.name}")
        share(play(folder))


if __name__ == "__main__":
    run_main(main)
