"""What every agent must keep to, as functions that the agents' own tests call on every variant."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rlzoo.agent import Agent
from rlzoo.types import Batch, Spaces

CPU = torch.device("cpu")
SPACES = Spaces(state_dim=5, action_dim=3)
PIXELS = Spaces(state_dim=5, action_dim=3, pixels=(2, 6, 24, 24), frame_stack=2)
Build = Callable[[], Agent]


def make_batch(rows: int = 12, seed: int = 0, spaces: Spaces = SPACES) -> Batch:
    """A random batch: its first half demonstrations, some rows terminated."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    batch = Batch(
        obs={"state": normal(rows, spaces.state_dim)},
        action=torch.tanh(normal(rows, spaces.action_dim)),
        reward=normal(rows),
        discount=0.99 * (normal(rows) > -0.5).float(),
        next_obs={"state": normal(rows, spaces.state_dim)},
        is_demo=(torch.arange(rows) < rows // 2).float(),
    )
    if spaces.pixels is not None:
        for obs in (batch.obs, batch.next_obs):
            size = (rows, *spaces.pixels)
            obs["pixels"] = torch.randint(256, size, generator=generator, dtype=torch.uint8)
    return batch


def update(agent: Agent, batch: Batch) -> dict[str, Tensor]:
    """One round of the agent's updates; the last one's metrics."""
    metrics: dict[str, Tensor] = {}
    for function in agent.update_cycle():
        metrics = function(batch)
    return metrics


def check_act(agent: Agent) -> None:
    """Shapes and range; the deterministic action is one; acting changes nothing."""
    before = {name: value.clone() for name, value in agent.named_parameters()}
    for rows in (1, 7):
        obs = make_batch(rows).obs
        action = agent.act(obs, deterministic=True)
        assert action.shape == (rows, SPACES.action_dim)
        assert action.dtype == torch.float32
        assert not action.requires_grad
        assert torch.equal(agent.act(obs, deterministic=True), action)
        sample = agent.act(obs, deterministic=False)
        assert sample.shape == action.shape
        assert max(action.abs().max(), sample.abs().max()) <= 1
    assert all(torch.equal(before[name], value) for name, value in agent.named_parameters())


def check_metrics(agent: Agent) -> None:
    """Metrics are finite, detached 0-d tensors under TensorBoard tags."""
    for name, value in update(agent, make_batch()).items():
        assert name.split("/")[0] in ("loss", "value", "policy"), name
        assert value.ndim == 0, name
        assert not value.requires_grad, name
        assert value.isfinite(), name


def check_targets(agent: Agent, networks: list[tuple[nn.Module, nn.Module]], tau: float) -> None:
    """An update moves each target (second of a pair) by its moving average alone."""
    before = [[parameter.clone() for parameter in target.parameters()] for _, target in networks]
    update(agent, make_batch())
    for (online, target), old in zip(networks, before, strict=True):
        for start, now, source in zip(old, target.parameters(), online.parameters(), strict=True):
            torch.testing.assert_close(now, start.lerp(source.detach(), tau))
            assert not now.requires_grad


def check_saved_agent_goes_on_exactly(build: Build) -> None:
    """A state dict that went through a file continues bit by bit, optimisers included."""
    agent = build()
    for seed in range(3):
        update(agent, make_batch(seed=seed))
    file = io.BytesIO()
    torch.save(agent.state_dict(), file)
    file.seek(0)
    torch.manual_seed(99)
    other = build()
    other.load_state_dict(torch.load(file, weights_only=True))
    for each in (agent, other):
        torch.manual_seed(3)
        for seed in range(3, 6):
            update(each, make_batch(seed=seed))
    for ours, theirs in zip(agent.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    actions = []
    for each in (agent, other):
        torch.manual_seed(3)
        actions.append(each.act(make_batch().obs, deterministic=False))
    assert torch.equal(*actions)


def check_update_never_waits_for_the_device(build: Build, spaces: Spaces = SPACES) -> None:
    """Fake tensors hold no values, so `.item()`, a branch on a value or a shape from one would raise."""
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode():
        # Fake parameters live on the one device there is, and moving them is not supported.
        patch.setattr(nn.Module, "to", lambda module, device: module)
        # A deep copy of a fake tensor (a target network) would copy its mode too, and modes do not mix.
        patch.setattr(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, raising=False)
        agent = build()
        zeros, obs = torch.zeros(8), {"state": torch.zeros(8, spaces.state_dim)}
        if spaces.pixels is not None:
            obs["pixels"] = torch.zeros(8, *spaces.pixels, dtype=torch.uint8)
        batch = Batch(obs, torch.zeros(8, spaces.action_dim), zeros, zeros, obs, zeros)
        for _ in range(2):
            update(agent, batch)
        assert agent.act(obs, deterministic=False).shape == (8, spaces.action_dim)
