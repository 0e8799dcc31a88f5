"""Films of episodes: an H.264 file to keep, a small GIF to glance at."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
from PIL import Image

from rlzoo.errors import UserError
from rlzoo.run.files import atomic_path

Frame = npt.NDArray[np.uint8]

# A run logs a GIF per evaluation: with these it takes some hundred kB.
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
    a side. A GIF counts in hundredths of a second, so the speed is off by some per cent.
    """
    kept = np.linspace(0, len(frames) - 1, min(len(frames), GIF_FRAMES)).round().astype(int).tolist()
    images = []
    for index in kept:
        image = Image.fromarray(np.ascontiguousarray(frames[index]))
        image.thumbnail((GIF_SIZE, GIF_SIZE))  # keeps the proportions, and never enlarges
        images.append(image.quantize(GIF_COLOURS))
    first, *others = images
    output = io.BytesIO()
    milliseconds = round(1000 * len(frames) / fps / len(kept))
    first.save(output, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return Gif(output.getvalue(), first.width, first.height)


def write_video(path: str | os.PathLike[str], frames: Sequence[Frame], fps: float) -> None:
    """Write RGB `frames` (each u8 [H, W, 3], all of one size) to an H.264 file at `path` (``*.mp4``).

    Raises a `UserError` if ffmpeg is missing or the file cannot be written.
    """
    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:  # no build of it for this system came with imageio-ffmpeg
        raise UserError("no ffmpeg to write a video with: install it, or set IMAGEIO_FFMPEG_EXE") from error
    # The colour format that every player knows needs an even height and width; the index at the front lets a
    # browser start before it has the whole file.
    parameters = ["-vf", "scale=ceil(iw/2)*2:ceil(ih/2)*2", "-movflags", "+faststart"]
    options: Any = {"macro_block_size": 1, "output_params": parameters, "ffmpeg_log_level": "quiet"}
    with atomic_path(path) as temporary:
        writer: Any = imageio.get_writer(temporary, format="FFMPEG", fps=fps, **options)
        with contextlib.closing(writer):
            for frame in frames:
                writer.append_data(frame)
        # ffmpeg is a process of its own, and its failure at the very end goes unnoticed.
        stored = 0
        with contextlib.suppress(OSError, RuntimeError):
            stored, _seconds = imageio_ffmpeg.count_frames_and_secs(str(temporary))
        if stored != len(frames):
            raise OSError(f"ffmpeg stored {stored} of {len(frames)} frames; is the disk full?")
