from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
from PIL import Image

from rlzoo.errors import UserError
from rlzoo.run.folder import PROJECT
from rlzoo.run.video import encode_gif, rgb_frame, write_video
from rlzoo.types import Frame


def grey_frames(count: int, height: int, width: int) -> list[Frame]:
    return [np.full((height, width, 3), 10 * index, dtype=np.uint8) for index in range(count)]


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 47), (1, 1)])
def test_frames_come_back(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "videos" / "episode.mp4"
    write_video(path, grey_frames(12, height, width), fps=25)
    with imageio.get_reader(path) as reader:
        assert reader.get_meta_data()["fps"] == 25
        frames = [np.asarray(frame) for frame in reader]
    assert len(frames) == 12
    assert frames[0].shape == (height + height % 2, width + width % 2, 3)
    for index, frame in enumerate(frames):
        np.testing.assert_allclose(frame, 10 * index, atol=4)
    assert os.listdir(path.parent) == ["episode.mp4"]


def test_views_that_are_not_contiguous(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [frame[::-1, ::2] for frame in grey_frames(3, 32, 64)], fps=30)
    with imageio.get_reader(tmp_path / "a.mp4") as reader:
        assert reader.get_meta_data()["size"] == (32, 32)


GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
RGB = np.repeat(GREY[..., None], 3, axis=2)


@pytest.mark.parametrize(
    "drawn",
    [
        RGB,
        np.dstack([RGB, np.full((6, 8), 7, np.uint8)]),  # RGBA
        GREY,
        GREY[..., None],
        RGB / 255,
        (RGB / 255).astype(np.float32),
        RGB.astype(np.float64),
        RGB.astype(np.int64),
        RGB.tolist(),
    ],
)
def test_every_kind_of_picture_becomes_rgb(drawn: Any) -> None:
    frame = rgb_frame(drawn)
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    np.testing.assert_array_equal(frame, RGB)


def test_what_lies_outside_the_range_is_cut_off() -> None:
    frame = rgb_frame(np.array([[[-3.0, np.nan, 300.0]]]))
    assert frame.tolist() == [[[0, 0, 255]]]
    assert rgb_frame(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("drawn", [None, "a picture in text", [RGB, RGB], RGB[..., :2], np.empty((0, 4, 3))])
def test_what_is_no_picture_is_refused(drawn: Any) -> None:
    with pytest.raises(UserError, match=r"render\(\) returned .*, expected a picture \[height, width, 3\]"):
        rgb_frame(drawn)


def test_a_frame_stays_as_it_is_where_the_environment_draws_the_next_one_in_its_place() -> None:
    canvas = np.zeros((8, 8, 3), np.uint8)
    frame = rgb_frame(canvas)
    canvas[:] = 9
    assert not frame.any()


@pytest.mark.parametrize("size", [(24, 24), (16, 64), (48, 8)])
def test_frames_that_change_their_size_are_shown_in_the_first_ones(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    frames = [np.full((16, 16, 3), 200, np.uint8)] * 2 + [np.full((*size, 3), 200, np.uint8)] * 2
    write_video(tmp_path / "a.mp4", frames, fps=30)
    with imageio.get_reader(tmp_path / "a.mp4") as reader:
        shown = [np.asarray(frame) for frame in reader]
    assert [frame.shape for frame in shown] == [(16, 16, 3)] * 4
    with Image.open(io.BytesIO(encode_gif(frames, fps=20).content)) as image:
        assert image.size == (16, 16)
        image.seek(getattr(image, "n_frames", 1) - 1)
        shown.append(np.asarray(image.convert("RGB")))
    share = min(size) / max(size)  # of the picture, the rest is black
    for frame in shown[2], shown[-1]:
        assert frame[8, 8].min() > 180
        assert (frame.mean(axis=2) > 100).mean() == pytest.approx(share, abs=0.13)


@pytest.mark.parametrize(
    ("count", "height", "width", "size"),
    [(1, 8, 8, (8, 8)), (25, 33, 47, (47, 33)), (1001, 192, 320, (128, 77)), (100, 480, 20, (5, 128))],
)
def test_gifs_are_small_and_play_at_the_same_speed(
    count: int, height: int, width: int, size: tuple[int, int]
) -> None:
    level = np.linspace(0, 255, count).astype(np.uint8)
    gif = encode_gif([np.broadcast_to(grey, (height, width, 3)) for grey in level], fps=20)
    assert (gif.width, gif.height) == size
    with Image.open(io.BytesIO(gif.content)) as image:
        assert (image.format, image.size) == ("GIF", size)
        kept = getattr(image, "n_frames", 1)
        assert kept == min(count, 100)
        seconds, greys = 0.0, []
        for index in range(kept):
            image.seek(index)
            seconds += image.info.get("duration", 50) / 1000
            greys.append(np.asarray(image.convert("RGB")).mean())
    assert seconds == pytest.approx(count / 20, rel=0.05)
    assert greys[0] == pytest.approx(level[0], abs=4)
    assert greys[-1] == pytest.approx(255 if count > 1 else 0, abs=4)
    assert greys == sorted(greys)


def test_without_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", fail)
    with pytest.raises(UserError, match="IMAGEIO_FFMPEG_EXE"):
        write_video(tmp_path / "a.mp4", grey_frames(1, 8, 8), fps=30)


def test_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*a\.mp4"):
        write_video(tmp_path / "file" / "a.mp4", grey_frames(1, 8, 8), fps=30)


def test_full_disk_leaves_the_old_video(tmp_path: Path) -> None:
    """A limit on the file's size stands for the full disk."""
    (tmp_path / "a.mp4").write_text("old")
    code = (
        "import resource, sys, numpy as np\n"
        "from rlzoo.errors import UserError; from rlzoo.run.video import write_video\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "noise = np.random.default_rng(0)\n"
        "frames = [noise.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(20)]\n"
        "try: write_video(sys.argv[1], frames, 30)\n"
        "except UserError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.mp4")]
    result = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    assert result.stdout.startswith(f"cannot write {tmp_path / 'a.mp4'}: ")
    assert result.stdout.count("\n") == 1
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_text() == "old"
