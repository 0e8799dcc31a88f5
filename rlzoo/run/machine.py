"""The machine a run is on: its description, its device, and how it hands out memory."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlzoo.errors import UserError

_PACKAGES = ("rlzoo", "numpy", "gymnasium", "mujoco")


def describe_machine() -> dict[str, Any]:
    """``git``, ``versions`` and ``hardware``, as results are stated with them; None where unknown."""
    return {"git": _or_none(_git_state), "versions": _or_none(_versions), "hardware": _or_none(_hardware)}


def resolve_device(name: str) -> torch.device:
    """The device called `name`: "cpu", "cuda", "cuda:1" …, or "auto" for the first GPU if there is one.

    If there is no such device here, the `UserError` says which there are.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = ["cpu", *(f"cuda:{index}" for index in range(count))]
    found = {"auto": devices[min(count, 1)], "cuda": "cuda:0"}.get(name, name)
    if found not in devices:
        build = " (this PyTorch is built without CUDA)" if torch.version.cuda is None else ""
        raise UserError(f"device {name!r} is not available; there are auto, {', '.join(devices)}{build}")
    return torch.device(found)


def tune_cpu() -> None:
    """Settings under which PyTorch computes faster on a CPU; call it before its first operation.

    - Numbers below a float's normal range, 1.2e-38, count as 0: a policy that has made up its mind leaves
      probabilities and gradients of that size, on which a processor works many times slower. The flag is each
      thread's own, and PyTorch's threads inherit it when they start.
    - glibc keeps the memory that PyTorch frees, instead of returning it to the system. An update asks for the
      same tensors over and over; returned and fetched anew, each comes back as hundreds of page faults: 470
      in an update of DSAC-T, a tenth of its time, and with images three quarters of the time in which bytes
      become floats. What is needed once, such as a dataset before it is in the buffer, `trim_memory` returns.
    """
    torch.set_flush_denormal(True)
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_max, 0)


def trim_memory() -> None:
    """Return to the system what is free: after something large that was needed once."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _or_none(probe: Callable[..., Any], *arguments: Any) -> Any:
    """What `probe` finds. No run may fail because its machine would not be described."""
    try:
        return probe(*arguments)
    except Exception:
        return None


def _git_state(package: Path = Path(__file__).parent) -> dict[str, Any]:
    """The commit of the code that runs, and whether the tree holds anything that the commit does not.

    Fails outside a checkout, without git, and where the package is not part of the checkout around it
    (installed into a virtual environment inside some other project).
    """

    def git(*command: str) -> str:
        line = ["git", "--no-optional-locks", *command]  # no locks: others may be committing
        return subprocess.check_output(line, cwd=package, text=True, timeout=10, stderr=subprocess.DEVNULL)

    git("ls-files", "--error-unmatch", "__init__.py")
    # Files that git does not know count too: a new agent's file decides what the run does.
    return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain"))}


def _versions() -> dict[str, str | None]:
    packages = {package: _or_none(importlib.metadata.version, package) for package in _PACKAGES}
    build = {"torch": str(torch.__version__), "cuda": torch.version.cuda}  # its metadata may lack the build
    return {"python": platform.python_version(), **packages, **build}


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    # The cores that this process may use; a scheduler often grants fewer than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _or_none(_cpu_model) or platform.processor() or None,
        "cores": cores,
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model() -> str:
    return Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].splitlines()[0]
