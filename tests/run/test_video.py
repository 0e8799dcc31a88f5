from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from PIL import Image

from rlzoo.errors import UserError
from rlzoo.run.folder import PROJECT
from rlzoo.run.video import Frame, encode_gif, write_video


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


def test_frames_of_two_sizes_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size"):
        write_video(tmp_path / "a.mp4", grey_frames(1, 8, 8) + grey_frames(1, 8, 10), fps=30)
    assert os.listdir(tmp_path) == []


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
