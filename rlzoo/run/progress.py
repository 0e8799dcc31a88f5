"""What a person sees of a run: a live line on a terminal, plain lines elsewhere, and a table at the end."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

REFRESH_PERIOD = 0.25  # seconds between two drawings of the live line, and two samples for the rates
LINE_PERIOD = 30.0  # seconds between two plain lines
RATE_WINDOW = 60.0  # seconds over which steps/s and updates/s are measured
MAX_TABLE_ROWS = 12


class _Sample(NamedTuple):
    time: float  # seconds on the clock
    step: int
    updates: int


class Progress:
    """Shows how far a run is, with its latest results and its speed.

    On a terminal this is one live line, cut to the terminal's width with the most important first; elsewhere
    (a file, a scheduler's log) a line at the start, at each evaluation and otherwise every 30 s. Use it as a
    context manager::

        with Progress(total_steps, "dsac_t on Hopper-v4") as progress:
            progress.update(step, updates=updates, **{"train/episode_return": 12.0})
            progress.evaluation(step, {"eval/return": 15.0})
    """

    def __init__(
        self,
        total_steps: int,
        description: str,
        *,
        start_step: int = 0,
        start_updates: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the display; nothing is shown before the context is entered.

        Args:
            total_steps: environment steps at the end of the run.
            description: what is being trained, on what.
            start_step: environment steps done already; not 0 for a resumed run.
            start_updates: gradient updates done already.
            console: where to write; standard output by default.
            clock: seconds, from anywhere on.
        """
        self._total_steps = total_steps
        self._description = description
        self._console = console or Console()
        self._clock = clock
        self._step, self._updates = start_step, start_updates
        self._values: dict[str, float] = {}
        self._samples: deque[_Sample] = deque()
        self._live: Live | None = None
        self._start_time = self._next_refresh = self._next_line = clock()
        self._line_step = start_step

    def __enter__(self) -> Progress:
        self._start_time = self._clock()
        self._next_line = self._start_time + LINE_PERIOD
        self._take_sample(self._start_time)
        if self._console.file.isatty() and not self._console.is_dumb_terminal:
            # No refreshing thread: it would compete with the training, and must not be there at a fork.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
            self._draw()
        else:
            self._print(f"{self._description}: at {self._step:,} of {self._total_steps:,} steps")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None
        elif self._step != self._line_step and kind is None:
            self._print_line()

    def update(self, step: int, updates: int = 0, **values: float) -> None:
        """Tell how far the run is. Costs about a microsecond, as most calls only take note.

        Args:
            step: environment steps done.
            updates: gradient updates done.
            **values: latest values by TensorBoard tag (floats or 0-d tensors, read when they are shown).
        """
        self._step, self._updates = step, updates
        if values:
            self._values.update(values)
        now = self._clock()
        if now >= self._next_refresh:
            self._refresh(now)

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Show an evaluation's results (by TensorBoard tag) at once."""
        self._step = step
        self._values.update(values)
        self._take_sample(self._clock())
        if self._live is not None:
            self._draw()
        else:
            self._print_line()

    def note(self, message: str) -> None:
        """Print a line that stays, above the live line if there is one."""
        if self._live is not None:
            self._console.print(message, markup=False, highlight=False, soft_wrap=True)
        else:
            self._print(message)

    def _refresh(self, now: float) -> None:
        self._take_sample(now)
        if self._live is not None:
            self._draw()
        elif now >= self._next_line:
            self._print_line()

    def _take_sample(self, now: float) -> None:
        """Note where the run is, and forget what is older than the window the rates are measured over."""
        self._next_refresh = now + REFRESH_PERIOD
        self._samples.append(_Sample(now, self._step, self._updates))
        while len(self._samples) > 2 and self._samples[1].time <= now - RATE_WINDOW:
            self._samples.popleft()

    def _draw(self) -> None:
        assert self._live is not None
        line = _fit([self._description, *self._fields()], self._console.width)
        self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

    def _print_line(self) -> None:
        self._next_line = self._clock() + LINE_PERIOD
        self._line_step = self._step
        self._print(f"{self._description}: " + "  ".join(self._fields()))

    def _print(self, line: str) -> None:
        # Not through rich, which would wrap it at 80 columns.
        print(line, file=self._console.file, flush=True)

    def _fields(self) -> list[str]:
        """What there is to show, the most important first."""
        steps_per_s, updates_per_s = self._rates()
        elapsed = self._clock() - self._start_time
        fields = [
            f"{math.floor(100 * self._step / max(self._total_steps, 1))}%",
            f"{self._step:,}/{self._total_steps:,} steps",
            self._value("eval", "eval/return"),
            self._value("score", "eval/normalized_score"),
            self._value("success", "eval/success"),
            f"left {_duration((self._total_steps - self._step) / steps_per_s)}" if steps_per_s > 0 else "",
            f"{_rate(steps_per_s)} steps/s" if steps_per_s > 0 else "",
            self._value("train", "train/episode_return"),
            f"{_rate(updates_per_s)} updates/s" if updates_per_s > 0 else "",
            f"elapsed {_duration(elapsed)}",
        ]
        return [field for field in fields if field]

    def _value(self, label: str, tag: str) -> str:
        value = float(self._values.get(tag, math.nan))
        return "" if math.isnan(value) else f"{label} {_number(value)}"

    def _rates(self) -> tuple[float, float]:
        """Environment steps and updates per second of the recent past; 0 where not known yet."""
        first, last = self._samples[0], self._samples[-1]
        seconds = last.time - first.time
        if seconds <= 0:
            return 0.0, 0.0
        return (last.step - first.step) / seconds, (last.updates - first.updates) / seconds


def evaluation_table(rows: Sequence[Mapping[str, float]]) -> Table:
    """The evaluations of a run as a table of at most 12 rows, the best and the last among them.

    Args:
        rows: in the order of the run, each with ``step`` (environment steps) and ``eval/return``, and where
            known ``eval/return_std``, ``eval/normalized_score`` and ``eval/success``.
    """
    extra = {"score": "eval/normalized_score", "success": "eval/success"}
    extra = {name: tag for name, tag in extra.items() if any(_known(row, tag) for row in rows)}
    best = _best_row(rows)
    table = Table(title="Evaluations")
    for name in ("step", "return", *extra, ""):
        table.add_column(name, justify="right")
    for index in _thinned(len(rows), best):
        row = rows[index]
        cells = [f"{int(row['step']):,}", _mean_and_std(row)]
        cells += [_number(row[tag]) if _known(row, tag) else "" for tag in extra.values()]
        table.add_row(*cells, "best" if index == best else "", style="bold" if index == best else "")
    return table


def tensorboard_hint(path: Path) -> str:
    """The command line that opens TensorBoard on `path`, as typed in the current folder.

    Names the `tensorboard` beside this Python unless that is the one a shell finds by itself.
    """
    own = Path(sys.executable).parent / "tensorboard"
    found = shutil.which("tensorboard")
    if own.exists() and (found is None or not own.samefile(found)):
        return shlex.join([os.path.relpath(own), "--logdir", os.path.relpath(path)])
    return shlex.join(["tensorboard", "--logdir", os.path.relpath(path)])


def _fit(fields: list[str], width: int) -> str:
    """As many of the first fields as fit into `width` columns (the first in any case)."""
    line = fields[0]
    for field in fields[1:]:
        if len(line) + 2 + len(field) > width:
            break
        line += "  " + field
    return line


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"


def _known(row: Mapping[str, float], tag: str) -> bool:
    return not math.isnan(row.get(tag, math.nan))


def _mean_and_std(row: Mapping[str, float]) -> str:
    mean = _number(row["eval/return"])
    return f"{mean} ± {_number(row['eval/return_std'])}" if _known(row, "eval/return_std") else mean


def _best_row(rows: Sequence[Mapping[str, float]]) -> int | None:
    """The index of the first row with the highest return; None without any."""
    known = [index for index, row in enumerate(rows) if _known(row, "eval/return")]
    return max(known, key=lambda index: rows[index]["eval/return"], default=None)


def _thinned(count: int, best: int | None) -> list[int]:
    """At most `MAX_TABLE_ROWS` of `count` indices: evenly spaced from first to last, and `best`."""
    if count <= MAX_TABLE_ROWS:
        return list(range(count))
    gaps = MAX_TABLE_ROWS - 2
    kept = {round(index * (count - 1) / gaps) for index in range(gaps + 1)}
    return sorted(kept if best is None else kept | {best})
