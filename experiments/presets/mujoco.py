"""Gymnasium's MuJoCo tasks: what depends on the task, and what DSAC-T's paper reached there."""

from __future__ import annotations

from typing import Any

from experiments.presets.agents import DSAC_T_PAPER, PAPER, SMALL
from rlzoo.errors import UserError

# What DSAC-T's authors report (5 seeds, 1.5 M iterations of 20 steps; arXiv 2405.15177, table 1). SAC, TD3
# and DDPG have DSAC-T's networks and rates there, as with `--preset dsac-t-paper`.
PAPER_AGENTS = ("DSAC-T", "SAC", "TD3", "DDPG", "TRPO", "PPO")
PAPER_RETURNS = {
    "Humanoid-v5": (10829, 9335, 5631, 5291, 965, 6869),
    "Ant-v5": (7086, 6427, 6184, 4549, 6203, 6156),
    "HalfCheetah-v5": (17025, 16573, 8632, 13970, 4785, 5789),
    "Walker2d-v5": (6424, 6200, 5237, 4095, 5502, 4831),
    "Hopper-v5": (3660, 2483, 3569, 2644, 3474, 2647),
    "Swimmer-v5": (138, 140, 134, 146, 70, 130),
    "Pusher-v5": (-19,),
    "Reacher-v5": (-5,),
    "InvertedDoublePendulum-v5": (9360,),
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
