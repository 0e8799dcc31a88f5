"""Which agents there are, and the settings each task starts from: data, each with its source.

A preset is a dict of names of settings (`steps`, `agent.hidden`, `data.demo_ratio`) to values. The
agent's come first, then the task's, then those of the agent on that task; flags given by hand win over all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from algos.arsq import ARSQ, ARSQConfig
from algos.bc import BC, BCConfig
from algos.cqn import CQN, CQNConfig
from algos.dsac_t import DSACT, DSACTConfig
from algos.sac import SAC, SACConfig
from algos.td3 import TD3, TD3Config
from rlzoo.agent import Agent


@dataclass(frozen=True)
class AgentEntry:
    """An agent as the scripts know it.

    Attributes:
        make: its class, called with (spaces, config, device).
        config: its hyperparameters' class.
        about: one line for `--help`.
        preset: the loop's settings in its paper.
    """

    make: type[Agent]
    config: type[Any]
    about: str
    preset: dict[str, Any] = field(default_factory=dict)


# ARSQ's D4RL experiments (arXiv 2502.00288 and its code), also for the baselines compared with there: one
# environment, one update per step from the first step on, 256 rows of demonstrations and 256 of replay.
_WITH_DEMONSTRATIONS = {
    "steps": 500_000,
    "num_envs": 1,
    "utd": 1.0,
    "batch_size": 512,
    "demo_fraction": 0.5,
    "warmup_steps": 0,
    "eval_every": 10_000,
}

AGENTS: dict[str, AgentEntry] = {
    "arsq": AgentEntry(
        ARSQ,
        ARSQConfig,
        "Auto-Regressive Soft Q-learning (arXiv 2502.00288)",
        {**_WITH_DEMONSTRATIONS},
    ),
    "cqn": AgentEntry(
        CQN,
        CQNConfig,
        "Coarse-to-fine Q-Network (arXiv 2407.07787)",
        {**_WITH_DEMONSTRATIONS},
    ),
    "bc": AgentEntry(
        BC,
        BCConfig,
        "Behavioural cloning, tanh-Gaussian or ARSQ's categorical",
        # It learns from demonstrations alone.
        {**_WITH_DEMONSTRATIONS, "batch_size": 256, "demo_fraction": 1.0},
    ),
    "dsac-t": AgentEntry(
        DSACT,
        DSACTConfig,
        "Distributional Soft Actor-Critic with Three refinements (arXiv 2310.05858)",
        # The paper's hyperparameters and the authors' code: 1.5 M iterations of 20 environment steps and
        # one update each, evaluated every 2,500 iterations.
        {
            "steps": 30_000_000,
            "num_envs": 20,
            "utd": 1 / 20,
            "batch_size": 256,
            "warmup_steps": 10_000,
            "buffer_capacity": 1_000_000,
            "eval_every": 50_000,
            "eval_episodes": 10,
        },
    ),
    "sac": AgentEntry(
        SAC,
        SACConfig,
        "Soft Actor-Critic with an adapted temperature (arXiv 1812.05905)",
        # Table 1 and figure 1: one environment, one update per step.
        {"steps": 3_000_000, "num_envs": 1, "utd": 1.0, "batch_size": 256, "warmup_steps": 10_000},
    ),
    "td3": AgentEntry(
        TD3,
        TD3Config,
        "Twin Delayed Deep Deterministic policy gradient (arXiv 1802.09477)",
        # Section 6.1 and appendix C: one environment, one update per step, 10,000 random steps on
        # HalfCheetah and Ant, 1,000 elsewhere (MUJOCO_TASKS below); evaluated every 5,000 steps.
        {
            "steps": 1_000_000,
            "num_envs": 1,
            "utd": 1.0,
            "batch_size": 100,
            "warmup_steps": 1_000,
            "eval_every": 5_000,
        },
    ),
}


@dataclass(frozen=True)
class MujocoTask:
    """A task of DSAC-T's paper.

    Attributes:
        paper_return: DSAC-T's final average return there (5 seeds, 1.5 M iterations).
        preset: settings that depend on the task, by agent.
    """

    paper_return: float
    preset: dict[str, dict[str, Any]] = field(default_factory=dict)


_TD3_WARMUP = {"td3": {"warmup_steps": 10_000}}
# Haarnoja et al. 2018, figure 1: 1 M steps on the small tasks, 3 M on the larger ones, 10 M on Humanoid.
_SAC_SHORT = {"sac": {"steps": 1_000_000}}

MUJOCO_TASKS: dict[str, MujocoTask] = {
    "Humanoid-v5": MujocoTask(10829, {"sac": {"steps": 10_000_000}}),
    "Ant-v5": MujocoTask(7086, {**_TD3_WARMUP}),
    "HalfCheetah-v5": MujocoTask(17025, {**_TD3_WARMUP}),
    "Walker2d-v5": MujocoTask(6424),
    "Hopper-v5": MujocoTask(3660, {**_SAC_SHORT}),
    "Swimmer-v5": MujocoTask(138, {**_SAC_SHORT}),
    "Pusher-v5": MujocoTask(-19, {**_SAC_SHORT}),
    "Reacher-v5": MujocoTask(-5, {**_SAC_SHORT}),
    "InvertedDoublePendulum-v5": MujocoTask(9360, {**_SAC_SHORT}),
}


def _arsq(
    levels: int, bins: int, temperature: float, loss: str, weight: float, floor: float
) -> dict[str, Any]:
    """ARSQ's settings for one D4RL task.

    `margin` with `weight` per row of the reference's batch of 512: its loss sums over the whole batch,
    demonstrations or not, where ours averages.
    """
    rows, weight = ("all", weight * 512) if loss == "margin" else ("demos", weight)
    return {
        "agent.levels": levels,
        "agent.bins": bins,
        "agent.temperature": temperature,
        "agent.demo_loss": loss,
        "agent.demo_rows": rows,
        "agent.demo_weight": weight,
        "agent.demo_floor": floor,
    }


# The settings of ARSQ's public code for D4RL; the defaults of ARSQConfig are its settings elsewhere.
ARSQ_D4RL: dict[str, dict[str, Any]] = {
    "halfcheetah-medium": _arsq(1, 41, 0.01, "cql", 1.0, -1.0),
    "halfcheetah-medium-replay": _arsq(1, 41, 0.01, "margin", 0.1, -1.0),
    "halfcheetah-medium-expert": _arsq(1, 41, 0.01, "margin", 0.1, -1.0),
    "hopper-medium": _arsq(2, 7, 0.01, "cql", 0.5, -1.0),
    "hopper-medium-replay": _arsq(2, 7, 0.01, "margin", 0.03, 1.0),
    "hopper-medium-expert": _arsq(2, 7, 0.01, "cql", 2.0, -1.0),
    "walker2d-medium": _arsq(1, 41, 0.01, "cql", 10.0, 0.0),
    "walker2d-medium-replay": _arsq(1, 41, 0.01, "margin", 0.1, -1.0),
    "walker2d-medium-expert": _arsq(1, 41, 0.01, "cql", 10.0, 0.0),
}

# Ours: the range of discounted returns (gamma 0.99) that CQN's atoms express, where its default of 0 to 400
# is too narrow, or so wide that all returns lie within an atom or two. Locomotion: beyond what D4RL's
# reference expert collects, were its return spread evenly over the episode, and below 0 where rewards can be
# negative. Adroit's episodes end by their time limit alone (and with a dropped pen), so a state that lasts is
# worth its reward / (1 - gamma). The largest of one step is 61 with pen, 20 with door, 102 with hammer, 31
# with relocate, the smallest -2 with pen. A run says so when its data go well beyond.
CQN_RETURNS = {
    "halfcheetah": (-100.0, 1_500.0),
    "hopper": (-10.0, 450.0),
    "walker2d": (-50.0, 600.0),
    "ant": (-200.0, 800.0),
    "pen": (-200.0, 6_200.0),
    "door": (-50.0, 2_100.0),
    "hammer": (-150.0, 10_500.0),
    "relocate": (-50.0, 3_200.0),
    # A single 1 at the goal: as on RLBench. Four parts. 1 a step for ever.
    "antmaze": (-2.0, 2.0),
    "kitchen": (0.0, 4.0),
    "maze2d": (0.0, 100.0),
}
# The lead asked for by the margin loss, where returns are that small: a 400th of the range, as in the
# authors' settings for D4RL and for RLBench.
CQN_MARGINS = {"antmaze": 0.01, "kitchen": 0.01, "maze2d": 0.25}

# Agents without a demonstration loss take half of each batch from the demonstrations on D4RL, from the first
# step on, and one environment, so that curves are comparable step by step.
_D4RL_OFF_POLICY = {"steps": 500_000, "num_envs": 1, "utd": 1.0, "warmup_steps": 0, "eval_every": 10_000}


def d4rl_preset(agent: str, task: str) -> dict[str, Any]:
    """Settings of `agent` on a D4RL task, over the agent's own."""
    if agent == "arsq":
        name, _, _version = task.rpartition("-v")
        return ARSQ_D4RL.get(name, {})
    if agent == "cqn":
        kind = task.partition("-")[0]
        low, high = CQN_RETURNS[kind]
        margin = CQN_MARGINS.get(kind, CQNConfig.margin)
        return {"agent.v_min": low, "agent.v_max": high, "agent.margin": margin}
    return _D4RL_OFF_POLICY if agent in ("dsac-t", "sac", "td3") else {}


# The protocol of CQN (arXiv 2407.07787, config_rlbench.yaml of its code) and of ARSQ on RLBench: one
# environment, one update per step from the first on, 256 rows of demonstrations and 256 of replay, gamma
# 0.99, one-step returns, 30,250 steps, 25 episodes of evaluation every 2,500. Successful online episodes join
# the demonstrations.
_RLBENCH = {
    **_WITH_DEMONSTRATIONS,
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
    # What imitation of the given demonstrations alone reaches.
    "bc": {"demo_fraction": 1.0, "join_capacity": 0},
    # Ours, not tuned: with rewards of 0 and a single 1 a temperature of e or 1 would drown them.
    "dsac-t": {"agent.initial_temperature": 0.01},
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


def rlbench_preset(agent: str, task: str, *, pixels: bool = True) -> dict[str, Any]:
    """Settings of `agent` on an RLBench task, over the agent's own; the same for every `task`.

    Args:
        agent: its name in AGENTS.
        task: its RLBench name.
        pixels: whether the agent sees camera images, or the task's state.
    """
    settings = {**_RLBENCH, **_RLBENCH_AGENTS.get(agent, {})}
    if not pixels:
        return settings
    # Ours: the references keep the demonstrations' images in the replay buffer too; once is enough for the
    # memory, and that half of a batch is then the agent's own steps. Joint positions are seen as they are.
    return {
        **settings,
        "data.seed_replay": False,
        "data.standardize": False,
        **_RLBENCH_PIXELS.get(agent, {}),
    }
