"""What a person sees of a run: a live line on a terminal, plain lines elsewhere, and a table at the end."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich import progress
from rich.console import Console
from rich.table import Column, Table

from rlzoo.run.files import is_full

REFRESH_PERIOD = 0.25  # seconds between two drawings of the live line, and two samples for the rates
LINE_PERIOD = 30.0  # seconds between two plain lines
MAX_TABLE_ROWS = 12
_EVALUATION = {"eval": "eval/return", "score": "eval/normalized_score", "success": "eval/success"}


class Progress:
    """Shows how far a run is, with its latest results and its speed.

    On a terminal this is one live line, cut to the terminal's width with the most important first; elsewhere
    (a file, a scheduler's log) a line at the start, at each evaluation and otherwise every 30 s. It is a
    context manager; nothing is shown before it is entered.
    """

    def __init__(
        self,
        total_steps: int,  # environment steps at the end of the run, offline updates included
        description: str,  # what is being trained, on what
        *,
        offline: int = 0,  # updates before the first environment step, which count as steps
        start_step: int = 0,  # what a resumed run has done already
        start_updates: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console()
        self._clock = clock
        self._is_live = self._console.file.isatty() and not self._console.is_dumb_terminal
        # One column for everything: of several, rich would narrow each.
        column = Column(no_wrap=True, overflow="ellipsis")
        self._bar = progress.Progress(
            progress.TextColumn("{task.fields[line]}", markup=False, table_column=column),
            console=self._console,
            auto_refresh=False,  # its thread would compete with the training, and must not be there at a fork
            speed_estimate_period=math.inf,  # rates are over the last 1,000 samples, about four minutes
            get_time=clock,
            disable=not self._is_live,
        )
        self._steps = self._bar.add_task(description, total=total_steps, completed=start_step, line="")
        self._updates = self._bar.add_task("updates", total=None, completed=start_updates, visible=False)
        self._offline = offline
        self._latest = (start_step, start_updates)
        self._values: dict[str, float] = {}
        self._next_sample, self._next_line = clock(), clock() + LINE_PERIOD

    def __enter__(self) -> Progress:
        self._bar.start()
        self._show()
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_live:
            self._show()
            self._bar.stop()

    def update(self, step: int, updates: int = 0, **values: float) -> None:
        """Tell how far the run is: environment steps, gradient updates, latest values by TensorBoard tag.

        Costs about a microsecond, as most calls only take note. Values may be 0-d tensors; few are ever read.
        """
        self._latest = (step, updates)
        if values:
            self._values.update(values)
        now = self._clock()
        if now >= self._next_sample:
            self._next_sample = now + REFRESH_PERIOD
            self._show(quiet=now < self._next_line)

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Show an evaluation's results (by TensorBoard tag) at once."""
        self._latest = (step, self._latest[1])
        self._values.update(values)
        self._show()

    def note(self, message: str) -> None:
        """Print a line that stays, above the live line if there is one."""
        if self._is_live:
            self._console.print(message, markup=False, highlight=False, soft_wrap=True)
        else:  # not through rich, which would wrap it at 80 columns
            try:
                print(message, file=self._console.file, flush=True)
            except OSError as error:
                if not is_full(error):  # under the output alone: no reason to end a run
                    raise

    def _show(self, *, quiet: bool = False) -> None:
        """Sample the speed, and draw the live line or, unless `quiet`, print a plain one."""
        self._bar.update(self._steps, completed=self._latest[0])
        self._bar.update(self._updates, completed=self._latest[1])
        if self._is_live:
            self._bar.update(self._steps, line=self._line(), refresh=True)
        elif not quiet:
            self._next_line = self._clock() + LINE_PERIOD
            self.note(self._line())

    def _line(self) -> str:
        """What there is to show, the most important first."""
        steps, updates = self._bar.tasks
        done, total, unit = int(steps.completed), int(steps.total or 0), "steps"
        # The last iteration steps every environment, and so may do a few more than were asked for.
        percentage = min(100, math.floor(steps.percentage))
        is_offline = done < self._offline or self._offline == total > 0
        if is_offline:
            total, unit = self._offline, "offline updates"
        else:
            done, total = done - self._offline, total - self._offline
        seconds = None if steps.time_remaining is None else max(0, steps.time_remaining)
        fields = [
            f"{steps.description}: {percentage}%",
            "" if seconds is None else f"left {_duration(seconds)}",
            *(self._value(label, tag) for label, tag in _EVALUATION.items()),
            f"{done:,}/{total:,} {unit}",
            "" if is_offline else _rate(steps.speed, "steps/s"),
            self._value("train", "train/episode_return"),
            _rate(updates.speed, "updates/s"),
            f"elapsed {_duration(round(steps.elapsed or 0))}",
        ]
        return "  ".join(filter(None, fields))

    def _value(self, label: str, tag: str) -> str:
        return f"{label} {_number(self._values[tag])}" if tag in self._values else ""


def evaluation_table(rows: Sequence[Mapping[str, float]], *, offline: int = 0) -> Table:
    """The evaluations of a run as a table of at most 12 rows, the first, the best and the last among them.

    None is marked as the best where all are equal, as where nothing has been learnt.

    Args:
        rows: each has ``step``, ``eval/return`` and ``eval/return_std``, and where known
            ``eval/normalized_score`` and ``eval/success``.
        offline: up to this one, steps are offline updates.
    """
    extra = {name: tag for name, tag in _EVALUATION.items() if name != "eval" and tag in rows[-1]}
    updates = sum(row["step"] <= offline for row in rows)
    unit = "step" if updates == 0 else "update" if updates == len(rows) else "update, then step"
    # Of the episodes, in one evaluation; how far seeds are apart is another question.
    title = "Evaluations (±: standard deviation over episodes)"
    table = Table(unit, "return", *extra, "", title=title)
    for column in table.columns:
        column.justify = "right"
    best = max(range(len(rows)), key=lambda index: rows[index]["eval/return"])
    differ = len({row["eval/return"] for row in rows}) > 1
    even = len(rows) if len(rows) <= MAX_TABLE_ROWS else MAX_TABLE_ROWS - 1
    for index in sorted({best, *np.linspace(0, len(rows) - 1, even).round().astype(int).tolist()}):
        row = rows[index]
        mean_and_std = f"{_number(row['eval/return'])} ± {_number(row['eval/return_std'])}"
        others = [_number(row.get(tag, math.nan)) for tag in extra.values()]
        note, style = ("best", "bold") if differ and index == best else ("", "")
        table.add_row(f"{int(row['step']):,}", mean_and_std, *others, note, style=style)
    return table


def tensorboard_hint(path: Path) -> str:
    """The command line that opens TensorBoard on `path`, as typed in the current folder.

    Names the `tensorboard` beside this Python unless that is the one a shell finds by itself.
    """
    own, found = Path(sys.executable).parent / "tensorboard", shutil.which("tensorboard")
    hidden = own.exists() and (found is None or not own.samefile(found))
    return shlex.join([os.path.relpath(own) if hidden else "tensorboard", "--logdir", os.path.relpath(path)])


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds, "27:05:00"; days would take more room than there is."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def _rate(speed: float | None, unit: str) -> str:
    return f"{speed:,.0f} {unit}" if speed and speed >= 10 else f"{speed:.2g} {unit}" if speed else ""
