"""Agents out of the checkpoints of finished runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch

from algos import AGENTS
from rlzoo.agent import Agent
from rlzoo.data.scaling import Scaling
from rlzoo.errors import UserError
from rlzoo.evaluate import policy_action
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.types import Array, FloatArray, Spaces

Policy = Callable[[dict[str, Array]], FloatArray]  # observations [N, ...] -> actions [N, A], the task's own


def read_run(run_dir: Path, name: str) -> dict[str, Any]:
    """The checkpoint `name` of a run.

    Raises:
        UserError: it is missing, damaged, or of an agent that is not known here.
    """
    checkpoint = load_checkpoint(run_dir / "checkpoints" / name)
    if not isinstance(checkpoint.get("agent_name"), str) or checkpoint["agent_name"] not in AGENTS:
        raise UserError(f"{run_dir} was trained by {checkpoint.get('agent_name')!r}, which is no agent here")
    return checkpoint


def agent_config(checkpoint: Mapping[str, Any]) -> Any:
    """The hyperparameters of the agent in a checkpoint.

    Raises:
        UserError: there are none that this agent takes.
    """
    name = checkpoint["agent_name"]
    try:
        return pydantic.TypeAdapter(AGENTS[name].Config).validate_python(checkpoint.get("agent_config"))
    except pydantic.ValidationError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the checkpoint holds no settings of {name} as it is here: {reason}") from error


def load_agent(checkpoint: Mapping[str, Any], spaces: Spaces, device: torch.device) -> Agent:
    """The agent in a checkpoint, of a whole run or of its best policy; its networks are on `device`.

    Raises:
        UserError: the checkpoint does not fit the task with these `spaces`.
    """
    agent_type = AGENTS[checkpoint["agent_name"]]
    try:
        saved = checkpoint["agent"] if "agent" in checkpoint else checkpoint["trainer"]["agent"]
        agent = agent_type(spaces, agent_config(checkpoint), device)
        agent.load_state_dict(saved)
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the checkpoint does not fit {checkpoint.get('task')}: {reason}") from error
    return agent


def load_policy(
    checkpoint: Mapping[str, Any], spaces: Spaces, device: torch.device, *, noise: float | None = 0.0
) -> Policy:
    """The policy in a checkpoint, from the task's observations to the task's actions in [-1, 1].

    Args:
        checkpoint, spaces, device: as for `load_agent`.
        noise: standard deviation of Gaussian noise on the best action, in the task's units; None: sample
            instead.
    """
    agent = load_agent(checkpoint, spaces, device)
    scaling = Scaling.of_checkpoint(checkpoint)

    def act(obs: dict[str, Array]) -> FloatArray:
        action = policy_action(agent, scaling.scale_obs(obs), device, deterministic=noise is not None)
        action = scaling.to_task(action)
        if noise:
            action = action + noise * torch.randn(action.shape).numpy()
        return np.clip(action, -1, 1).astype(np.float32)

    return act
