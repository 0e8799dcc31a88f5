"""The PNG files of RLBench's recordings: camera frames, depth and masks, decoded in parallel.

Depth is a 24-bit number between the camera's near and far planes, written into the red (high), green and blue
(low) byte. Masks hold an object handle per pixel, with red as the low byte.
"""

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

from rlzoo.errors import UserError
from rlzoo.types import Array, FloatArray

Pixels = npt.NDArray[np.uint8]

# What stands in the place of a frame that was never recorded (see `envs.rlbench.write`).
PLACEHOLDER_SIZE = (1, 1)
_LARGEST_SIDE = 4096  # pixels; a file that claims more is damaged, and would claim the memory for it
_FRAME_NAME = re.compile(r"(?:[a-z_]+_)?(\d+)\.png")  # "12.png"; forks of RLBench write "rgb_0012.png"
_DEPTH_SCALE = 2**24 - 1


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
        raise UserError(
            f"{folder}: {len(found)} frames for {count} recorded observations ({what.format(strange[0])})"
        )
    return [found[index] for index in range(count)]


def load_frames(
    folders: Sequence[Sequence[Path]], lengths: Sequence[int], size: int, *, threads: int | None = None
) -> list[Pixels]:
    """Decode the camera frames of several episodes.

    Args:
        folders: of each episode, the folder of each of its V cameras.
        lengths: of each episode, the number of observations (T + 1).
        size: height and width to resize to, in pixels.
        threads: how many decode at once; None takes the processor's cores, up to 8.

    Returns:
        Of each episode, u8 [T+1, V, 3, size, size].

    Raises:
        UserError: a frame is missing, surplus or unreadable; the message names it.
    """
    # All names are checked before the first pixel is decoded.
    files = [
        [frame_files(folder, length) for folder in cameras]
        for cameras, length in zip(folders, lengths, strict=True)
    ]
    episodes = [
        np.empty((length, len(cameras), 3, size, size), np.uint8)
        for cameras, length in zip(files, lengths, strict=True)
    ]

    def decode(job: tuple[Pixels, Path]) -> None:
        target, path = job
        target[:] = _read_png(path, size).transpose(2, 0, 1)

    jobs = (
        (frames[index, view], path)
        for frames, cameras in zip(episodes, files, strict=True)
        for view, paths in enumerate(cameras)
        for index, path in enumerate(paths)
    )
    run_parallel(decode, jobs, threads=threads)
    return episodes


def load_packed(folder: Path, count: int, *, threads: int | None = None) -> Pixels:
    """Frames 0 … count - 1 of a depth or mask folder as stored, u8 [count, H, W, 3].

    Not resized: the bytes of a packed number cannot be averaged. Take every k-th pixel of what
    `decode_depth` or `decode_mask` returns instead.

    Raises:
        UserError: a frame is missing, surplus, unreadable or of another size than the first.
    """
    paths = frame_files(folder, count)
    first = _read_png(paths[0], None)
    frames = np.empty((count, *first.shape), np.uint8)

    def decode(job: tuple[Pixels, Path]) -> None:
        target, path = job
        image = _read_png(path, None)
        if image.shape != target.shape:
            raise UserError(f"{path}: {image.shape[:2]} pixels, expected {target.shape[:2]} as in 0.png")
        target[:] = image

    run_parallel(decode, zip(frames, paths, strict=True), threads=threads)
    return frames


def decode_depth(packed: Pixels, near: float | FloatArray, far: float | FloatArray) -> FloatArray:
    """Distance from the camera's plane in metres.

    Args:
        packed: u8 [..., H, W, 3], as stored.
        near: the camera's near plane in metres, ``misc["<camera>_camera_near"]``; a number or [..., 1, 1].
        far: its far plane, likewise.

    Returns:
        f32 [..., H, W].
    """
    bytes_ = packed.astype(np.uint32)
    number = (bytes_[..., 0] << 16) | (bytes_[..., 1] << 8) | bytes_[..., 2]
    share = number / np.float64(_DEPTH_SCALE)
    return np.asarray(near + share * (np.asarray(far, np.float64) - near), np.float32)


def decode_mask(packed: Pixels) -> npt.NDArray[np.int32]:
    """The simulator's handle of the object seen in each pixel: u8 [..., H, W, 3] as stored -> [..., H, W]."""
    bytes_ = packed.astype(np.int32)
    return np.asarray(bytes_[..., 0] | (bytes_[..., 1] << 8) | (bytes_[..., 2] << 16), np.int32)


def write_png(path: Path, image: Pixels) -> None:
    """Write RGB [H, W, 3]."""
    Image.fromarray(image).save(path, format="PNG")


def run_parallel(work: Callable[[Any], None], jobs: Iterable[Any], *, threads: int | None = None) -> None:
    """Do `work` on every job; the first error ends it and is raised. Pillow and zlib release the GIL."""
    threads = threads or min(8, os.cpu_count() or 1)
    if threads == 1:
        for job in jobs:
            work(job)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, jobs):  # what has not begun when one fails is cancelled by `map` itself
            pass


def _read_png(path: Path, size: int | None) -> Array:
    """An image as u8 [H, W, 3], resized to `size` x `size` if given."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.size == PLACEHOLDER_SIZE:
                raise UserError(f"{path}: a placeholder, this camera was not recorded")
            if max(image.size) > _LARGEST_SIDE:
                raise ValueError(f"{image.size} pixels, more than {_LARGEST_SIDE} to a side")
            if image.mode not in ("RGB", "RGBA"):
                raise ValueError(f"mode {image.mode}, expected RGB")
            rgb = image.convert("RGB")
            if size is not None and rgb.size != (size, size):
                # Pillow's default, bicubic, is what RLBench's own reader resizes with.
                rgb = rgb.resize((size, size))
            return np.asarray(rgb)
    except UserError:
        raise
    except Exception as error:
        # Pillow raises whatever the bytes lead it to: OSError, SyntaxError, ValueError, struct.error, …
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: missing or unreadable ({reason}); expected a PNG image") from error
