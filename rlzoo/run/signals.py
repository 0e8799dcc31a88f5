"""Signals: the first one lets a run end in order, the second ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any


class StopSignal:
    """Turns the first SIGINT or SIGTERM within the context into a request; the second interrupts at once.

    With `at_once` the first does too, until `defer` is called: before training there is nothing to save, and
    a download may take an hour.

    The loop looks at `requested` after each step, writes a checkpoint and leaves; the script then returns
    `exit_code`. Worker processes forked within the context ignore Ctrl-C, which reaches them too: they are
    needed for the checkpoint. Signals reach only the main thread of a program: in another this does nothing.
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

    def __exit__(self, *error: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked worker
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
        elif self._at_once:
            write_stderr("interrupted")
            sys.exit(128 + number)
        elif self.requested is not None:
            raise KeyboardInterrupt
        else:
            self.requested = signal.Signals(number)
            write_stderr("stopping after this step; a checkpoint is written first (again to stop at once)")


def write_stderr(message: str) -> None:
    """Write a line from a signal handler: `print` fails where the signal interrupted another `print`."""
    with contextlib.suppress(OSError):
        start = "\n" if os.isatty(2) else ""  # below the live progress line
        os.write(2, f"{start}{message}\n".encode())
