from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlzoo.errors import UserError
from rlzoo.run import machine
from rlzoo.run.machine import resolve_device


@pytest.mark.parametrize(
    ("name", "gpus", "device"),
    [
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_device(name: str, gpus: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert resolve_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "gpus"), [("cuda", 0), ("cuda:2", 2), ("gpu", 2), ("cuda:", 2), ("", 0), ("mps", 0)]
)
def test_device_that_is_not_there(name: str, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    available = "auto, cpu" + ", cuda:0, cuda:1" * (gpus == 2)
    with pytest.raises(UserError) as raised:
        resolve_device(name)
    assert str(raised.value).startswith(f"device {name!r} is not available; there are {available}")


def test_git_state_of_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    with pytest.raises(
        subprocess.CalledProcessError
    ):  # somebody else's repository around an installed package
        machine._git_state(package)
    git("add", ".")
    git("commit", "-m", "first")
    assert machine._git_state(package) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (package / "new_agent.py").touch()
    assert machine._git_state(package)["dirty"]


def test_no_thread_of_pytorch_computes_with_denormal_numbers() -> None:
    code = (
        "import torch; from rlzoo.run.machine import tune_cpu\n"
        "tune_cpu(); torch.set_num_threads(2)\n"
        "tiny = torch.full((1 << 22,), 1e-30) * 1e-10; print(int(tiny.count_nonzero()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "0"
