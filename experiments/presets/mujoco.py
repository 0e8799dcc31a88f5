"""Gymnasium's MuJoCo tasks: what depends on the task, and what DSAC-T's paper reached there."""

from __future__ import annotations

from typing import Any

from experiments.presets.agents import DSAC_T_PAPER, PAPER, SMALL
from rlzoo.errors import UserError

# DSAC-T's final average return (5 seeds, 1.5 M iterations; arXiv 2405.15177, table 1).
PAPER_RETURNS = {
    "Humanoid-v5": 10829,
    "Ant-v5": 7086,
    "HalfCheetah-v5": 17025,
    "Walker2d-v5": 6424,
    "Hopper-v5": 3660,
    "Swimmer-v5": 138,
    "Pusher-v5": -19,
    "Reacher-v5": -5,
    "InvertedDoublePendulum-v5": 9360,
}
_TASKS: dict[str, dict[str, dict[str, Any]]] = {
    # Haarnoja et al. 2018, figure 1: 1 M steps on the small tasks, 3 M on the larger ones, 10 M on Humanoid.
    "sac": {
        "Humanoid-v5": {"steps": 10_000_000},
        **{
            task: {"steps": 1_000_000}
            for task in ("Hopper-v5", "Swimmer-v5", "Pusher-v5", "Reacher-v5", "InvertedDoublePendulum-v5")
        },
    },
    "td3": {"Ant-v5": {"warmup_steps": 10_000}, "HalfCheetah-v5": {"warmup_steps": 10_000}},
}


def preset(name: str, agent: str, task: str) -> dict[str, Any]:
    """Settings of `agent` on a Gymnasium task.

    Raises:
        UserError: "dsac-t-paper" for an agent that is not in that paper.
    """
    if name == "dsac-t-paper":
        if agent not in DSAC_T_PAPER:
            raise UserError(f"--preset {name} is for {', '.join(DSAC_T_PAPER)}, not for {agent}")
        return DSAC_T_PAPER[agent]
    settings = {**PAPER.get(agent, {}), **_TASKS.get(agent, {}).get(task, {})}
    return {**settings, **SMALL.get(agent, {})} if name == "small" else settings
