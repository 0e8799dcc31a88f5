"""Packages that a plain installation does not bring."""

from __future__ import annotations

import importlib
from typing import Any

from rlzoo.errors import UserError


def load_extra(module: str, extra: str) -> Any:
    """Import a package of one of the project's extras. A `UserError` names the extra where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise UserError(f"{module} is not installed: pip install 'rlzoo[{extra}]' brings it") from error
