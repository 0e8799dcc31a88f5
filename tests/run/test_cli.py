from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from rlzoo.errors import UserError
from rlzoo.run.cli import parse_flags, run_main
from rlzoo.run.folder import PROJECT


def raising(error: BaseException) -> Callable[[], int | None]:
    def function() -> int | None:
        raise error

    return function


def test_exit_code_is_what_the_function_returns() -> None:
    for returned, code in ((None, 0), (0, 0), (143, 143)):
        with pytest.raises(SystemExit) as stopped:
            run_main(lambda value=returned: value)  # type: ignore[misc]
        assert stopped.value.code == code


LESS = "a smaller batch, network or replay buffer needs less"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no task Hoper-v4;\ndid you mean it?"), 2, "error: no task Hoper-v4; did you mean it?"),
        (MemoryError(), 2, f"error: out of memory; {LESS}"),
        (torch.OutOfMemoryError("9 GiB.\nmore"), 2, f"error: out of GPU memory; {LESS} (9 GiB.)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_foreseen_errors_are_one_line(
    error: BaseException, code: int, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(raising(error))
    assert stopped.value.code == code
    assert capfd.readouterr().err == line + "\n"


def test_no_memory_for_a_cpu_tensor_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    def allocate() -> None:
        torch.empty(10**15)

    with pytest.raises(SystemExit) as stopped:
        run_main(allocate)
    assert stopped.value.code == 2
    assert capfd.readouterr().err.startswith("error: out of memory; ")


@pytest.mark.parametrize("error", [ValueError("bug"), RuntimeError("bug"), OSError("bug")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="bug"):
        run_main(raising(error))


def test_broken_pipe_to_a_worker_is_not_hidden() -> None:
    with pytest.raises(BrokenPipeError):
        run_main(raising(BrokenPipeError()))


def test_output_that_nobody_reads_any_more_ends_quietly() -> None:
    code = (
        "from rlzoo.run.cli import run_main\n"
        "run_main(lambda: [print('x' * 100, flush=True) for _ in range(10**5)] and None)"
    )
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=PROJECT
    )
    os.close(writer)
    os.read(reader, 10)
    os.close(reader)
    _, errors = process.communicate(timeout=60)
    assert errors == ""
    assert process.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_output_on_a_full_disk_is_one_line_and_a_closed_one_none() -> None:
    command = [sys.executable, "-c", "from rlzoo.run.cli import run_main; run_main(lambda: print('x'))"]
    with open("/dev/full", "w") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
    assert (run.returncode, run.stderr) == (
        2,
        "error: the output cannot be written: No space left on device\n",
    )
    with open("/dev/full", "w") as full:  # of a run that a signal has stopped
        stopped = [*command[:2], command[2].replace("print('x')", "print('x') or 138")]
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        run = subprocess.run(
            stopped, stdout=full, stderr=subprocess.PIPE, text=True, env=buffered, cwd=PROJECT
        )
    assert run.returncode == 138, run.stderr
    closed = ["bash", "-c", '"$@" >&-', "bash", *command]
    run = subprocess.run(closed, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
    assert (run.returncode, run.stderr) == (0, "")


@dataclass(frozen=True)
class Flags:
    """Flags of a script."""

    steps: int = 1
    """How long it goes on, in a sentence too long for one line of a terminal; it is wrapped once."""
    name: str | None = None
    # tyro takes a comment above a field for its help.
    other: float = 0.5


def test_help_is_wrapped_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        parse_flags(Flags, args=["--help"], description="What it does.\npython a.py\npython a.py --steps 2")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "\n\npython a.py\n\npython a.py --steps 2\n" in text
    column = [line.strip("│| \n") for line in text.rpartition("--steps INT")[2].splitlines()]
    end = next(index for index, line in enumerate(column) if "(default: 1)" in line)
    assert " ".join(column[: end + 1]) == (
        "How long it goes on, in a sentence too long for one line of a terminal; it is wrapped once. "
        "(default: 1)"
    )
    assert min(map(len, column[:end])) > 40


def test_flags_are_filled_in() -> None:
    assert parse_flags(Flags, args=["--steps", "3"], default=Flags(name="a")) == Flags(steps=3, name="a")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (
            ["--stepz", "3"],
            r"Unrecognized options: --stepz, 3; did you mean --steps\? \(--help shows every flag\)",
        ),
        (["--steps", "x"], r"Error parsing --steps: .*'x' \(--help shows every flag\)"),
    ],
)
def test_wrong_flags_are_one_line(args: list[str], line: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_flags(Flags, args=args)
    assert re.fullmatch(line, str(raised.value))
