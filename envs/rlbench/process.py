"""RLBench's simulator in a process of its own, so that a crash of CoppeliaSim costs an episode, not the run.

CoppeliaSim is a library inside the process that launches it: when it fails it ends that process, or hangs.
Here that is a child, which is asked over a pipe and replaced when it dies. Several run side by side.
"""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from multiprocessing import util
from multiprocessing.connection import Connection
from typing import Any

from envs.rlbench.simulator import InvalidAction, Simulator
from rlzoo.errors import UserError
from rlzoo.run.signals import leave_signals_to_parent, worker_context

# Seconds without an answer after which the simulator counts as hung. A step takes 0.1 s; a reset may try to
# place the task forty times, a demonstration plans up to ten times.
TIMEOUTS = {"launch": 180.0, "reset": 300.0, "step": 60.0, "demonstration": 900.0, "render": 60.0}


class SimulatorCrash(Exception):  # noqa: N818  (an outcome that callers handle)
    """The simulator died, hung or failed in a way that leaves its state unknown; its process has ended."""


class SimulatorProcess:
    """A `Simulator` behind a pipe. One request at a time: `send`, then `receive`.

    Attributes:
        task_state_dim: K, the length of the task's state; 0 unless it was asked for.
    """

    def __init__(self, task: str, **options: Any) -> None:
        """Launch a simulator with the arguments of `Simulator` and wait for it; raises as `receive`."""
        # Qt and OpenGL must not be forked from a process that has threads; the fork server has none.
        context = worker_context(__name__)
        self._pipe, theirs = context.Pipe()
        self._request = "launch"
        self._process = context.Process(target=_serve, args=(theirs, task, options), daemon=True)
        self._process.start()
        # Before `multiprocessing` waits for it on exit.
        util.Finalize(self, self._process.kill, exitpriority=10)
        theirs.close()  # so that the end of the child is the end of the pipe
        self.task_state_dim: int = self.receive()

    def send(self, request: str, *arguments: Any) -> None:
        """Ask for `request`, a method of `Simulator`, without waiting for its answer."""
        self._request = request
        with contextlib.suppress(OSError):  # `receive` notices that the child has died
            self._pipe.send((request, arguments))

    def receive(self) -> Any:
        """The answer to the last request.

        Raises:
            InvalidAction: RLBench refused the action; the simulator goes on.
            UserError: what was asked for cannot be (no such task, nothing installed); the process has ended.
            SimulatorCrash: anything else; the process has ended.
        """
        timeout = TIMEOUTS[self._request]
        try:
            if not self._pipe.poll(timeout):
                self._kill()
                raise SimulatorCrash(f"no answer to {self._request} within {timeout:.0f} s")
            kind, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(5.0)
            code = self._process.exitcode
            end = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
            self._kill()
            raise SimulatorCrash(f"its process ended in {self._request} ({end})") from error
        if kind == "answer":
            return answer
        if kind == "invalid":
            raise InvalidAction(answer)
        self._kill()
        raise UserError(answer) if kind == "user" else SimulatorCrash(f"{self._request} failed: {answer}")

    def ask(self, request: str, *arguments: Any) -> Any:
        """`send` and `receive`."""
        self.send(request, *arguments)
        return self.receive()

    def close(self) -> None:
        """Ask the simulator to end, and end it if it does not."""
        with contextlib.suppress(OSError):
            self._pipe.send(("close", ()))
        self._process.join(5.0)
        self._kill()

    def _kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, task: str, options: dict[str, Any]) -> None:
    """The child: make the simulator, answer requests until the pipe closes or something fails."""
    leave_signals_to_parent()
    try:
        simulator = Simulator(task, **options)
        pipe.send(("answer", simulator.task_state_dim))
        while True:
            request, arguments = pipe.recv()
            if request == "close":
                simulator.close()
                return
            try:
                pipe.send(("answer", getattr(simulator, request)(*arguments)))
            except InvalidAction as error:
                pipe.send(("invalid", str(error)))
    except (EOFError, BrokenPipeError):
        return  # the parent has gone
    except UserError as error:
        pipe.send(("user", str(error)))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        with contextlib.suppress(OSError):  # the parent has gone as well
            pipe.send(("failed", f"{what} ({os.path.basename(place.filename)}:{place.lineno})"))
