"""What every script needs around its work: flags, and errors as one line."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import select
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from rlzoo.errors import UserError
from rlzoo.run.files import is_full
from rlzoo.run.signals import write_stderr


def run_main(function: Callable[[], int | None]) -> None:
    """Run a script's main function and exit with the code it returns (None is 0).

    A `UserError`, running out of memory and an output on a full disk print one line and exit with 2, Ctrl-C
    exits with 130, and an output that nobody reads any more (``| head``) with 141, as a shell reports it.
    Every other exception is a bug and keeps its traceback.
    """
    code = 0
    try:
        code = function() or 0
        if sys.stdout is not None:  # it is where the command was started with it closed
            sys.stdout.flush()  # here, where a closed pipe can still be told from a bug
    except UserError as error:
        code = _fail(str(error))
    except KeyboardInterrupt:
        write_stderr("interrupted")
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        # Also what writing to a dead worker raises; that must not pass in silence.
        if not _output_is_closed():
            raise
        os._exit(128 + signal.SIGPIPE)  # `sys.exit` would flush what is left to print, and complain
    except OSError as error:
        if not is_full(error):
            raise
        failed = _fail(f"the output cannot be written: {error.strerror}")
        code = code or failed  # that of a run which a signal has stopped stays
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python would still try to write at its end
    except (MemoryError, RuntimeError) as error:
        # PyTorch has an exception of its own for a GPU, and only a message for the CPU.
        torch = sys.modules.get("torch")  # not imported for this: a command may not need it
        gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
        if not (gpu or isinstance(error, MemoryError) or "can't allocate memory" in str(error)):
            raise
        detail = f" ({str(error).splitlines()[0]})" if str(error) else ""
        where = "GPU memory" if gpu else "memory"
        code = _fail(f"out of {where}; a smaller batch, network or replay buffer needs less{detail}")
    sys.exit(code)


class EarlyParser(argparse.ArgumentParser):
    """Looks at the few flags that decide what the others are. A `UserError` for a value that is none."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Instead of printing the usage and exiting."""
        raise UserError(f"{message.removeprefix('argument ')} (--help shows every flag)")


def parse_flags(form: Any, **options: Any) -> Any:
    """`tyro.cli`, with one line where the flags are wrong instead of a box of twenty.

    In a `description`, every line that begins with "python" is shown as one of its own, an example to copy.
    Raises a `UserError` for an unknown flag, naming the nearest one, and for a value of the wrong type.
    """
    import tyro

    shown, helped = io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    if options.get("description"):  # tyro joins lines without an empty one between them
        options["description"] = re.sub(r"\n+(?=python )", "\n\n", options["description"])
    try:
        with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(helped):
            filled = tyro.cli(form, **options)
        sys.stderr.write(shown.getvalue())  # warnings
        return filled
    except SystemExit as stop:
        if not stop.code:  # after --help, in which an agent's own settings are to come first
            helped.seek(0)
            print(re.sub(r"(?s)(╭.*?)(╭─ agent options .*?╯\n)", r"\2\1", helped.read(), count=1), end="")
            raise
        raise UserError(_summary_of_box(shown.getvalue())) from None


def _summary_of_box(text: str) -> str:
    """What is wrong, and the flag that was perhaps meant, out of tyro's message."""
    lines = [line.strip("│╭╮╰╯─ \t") for line in text.splitlines() if not line.startswith("╭")]
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\n+", "\n".join(lines)) if part.strip()]
    what, *more = paragraphs or ["the flags are wrong"]
    near = re.search(r"(?:Perhaps you meant:|Argument helptext:) (--\S+)", " ".join(more))
    hint = f"; did you mean {near[1]}?" if near and "Unrecognized" in what else ""
    return f"{what}{hint} (--help shows every flag)"


def _fail(message: str) -> int:
    with contextlib.suppress(OSError):  # stderr may be closed
        print("error:", *message.splitlines(), file=sys.stderr, flush=True)
    return 2


def _output_is_closed() -> bool:
    """Whether what reads our standard output or standard error has gone."""
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
