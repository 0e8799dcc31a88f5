"""D4RL's tasks: ARSQ's and CQN's settings per dataset, from ARSQ's public code; ranges of returns (ours)."""

from __future__ import annotations

from typing import Any

from algos.cqn import CQNConfig
from experiments.presets.agents import PAPER, SMALL, WITH_DEMONSTRATIONS


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

# The same levels and bins are those of CQN there, and ours for BC where it imitates codes.
CODES = {
    dataset: {key: settings[key] for key in ("agent.levels", "agent.bins")}
    for dataset, settings in ARSQ_D4RL.items()
}


def _cqn(dataset: str) -> dict[str, Any]:
    """CQN's settings for one D4RL dataset in the same code.

    It has `critic_lambda` 1, and 1 as the weight of both demonstration losses, but on two files 0.1, which
    count in the dominance loss twice.
    """
    weight = 0.1 if dataset in ("hopper-medium", "hopper-medium-expert") else 1.0
    weights = {"agent.td_weight": 1.0, "agent.demo_weight": weight, "agent.dominance_weight": weight}
    return CODES[dataset] | weights


# Elsewhere it has the defaults of CQNConfig.
CQN_D4RL = {dataset: _cqn(dataset) for dataset in ARSQ_D4RL}

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
_OFF_POLICY = {"steps": 500_000, "num_envs": 1, "utd": 1.0, "warmup_steps": 0, "eval_every": 10_000}


def preset(name: str, agent: str, task: str) -> dict[str, Any]:
    """Settings of `agent` on a D4RL task."""
    settings = {**PAPER.get(agent, WITH_DEMONSTRATIONS)}
    dataset = task.rpartition("-v")[0]
    if agent == "arsq":
        settings |= ARSQ_D4RL.get(dataset, {})
    elif agent == "cqn":
        kind = task.partition("-")[0]
        low, high = CQN_RETURNS[kind]
        margin = CQN_MARGINS.get(kind, CQNConfig.margin)
        settings |= {"agent.v_min": low, "agent.v_max": high, "agent.margin": margin}
        settings |= CQN_D4RL.get(dataset, {})
    elif agent == "bc":
        settings |= CODES.get(dataset, {})
    elif agent in ("dsac-t", "dsac", "sac", "td3"):
        settings |= _OFF_POLICY
    if name == "small" and agent in ("arsq", "cqn", "bc"):
        settings |= SMALL[agent]
    elif name == "small" and agent in SMALL:
        settings |= {"batch_size": 128, "agent.hidden": (256, 256)}
    return settings
