"""Stable-Baselines3's agents on Gymnasium's MuJoCo tasks."""

from __future__ import annotations

import math
from typing import Any

from experiments.presets.agents import DSAC_T_LOOP, SMALL
from rlzoo.errors import UserError

# The loop of the library's zoo (rl-zoo3) on these tasks; the rest are the library's defaults, those of the
# agents' papers.
_OFF_POLICY = {"num_envs": 1, "utd": 1.0, "batch_size": 256, "warmup_steps": 10_000}
_LOOPS: dict[str, dict[str, Any]] = {
    "sb3-ppo": {"batch_size": 64, "warmup_steps": 0},
    "sb3-trpo": {"batch_size": 128, "warmup_steps": 0},
}
# The agents that DSAC-T's paper ran with its own networks and loop (see `presets.agents.DSAC_T_PAPER`).
_DSAC_T_NETWORKS = {
    "agent.hidden": (256, 256, 256),
    "agent.activation": "gelu",
    "agent.learning_rate": 1e-4,
}
_DSAC_T_PAPER: dict[str, dict[str, Any]] = {
    "sb3-ddpg": {**DSAC_T_LOOP, **_DSAC_T_NETWORKS},
    "sb3-td3": {**DSAC_T_LOOP, **_DSAC_T_NETWORKS},
    "sb3-sac": {**DSAC_T_LOOP, **_DSAC_T_NETWORKS, "agent.ent_coef": f"auto_{math.e}"},
}


def preset(name: str, agent: str, task: str) -> dict[str, Any]:
    """Settings of `agent` on a Gymnasium task.

    Raises:
        UserError: "dsac-t-paper" for an agent whose settings there are not known.
    """
    if name == "dsac-t-paper":
        if agent not in _DSAC_T_PAPER:
            raise UserError(f"--preset {name} is for {', '.join(_DSAC_T_PAPER)}, not for {agent}")
        return _DSAC_T_PAPER[agent]
    settings = {"steps": 1_000_000, **_LOOPS.get(agent, _OFF_POLICY)}
    return {**settings, **SMALL["sac"]} if name == "small" and agent not in _LOOPS else settings
