"""What every script needs around its work: errors as one line, signals that stop it in order, a device."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import torch
import tyro

from rlzoo.errors import UserError

_STOPPING = "stopping after this step; a checkpoint is written first (again to stop at once)"


def run_main(function: Callable[[], int | None]) -> None:
    """Run a script's main function and exit with the code it returns (None is 0).

    A `UserError` and running out of memory print one line and exit with 2, Ctrl-C exits with 130, and an
    output that nobody reads any more (``| head``) with 141, as a shell reports it. Every other exception is
    a bug and keeps its traceback.
    """
    try:
        code = function() or 0
        sys.stdout.flush()  # here, where a closed pipe can still be told from a bug
    except UserError as error:
        code = _fail(str(error))
    except KeyboardInterrupt:
        _write_stderr("interrupted")
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        # Also what writing to a dead worker raises; that must not pass in silence.
        if not _output_is_closed():
            raise
        code = _discard_output()
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        code = _fail(_memory_message(error))
    sys.exit(code)


def parse_flags(form: Any, **options: Any) -> Any:
    """`tyro.cli`, with one line where the flags are wrong instead of a box of twenty.

    Args:
        form: what to fill in, as for `tyro.cli`.
        options: likewise. In a `description` every line that begins with "python" is shown as a line of its
            own, an example to copy.

    Raises:
        UserError: an unknown flag, with the nearest one, or a value that is none.
    """
    shown = io.StringIO()
    if options.get("description"):  # tyro joins lines that no empty one parts
        options["description"] = re.sub(r"\n+(?=python )", "\n\n", options["description"])
    try:
        with contextlib.redirect_stderr(shown):
            filled = tyro.cli(form, **options)
        sys.stderr.write(shown.getvalue())  # warnings
        return filled
    except SystemExit as stop:
        if not stop.code:
            raise  # after --help
        raise UserError(_summary_of_box(shown.getvalue())) from None


def _summary_of_box(text: str) -> str:
    """What is wrong, and the flag that was perhaps meant, out of tyro's message."""
    lines = [line.strip("│╭╮╰╯─ \t") for line in text.splitlines() if not line.startswith("╭")]
    paragraphs = [" ".join(filter(None, part.split("\n"))) for part in re.split(r"\n\n+", "\n".join(lines))]
    what, *more = [" ".join(part.split()) for part in paragraphs if part.strip()] or ["the flags are wrong"]
    near = re.search(r"(?:Perhaps you meant:|Argument helptext:) (--\S+)", " ".join(more))
    hint = f"; did you mean {near[1]}?" if near and "Unrecognized" in what else ""
    return f"{what}{hint} (--help shows every flag)"


class StopSignal:
    """Turns the first SIGINT or SIGTERM within the context into a request; the second interrupts at once.

    With `at_once` the first does too, until `defer` is called: before training there is nothing to save, and
    a download may take an hour.

    The loop looks at `requested` after each step, writes a checkpoint and leaves; the script then returns
    `exit_code`. Signals reach only the main thread of a program: in another this does nothing.

    Worker processes must ignore SIGINT, as Ctrl-C reaches them as well and they are needed for the
    checkpoint. Those forked within the context do.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.requested: signal.Signals | None = None
        self._at_once = at_once
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}

    def defer(self) -> None:
        """From now on the first signal is a request."""
        self._at_once = False

    @property
    def exit_code(self) -> int:
        """0, or 128 plus the signal's number where one asked to stop, as a shell reports it."""
        return 128 + self.requested if self.requested else 0

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            # None: a handler that was not installed from Python and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            _handle_in_worker(number)
        elif self._at_once:
            _write_stderr("interrupted")
            sys.exit(128 + number)
        elif self.requested is not None:
            raise KeyboardInterrupt
        else:
            self.requested = signal.Signals(number)
            _write_stderr(_STOPPING)


def keep_freed_memory() -> None:
    """Let glibc keep the memory that PyTorch frees on the CPU, instead of returning it to the system.

    An update frees and asks for the same half-megabyte tensors over and over; returned and fetched anew, each
    comes back as hundreds of page faults (470 in an update of DSAC-T, a tenth of its time). Elsewhere than on
    glibc this does nothing.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, 512 * 2**20)
        libc.mallopt(mmap_threshold, 32 * 2**20)


def resolve_device(name: str) -> torch.device:
    """The device called `name`: "cpu", "cuda", "cuda:1" …, or "auto" for the first GPU if there is one.

    Raises:
        UserError: there is no such device here; the message says which there are.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    match = re.fullmatch(r"auto|cuda(?::(\d+))?", name)
    index = int(match[1] or 0) if match else gpus
    if index >= gpus:
        raise UserError(_no_device_message(name, gpus))
    return torch.device("cuda", index)


def _no_device_message(name: str, gpus: int) -> str:
    available = ", ".join(["auto", "cpu", *(f"cuda:{index}" for index in range(gpus))])
    build = " (this PyTorch is built without CUDA)" if torch.version.cuda is None else ""
    return f"device {name!r} is not available; there are {available}{build}"


def _fail(message: str) -> int:
    with contextlib.suppress(OSError):  # stderr may be closed
        print("error:", *message.splitlines(), file=sys.stderr, flush=True)
    return 2


def _output_is_closed() -> bool:
    """Whether what reads our standard output or standard error has gone."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # no file descriptor: not a pipe
            poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _discard_output() -> int:
    """Send what is still to be printed nowhere, or Python complains about it at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    return 128 + signal.SIGPIPE


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch has its own exception for a GPU, and for the CPU only a message."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _memory_message(error: Exception) -> str:
    where = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
    detail = str(error).partition("\n")[0]
    advice = "a smaller batch, network or replay buffer needs less"
    return f"out of {where}; {advice}" + (f" ({detail})" if detail else "")


def _handle_in_worker(number: int) -> None:
    """For a process forked within the context: Ctrl-C is its parent's affair, SIGTERM ends it as usual."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _write_stderr(message: str) -> None:
    """Not with `print`, which fails where the signal interrupted another `print`."""
    with contextlib.suppress(OSError):
        start = "\n" if os.isatty(2) else ""  # below the live progress line
        os.write(2, f"{start}{message}\n".encode())
