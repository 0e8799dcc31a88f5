"""Finds and loads the reference vectors (see the README beside them)."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

FOLDER = Path(os.environ.get("RLZOO_GOLDEN_DIR", Path(__file__).resolve().parents[3] / "shared" / "golden"))
# Tolerance of the reference vectors, in float32.
RELATIVE, ABSOLUTE = 1e-4, 1e-5
# Adam's first step is a sign, which rounding can flip where the gradient is nearly zero.
SMALLEST_GRADIENT = 1e-6


class Golden:
    """One file: `golden["name"]` is a tensor, `golden.config` the hyperparameters."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.arrays: dict[str, npt.NDArray[Any]] = {name: file[name] for name in file.files}
        self.config: dict[str, Any] = json.loads(str(self.arrays.pop("config")))

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.arrays[name]))

    def check(self, name: str, value: torch.Tensor, where: torch.Tensor | None = None) -> None:
        """Assert that `value` equals the recorded array, only where `where` is true if it is given."""
        expected = self[name].to(value.dtype)
        assert value.shape == expected.shape, f"{name}: {tuple(value.shape)} != {tuple(expected.shape)}"
        if where is not None:
            value, expected = value[where], expected[where]
        torch.testing.assert_close(
            value, expected, rtol=RELATIVE, atol=ABSOLUTE, msg=lambda text: f"{name}: {text}"
        )


def golden_files(pattern: str) -> list[Any]:
    """A pytest parameter per file that matches; a single skipped one where there is none."""
    files = sorted(FOLDER.glob(pattern))
    if not files:
        reason = f"no {pattern} in {FOLDER} (set RLZOO_GOLDEN_DIR)"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="no-files")]
    return [pytest.param(path, id=path.stem) for path in files]
