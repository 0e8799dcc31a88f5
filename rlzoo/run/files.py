"""Files that are either whole or not there: written beside their place, synced, then moved into it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rlzoo.errors import UserError

_LEFTOVER = re.compile(r"\..+-\d+-[0-9a-f]{8}\.tmp(\..+)?")
_unfinished: set[Path] = set()  # temporary files that this process is writing


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the body a temporary path to write to; move it to `path` once the body has ended without error.

    The temporary file lies in the same folder (made if need be), keeps the suffix of `path` because some
    writers choose the format by it, and is gone afterwards whatever happens. Readers see the old file until
    the whole new one is on the disk. An `OSError` of the body or of the move (disk full, a file where a
    folder should be) becomes a `UserError`; `torch.save` raises one only if it is handed an open file.
    """
    path = Path(path)
    # Not `tempfile`: its files are readable by their owner alone, and the move would keep it so.
    temporary = path.with_name(f".{path.stem}-{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")
    _unfinished.add(temporary)
    try:
        with errors_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
        # Without this a power cut can undo the move. Some network file systems cannot sync a folder; the file
        # itself is safe by now, so that is no reason to fail.
        with contextlib.suppress(OSError):
            _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Replace the file at `path` by `data` (text as UTF-8); a `UserError` leaves what is there untouched."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise a `UserError` if no file can be written at `path`, before hours go into what it is to hold."""
    path = Path(path)
    with errors_named(path):
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


def expand_user(path: str | os.PathLike[str]) -> Path:
    """`path` with its "~" as the home folder. Raises a `UserError` where nobody knows which that is."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise UserError(f"{os.fspath(path)}: no home folder is known for {Path(path).parts[0]}; set HOME")
    return Path(expanded)


@contextlib.contextmanager
def errors_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an `OSError` of the body into the `UserError` that `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


class WriteError(UserError):
    """The file `path` could not be written: a full disk, a folder that is gone."""

    def __init__(self, path: str | os.PathLike[str], message: str) -> None:
        super().__init__(message)
        self.path = Path(path)


def is_full(error: OSError) -> bool:
    """Whether it was the output, no file by name, that had no room on its disk or in its quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None


def cannot_write(path: str | os.PathLike[str], error: OSError) -> WriteError:
    """The one-line error for a file or folder that could not be written."""
    lines = (error.strerror or str(error)).splitlines()
    return WriteError(path, f"cannot write {os.fspath(path)}: {lines[0] if lines else type(error).__name__}")


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left of `atomic_path` in a folder that no other process is writing to."""
    for path in folder.rglob(".*"):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink()


def remove_unfinished() -> None:
    """Delete what `atomic_path` is writing, in a process that is about to end without its clean-up."""
    for path in list(_unfinished):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
