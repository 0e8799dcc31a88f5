from __future__ import annotations

import io
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from rlzoo.run.progress import Progress, evaluation_table, tensorboard_hint


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def plain(total: int = 1000, **options: int) -> tuple[Progress, io.StringIO, Clock]:
    output, clock = io.StringIO(), Clock()
    return Progress(total, "arsq", console=Console(file=output), clock=clock, **options), output, clock


def live(width: int) -> tuple[Progress, Terminal, Clock]:
    output, clock = Terminal(), Clock()
    console = Console(file=output, force_terminal=True, width=width, _environ={"TERM": "xterm"})
    return Progress(1000, "arsq", console=console, clock=clock), output, clock


def visible_lines(output: io.StringIO) -> list[str]:
    """What was drawn, one item for each drawing of the live line, without control sequences."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue())
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def table_text(rows: list[Mapping[str, float]]) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(evaluation_table(rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_lines_at_the_start_and_every_30_s() -> None:
    progress, output, clock = plain()
    with progress:
        for step in range(1, 91):  # one step a second
            clock.now += 1
            progress.update(step, updates=2 * step)
    start, *others = output.getvalue().splitlines()
    assert start == "arsq: 0%  0/1,000 steps  elapsed 0:00:00"
    assert [line.split("  ")[2] for line in others] == [f"{step}/1,000 steps" for step in (30, 60, 90)]
    assert others[1] == "arsq: 6%  left 0:15:40  60/1,000 steps  1 steps/s  2 updates/s  elapsed 0:01:00"


def test_plain_line_at_each_evaluation_carries_its_numbers() -> None:
    progress, output, clock = plain()
    with progress:
        for step in (250, 500):
            clock.now += 1
            progress.update(step, **{"train/episode_return": 12.345})
        clock.now += 600  # the evaluation takes its time, and the speed before it is not forgotten
        progress.evaluation(500, {"eval/return": 3214.55, "eval/normalized_score": 98.76})
    (line,) = output.getvalue().splitlines()[1:]
    assert "50%  left 0:00:02  eval 3,214.6  score 98.8  500/1,000 steps  250 steps/s  train 12.3" in line
    assert "success" not in line


def test_rates_are_of_the_recent_past() -> None:
    progress, output, clock = plain(total=10**6)
    with progress:
        step = 0
        for speed in (10, 100):  # slow for five minutes, then fast
            for _ in range(4 * 300):
                clock.now += 0.25
                step += speed
                progress.update(step)
        progress.evaluation(step, {})
    last = output.getvalue().splitlines()[-1]
    assert "left 0:36:10  132,000/1,000,000 steps  400 steps/s" in last  # 868,000 steps are left


def test_resumed_run_counts_from_its_step() -> None:
    progress, output, clock = plain(start_step=900, start_updates=500)
    with progress:
        for second in range(1, 11):
            clock.now += 1
            progress.update(900 + 5 * second, updates=500 + 2 * second)
        progress.evaluation(950, {})
    lines = output.getvalue().splitlines()
    assert lines[0] == "arsq: 90%  900/1,000 steps  elapsed 0:00:00"
    assert "95%  left 0:00:10  950/1,000 steps  5 steps/s  2 updates/s" in lines[1]


def test_percentage_is_100_at_the_end_only() -> None:
    progress, output, _ = plain()
    with progress:
        for step in (999, 1000, 1019):  # 20 environments are all stepped once more
            progress.evaluation(step, {})
    shown = [re.findall(r"\d+%", line) for line in output.getvalue().splitlines()[1:]]
    assert shown == [["99%"], ["100%"], ["100%"]]
    assert "1,019/1,000 steps" in output.getvalue()


def test_no_time_is_left_once_the_steps_are_done() -> None:
    progress, output, clock = plain()
    with progress:
        for step in (500, 1000, 33000):
            clock.now += 30
            progress.update(step)
    assert output.getvalue().splitlines()[-1].startswith("arsq: 100%  left 0:00:00  33,000/1,000 steps")


def test_offline_updates_are_not_called_steps() -> None:
    progress, output, clock = plain(offline=400)
    with progress:
        for second in range(1, 9):
            clock.now += 15
            progress.update(100 * second, updates=min(100 * second, 400))
    lines = output.getvalue().splitlines()
    assert lines[0] == "arsq: 0%  0/400 offline updates  elapsed 0:00:00"
    assert re.match("arsq: 20%  left [0-9:]{7}  200/400 offline updates  [67.]+ updates/s  elap", lines[1])
    assert re.match("arsq: 40%  left [0-9:]{7}  0/600 steps  [67.]+ steps/s", lines[2])
    assert re.match("arsq: 60%  left [0-9:]{7}  200/600 steps  [67.]+ steps/s", lines[3])
    progress, output, _ = plain(offline=1000)
    with progress:
        progress.evaluation(1000, {})
    assert output.getvalue().splitlines()[-1].startswith("arsq: 100%  left 0:00:00  1,000/1,000 offline")


@pytest.mark.parametrize("task", ["hopper-medium-expert-v2", "antmaze-medium-diverse-v1"])
def test_the_time_left_and_the_scores_fit_into_80_columns(task: str) -> None:
    output, clock = Terminal(), Clock()
    console = Console(file=output, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    values = {"eval/return": 3214.55, "eval/normalized_score": 98.76}
    with Progress(1_000_000, f"arsq on {task}", console=console, clock=clock) as progress:
        for step in range(0, 2000, 10):
            clock.now += 1
            progress.update(step, updates=step)
        progress.evaluation(2000, values)
    assert "left 27:34:59  eval 3,214.6  score 98.8" in visible_lines(output)[-1]


def test_note_between_plain_lines() -> None:
    progress, output, _ = plain()
    with progress:
        progress.note("checkpoint [red] written " + 100 * "x")
    assert output.getvalue().splitlines()[1] == "checkpoint [red] written " + 100 * "x"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_the_output_ends_no_run() -> None:
    progress = Progress(10, "arsq", console=Console(file=open("/dev/full", "w")))  # noqa: SIM115
    with progress:
        progress.note("lost")


def test_live_line_is_redrawn_and_fits_the_terminal() -> None:
    progress, output, clock = live(width=60)
    with progress:
        for step in range(1, 11):
            clock.now += 1
            progress.update(step, updates=step, **{"eval/return": 5.0, "train/episode_return": 4.0})
    lines = visible_lines(output)
    assert any("left 0:16:30  eval 5  10/1,000 steps" in line for line in lines)
    assert max(map(len, lines)) == 60
    assert lines[-1].endswith("…")
    assert "\r" in output.getvalue()


def test_live_line_is_drawn_four_times_a_second_at_most() -> None:
    threads = threading.active_count()
    progress, output, clock = live(width=80)
    with progress:
        for step in range(1000):
            clock.now += 0.001
            progress.update(step)
        assert threading.active_count() == threads  # none draws by itself
    assert len(visible_lines(output)) <= 7  # the first, 4 in that second, the last twice


def test_note_stays_above_the_live_line() -> None:
    progress, output, _ = live(width=40)
    with progress:
        progress.note("a [red] checkpoint is written")
    assert "a [red] checkpoint is written" in visible_lines(output)
    assert visible_lines(output)[-1].startswith("arsq")


def test_update_costs_microseconds() -> None:
    progress = Progress(10**9, "arsq", console=Console(file=io.StringIO()))
    with progress:
        times = []
        for step in range(5000):
            start = time.perf_counter()
            progress.update(step, updates=step, **{"train/episode_return": 1.0})
            times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 2] < 20e-6  # about 1e-6; a busy machine is slower


def row(step: int, value: float, **extra: float) -> dict[str, float]:
    return {"step": step, "eval/return": value, "eval/return_std": 2.5, **extra}


def test_table_has_the_known_columns_only() -> None:
    text = table_text([row(1000, 10.0), row(2000, 8.0)])
    assert re.search(r"1,000 │ +10 ± 2.5 │ best", text)
    assert re.search(r"2,000 │ +8 ± 2.5 │ +│", text)
    assert "score" not in text
    assert "success" not in text
    with_score = table_text([row(1000, 10.0, **{"eval/normalized_score": 50.0, "eval/success": 0.25})])
    assert re.search(r"10 ± 2.5 │ +50 │ +0.25 │", with_score)


@pytest.mark.parametrize("best", [0, 1, 50, 98, 99])
@pytest.mark.parametrize("count", [1, 12, 13, 14, 100])
def test_table_is_thinned_but_has_first_best_and_last(count: int, best: int) -> None:
    best = min(best, count - 1)
    text = table_text([row(step, float(step == best)) for step in range(count)])
    steps = [int(step) for step in re.findall(r"│ +(\d+) │ +\d ±", text)]
    assert len(steps) == count if count <= 12 else len(steps) in (11, 12)
    assert {0, best, count - 1} <= set(steps)
    assert steps == sorted(set(steps))
    assert text.count("best") == (count > 1)


@pytest.mark.parametrize("value", [0.0, -1000.0])
def test_no_evaluation_is_the_best_where_nothing_was_learnt(value: float) -> None:
    assert "best" not in table_text([row(step, value) for step in (100, 200, 300)])
    assert "best" not in table_text([row(100, value)])
    assert "best" in table_text([row(100, value), row(200, value + 0.5)])


def test_table_says_what_it_counts_and_what_the_deviation_is_of() -> None:
    rows = [row(100, 1.0), row(200, 2.0), row(300, 3.0)]
    for offline, unit in ((0, " step "), (200, "update, then step"), (300, " update ")):
        console = Console(file=io.StringIO(), width=80)
        console.print(evaluation_table(rows, offline=offline))
        assert isinstance(console.file, io.StringIO)
        assert unit in console.file.getvalue()
        assert "±: standard deviation over episodes" in " ".join(console.file.getvalue().split())


def test_tensorboard_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_dir = tmp_path / ".venv" / "bin"
    bin_dir.mkdir(parents=True)
    (bin_dir / "tensorboard").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(bin_dir / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    runs = tmp_path / "results" / "my runs"
    assert tensorboard_hint(runs) == ".venv/bin/tensorboard --logdir 'results/my runs'"
    monkeypatch.setenv("PATH", str(bin_dir))
    assert tensorboard_hint(Path("results")) == "tensorboard --logdir results"
