"""How far a run's agent is from its demonstrations, early in an episode and later.

python results/arsq-halfcheetah-study/imitation_error.py RUN_DIR DATASET

Of a run with --demo-count also how far it is from the other episodes of the dataset, which it did not learn
from at --demo-fraction 1.0.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import torch
import yaml

sys.path[0] = str(Path(__file__).resolve().parents[2])

from experiments.trained import Policy, load_policy, read_run
from rlzoo.demos import load_episodes, select_episodes
from rlzoo.errors import UserError
from rlzoo.main import run_main
from rlzoo.run import CONFIG_FILE
from rlzoo.train import CHECKPOINT
from rlzoo.types import Episode, Spaces

BORDERS = (0, 5, 10, 20, 40, 80, 160, 1000)  # in steps of an episode


def demonstrations(run_dir: Path, episodes: list[Episode]) -> list[Episode]:
    """The episodes of its dataset that are a run's demonstrations."""
    config = yaml.safe_load((run_dir / CONFIG_FILE).read_text())
    data = config["data"]
    return select_episodes(
        episodes,
        percentile=data["demo_percentile"],
        ratio=data["demo_ratio"],
        count=data["demo_count"],
        seed=config["seed"],
    )


def print_errors(policy: Policy, episodes: list[Episode]) -> None:
    """Print the root mean square of (most likely action - demonstrated action) by step of the episode."""
    for first, end in itertools.pairwise(BORDERS):
        state = np.concatenate([episode.obs["state"][:-1][first:end] for episode in episodes])
        action = np.concatenate([episode.action[first:end] for episode in episodes])
        error = policy({"state": state}) - action
        print(f"steps {first:4} to {end - 1:4}: {np.sqrt(np.mean(error**2)):.3f}")


def main() -> None:
    """Print the errors on the demonstrations, and on the rest of the dataset."""
    if len(sys.argv) != 3:
        raise UserError("give the folder of a run and the dataset it learned from")
    run_dir = Path(sys.argv[1])
    checkpoint = read_run(run_dir, CHECKPOINT)
    episodes = load_episodes(sys.argv[2])
    spaces = Spaces(episodes[0].obs["state"].shape[1], episodes[0].action.shape[1])
    policy = load_policy(checkpoint, spaces, torch.device("cpu"))
    learned = demonstrations(run_dir, episodes)
    chosen = {id(episode) for episode in learned}
    others = [episode for episode in episodes if id(episode) not in chosen]
    for name, group in (("demonstrated", learned), ("not demonstrated", others)):
        if group:
            print(f"{len(group)} episodes {name}")
            print_errors(policy, group)


if __name__ == "__main__":
    run_main(main)
