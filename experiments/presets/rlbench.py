"""RLBench's tasks: the protocol of CQN and ARSQ, the same for every task."""

from __future__ import annotations

from typing import Any

from experiments.presets.agents import PAPER, WITH_DEMONSTRATIONS

# The protocol of CQN (arXiv 2407.07787, config_rlbench.yaml of its code) and of ARSQ on RLBench: one
# environment, one update per step from the first on, 256 rows of demonstrations and 256 of replay, gamma
# 0.99, one-step returns, 30,250 steps, 25 episodes of evaluation every 2,500. Successful online episodes join
# the demonstrations.
_RLBENCH = {
    **WITH_DEMONSTRATIONS,
    "steps": 30_250,
    "discount": 0.99,
    "n_step": 1,
    "eval_every": 2_500,
    "eval_episodes": 25,
    # Ours, for the memory's sake: room for every step and for final observations, and for a third of the
    # steps once more among the demonstrations.
    "buffer_capacity": 32_000,
    "join_capacity": 10_000,
    # Ours: rows in the log and checkpoints at the pace of the evaluations.
    "log_every": 250,
    "checkpoint_every": 5_000,
}
_RLBENCH_AGENTS: dict[str, dict[str, Any]] = {
    "arsq": {
        "agent.levels": 3,
        "agent.bins": 5,
        "agent.temperature": 0.001,
        "agent.demo_loss": "margin",
        # The reference averages loss times flag over all rows: a mean over demonstrations times their share.
        "agent.demo_rows": "demos",
        "agent.demo_weight": 0.5,
        "agent.demo_floor": -0.01,
        "agent.td_weight": 0.1,
        "agent.act_with": "target",
    },
    "cqn": {
        "agent.levels": 3,
        "agent.bins": 5,
        "agent.atoms": 51,
        "agent.v_min": -2.0,
        "agent.v_max": 2.0,
        "agent.td_weight": 0.1,
        "agent.margin": 0.01,
        "agent.exploration_noise": 0.01,
    },
    # What imitation of the given demonstrations alone reaches. By the likelihood, a larger standard deviation
    # explains the one step of an episode at which the gripper closes, and it stays open (see BC.md).
    "bc": {"demo_fraction": 1.0, "join_capacity": 0, "agent.loss": "mse"},
    # Ours, not tuned: with rewards of 0 and a single 1 a temperature of e or 1 would drown them.
    "dsac-t": {"agent.initial_temperature": 0.01},
    "dsac": {"agent.initial_temperature": 0.01},
    "sac": {"agent.initial_temperature": 0.01},
}
# With images: the optimiser and the targets' rate of both references, and ARSQ's networks. Without, the
# agents' own for states, which are those of D4RL.
_RLBENCH_PIXELS: dict[str, dict[str, Any]] = {
    "arsq": {
        "agent.hidden": (512, 512),
        "agent.activation": "silu",
        "agent.layer_norm": True,
        "agent.lr": 5e-5,
        "agent.weight_decay": 0.1,
        "agent.tau": 0.02,
    },
    "cqn": {"agent.lr": 5e-5, "agent.weight_decay": 0.1, "agent.tau": 0.02},
    # Ours.
    "bc": {"agent.lr": 1e-4, "agent.weight_decay": 0.1},
}


# For two CPU cores (ours), on the stand-in, as the runs in results/data/rlbench-mujoco.
_SMALL_STATE: dict[str, Any] = {
    "batch_size": 128,
    "offline_steps": 2_000,
    "steps": 4_000,
    "eval_every": 1_000,
    "agent.hidden": (128, 128),
    "options.demos": 20,
}
_SMALL_PIXELS: dict[str, Any] = {
    "batch_size": 64,
    "offline_steps": 3_000,
    "steps": 3_000,
    "eval_every": 1_000,
    "buffer_capacity": 12_000,
    "join_capacity": 3_000,
    "agent.hidden": (128, 128),
    "agent.encoder_channels": (16, 32, 64),
    "options.cameras": ("front", "wrist"),
    "options.image_size": 40,
    "options.frame_stack": 2,
}
_SMALL_AGENTS: dict[str, dict[str, Any]] = {
    "arsq": {"agent.activation": "relu", "agent.lr": 1e-3, "agent.levels": 2, "agent.tau": 0.002},
    "cqn": {"agent.lr": 1e-3, "agent.atoms": 21},
}


def preset(name: str, agent: str, task: str, *, pixels: bool) -> dict[str, Any]:
    """Settings of `agent` on an RLBench task.

    Args:
        name: of the preset.
        agent: its name in `algos.AGENTS`.
        task: its RLBench name.
        pixels: whether the agent sees camera images, or the task's state.
    """
    settings = {**PAPER.get(agent, {}), **_RLBENCH, **_RLBENCH_AGENTS.get(agent, {})}
    if pixels:
        # Ours: the references keep the demonstrations' images in the replay buffer too; once is enough for
        # the memory, and that half of a batch is then the agent's own steps. Joint positions are seen as
        # they are.
        settings |= {"data.seed_replay": False, "data.standardize": False, **_RLBENCH_PIXELS.get(agent, {})}
    if name == "small":
        settings |= _SMALL_PIXELS if pixels else _SMALL_STATE
        settings |= _SMALL_AGENTS.get(agent, {})
        if agent == "bc":
            settings["join_capacity"] = 0
    if agent not in PAPER:  # nothing is known of what settings it has
        return {key: value for key, value in settings.items() if not key.startswith("agent.")}
    return settings
