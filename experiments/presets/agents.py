"""The loop's settings in each agent's own paper; networks and rates are the defaults of its config."""

from __future__ import annotations

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

PAPER: dict[str, dict[str, Any]] = {
    "arsq": WITH_DEMONSTRATIONS,
    "cqn": WITH_DEMONSTRATIONS,
    # It learns from demonstrations alone.
    "bc": {**WITH_DEMONSTRATIONS, "batch_size": 256, "demo_fraction": 1.0},
    # The paper's hyperparameters and the authors' code: 1.5 M iterations of 20 environment steps and one
    # update each, evaluated every 2,500 iterations.
    "dsac-t": {
        "steps": 30_000_000,
        "num_envs": 20,
        "utd": 1 / 20,
        "batch_size": 256,
        "warmup_steps": 10_000,
        "buffer_capacity": 1_000_000,
        "eval_every": 50_000,
        "eval_episodes": 10,
    },
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

# Narrow networks and small batches for two CPU cores (ours).
SMALL: dict[str, dict[str, Any]] = {
    "arsq": {
        "batch_size": 128,
        "agent.hidden": (256, 256),
        "agent.activation": "relu",
        "agent.lr": 1e-3,
        "agent.act_with": "target",
        "agent.tau": 0.001,
        "agent.td_weight": 0.01,
    },
    "cqn": {"batch_size": 128, "agent.hidden": (256, 256), "agent.lr": 1e-3, "agent.atoms": 21},
    "bc": {"batch_size": 256},
    # 100,000 iterations of 20 steps, as the runs in results/data/mujoco.
    "dsac-t": {"steps": 2_000_000},
    "sac": {"steps": 2_000_000, "num_envs": 20, "utd": 1 / 20},
    "td3": {"steps": 2_000_000, "num_envs": 20, "utd": 1 / 20, "agent.hidden": (256, 256)},
}
