"""Files that are either whole or not there: written beside their place, synced, then moved into it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from rlzoo.errors import UserError

_LEFTOVER = re.compile(r"\..+-\d+-[0-9a-f]{8}\.tmp(\..+)?")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the body a temporary path to write to; move it to `path` once the body has ended without error.

    The temporary file lies in the same folder (made if need be), keeps the suffix of `path` because some
    writers choose the format by it, and is gone afterwards whatever happens. Readers see the old file until
    the whole new one is on the disk.

    Hand `torch.save` an open file, not this path: it reports a full disk as an `OSError` only then::

        with atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)

    Raises:
        UserError: any `OSError` of the body or of the move (disk full, unwritable, a file where a folder
            should be). A body that does something else that can fail, a download say, explains that itself.
    """
    path = Path(path)
    # Not `tempfile`: its files are readable by their owner alone, and the move would keep it so.
    temporary = path.with_name(f".{path.stem}-{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync_file(temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Replace the file at `path` by `data` (text as UTF-8), or leave what is there untouched.

    Raises:
        UserError: it cannot be written; the message names the path and the reason.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def check_writable(path: str | os.PathLike[str]) -> None:
    """See whether a file could be written at `path`, before hours go into what it is to hold.

    Raises:
        UserError: there is a folder of that name, or nothing can be written beside it.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    with contextlib.suppress(_Tried), atomic_path(path) as temporary:
        temporary.touch()
        raise _Tried


class _Tried(Exception):  # noqa: N818
    """Leaves `atomic_path` without moving anything into place."""


def cannot_write(path: str | os.PathLike[str], error: OSError) -> UserError:
    """The one-line error for a file or folder that could not be written."""
    lines = (error.strerror or str(error)).splitlines()
    return UserError(f"cannot write {os.fspath(path)}: {lines[0] if lines else type(error).__name__}")


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a killed process left in `folder` and below.

    Only for a folder that no other process is writing to.
    """
    for path in folder.rglob(".*"):
        if _LEFTOVER.fullmatch(path.name) and path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # Without it a power cut can undo the move. Not every system can sync a folder (Windows, some network
    # file systems); the file itself is safe by now, so that is no reason to fail.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
