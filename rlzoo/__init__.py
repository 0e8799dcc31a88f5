"""What every run shares: types, networks, replay buffer, training loop, run folder, checkpoints."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlzoo.policy import Policy as Policy
    from rlzoo.policy import load_policy as load_policy


def __getattr__(name: str) -> Any:
    """What takes time to find out, once it is asked for: `load_policy` and `Policy` import every agent."""
    if name == "__version__":
        return importlib.metadata.version("rlzoo")
    if name not in ("load_policy", "Policy"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rlzoo import policy

    return getattr(policy, name)
