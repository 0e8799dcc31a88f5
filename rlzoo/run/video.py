"""Films of episodes: an H.264 file to keep, a small GIF to glance at."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageOps

from rlzoo.errors import UserError
from rlzoo.run.files import atomic_path
from rlzoo.types import Frame

# A run logs a GIF per evaluation: with these it takes some hundred kB.
GIF_FRAMES = 100
GIF_SIZE = 128  # pixels, of the longer side
GIF_COLOURS = 64


class Gif(NamedTuple):
    """An animated GIF: the file's bytes, and its size in pixels."""

    content: bytes
    width: int
    height: int


def rgb_frame(drawn: Any) -> Frame:
    """What an environment drew as RGB, u8 [H, W, 3].

    Takes grey pictures [H, W] or [H, W, 1], RGB, and RGBA, whose alpha is dropped. Numbers are from 0 to 255;
    floats none of which is above 1 are from 0 to 1.

    Raises:
        UserError: it is no picture.
    """
    frame = np.asarray(drawn)
    if frame.ndim == 2:
        frame = frame[..., None]
    is_picture = frame.ndim == 3 and frame.dtype.kind in "buif" and frame.shape[2] in (1, 3, 4)
    if not is_picture or 0 in frame.shape:
        what = f"{frame.dtype} {list(frame.shape)}" if frame.ndim else type(drawn).__name__
        raise UserError(f"render() returned {what}, expected a picture [height, width, 3]")
    if frame.dtype != np.uint8:
        numbers = np.nan_to_num(frame.astype(np.float64))
        is_unit = frame.dtype.kind == "b" or (frame.dtype.kind == "f" and numbers.max() <= 1)
        frame = np.clip(np.rint(numbers * 255 if is_unit else numbers), 0, 255).astype(np.uint8)
    if frame.shape[2] == 1:
        frame = np.repeat(frame, 3, axis=2)
    return np.array(frame[..., :3], order="C")  # a copy: the environment may draw the next one there


def _one_size(frames: Sequence[Frame]) -> Iterator[Frame]:
    """The frames in the size of the first; others are scaled into it, their proportions kept, on black."""
    height, width = frames[0].shape[:2]
    for frame in frames:
        fits = frame.shape == frames[0].shape
        yield frame if fits else np.asarray(ImageOps.pad(Image.fromarray(frame), (width, height)))


def encode_gif(frames: Sequence[Frame], fps: float) -> Gif:
    """A small animated GIF of RGB `frames` (each u8 [H, W, 3], shown in the first one's size).

    At most `GIF_FRAMES` are taken, evenly from the first to the last, and shrunk to at most `GIF_SIZE` pixels
    a side. It plays at their speed, but for some per cent: a GIF counts in hundredths of a second.
    """
    kept = np.linspace(0, len(frames) - 1, min(len(frames), GIF_FRAMES)).round().astype(int).tolist()
    images = []
    for frame in _one_size([frames[index] for index in kept]):
        image = Image.fromarray(np.ascontiguousarray(frame))
        image.thumbnail((GIF_SIZE, GIF_SIZE))  # keeps the proportions, and never enlarges
        images.append(image.quantize(GIF_COLOURS))
    first, *others = images
    output = io.BytesIO()
    milliseconds = round(1000 * len(frames) / fps / len(kept))
    first.save(output, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return Gif(output.getvalue(), first.width, first.height)


def write_video(path: str | os.PathLike[str], frames: Sequence[Frame], fps: float) -> None:
    """Write RGB `frames` (each u8 [H, W, 3], shown in the first one's size) to an H.264 file ``*.mp4``.

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
            for frame in _one_size(frames):
                writer.append_data(frame)
        # ffmpeg is a process of its own, and its failure at the very end goes unnoticed.
        stored = 0
        with contextlib.suppress(OSError, RuntimeError):
            stored, _seconds = imageio_ffmpeg.count_frames_and_secs(str(temporary))
        if stored != len(frames):
            raise OSError(f"ffmpeg stored {stored} of {len(frames)} frames; is the disk full?")
