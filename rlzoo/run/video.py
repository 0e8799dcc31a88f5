"""Videos of episodes."""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from rlzoo.errors import UserError
from rlzoo.run.files import atomic_path

Frame = npt.NDArray[np.uint8]

# A GIF is for a glance, and a run logs one per evaluation: with these it takes some hundred kB.
GIF_FRAMES = 100
GIF_SIZE = 128  # pixels, of the longer side
GIF_COLOURS = 64


class Gif(NamedTuple):
    """An animated GIF: the file's bytes, and its size in pixels."""

    content: bytes
    width: int
    height: int


def encode_gif(frames: Sequence[Frame], fps: float) -> Gif:
    """A small animated GIF of RGB `frames` (each u8 [H, W, 3], all of one size), played at their speed.

    At most `GIF_FRAMES` are taken, evenly from the first to the last, and shrunk to at most `GIF_SIZE` pixels
    a side; only these are held in memory a second time. A GIF counts in hundredths of a second, so the speed
    is off by some per cent.

    Args:
        frames: at least one.
        fps: frames per second of `frames`.

    Raises:
        ValueError: there are no frames, or one that is not as described.
    """
    if not len(frames):
        raise ValueError("a video needs at least one frame")
    kept = np.linspace(0, len(frames) - 1, min(len(frames), GIF_FRAMES)).round().astype(int).tolist()
    first, *others = [_small_image(frames[index], frames[0].shape) for index in kept]
    output = io.BytesIO()
    milliseconds = 1000 * len(frames) / fps / len(kept)
    first.save(output, "GIF", save_all=True, append_images=others, duration=round(milliseconds), loop=0)
    return Gif(output.getvalue(), first.width, first.height)


def _small_image(frame: Frame, shape: tuple[int, ...]) -> Image.Image:
    _check_frame(frame, shape)
    image = Image.fromarray(np.ascontiguousarray(frame))
    image.thumbnail((GIF_SIZE, GIF_SIZE))  # keeps the proportions, and never enlarges
    return image.quantize(GIF_COLOURS)


def write_video(path: str | os.PathLike[str], frames: Iterable[Frame], fps: float) -> None:
    """Write RGB `frames` (each u8 [H, W, 3], all of one size) to an H.264 file at `path` (``*.mp4``).

    Frames are taken one at a time, so a generator keeps memory small. An odd height or width grows by
    repeating the last row or column: the colour format that every player knows stores one colour for 2 × 2
    pixels.

    Args:
        path: the file; replaced as a whole once the video is complete.
        frames: at least one.
        fps: frames per second.

    Raises:
        UserError: ffmpeg is missing, or the file cannot be written.
        ValueError: there are no frames, or one that is not as described.
    """
    ffmpeg = _import_ffmpeg()
    with atomic_path(path) as temporary:
        written = _encode(ffmpeg, temporary, frames, fps)
        stored = _count_frames(ffmpeg, temporary)
        if stored != written:
            raise OSError(f"ffmpeg stored {stored} of {written} frames; is the disk full?")


def _import_ffmpeg() -> ModuleType:
    try:
        ffmpeg = importlib.import_module("imageio_ffmpeg")
        ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise UserError("no ffmpeg to write a video with; pip install 'imageio[ffmpeg]'") from error
    return ffmpeg


def _encode(ffmpeg: ModuleType, path: Path, frames: Iterable[Frame], fps: float) -> int:
    """Returns the number of frames. Raises an OSError when ffmpeg gives up."""
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    _check_frame(first, first.shape)
    height, width, _ = _even(first).shape
    # The index at the front lets a browser start before it has the whole file.
    options = {"macro_block_size": 1, "output_params": ["-movflags", "+faststart"]}
    writer = ffmpeg.write_frames(str(path), (width, height), fps=fps, ffmpeg_log_level="quiet", **options)
    with contextlib.closing(writer):
        writer.send(None)  # starts ffmpeg
        written = 0
        for frame in itertools.chain([first], frames):
            _check_frame(frame, first.shape)
            writer.send(np.ascontiguousarray(_even(frame)))
            written += 1
    return written


def _check_frame(frame: Frame, shape: tuple[int, ...]) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
        raise ValueError(
            f"a frame is {frame.dtype} {frame.shape}, expected uint8 [H, W, 3] like the first {shape}"
        )


def _even(frame: Frame) -> Frame:
    """`frame` with an even height and width."""
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _count_frames(ffmpeg: ModuleType, path: Path) -> int:
    """What the file holds: ffmpeg is another process, and its failure at the very end goes unnoticed."""
    try:
        frames, _seconds = ffmpeg.count_frames_and_secs(str(path))
    except (OSError, RuntimeError):
        return 0
    return int(frames)
