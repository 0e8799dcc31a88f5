"""Demonstrations whose first steps are there several times, so that a batch draws them more often.

python results/arsq-halfcheetah-study/repeat_starts.py DATASET OUTPUT STEPS COPIES

Writes the episodes of DATASET in D4RL's format, after them the first STEPS of each, COPIES times, as episodes
that time out. The copies count as episodes in a run's summary of its data.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from rlzoo.demo_writers import write_d4rl
from rlzoo.demos import load_episodes
from rlzoo.errors import UserError
from rlzoo.main import run_main
from rlzoo.types import Episode


def start_of(episode: Episode, steps: int) -> Episode:
    """The first steps of an episode that goes on after them, as one that timed out."""
    obs = {key: values[: steps + 1] for key, values in episode.obs.items()}
    return Episode(obs, episode.action[:steps], episode.reward[:steps], terminated=False)


def main() -> None:
    """Write the dataset."""
    try:
        dataset, output, steps, copies = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    except (IndexError, ValueError):
        raise UserError("give a dataset, a file to write, a number of steps and one of copies") from None
    if steps < 1 or copies < 1:
        raise UserError(f"there are {steps} steps and {copies} copies, expected at least 1 of each")
    episodes = load_episodes(dataset)
    starts = [start_of(episode, steps) for episode in episodes if len(episode) > steps]
    metadata = {"source": Path(dataset).name, "first_steps": steps, "copies": copies}
    write_d4rl(output, [*episodes, *(start for start in starts for _ in range(copies))], metadata)


if __name__ == "__main__":
    run_main(main)
