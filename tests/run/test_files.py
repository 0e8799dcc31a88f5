from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import torch

from rlzoo.errors import UserError
from rlzoo.run.files import atomic_path, atomic_write, remove_leftovers


def no_space(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_writes_text_and_bytes_and_makes_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "a.txt"
    atomic_write(path, "für\n")
    assert path.read_bytes() == "für\n".encode()
    atomic_write(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(path.parent) == ["a.txt"]


def test_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    atomic_write(tmp_path / "ours", "")
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("where", ["os.fsync", "os.replace", "pathlib.Path.write_bytes"])
def test_full_disk_leaves_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "run.json"
    atomic_write(path, "old")
    monkeypatch.setattr(where, no_space)
    with pytest.raises(UserError) as raised:
        atomic_write(path, "new")
    assert str(raised.value) == f"cannot write {path}: No space left on device"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/a\.txt: "):
        atomic_write(tmp_path / "file" / "a.txt", "text")


def test_failing_body_leaves_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["data.bin"]


def test_old_file_stands_until_the_body_ends(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".npz"
        assert temporary.parent == tmp_path
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_below_torch_save_is_a_user_error(tmp_path: Path) -> None:
    path = tmp_path / "latest.pt"

    def save() -> None:
        with atomic_path(path) as temporary:
            temporary.symlink_to("/dev/full")
            with temporary.open("wb") as file:
                torch.save({"weights": torch.zeros(10_000)}, file)

    with pytest.raises(UserError, match="No space left"):
        save()
    assert os.listdir(tmp_path) == []


def test_user_error_of_the_body_passes_through(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the host is down"), atomic_path(tmp_path / "data.hdf5"):
        raise UserError("the host is down")


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "checkpoints" / "latest.pt") as temporary:
        temporary.write_text("new")
        name = temporary.name
    (tmp_path / "checkpoints" / name).touch()
    (tmp_path / ".keep").touch()
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path / "checkpoints") == ["latest.pt"]
    assert (tmp_path / ".keep").exists()
