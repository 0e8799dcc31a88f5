"""A run's folder: where it lies, and what it says about how the run was started."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from rlzoo.errors import UserError
from rlzoo.run.files import atomic_write, cannot_write

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CONFIG_FILE = "config.yaml"
INFO_FILE = "run.json"
PROJECT = Path(__file__).resolve().parents[2]

_PACKAGES = ("rlzoo", "torch", "numpy", "gymnasium", "mujoco")
_T = TypeVar("_T")


def create_run_dir(root: Path, benchmark: str, task: str, agent: str, seed: int) -> Path:
    """Make and return a new folder ``<root>/<benchmark>/<task>/<agent>/s<seed>-<UTC time>/``.

    Never an existing one: runs started in the same second get ``-2``, ``-3``, … Folders inside it
    (``checkpoints/``, ``videos/``) come into being with their first file.

    Raises:
        UserError: the folder cannot be made.
    """
    parent = root / _safe_name(benchmark) / _safe_name(task) / _safe_name(agent)
    name = f"s{seed}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return _make_new_dir(parent, name)
    except OSError as error:
        raise cannot_write(parent / name, error) from error


@contextlib.contextmanager
def lock_run(run_dir: Path) -> Iterator[None]:
    """Keep every other process from training in this folder meanwhile.

    The lock is the operating system's: it goes with the process, however that ends. Where folders cannot be
    locked (Windows, some network file systems) there is none.

    Raises:
        UserError: another process has it, or there is no such folder.
    """
    try:
        descriptor = os.open(run_dir, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{run_dir} is not a run folder: {error.strerror}") from error
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{run_dir}: another process is training this run") from error
            except OSError:
                pass
        yield
    finally:
        os.close(descriptor)


def write_run_info(run_dir: Path, *, arguments: list[str], config: Mapping[str, Any], step: int = 0) -> None:
    """Write ``config.yaml`` and ``run.json``; call it at the start and again each time the run is resumed.

    ``run.json`` holds the command, time, commit, versions and hardware of the first start. Its ``sessions``
    has an entry for every start, the first included: time, environment step, command and commit, and the
    versions and hardware where they differ from the first start's.

    Args:
        run_dir: the run's folder.
        arguments: `sys.argv`, the script first.
        config: the whole configuration, in the order in which it should be read; see `plain`.
        step: environment steps done when this session starts.

    Raises:
        UserError: a file cannot be written. What cannot be found out is null instead.
    """
    atomic_write(run_dir / CONFIG_FILE, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))
    info = {
        "command": _command(arguments),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **describe_machine(),
    }
    run = _read_info(run_dir / INFO_FILE) or {**info, "sessions": []}
    changed = {key: info[key] for key in ("versions", "hardware") if info[key] != run.get(key)}
    session = {"started": info["started"], "step": step, "command": info["command"], "git": info["git"]}
    run["sessions"].append({**session, **changed})
    atomic_write(run_dir / INFO_FILE, json.dumps(run, indent=2, ensure_ascii=False) + "\n")


def describe_machine() -> dict[str, Any]:
    """``git``, ``versions`` and ``hardware``, as results are stated with them; None where unknown."""
    return {"git": _or_none(_git_state), "versions": _or_none(_versions), "hardware": _or_none(_hardware)}


def plain(value: Any) -> Any:
    """`value` in types that YAML and JSON know.

    Dataclasses and mappings become dicts, sequences and sets lists, arrays and tensors (nested) numbers, an
    enum member its name, and anything else (paths, devices) its text.
    """
    if isinstance(value, enum.Enum):
        return value.name
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, tensors
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    return [plain(item) for item in value] if isinstance(value, Iterable) else str(value)


def flatten_config(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """`config` with one entry per leaf, named as on the command line: ``{"agent.levels": 2}``.

    For `Logger.hparams`: lists become text, and entries that are None are left out.
    """
    flat: dict[str, bool | int | float | str] = {}
    for key, value in plain(config).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": item for name, item in flatten_config(value).items()}
        elif value is not None:
            flat[key] = str(value) if isinstance(value, list) else value
    return flat


def _safe_name(name: str) -> str:
    """`name` as the name of one folder: no separator, not hidden, not `..`."""
    return re.sub(r"[^\w.+=-]+", "-", name).lstrip(".-") or "unnamed"


def _make_new_dir(parent: Path, name: str) -> Path:
    suffix, number = "", 1
    while True:
        with contextlib.suppress(FileExistsError):
            (parent / (name + suffix)).mkdir()  # atomic: only one process can make it
            return parent / (name + suffix)
        number += 1
        suffix = f"-{number}"


def _read_info(path: Path) -> dict[str, Any] | None:
    """What `path` holds, or None where there is nothing usable: that must not stop a run from going on."""
    try:
        info = json.loads(path.read_text())
        return info if isinstance(info["sessions"], list) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _or_none(probe: Callable[[], _T]) -> _T | None:
    """What `probe` finds. No run may fail because its machine would not be described."""
    try:
        return probe()
    except Exception:
        return None


def _command(arguments: list[str]) -> str:
    script, *rest = arguments
    return shlex.join(["python", _relative_script(script), *rest])


def _relative_script(script: str) -> str:
    """The script's path as seen from the project: where that lies on this machine is nobody's business."""
    path = Path(script)
    if not path.is_absolute():
        return script
    for base in (PROJECT, Path.cwd()):
        if path.resolve().is_relative_to(base):
            return path.resolve().relative_to(base).as_posix()
    return path.name


def _git_state(package: Path = Path(__file__).parent) -> dict[str, Any]:
    """The commit of the code that runs, and whether the tree holds anything that the commit does not.

    Fails outside a checkout, without git, and where the package is not part of the checkout around it
    (installed into a virtual environment inside some other project).
    """
    _git(package, "ls-files", "--error-unmatch", "__init__.py")
    # Files that git does not know count too: a new agent's file decides what the run does.
    dirty = bool(_git(package, "status", "--porcelain"))
    return {"commit": _git(package, "rev-parse", "HEAD"), "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # leave the index alone: others may be committing
    command = ["git", "-C", str(folder), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10, env=environment)
    return result.stdout.strip()


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        versions[package] = _or_none(partial(importlib.metadata.version, package))
    return {**versions, "cuda": torch.version.cuda}


def _hardware() -> dict[str, Any]:
    return {
        "cpu": _or_none(_cpu_model),
        "cores": _or_none(_usable_cores) or os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": _or_none(lambda: _gib(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))),
        "gpus": _or_none(_gpus),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _usable_cores() -> int:
    """Those that this process may use; a scheduler often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def _cpu_model() -> str | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _gpus() -> list[dict[str, Any]]:
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [{"name": device.name, "memory_gib": _gib(device.total_memory)} for device in devices]


def _gib(size: int) -> float:
    return round(size / 2**30, 1)
