"""Play the agent of a run: how its episodes end, in one table, as a CSV file, as a film.

python experiments/evaluate.py RUN_DIR
python experiments/evaluate.py RUN_DIR --checkpoint best --episodes 100 --sampled
python experiments/evaluate.py RUN_DIR --output returns.csv --video first.mp4
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from experiments.runner.experiment import complete, load_experiment, read_config
from experiments.runner.launch import check_origin, eval_lanes
from experiments.runner.policy import agent_config, load_agent, read_run
from experiments.suites import SUITES
from rlzoo.data.scaling import Scaling
from rlzoo.errors import UserError
from rlzoo.evaluate import Evaluation, evaluate
from rlzoo.run.cli import parse_flags, run_main
from rlzoo.run.files import atomic_write, check_writable
from rlzoo.run.machine import tune_cpu
from rlzoo.run.video import write_video
from rlzoo.seeding import seed_global_generators
from rlzoo.settings import Count, Seed, Settings
from rlzoo.train import BEST_POLICY, CHECKPOINT

MOST_LANES = 100  # episodes played side by side; each has a simulator of its own
SMALL, LARGE = 10.0, 1000.0  # sizes below which the table has two decimals and one
QUANTILES = {"min": 0.0, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "max": 1.0}


@dataclasses.dataclass(frozen=True)
class Request(Settings):
    """What to play."""

    run: tyro.conf.Positional[Path]
    """Folder of a run."""
    checkpoint: Literal["latest", "best"] = "latest"
    """The agent as the run left it, or at its best evaluation, which flatters where evaluations are noisy."""
    episodes: Count = 50
    """Whole episodes to play, side by side."""
    sampled: bool = False
    """Sample the actions, as the agent explores; else they are deterministic, as in evaluations."""
    greedy: Literal["mode", "median"] | None = None
    """The deterministic action of an auto-regressive policy; None: what the run says."""
    seed: Seed = 1
    """Decides how the episodes start, and what is sampled."""
    device: str = "cpu"
    """Where the agent's networks run: cpu, cuda, cuda:1, …"""
    threads: Count | None = None
    """CPU threads of PyTorch; None: one per core."""
    output: Path | None = None
    """CSV file to write: a row per episode."""
    video: Path | None = None
    """Film of the first episode (.mp4) to write; needs EGL or OSMesa."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.video is not None and self.video.suffix != ".mp4":
            raise UserError(f"--video is {self.video}, expected a name that ends in .mp4")
        if self.sampled and self.greedy is not None:
            raise UserError("--sampled and --greedy exclude each other")


def with_greedy(checkpoint: dict[str, Any], greedy: str) -> dict[str, Any]:
    """The checkpoint with another rule for the agent's deterministic action.

    Raises:
        UserError: its policy is not auto-regressive.
    """
    if not agent_config(checkpoint).greedy_rules:
        raise UserError(f"--greedy: the policy of this {checkpoint['agent_name']} is not auto-regressive")
    return {**checkpoint, "agent_config": {**checkpoint.get("agent_config", {}), "greedy": greedy}}


def play(settings: Request) -> tuple[Evaluation, Table, float]:
    """Play the episodes. Returns how they ended, that as a table, and the frames per second of a film."""
    tune_cpu()
    suite_name = read_config(settings.run)["suite"]
    if suite_name not in SUITES:
        raise UserError(f"{settings.run}: no suite called {suite_name!r}; there are {', '.join(SUITES)}")
    suite = SUITES[suite_name]()
    checkpoint = read_run(settings.run, BEST_POLICY if settings.checkpoint == "best" else CHECKPOINT)
    if settings.greedy is not None:
        checkpoint = with_greedy(checkpoint, settings.greedy)
    name, asked = load_experiment(suite, settings.run)
    check_origin(checkpoint, settings.run, name, asked.task)
    for path in filter(None, (settings.output, settings.video)):
        check_writable(path)
    film = settings.video is not None
    experiment = complete(suite, dataclasses.replace(asked, video=film, device=settings.device))
    suite.prepare(experiment, checkpoint)
    torch.set_float32_matmul_precision(experiment.matmul_precision)
    device = torch.device(experiment.device)
    seed_global_generators(settings.seed)
    lanes = eval_lanes(settings.episodes, min(MOST_LANES, suite.lanes or MOST_LANES))
    with closing(suite.make(experiment.task, lanes, render=film)) as task:
        agent = load_agent(checkpoint, task.spaces, device)
        torch.manual_seed(settings.seed)  # only now: networks draw their first weights
        result = evaluate(
            agent,
            Scaling.of_checkpoint(checkpoint).wrap(task),
            episodes=settings.episodes,
            seed=settings.seed,
            device=device,
            record=film,
            deterministic=not settings.sampled,
        )
        frames_per_second = getattr(task, "render_fps", 30.0)
    table = summary(result, suite.score(experiment.task))
    config = agent_config(checkpoint)
    how = "sampled" if settings.sampled else config.greedy if config.greedy_rules else "deterministic"
    table.title = f"{name} on {experiment.task}, {settings.checkpoint} checkpoint"
    table.caption = f"episodes: {settings.episodes}, actions: {how}"
    return result, table, frames_per_second


def summary(result: Evaluation, score: Callable[[float], float] | None) -> Table:
    """The quantiles of what the episodes came to: a mean alone hides that some fail and others do not."""
    table = Table("")
    for name in ("mean", "std", *QUANTILES):
        table.add_column(name, justify="right", no_wrap=True)
    rows = {"return": result.returns, "steps": result.lengths.astype(np.float64)}
    if score is not None:
        rows["score"] = np.array([score(each) for each in result.returns])
    for name, values in rows.items():
        numbers = [values.mean(), values.std(), *np.quantile(values, list(QUANTILES.values()))]
        digits = 2 if np.abs(values).max() < SMALL else 1 if np.abs(values).max() < LARGE else 0
        table.add_row(name, *(f"{number:,.{digits}f}" for number in numbers))
    if not np.isnan(result.success).any():
        table.add_row("success", f"{result.success.mean():.2f}")
    return table


def as_csv(result: Evaluation) -> str:
    """A row per episode; success is empty where the task does not say."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["episode", "return", "steps", "success"])
    for index, row in enumerate(zip(result.returns, result.lengths, result.success, strict=True)):
        episode_return, length, success = row
        writer.writerow([index, f"{episode_return:.3f}", length, "" if np.isnan(success) else int(success)])
    return text.getvalue()


def main() -> int:
    """Play, write what was asked for, and print the table."""
    settings = parse_flags(Request, description=__doc__)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    result, table, frames_per_second = play(settings)
    Console().print(table)
    if settings.output is not None:
        atomic_write(settings.output, as_csv(result))
        print(f"written to {settings.output}")
    if settings.video is not None:
        write_video(settings.video, result.frames, fps=frames_per_second)
        print(f"written to {settings.video}")
    return 0


if __name__ == "__main__":
    run_main(main)
