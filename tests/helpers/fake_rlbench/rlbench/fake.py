"""Failures on demand: tests write events.json beside the packages, a list of [place, number, what].

The number counts the calls of that place over all processes, from 1.
"""

import json
import os
import signal
import time
from pathlib import Path

from pyrep.errors import ConfigurationPathError, IKError

from rlbench.backend.exceptions import InvalidActionError, TaskEnvironmentError

ROOT = Path(__file__).parents[1]


def reach(place: str) -> str | None:
    """Count a call of `place` and fail if a test said so; returns what a test said otherwise."""
    counter = os.open(ROOT / f"{place}.count", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(counter, b".")
    # Where this very write ended: the file's size may include another process's by now.
    number = os.lseek(counter, 0, os.SEEK_CUR)
    os.close(counter)
    events = ROOT / "events.json"
    for at, when, what in json.loads(events.read_text()) if events.exists() else []:
        if at != place or when not in (number, "always"):
            continue
        if what == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif what == "hang":
            time.sleep(600)
        elif what == "exit":
            os._exit(3)
        elif what == "simulator error":
            raise RuntimeError("The call failed on the V-REP side. Return value: -1")
        elif what == "invalid":
            raise InvalidActionError("A path could not be found.")
        elif what == "inverse kinematics":
            raise IKError("IK failed. No solution found.")
        elif what == "no path":
            raise ConfigurationPathError("Could not create path.")
        elif what == "no place":
            raise TaskEnvironmentError("Could not place the task reach_target in the scene.")
        else:
            return what
    return None


def note(name: str, value: object) -> None:
    (ROOT / f"{name}.json").write_text(json.dumps(value))
