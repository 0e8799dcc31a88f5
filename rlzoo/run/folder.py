"""A run's folder: where it lies, and what it says about how the run was started."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import to_jsonable_python

from rlzoo.errors import UserError
from rlzoo.run.files import atomic_write, errors_named
from rlzoo.run.machine import describe_machine

CONFIG_FILE = "config.yaml"
EXPORT_FILE = "config.json"  # of an exported policy: what of its run is needed to play it
INFO_FILE = "run.json"
ABOUT = ("name", "tags", "notes")  # the settings that only say what a run is
METRICS_FILE = "metrics.csv"
PROJECT = Path(__file__).resolve().parents[2]


def create_run_dir(
    root: Path, benchmark: str, task: str, agent: str, seed: int, name: str | None = None
) -> Path:
    """Make and return a new folder ``<root>/<benchmark>/<task>/<agent>/s<seed>-<UTC time>[-<name>]/``.

    Never an existing one: runs started in the same second get ``-2``, ``-3``, … Raises a `UserError` if the
    folder cannot be made.
    """
    # No separator in the name of a folder, and none that is hidden or `..`.
    parts = (benchmark, task, agent, *([name] if name else []))
    names = [re.sub(r"[^\w.+=-]+", "-", part).lstrip(".-") or "unnamed" for part in parts]
    start = "-".join([f"s{seed}-{datetime.now(UTC):%Y%m%d-%H%M%S}", *names[3:]])
    number = 1
    while True:
        run_dir = root.joinpath(*names[:3], start if number == 1 else f"{start}-{number}")
        with errors_named(run_dir), contextlib.suppress(FileExistsError):
            run_dir.mkdir(parents=True)  # atomic: only one process can make it
            return run_dir
        number += 1


@contextlib.contextmanager
def lock_run(run_dir: Path) -> Iterator[int]:
    """Keep every other process from training in this folder meanwhile; for `place_of`, a descriptor of it.

    The lock is the operating system's: it goes with the process, however that ends. Raises a `UserError` if
    another process has it, or there is no such folder.
    """
    try:
        descriptor = os.open(run_dir, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{run_dir} is not a run folder: {error.strerror}") from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{run_dir}: another process is training this run") from error
        except OSError:  # a file system without locks, as some network ones are
            pass
        yield descriptor


def place_of(descriptor: int) -> Path | None:
    """Where an open folder lies by now; None where it was removed, or this is not Linux."""
    try:
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:
        return None
    return place if place.is_dir() else None


def last_step(run_dir: Path) -> int:
    """The last step in a run's ``metrics.csv``; 0 where there is none."""
    try:
        lines = (run_dir / METRICS_FILE).read_text(errors="replace").splitlines()
    except OSError:
        return 0
    starts = [line.partition(",")[0] for line in lines]
    return max((int(start) for start in starts if re.fullmatch("[0-9]{1,18}", start)), default=0)


def write_run_info(
    run_dir: Path,
    *,
    arguments: list[str],
    config: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    step: int = 0,
) -> None:
    """Write ``config.yaml`` and ``run.json``; call it at the start and again each time the run is resumed.

    ``run.json`` holds the command (`arguments` are `sys.argv`), time, commit, versions and hardware of the
    first start, the run's name, tags and notes as `config` has them, and which recorded `data` it learns
    from. Its ``sessions`` has an entry for every start, the first included: time, environment step, command
    and commit, and the versions and hardware where they differ from the first start's. What cannot be found
    out is null. ``finished``, the time at which `finish_run_info` was called, is taken away.
    """
    atomic_write(run_dir / CONFIG_FILE, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))
    script = Path(arguments[0])
    if script.is_absolute():  # where the project lies on this machine is nobody's business
        script = script.relative_to(PROJECT) if script.is_relative_to(PROJECT) else Path(script.name)
    called = ["python", script.as_posix()] if script.suffix == ".py" else [script.name]  # `rlzoo`
    info = {
        "command": shlex.join([*called, *arguments[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **describe_machine(),
    }
    run = _read_info(run_dir / INFO_FILE) or {**info, "sessions": []}
    run |= {key: plain(config[key]) for key in ABOUT if config.get(key)}
    run |= {"data": plain(data)} if data else {}
    changed = {key: info[key] for key in ("versions", "hardware") if info[key] != run.get(key)}
    session = {"started": info["started"], "step": step, "command": info["command"], "git": info["git"]}
    run["sessions"].append({**session, **changed})
    run.pop("finished", None)
    _write_info(run_dir, run)


def finish_run_info(run_dir: Path) -> None:
    """Note in ``run.json`` that the run has come to its end."""
    run = _read_info(run_dir / INFO_FILE) or {"sessions": []}
    _write_info(run_dir, {**run, "finished": datetime.now(UTC).isoformat(timespec="seconds")})


def is_finished(run_dir: Path) -> bool:
    """Whether the run in this folder has come to its end; False where there is none."""
    return "finished" in (_read_info(run_dir / INFO_FILE) or {})


def plain(value: Any) -> Any:
    """`value` in types that YAML and JSON know.

    Dataclasses and mappings become dicts, sequences and sets lists, arrays and tensors (nested) numbers, and
    anything else (paths, devices) its text.
    """
    return to_jsonable_python(
        value, fallback=lambda other: getattr(other, "tolist", other.__str__)(), inf_nan_mode="constants"
    )


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


def _write_info(run_dir: Path, info: Mapping[str, Any]) -> None:
    atomic_write(run_dir / INFO_FILE, json.dumps(info, indent=2, ensure_ascii=False) + "\n")


def _read_info(path: Path) -> dict[str, Any] | None:
    """What `path` holds, or None where there is nothing usable: that must not stop a run from going on."""
    try:
        info = json.loads(path.read_text())
        return info if isinstance(info, dict) and isinstance(info["sessions"], list) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # the last: nested too deeply
        return None
