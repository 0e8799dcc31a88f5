"""Signals: the first one lets a run end in order, the second ends it at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from types import FrameType
from typing import Any, NoReturn

from rlzoo.run.files import remove_unfinished

# What terminals and batch systems send: Ctrl-C, `kill`, a lost connection, and Slurm's and submitit's choice.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
GRACE = 1.5  # seconds that simulators are given after a signal, to finish the step under way
# `timeout`, `srun` and the like send one signal to a process and to its group: that is still the first.
SAME_SIGNAL = 0.1  # seconds


BEGINNING = 60.0  # seconds


def begin_limit(limit: float) -> float:
    """What simulators may take to be made anew, or to begin all episodes, where a step may take `limit`.

    Both are seconds, 0: any time. However short a step may be, this may take a minute.
    """
    return limit and max(limit, BEGINNING)


class CutShort(BaseException):
    """A wait for simulators was cut short.

    Not an `Exception`, of which a simulator's own code may catch all.
    """


class Stopped(CutShort):
    """It was a signal that cut the wait short."""


class TimedOut(CutShort):
    """There was no answer within the time limit."""


class StopSignal:
    """Turns the first of `SIGNALS` within the context into a request; the second ends the process at once.

    With `at_once` the first does too, until `defer` is called: before training there is nothing to save, and
    a download may take an hour.

    The loop looks at `requested` after each step, writes a checkpoint and leaves; the script then returns
    `exit_code`. No handler raises an exception but within `waiting`: in a callback of a library, as h5py has
    them, it would be swallowed. A SIGHUP that is ignored (nohup) stays so. Signals reach only the main thread
    of a program: in another this does nothing.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.requested: signal.Signals | None = None
        self._at_once = at_once
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}
        self._requested_at = 0.0
        self.waits, self.grace = False, GRACE  # within `waiting`, and what it grants then

    def defer(self) -> None:
        """From now on the first signal is a request."""
        self._at_once = False

    @property
    def is_entered(self) -> bool:
        """Whether signals come here."""
        return bool(self._previous)

    @property
    def exit_code(self) -> int:
        """0, or 128 plus the signal's number where one asked to stop, as a shell reports it."""
        return 128 + self.requested if self.requested else 0

    def check(self) -> None:
        """Raise `Stopped` once a stop has been requested."""
        if self.requested:
            raise Stopped

    def waiting(self, limit: float = 0.0, *, grace: float = GRACE) -> Waiting:
        """Wait for simulators in the body: for `limit` seconds (0: any time), and for `grace` after a signal.

        Raises:
            Stopped: a signal came, and the body has not ended in time.
            TimedOut: the body has not ended within `limit` seconds.
        """
        return Waiting(self, limit, grace)

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
            self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._cut_short)
        return self

    def __exit__(self, *error: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked process: it is needed for the checkpoint
            if number == signal.SIGTERM:  # with which `multiprocessing` ends it
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
        elif self._at_once:
            end_at_once(number)
        elif self.requested is None:
            self.requested, self._requested_at = signal.Signals(number), time.monotonic()
            write_stderr("stopping after this step; a checkpoint is written first (again to stop at once)")
            if self.waits:
                signal.setitimer(signal.ITIMER_REAL, self.grace)
        elif number != self.requested or time.monotonic() - self._requested_at > SAME_SIGNAL:
            end_at_once(number)

    def _cut_short(self, number: int, frame: FrameType | None) -> None:
        if self.waits:
            self.waits = False
            raise Stopped if self.requested else TimedOut


class Waiting:
    """What `StopSignal.waiting` returns; no generator, since every step of a run goes through it."""

    __slots__ = ("grace", "seconds", "stop")

    def __init__(self, stop: StopSignal, limit: float, grace: float) -> None:
        self.stop, self.seconds, self.grace = stop, limit, grace

    def __enter__(self) -> None:
        self.stop.grace = self.grace
        self.stop.waits = True
        if self.stop.requested:  # asked only now that a signal would set the timer itself
            self.seconds = self.grace
        if self.seconds and self.stop.is_entered:
            signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *error: object) -> None:
        self.stop.waits = False
        if (self.seconds or self.stop.requested) and self.stop.is_entered:
            signal.setitimer(signal.ITIMER_REAL, 0)


def end_at_once(number: int) -> NoReturn:
    """End this process for a signal, with its worker processes, one of which may hang.

    Not by an exception: there may be code on the stack that swallows it, or that waits for a worker.
    """
    write_stderr("interrupted")
    for process in multiprocessing.active_children():
        process.kill()
    remove_unfinished()
    with contextlib.suppress(Exception):  # the signal may have interrupted a `print`
        sys.stdout.flush()
    if os.isatty(1):
        os.write(1, b"\x1b[?25h")  # shows the cursor, which the live progress line hides
    os._exit(128 + number)


def write_stderr(message: str) -> None:
    """Write a line from a signal handler: `print` fails where the signal interrupted another `print`."""
    with contextlib.suppress(OSError):
        start = "\n" if os.isatty(2) else ""  # below the live progress line
        os.write(2, f"{start}{message}\n".encode())


# ---- Worker processes ------------------------------------------------------------------------------------


def worker_context(*preload: str) -> ForkServerContext:
    """What makes worker processes that no signal of `SIGNALS` ends: this process needs them for a checkpoint.

    They are forked by a server that has imported the modules `preload`, because forking a process that has
    threads and a CUDA context is unsafe. Each calls `leave_signals_to_parent` when it begins. On exit of this
    process `multiprocessing` ends them by SIGTERM, too: kill what may be left before.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *preload])
    # Blocked here, the signals are blocked in the server and in its children from their first instruction on.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # it unblocks two of them where it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    return context


def leave_signals_to_parent() -> None:
    """In a worker process: do nothing on any of `SIGNALS`, in a process group of its own.

    Handlers that do nothing, since a simulator's own programs would inherit signals that are ignored or
    blocked, and could not be ended with SIGTERM any more.
    """
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.setsid()
