"""Where an agent of HalfCheetah fails: at its starts, on launching, or in the gait.

python results/arsq-halfcheetah-study/starts.py RUN_DIR DATASET

Returns of 1,000 steps from fresh starts, from the demonstrations' own starts, and from their states a hundred
steps on. The observation of HalfCheetah is its state but for the place along the track.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import numpy as np
import torch

sys.path[0] = str(Path(__file__).resolve().parents[2])

from experiments.trained import Policy, load_policy, read_run
from rlzoo.demos import load_episodes
from rlzoo.errors import UserError
from rlzoo.main import run_main
from rlzoo.train import CHECKPOINT
from rlzoo.types import FloatArray, Spaces

POSITIONS = 8  # of an observation's numbers; the others are velocities
STEPS = 1000
RUNNING = 100  # steps after which every demonstration runs


def play(policy: Policy, states: FloatArray) -> FloatArray:
    """Returns [N] of the most likely actions from the states [N, 17]."""
    envs = [gymnasium.make("HalfCheetah-v4", max_episode_steps=STEPS) for _ in states]
    for env, state in zip(envs, states, strict=True):
        env.reset(seed=0)
        env.unwrapped.set_state(np.concatenate(([0.0], state[:POSITIONS])), state[POSITIONS:])
    returns = np.zeros(len(states), np.float32)
    for _ in range(STEPS):
        actions = policy({"state": states.astype(np.float32)})
        states, rewards, *_ = zip(
            *(env.step(action) for env, action in zip(envs, actions, strict=True)), strict=True
        )
        states = np.stack(states)
        returns += np.array(rewards, np.float32)
    return returns


def main() -> None:
    """Print how the returns from each kind of state are spread."""
    if len(sys.argv) != 3:
        raise UserError("give the folder of a run and the dataset it learned from")
    checkpoint = read_run(Path(sys.argv[1]), CHECKPOINT)
    policy = load_policy(checkpoint, Spaces(17, 6), torch.device("cpu"))
    states = np.stack([episode.obs["state"] for episode in load_episodes(sys.argv[2])])
    with gymnasium.make("HalfCheetah-v4") as env:
        fresh = np.stack([env.reset(seed=1000 + index)[0] for index in range(100)])
    groups = {
        "fresh": fresh,
        "demonstrated starts": states[:, 0],
        "demonstrated, running": states[:, RUNNING],
    }
    for name, group in groups.items():
        returns = play(policy, group)
        low, middle = np.quantile(returns, [0.25, 0.5])
        print(f"{name:22} {len(returns):3} episodes, mean {returns.mean():7,.0f}, 25 % {low:7,.0f}, "
              f"50 % {middle:7,.0f}, below 0: {np.mean(returns < 0):.2f}")  # fmt: skip


if __name__ == "__main__":
    run_main(main)
