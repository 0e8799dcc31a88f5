"""Agents out of the checkpoints of finished runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import torch

from experiments.presets import AGENTS
from rlzoo.agent import Agent
from rlzoo.checkpoint import load_checkpoint
from rlzoo.errors import UserError
from rlzoo.types import Spaces


def read_run(run_dir: Path, name: str) -> dict[str, Any]:
    """The checkpoint `name` of a run.

    Raises:
        UserError: it is missing, damaged, or of an agent that is not known here.
    """
    checkpoint = load_checkpoint(run_dir / "checkpoints" / name)
    if checkpoint.get("agent_name") not in AGENTS:
        raise UserError(f"{run_dir} was trained by {checkpoint.get('agent_name')!r}, which is no agent here")
    return checkpoint


def load_agent(checkpoint: Mapping[str, Any], spaces: Spaces, device: torch.device) -> Agent:
    """The agent in a checkpoint, of a whole run or of its best policy.

    Args:
        checkpoint: what `read_run` returned.
        spaces: the task's.
        device: where its networks are to be.

    Raises:
        UserError: the checkpoint does not fit the task.
    """
    entry = AGENTS[checkpoint["agent_name"]]
    try:
        saved = checkpoint["agent"] if "agent" in checkpoint else checkpoint["trainer"]["agent"]
        config = pydantic.TypeAdapter(entry.config).validate_python(checkpoint["agent_config"])
        agent = entry.make(spaces, config, device)
        agent.load_state_dict(saved)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the checkpoint does not fit {checkpoint.get('task')}: {reason}") from error
    return agent
