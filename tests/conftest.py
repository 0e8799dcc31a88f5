"""What every test leaves as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """A script run within a test makes the CPU flush denormal numbers, which hypothesis draws in others."""
    yield
    torch.set_flush_denormal(False)
