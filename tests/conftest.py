"""What every test leaves as it found it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """A script run within a test makes the CPU flush denormal numbers, which hypothesis draws in others."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True, scope="session")
def hangups_are_not_ignored() -> None:
    """As they are under nohup, where a run takes no notice of SIGHUP; nor would those that tests start."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
