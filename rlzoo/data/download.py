"""Fetching a file into the cache: with a progress bar, checked, and whole or not at all."""

from __future__ import annotations

import http.client
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn, Progress

from rlzoo.errors import UserError, one_line
from rlzoo.run.files import atomic_path, expand_user


def cache_dir() -> Path:
    """The folder for downloaded data: $RLZOO_DATA_CACHE, else the platform's cache folder.

    Raises:
        UserError: neither is set, and there is no home folder.
    """
    chosen = os.environ.get("RLZOO_DATA_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expand_user(chosen) if chosen else expand_user(base) / "rlzoo"


def download(url: str, target: Path, *, check: Callable[[Path], None], timeout: float = 30.0) -> None:
    """Fetch `url` to `target`. Nothing is left behind by a failure or an interrupt.

    Args:
        url: an http or https address.
        target: where the file goes; it appears there complete and checked, or not at all.
        check: raises `UserError` where the file is not what it should be.
        timeout: seconds without a single byte after which the server counts as gone.

    Raises:
        UserError: no connection, an error from the server, a broken transfer, a failed check, a full disk.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "rlzoo"})
    print(f"downloading {url} to {target}", file=sys.stderr)
    with _network_errors(url):
        response = urllib.request.urlopen(request, timeout=timeout)
    with response, atomic_path(target) as temporary:
        length = response.headers.get("Content-Length")
        total = int(length) if length is not None and length.isdecimal() else None
        columns = (*Progress.get_default_columns(), DownloadColumn())
        progress = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        received = 0
        with temporary.open("wb") as file, progress:
            bar = progress.add_task(target.name, total=total)
            while block := _read(response, url):
                file.write(block)
                received += len(block)
                progress.update(bar, completed=received)
        if total is not None and received != total:
            raise UserError(f"{url}: the transfer broke off after {received:,} of {total:,} bytes")
        try:
            check(temporary)
        except UserError as error:
            # The file is about to vanish: name where it came from instead.
            raise UserError(f"{url}: {str(error).removeprefix(f'{temporary}: ')}") from error


def _read(response: http.client.HTTPResponse, url: str) -> bytes:
    with _network_errors(url):
        return response.read(1 << 20)


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    # Around the network calls alone: a full disk is an OSError as well, and `atomic_path` reports that.
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:  # the last: an address that is none
        reason = one_line(error)
        raise UserError(f"{url}: download failed ({reason})") from error
