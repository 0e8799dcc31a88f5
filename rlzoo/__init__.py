"""What every run shares: types, networks, replay buffer, training loop, run folder, checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlzoo.policy import Policy as Policy
    from rlzoo.policy import load_policy as load_policy


def __getattr__(name: str) -> Any:
    """`load_policy` and `Policy`, whose module imports every agent, only once they are asked for."""
    if name not in ("load_policy", "Policy"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rlzoo import policy

    return getattr(policy, name)
