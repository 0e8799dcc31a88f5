"""Play the agent of a run, or an exported one: how its episodes end, in one table, as a CSV file, as a film.

python experiments/evaluate.py RUN_DIR
python experiments/evaluate.py RUN_DIR --checkpoint best --episodes 100 --sampled
python experiments/evaluate.py RUN_DIR --output returns.csv --video first.mp4
"""

from __future__ import annotations

import csv
import dataclasses
import io
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any, Literal, cast

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from experiments.runner.experiment import complete, load_experiment, read_config
from experiments.runner.launch import check_origin
from experiments.suites import SUITES
from rlzoo.errors import UserError
from rlzoo.evaluate import Evaluation, evaluate
from rlzoo.policy import load_policy
from rlzoo.run.cli import parse_flags, run_main
from rlzoo.run.files import atomic_write, check_writable
from rlzoo.run.folder import EXPORT_FILE
from rlzoo.run.machine import resolve_device, tune_cpu
from rlzoo.run.progress import LINE_PERIOD
from rlzoo.run.video import write_video
from rlzoo.seeding import seed_global_generators
from rlzoo.settings import Count, Seed, Settings
from rlzoo.tracker import EpisodeTracker, FinishedEpisode
from rlzoo.types import Step, VectorTask

MOST_LANES = 100  # episodes played side by side; each has a simulator of its own
SMALL, LARGE = 10.0, 1000.0  # sizes below which the table has two decimals and one
QUANTILES = {"min": 0.0, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "max": 1.0}


@dataclasses.dataclass(frozen=True)
class Request(Settings):
    """What to play."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, or of what `rlzoo export` wrote."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Of a run: the agent as it was left, or at its best evaluation, which flatters where these are noisy."""
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


class Interrupted(BaseException):
    """A signal came while episodes were played; no failure of the environment that was at work."""


class Watched:
    """A `VectorTask` that is played: says on stderr how far that is, and keeps what has ended and was drawn.

    On a terminal this is one live line; elsewhere a line at the start and every 30 s. It is a context
    manager, within which the first SIGINT or SIGTERM raises `Interrupted`.
    """

    def __init__(self, task: VectorTask, episodes: int) -> None:
        self.task, self.episodes = task, episodes
        self.tracker = EpisodeTracker(task.num_envs)
        self.finished: list[list[FinishedEpisode]] = [[] for _ in range(task.num_envs)]  # by lane
        self.frames: list[Any] = []
        self.signal = 0  # the one that came
        self._steps, self._next_line = 0, 0.0
        self._previous: dict[signal.Signals, Any] = {}
        console = Console(stderr=True)
        self._status = console.status("") if console.is_terminal else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def __enter__(self) -> Watched:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._stop) for number in (SIGINT, SIGTERM)}
        if self._status is not None:
            self._status.start()
        self._show()
        return self

    def __exit__(self, *error: object) -> None:
        if self._status is not None:
            self._status.stop()
        self._restore()

    def receive(self) -> Step:
        """The task's, counted."""
        step: Step = self.task.receive()
        for episode in self.tracker.update(step):
            self.finished[episode.lane].append(episode)
        self._steps += 1
        self._show()
        return step

    def render(self) -> Any:
        """The task's, kept."""
        self.frames.append(self.task.render())
        return self.frames[-1]

    def evaluation(self) -> Evaluation:
        """The episodes that have ended, as `evaluate` counts them."""
        tells_success = self.tracker.tells_success
        return Evaluation.of(self.finished, self.episodes, self.frames, tells_success=tells_success)

    def _show(self) -> None:
        ended = [episode.episode_return for lane in self.finished for episode in lane]
        done = min(len(ended), self.episodes)
        text = f"{done}/{self.episodes} episodes have ended, after {self._steps:,} steps"
        text += f" of {self.task.num_envs} side by side"
        if ended:
            text += f"; mean return so far {np.mean(ended):,.1f}"
        if self._status is not None:
            self._status.update(text)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_PERIOD
            print(text, file=sys.stderr, flush=True)

    def _stop(self, number: int, frame: object) -> None:
        self._restore()  # a second signal ends the process
        self.signal = number
        raise Interrupted

    def _restore(self) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)


def play(settings: Request) -> tuple[Evaluation, Table, float, int]:
    """Play the episodes.

    Returns:
        How they ended, that as a table, the frames per second of a film, and the exit code: 0, or 128 + the
        signal that came before all had ended.
    """
    tune_cpu()
    exported = (settings.run / EXPORT_FILE).is_file()
    if exported and settings.checkpoint == "best":
        raise UserError(f"--checkpoint: {settings.run} is an export, of one policy alone")
    suite_name = read_config(settings.run, exported=exported)["suite"]
    if suite_name not in SUITES:
        raise UserError(f"{settings.run}: no suite called {suite_name!r}; there are {', '.join(SUITES)}")
    suite = SUITES[suite_name]()
    device = resolve_device(settings.device)
    policy = load_policy(
        settings.run,
        checkpoint=settings.checkpoint,
        greedy=settings.greedy,
        device=device,
        agents=suite.agents,
    )
    name, asked = load_experiment(suite, settings.run, exported=exported)
    check_origin(policy.about, settings.run, name, asked.task)
    for path in filter(None, (settings.output, settings.video)):
        check_writable(path)
    film = settings.video is not None
    asked = dataclasses.replace(asked, video=film, device=settings.device, track="none")
    experiment = complete(suite, asked)
    suite.prepare(experiment, policy.about)
    torch.set_float32_matmul_precision(experiment.matmul_precision)
    seed_global_generators(settings.seed)
    lanes = min(settings.episodes, suite.lanes or MOST_LANES, MOST_LANES)
    with closing(suite.make(experiment.task, lanes, render=film)) as task:
        watched = Watched(task, settings.episodes)
        policy.check_fits(task.spaces, suite.interface(experiment.task, task))
        torch.manual_seed(settings.seed)  # only now: networks draw their first weights
        try:
            with watched:
                result = evaluate(
                    policy.agent,
                    policy.scaling.wrap(cast(VectorTask, watched)),
                    episodes=settings.episodes,
                    seed=settings.seed,
                    device=device,
                    record=film,
                    deterministic=not settings.sampled,
                )
        except Interrupted:
            if not any(watched.finished):
                raise KeyboardInterrupt from None
            result = watched.evaluation()
        frames_per_second = getattr(task, "render_fps", 30.0)
    table = summary(result, suite.score(experiment.task))
    how = "sampled" if settings.sampled else policy.rule
    table.title = f"{name} on {experiment.task}, after step {policy.about['step']:,}"
    table.caption = f"episodes: {len(result.returns)}, actions: {how}"
    if watched.signal:
        table.caption += (
            f"; interrupted: those of {settings.episodes} that had ended, so the short ones first"
        )
    return result, table, frames_per_second, 128 + watched.signal if watched.signal else 0


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
    result, table, frames_per_second, code = play(settings)
    Console().print(table)
    if settings.output is not None:
        atomic_write(settings.output, as_csv(result))
        print(f"written to {settings.output}")
    if settings.video is not None:
        write_video(settings.video, result.frames, fps=frames_per_second)
        print(f"written to {settings.video}")
    return code


if __name__ == "__main__":
    run_main(main)
