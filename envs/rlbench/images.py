"""The PNG files of RLBench's recordings, decoded in parallel."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rlzoo.errors import UserError, one_line

Pixels = npt.NDArray[np.uint8]

# What stands in the place of a frame that was never recorded (see `envs.rlbench.write`).
PLACEHOLDER_SIZE = (1, 1)
_LARGEST_SIDE = 4096  # pixels; a file that claims more is damaged, and would claim the memory for it
_FRAME_NAME = re.compile(r"(?:[a-z_]+_)?(\d+)\.png")  # "12.png"; forks of RLBench write "rgb_0012.png"


def frame_files(folder: Path, count: int) -> list[Path]:
    """The folder's frames 0, 1, … count - 1.

    Raises:
        UserError: a frame is missing or there twice ("10.png", "rgb_0010.png"), or there is one more than
            observations were recorded.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    found: dict[int, Path] = {}
    for path in paths:
        if match := _FRAME_NAME.fullmatch(path.name):
            other = found.setdefault(int(match[1]), path)
            if other != path:
                raise UserError(f"{folder}: both {other.name} and {path.name} are frame {int(match[1])}")
    strange = sorted(set(found) ^ set(range(count)))
    if strange:
        what = "frame {} is missing" if strange[0] < count else "no observation belongs to frame {}"
        what = what.format(strange[0])
        raise UserError(f"{folder}: {len(found)} frames for {count} recorded observations ({what})")
    return [found[index] for index in range(count)]


def load_frames(folders: Sequence[Sequence[Path]], lengths: Sequence[int], size: int) -> Pixels:
    """Decode the camera frames of several episodes.

    Args:
        folders: of each episode, the folder of each of its V cameras.
        lengths: of each episode, the number of observations (T + 1).
        size: height and width to resize to, in pixels.

    Returns:
        One episode after the other, u8 [sum of lengths, V, 3, size, size].

    Raises:
        UserError: a frame is missing, surplus or unreadable; the message names it.
    """
    # All names are checked before the first pixel is decoded.
    rows = [
        views
        for cameras, length in zip(folders, lengths, strict=True)
        for views in zip(*(frame_files(folder, length) for folder in cameras), strict=True)
    ]
    frames = np.empty((len(rows), len(rows[0]), 3, size, size), np.uint8)

    def decode(index: int) -> None:
        for view, path in enumerate(rows[index]):
            frames[index, view] = _read_png(path, size).transpose(2, 0, 1)

    run_parallel(decode, range(len(rows)))
    return frames


def run_parallel(work: Callable[[Any], None], jobs: Iterable[Any]) -> None:
    """Do `work` on every job; the first error ends it and is raised. Pillow and zlib release the GIL."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(work, jobs):  # what has not begun when one fails is cancelled by `map` itself
            pass


def _read_png(path: Path, size: int) -> Pixels:
    """An image as u8 [size, size, 3]."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.size == PLACEHOLDER_SIZE:
                raise UserError(f"{path}: a placeholder, this camera was not recorded")
            if max(image.size) > _LARGEST_SIDE:
                raise ValueError(f"{image.size} pixels, more than {_LARGEST_SIDE} to a side")
            if image.mode not in ("RGB", "RGBA"):
                raise ValueError(f"mode {image.mode}, expected RGB")
            # Pillow's default, bicubic, is what RLBench's own reader resizes with.
            return np.asarray(image.convert("RGB").resize((size, size)))
    except UserError:
        raise
    except Exception as error:
        # Pillow raises whatever the bytes lead it to: OSError, SyntaxError, ValueError, struct.error, …
        reason = one_line(error)
        raise UserError(f"{path}: missing or unreadable ({reason}); expected a PNG image") from error
