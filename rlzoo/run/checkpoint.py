"""Checkpoints: written whole or not at all, read without executing anything."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from rlzoo.errors import UserError
from rlzoo.run.files import atomic_path

FORMAT = "rlzoo checkpoint 2"


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` (tensors, numbers, strings, lists, dicts) to `path`.

    Raises a `UserError` if it cannot be written; the previous file is then as it was.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save({"format": FORMAT, **content}, file)
        except RuntimeError as error:
            # On a full disk PyTorch's writer fails again while it closes the archive, which hides the reason.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU with `weights_only=True`.

    Raises a `UserError` if the file is missing, damaged, or not one of ours.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        # PyTorch does not compare the archive's checksums; a flipped bit would become a wrong weight.
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise ValueError
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file can fail the readers in any way there is
        raise UserError(f"{path} is not a checkpoint, or a damaged one") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is a PyTorch file but not a checkpoint of this version of rlzoo")
    return content


def best_return(path: Path) -> float:
    """The return in the checkpoint of a run's best policy.

    Raises a `UserError` as `load_checkpoint` does, and where it holds none.
    """
    found = load_checkpoint(path).get("return")
    if not isinstance(found, float):
        raise UserError(f"{path} holds no return")
    return found
