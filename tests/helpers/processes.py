"""The processes that a test has started."""

import time
from pathlib import Path


def is_running(pid: int) -> bool:
    """Also False for a process that has ended and waits to be noticed."""
    deadline = time.monotonic() + 5  # what is killed needs a moment to go
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return False
        except OSError:
            return False
        time.sleep(0.05)
    return True


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid for child in map(int, children) for pid in (child, *descendants(child))]
