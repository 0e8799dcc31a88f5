"""The loop's settings in each agent's own paper; networks and rates are the defaults of its config."""

from __future__ import annotations

import math
from typing import Any

# ARSQ's D4RL experiments (arXiv 2502.00288 and its code), also for the baselines compared with there: one
# environment, one update per step from the first step on, 256 rows of demonstrations and 256 of replay.
WITH_DEMONSTRATIONS: dict[str, Any] = {
    "steps": 500_000,
    "num_envs": 1,
    "utd": 1.0,
    "batch_size": 512,
    "demo_fraction": 0.5,
    "warmup_steps": 0,
    "eval_every": 10_000,
}

# DSAC-T's hyperparameters (arXiv 2310.05858 and its code): 1.5 M iterations of 20 environment steps and one
# update each, evaluated every 2,500 iterations.
DSAC_T_LOOP: dict[str, Any] = {
    "steps": 30_000_000,
    "num_envs": 20,
    "utd": 1 / 20,
    "batch_size": 256,
    "warmup_steps": 10_000,
    "buffer_capacity": 1_000_000,
    "eval_every": 50_000,
    "eval_episodes": 10,
}

# Its baselines have the same loop, networks and learning rates; what the paper leaves open is as in its
# authors' library (GOPS, example_train/*/*_mlp_mujoco_offserial.py). "dsac-t" and "dsac" are so by default.
_DSAC_T_NETWORKS = {
    "agent.hidden": (256, 256, 256),
    "agent.activation": "gelu",
    "agent.critic_lr": 1e-4,
    "agent.actor_lr": 1e-4,
}
DSAC_T_PAPER: dict[str, dict[str, Any]] = {
    "dsac-t": DSAC_T_LOOP,
    "dsac": DSAC_T_LOOP,
    "sac": {
        **DSAC_T_LOOP,
        **_DSAC_T_NETWORKS,
        "agent.temperature_lr": 3e-4,
        "agent.log_std_range": (-20.0, 0.5),
        "agent.initial_temperature": math.e,
    },
    "td3": {**DSAC_T_LOOP, **_DSAC_T_NETWORKS, "agent.exploration_noise": 0.1, "agent.actor_delay": 2},
}

PAPER: dict[str, dict[str, Any]] = {
    "arsq": WITH_DEMONSTRATIONS,
    "cqn": WITH_DEMONSTRATIONS,
    # It learns from demonstrations alone.
    "bc": {**WITH_DEMONSTRATIONS, "batch_size": 256, "demo_fraction": 1.0},
    "dsac-t": DSAC_T_LOOP,
    "dsac": DSAC_T_LOOP,  # as DSAC-T's paper ran it; its own takes other networks and rates
    # Table 1 and figure 1: one environment, one update per step.
    "sac": {"steps": 3_000_000, "num_envs": 1, "utd": 1.0, "batch_size": 256, "warmup_steps": 10_000},
    # Section 6.1 and appendix C: one environment, one update per step, 1,000 random steps (10,000 on
    # HalfCheetah and Ant, see mujoco.py); evaluated every 5,000 steps.
    "td3": {
        "steps": 1_000_000,
        "num_envs": 1,
        "utd": 1.0,
        "batch_size": 100,
        "warmup_steps": 1_000,
        "eval_every": 5_000,
    },
}

# For two CPU cores (ours). ARSQ and CQN as wide as in the paper, since narrow networks learn less from more
# steps; the prefix enters ARSQ's last hidden layer alone, which costs two fifths, and CQN has fewer atoms.
# The steps are those within which the paper's curves come to rest.
SMALL: dict[str, dict[str, Any]] = {
    "arsq": {"steps": 60_000, "eval_every": 2_500, "agent.state_layers": 2},
    "cqn": {"steps": 30_000, "eval_every": 2_500, "agent.atoms": 21},
    "bc": {"batch_size": 256},
    # 100,000 iterations of 20 steps, as the runs in results/data/mujoco.
    "dsac-t": {"steps": 2_000_000},
    "dsac": {"steps": 2_000_000},
    "sac": {"steps": 2_000_000, "num_envs": 20, "utd": 1 / 20},
    "td3": {"steps": 2_000_000, "num_envs": 20, "utd": 1 / 20, "agent.hidden": (256, 256)},
}
