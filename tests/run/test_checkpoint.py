"""Checkpoints: whole or not at all; anything else is one clear line."""

import errno
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzoo.errors import UserError
from rlzoo.run.checkpoint import load_checkpoint, save_checkpoint

WEIGHTS = torch.arange(2000.0)
CONTENT = {"weights": WEIGHTS, "step": 2**70, "nested": [{"a": 1.5}, None]}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "latest.pt"
    save_checkpoint(path, CONTENT)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["weights"], WEIGHTS)
    assert loaded["step"] == 2**70
    assert loaded["nested"] == [{"a": 1.5}, None]
    assert [file.name for file in path.parent.iterdir()] == ["latest.pt"]


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=80)
def test_a_flipped_bit_is_noticed_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: float, bit: int
) -> None:
    """PyTorch itself does not compare checksums: a flipped bit would become a wrong weight."""
    path = tmp_path_factory.getbasetemp() / "flipped.pt"
    save_checkpoint(path, CONTENT)
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        loaded = load_checkpoint(path)
    except UserError:
        return
    assert torch.equal(loaded["weights"], WEIGHTS)
    assert loaded["nested"] == CONTENT["nested"]


@pytest.mark.parametrize("kept", [0, 1, 100, 5000])
def test_truncated_file(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "latest.pt"
    save_checkpoint(path, CONTENT)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="checkpoint"):
        load_checkpoint(path)


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "foreign.pt"
    torch.save({"model": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="not a checkpoint of this version"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "missing.pt")


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "rlzoo checkpoint 1", "evil": Malicious()}, tmp_path / "evil.pt")
    with pytest.raises(UserError):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


class SmallDisk(io.FileIO):
    """A file on a disk with room for 200 kB."""

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > 200_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_disk_that_fills_up_midway_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "latest.pt"
    save_checkpoint(path, CONTENT)
    before = path.read_bytes()
    original = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r": SmallDisk(self, "w") if "w" in mode else original(self, mode)
    )
    content = {f"weights {index}": torch.zeros(10_000) for index in range(20)}
    with pytest.raises(UserError, match=r"cannot write .*latest\.pt: No space left"):
        save_checkpoint(path, content)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["latest.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "latest.pt"
    save_checkpoint(path, CONTENT)
    before = path.read_bytes()
    original = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r": original(Path("/dev/full") if "w" in mode else self, mode)
    )
    with pytest.raises(UserError, match="No space left"):
        save_checkpoint(path, {"weights": torch.zeros(10_000_000)})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["latest.pt"]
