"""How exactly and how steadily agents move the arm and the hand in the demonstrated states.

python results/d4rl-door-human/arm_error.py DATASET RUN_DIR ...

Root mean squares over the arm's 4 dimensions and over the hand's 24, of agents that were trained on the whole
dataset: how far their best actions are from the demonstrated ones, and how much actions change from one
demonstrated state to the next; ahead of them the demonstrators' change. Policies of codes by the mode and
by the median.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path[0] = str(Path(__file__).resolve().parents[2])

from experiments.evaluate import greedy_rule, with_greedy
from experiments.trained import load_policy, read_run
from rlzoo.demos import load_episodes
from rlzoo.errors import UserError
from rlzoo.main import run_main
from rlzoo.train import CHECKPOINT
from rlzoo.types import Episode, FloatArray, Spaces

ARM, HAND = slice(4), slice(4, None)


def size(values: Sequence[FloatArray]) -> str:
    """The root mean squares of [T, 28], for the arm and for the hand."""
    square = np.concatenate(values).astype(np.float64) ** 2
    return ", ".join(f"{np.sqrt(square[:, dims].mean()):.3f}" for dims in (ARM, HAND))


def actions(checkpoint: dict[str, Any], episodes: Sequence[Episode]) -> list[FloatArray]:
    """The agent's best actions [T, 28] in each episode's states."""
    spaces = Spaces(episodes[0].obs["state"].shape[1], episodes[0].action.shape[1])
    policy = load_policy(checkpoint, spaces, torch.device("cpu"))
    return [policy({"state": episode.obs["state"][:-1]}) for episode in episodes]


def main() -> None:
    """Print the demonstrators' sizes, then each run's."""
    if len(sys.argv) < 3:
        raise UserError("give the demonstrations and folders of runs")
    episodes = load_episodes(sys.argv[1])
    shown = [episode.action for episode in episodes]
    print(f"demonstrations: change {size([np.diff(action, axis=0) for action in shown])}")
    for folder in map(Path, sys.argv[2:]):
        saved = read_run(folder, CHECKPOINT)
        rules = [None] if greedy_rule(saved) is None else ["mode", "median"]
        for rule in rules:
            chosen = actions(saved if rule is None else with_greedy(saved, rule), episodes)
            error = [ours - theirs for ours, theirs in zip(chosen, shown, strict=True)]
            change = [np.diff(action, axis=0) for action in chosen]
            name = " ".join(filter(None, [folder.parent.name, folder.name, rule]))
            print(f"{name}: error {size(error)}; change {size(change)}")


if __name__ == "__main__":
    run_main(main)
