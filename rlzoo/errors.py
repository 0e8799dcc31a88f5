"""The one exception that a script shows to its user as a single line."""

from __future__ import annotations


class UserError(Exception):
    """Something the person at the keyboard can put right: a wrong task, a corrupt file, a full disk.

    The message is one complete line that names the thing, what is wrong with it and what was expected.
    Scripts print it without a traceback and exit with a non-zero code (see `rlzoo.run.cli.run_main`).
    """


class SimulatorFailure(UserError):  # noqa: N818  (an outcome that training handles)
    """A simulator raised an exception, or its process ended; nothing is known of its state any more.

    The message is the cause, with the place in its code. Training goes on with new simulators (see
    `rlzoo.train.Trainer`).
    """


def one_line(error: BaseException) -> str:
    """What an exception says, in one line of at most 300 characters; its type where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__
