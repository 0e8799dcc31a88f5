"""ARSQ from poor demonstrations in a few minutes, beside behavioural cloning of the same data.

python experiments/quickstart.py

Ends with a table of the data's return, BC's and ARSQ's, and with a picture of their learning curves. The
demonstrations come with the project; how they were made stands in results/datasets/README.md.
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
from experiments.compare import Group, Panel, Run, plot, read_run
from experiments.runner.experiment import parse
from experiments.runner.launch import run
from experiments.train_d4rl import D4RLSuite
from rlzoo.run.cli import parse_flags, run_main
from rlzoo.run.progress import tensorboard_hint
from rlzoo.settings import Count, Seed, Settings
from rlzoo.types import Episode

TASK = "maze2d-medium-v1"
DATASET = Path(__file__).resolve().parents[1] / "results/datasets/maze2d-medium-wandering.hdf5"
INTRODUCTION = """\
The demonstrations wander through a maze: someone steers a ball to one place after another, whatever the goal.
Behavioural cloning (BC) imitates them, so it becomes what they are worth and no better.
ARSQ learns what actions are worth, from the same data and from steps of its own, and goes beyond them."""
EVALUATIONS, EPISODES = 5, 20  # per run, and per evaluation
# Over the papers' settings: networks and batches for two CPU cores. Steps far from a reward that is seldom
# met learn of it sooner by five-step returns and fast target networks.
FLAGS = {
    "bc": "--offline",
    "arsq": "--batch-size 128 --n-step 5 --agent.hidden 256 256 --agent.state-layers 1 --agent.levels 2 "
    "--agent.bins 5 --agent.lr 1e-3 --agent.tau 0.02 --agent.demo-weight 0.1",
}
NAMES = {"bc": "BC: imitates them", "arsq": "ARSQ: values, own steps"}


@dataclasses.dataclass(frozen=True)
class Request(Settings):
    """For how long to learn."""

    bc_updates: Count = 10_000
    """Updates of BC."""
    arsq_steps: Count = 10_000
    """Environment steps of ARSQ, with an update each; the paper's experiments take 100,000."""
    seed: Seed = 1
    """Decides everything random in both runs."""
    runs_dir: Path = Path("results/runs/quickstart")
    """Where the two run folders and the picture go."""


def train(settings: Request, agent: str, steps: int) -> tuple[int, Path]:
    """Train `agent`: exit code and run folder."""
    # As a path from here where it is below, so that a published run does not tell where the project lay.
    dataset = DATASET.relative_to(Path.cwd()) if DATASET.is_relative_to(Path.cwd()) else DATASET
    flags = ["--task", TASK, "--dataset", str(dataset), "--seed", str(settings.seed), "--steps", str(steps)]
    flags += ["--eval-every", str(max(1, steps // EVALUATIONS)), "--eval-episodes", str(EPISODES)]
    # Networks this small gain little from a second thread and lose much where the other core is busy.
    flags += ["--threads", "1", "--runs-dir", str(settings.runs_dir), *FLAGS[agent].split()]
    return run(parse(D4RLSuite, [agent, *flags], "quickstart"))


def comparison(episodes: Sequence[Episode], runs: Sequence[Run]) -> Table:
    """The data's mean return beside that of each run's last evaluation."""
    table = Table(title=f"{TASK}, means of {len(episodes)} demonstrations and {EPISODES} episodes each")
    for column in ("", "return", "normalised score", "reached the goal"):
        table.add_column(column, justify="right" if column else "left")
    solved = float(np.mean([bool(episode.success) for episode in episodes]))
    rows = {"the demonstrations": (np.mean([episode.episode_return for episode in episodes]), solved)}
    for found in runs:
        last = found.evaluations[found.last]
        rows[NAMES[found.agent]] = (last["eval/return"], last["eval/success"])
    for name, (value, share) in rows.items():
        table.add_row(name, f"{value:,.0f}", f"{normalized_score(TASK, float(value)):.1f}", f"{share:.0%}")
    return table


def main() -> int:
    """Train BC, then ARSQ, and print the comparison."""
    settings = parse_flags(Request, description=__doc__)
    print(INTRODUCTION, flush=True)
    suite = D4RLSuite()
    with closing(suite.make(TASK, 1)) as copies:
        episodes = suite.load_data(TASK, str(DATASET), copies.spaces)
    runs = []
    for agent, steps in (("bc", settings.bc_updates), ("arsq", settings.arsq_steps)):
        code, run_dir = train(settings, agent, steps)
        if code:
            return code
        runs.append(read_run(run_dir))
    Console().print(comparison(episodes, runs))
    score = "eval/normalized_score"
    mean = normalized_score(TASK, float(np.mean([episode.episode_return for episode in episodes])))
    groups = [Group(NAMES[found.agent], [found]) for found in runs]
    panel = Panel(TASK, groups, score, "normalised score", "updates (ARSQ: an environment step each)", mean)
    picture = settings.runs_dir / "curves.png"
    plot([panel], picture)
    print(f"learning curves as a picture: {picture}")
    print(f"both runs in TensorBoard: {tensorboard_hint(settings.runs_dir)}")
    return 0


if __name__ == "__main__":
    run_main(main)
