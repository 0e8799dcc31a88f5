"""ARSQ from a few demonstrations of Hopper in a few minutes, beside behavioural cloning of the same data.

python experiments/quickstart.py

Ends with a table of the data's return, BC's and ARSQ's. The demonstrations come with the project; how they
were made stands in results/datasets/README.md. `--dataset FILE --task TASK` takes others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from envs.d4rl.tasks import normalized_score
from experiments.compare import Run, read_run
from experiments.runner.experiment import parse
from experiments.runner.launch import run
from experiments.train_d4rl import D4RLSuite
from rlzoo.run.cli import parse_flags, run_main
from rlzoo.run.progress import tensorboard_hint
from rlzoo.types import Episode

DATASET = Path(__file__).resolve().parents[1] / "results/datasets/hopper-demos.hdf5"
EVALUATIONS, EPISODES = 5, 10  # per run, and per evaluation
# Over the preset for two CPU cores: batches of demonstrations alone, and coarser codes.
FLAGS = {"bc": "", "arsq": "--demo-fraction 1 --agent.levels 2 --agent.bins 7 --agent.temperature 0.01"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to learn from, and for how long."""

    dataset: str = str(DATASET)
    """A dataset in any of the formats of experiments/train_d4rl.py."""
    task: str = "hopper-expert-v2"
    """The D4RL task that the data is of."""
    bc_updates: int = 10_000
    """Updates of BC."""
    arsq_updates: int = 10_000
    """Updates of ARSQ; the paper's experiments take 500,000."""
    seed: int = 1
    """Decides everything random in both runs."""
    runs_dir: Path = Path("results/runs/quickstart")
    """Where the two run folders go."""


def train(settings: Settings, agent: str, updates: int) -> tuple[int, Path]:
    """Train `agent` offline: exit code and run folder."""
    flags = ["--preset", "small", "--task", settings.task, "--dataset", settings.dataset, "--offline"]
    flags += ["--steps", str(updates), "--eval-every", str(max(1, updates // EVALUATIONS))]
    flags += ["--eval-episodes", str(EPISODES), "--seed", str(settings.seed)]
    # Networks this small gain little from a second thread and lose much where the other core is busy.
    flags += ["--threads", "1", "--runs-dir", str(settings.runs_dir), *FLAGS[agent].split()]
    return run(parse(D4RLSuite, [agent, *flags], "quickstart"))


def comparison(task: str, episodes: Sequence[Episode], runs: Sequence[Run]) -> Table:
    """The data's mean return beside what each run reached: its last evaluation and its best."""
    score = lambda value: f"{normalized_score(task, float(value)):.1f}"  # noqa: E731
    table = Table(title=f"{task}: return and normalised score")
    for column in ("", "episodes", "last return", "score", "best return", "score"):
        table.add_column(column, justify="right" if column else "left")
    returns = np.array([episode.episode_return for episode in episodes])
    table.add_row("data", f"{len(episodes)}", f"{returns.mean():,.0f}", score(returns.mean()),
                  f"{returns.max():,.0f}", score(returns.max()))  # fmt: skip
    for found in runs:
        values = list(found.curve("eval/return").values())
        table.add_row(found.agent, str(EPISODES), f"{values[-1]:,.0f}", score(values[-1]),
                      f"{max(values):,.0f}", score(max(values)))  # fmt: skip
    return table


def main() -> int:
    """Train BC, then ARSQ, and print the comparison."""
    settings = parse_flags(Settings, description=__doc__)
    suite = D4RLSuite()
    with closing(suite.make(settings.task, 1)) as copies:
        episodes = suite.load_data(settings.task, settings.dataset, copies.spaces)
    runs = []
    for agent, updates in (("bc", settings.bc_updates), ("arsq", settings.arsq_updates)):
        code, run_dir = train(settings, agent, updates)
        if code:
            return code
        runs.append(read_run(run_dir))
    Console().print(comparison(settings.task, episodes, runs))
    print(f"both learning curves: {tensorboard_hint(settings.runs_dir)}")
    return 0


if __name__ == "__main__":
    run_main(main)
