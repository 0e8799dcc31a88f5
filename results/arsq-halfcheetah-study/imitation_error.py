"""How far a run's agent is from its demonstrations, early in an episode and later.

python results/arsq-halfcheetah-study/imitation_error.py RUN_DIR DATASET
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import torch

sys.path[0] = str(Path(__file__).resolve().parents[2])

from experiments.trained import load_agent, read_run
from rlzoo.demos import load_episodes
from rlzoo.errors import UserError
from rlzoo.evaluate import policy_action
from rlzoo.main import run_main
from rlzoo.normalize import ObservationScaling
from rlzoo.train import CHECKPOINT
from rlzoo.types import Spaces

BORDERS = (0, 5, 10, 20, 40, 80, 160, 1000)  # in steps of an episode


def main() -> None:
    """Print the root mean square of (most likely action - demonstrated action) by step of the episode."""
    if len(sys.argv) != 3:
        raise UserError("give the folder of a run and the dataset it learned from")
    checkpoint = read_run(Path(sys.argv[1]), CHECKPOINT)
    episodes = load_episodes(sys.argv[2])
    scaling = ObservationScaling.of_checkpoint(checkpoint)
    spaces = Spaces(episodes[0].obs["state"].shape[1], episodes[0].action.shape[1])
    agent = load_agent(checkpoint, spaces, torch.device("cpu"))
    for first, end in itertools.pairwise(BORDERS):
        state = np.concatenate([episode.obs["state"][:-1][first:end] for episode in episodes])
        action = np.concatenate([episode.action[first:end] for episode in episodes])
        obs = {"state": state} if scaling is None else scaling({"state": state})
        error = policy_action(agent, obs, torch.device("cpu"), deterministic=True) - action
        print(f"steps {first:4} to {end - 1:4}: {np.sqrt(np.mean(error**2)):.3f}")


if __name__ == "__main__":
    run_main(main)
