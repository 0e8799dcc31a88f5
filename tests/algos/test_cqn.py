"""CQN against the reference vectors, its settings, and what every update must keep to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from algos.cqn import CQN, CQNConfig, Stream, at_codes, project
from rlzoo.errors import UserError
from rlzoo.types import Batch, Spaces
from tests.helpers.agent_checks import (
    CPU,
    SPACES,
    check_act,
    check_metrics,
    check_saved_agent_goes_on_exactly,
    check_targets,
    check_update_never_waits_for_the_device,
    make_batch,
)
from tests.helpers.golden import SMALLEST_GRADIENT, Golden, golden_files

C51 = CQNConfig(levels=2, bins=4, atoms=11, v_min=-3, v_max=3, feature_dim=8, hidden=(16, 16), lr=1e-3)
VARIANTS = {
    "c51": C51,
    "scalar": replace(C51, atoms=1, weight_decay=0.1),
    "one-level": replace(C51, levels=1, bins=7, hidden=(16,)),
}
every_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())


def make_agent(config: CQNConfig) -> CQN:
    torch.manual_seed(0)
    agent = CQN(SPACES, config, CPU)
    for parameter in agent.parameters():  # away from the heads' zeros and from target = online
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return agent


# ---------------------------------------------------------------------------------------- reference vectors


def golden_agent(golden: Golden) -> CQN:
    config = golden.config
    agent = CQN(
        Spaces(config["obs_dim"], config["action_dim"]),
        CQNConfig(
            levels=config["levels"],
            bins=config["bins"],
            atoms=config["atoms"],
            v_min=config["v_min"],
            v_max=config["v_max"],
            feature_dim=config["feature_dim"],
            hidden=(config["hidden_dim"],) * 2,
            td_weight=config["critic_lambda"],
            demo_weight=config["bc_lambda"],
            # The reference multiplies the dominance loss by its weight twice, and by bc_lambda not at all.
            dominance_weight=config["bc_fosd"] ** 2 / config["bc_lambda"],
            margin=config["bc_margin"],
            lr=config["lr"],
            tau=config["tau"],
        ),
        CPU,
    )
    for parameter, name in golden_parameters(agent):
        parameter.data.copy_(golden[f"before.{name}"])
    return agent


def golden_parameters(agent: CQN) -> list[tuple[Tensor, str]]:
    """Every parameter with its recorded name."""
    pairs = []
    for kind, critic in (("online", agent.critic), ("target", agent.target_critic)):
        for prefix, stream in (("adv", critic.advantage), ("value", critic.value)):
            pairs += [(tensor, f"{kind}.{prefix}_{name}") for name, tensor in stream_parameters(stream)]
    return pairs


def stream_parameters(stream: Stream) -> list[tuple[str, Tensor]]:
    layers = {
        "trunk.0": stream.trunk[0],
        "trunk.1": stream.trunk[1],
        "net.0": stream.first,
        "net.1": stream.norms[0],
        "net.3": stream.rest[0],
        "net.4": stream.norms[1],
        "head": stream.head,
    }
    return [
        (f"{name}.{kind}", tensor)
        for name, layer in layers.items()
        for kind, tensor in layer.named_parameters()
    ]


@pytest.mark.parametrize("path", golden_files("cqn_*.npz"))
def test_reference_vectors(path: Path) -> None:
    golden = Golden(path)
    agent = golden_agent(golden)
    reward = golden["batch.rewards"].squeeze(-1)
    batch = Batch(
        obs={"state": golden["batch.observations"]},
        action=golden["batch.actions"],
        reward=reward,
        discount=torch.full_like(reward, golden.config["discount"]),  # also of terminal rows
        next_obs={"state": golden["batch.next_observations"]},
        is_demo=golden["batch.demos"].squeeze(-1),
    )
    golden.check("act.greedy_target", agent.act(batch.obs, deterministic=True))
    next_codes = agent.critic.best_codes(batch.next_obs["state"])
    golden.check("next_action.online", agent.critic.binning.decode(next_codes))
    golden.check("target", agent.td_target(batch).squeeze(-2).transpose(0, 1))

    losses = agent.losses(batch)
    golden.check("loss.q_critic_loss", losses.td)
    golden.check("loss.bc_margin_loss", losses.margin)
    if agent.config.atoms > 1:
        golden.check("loss.bc_fosd_loss", golden.config["bc_fosd"] * losses.dominance)

    agent.update(batch)
    for parameter, name in golden_parameters(agent):
        gradient = f"grad.{name.replace('target', 'online')}"
        if parameter.grad is not None:
            golden.check(gradient, parameter.grad)
        golden.check(f"after.{name}", parameter.detach(), golden[gradient].abs() > SMALLEST_GRADIENT)


# -------------------------------------------------------------------------------------------------- network


@every_variant
def test_logits_match_their_definition(config: CQNConfig) -> None:
    critic, batch = make_agent(config).critic, make_batch(6)
    state, codes = batch.obs["state"], critic.binning.encode(batch.action)
    logits = critic(state, codes)
    assert logits.shape == (config.levels, 6, 3, config.bins, config.atoms)
    centers = critic.binning.centers(codes)
    for level in range(config.levels):
        one_hot = torch.zeros(6, config.levels)
        one_hot[:, level] = 1
        outputs = []
        for stream in (critic.value, critic.advantage):
            x = torch.cat([stream.trunk(state), centers[level], one_hot], -1)
            for layer, norm in zip([stream.first, *stream.rest], stream.norms, strict=True):
                x = F.silu(norm(layer(x)))
            outputs.append(stream.head(x).view(6, 3, -1, config.atoms))
        value, advantage = outputs
        torch.testing.assert_close(logits[level], value + advantage - advantage.mean(2, keepdim=True))


@every_variant
def test_best_codes_maximise_each_dimension(config: CQNConfig) -> None:
    critic, batch = make_agent(config).critic, make_batch(20)
    codes = critic.best_codes(batch.obs["state"])
    assert codes.shape == (20, config.levels, 3)
    q = critic.q(critic(batch.obs["state"], codes))
    assert torch.equal(q.argmax(-1).transpose(0, 1), codes)


def test_new_agent_explores_every_bin() -> None:
    """The heads start at zero: without drawing among equals, every first action would be a corner."""
    torch.manual_seed(0)
    agent = CQN(SPACES, replace(C51, exploration_noise=0.0), CPU)
    obs = {"state": torch.randn(500, 5)}
    explored = agent.critic.binning.encode(agent.act(obs, deterministic=False))
    counts = torch.bincount(explored.flatten(), minlength=4) / explored.numel()
    torch.testing.assert_close(counts, torch.full((4,), 0.25), atol=0.05, rtol=0)
    corner = agent.act(obs, deterministic=True)
    assert torch.equal(corner, corner[:1].expand_as(corner))


# --------------------------------------------------------------------------------------------------- losses


def test_projection_keeps_mass_and_mean() -> None:
    torch.manual_seed(0)
    atoms = torch.linspace(-3, 3, 11)
    prob = torch.randn(2, 4, 3, 1, 11).softmax(-1)
    reward, discount = torch.tensor([0.3, -0.2, 0.0, 10.0]), torch.tensor([0.5, 0.0, 1.0, 0.9])
    projected = project(prob, atoms, reward, discount)
    assert projected.shape == prob.shape
    torch.testing.assert_close(projected.sum(-1), torch.ones(2, 4, 3, 1))
    mean = reward[:, None, None] + discount[:, None, None] * (prob @ atoms)
    torch.testing.assert_close((projected @ atoms)[:, :3], mean[:, :3])  # no atom of theirs is cut
    # Termination: all mass at the reward -0.2, between atoms -0.6 and 0 in proportion to nearness.
    expected = torch.zeros(11)
    expected[4], expected[5] = 1 / 3, 2 / 3
    torch.testing.assert_close(projected[0, 1, 0, 0], expected)
    torch.testing.assert_close(projected[:, 2], prob[:, 2])  # r = 0 and gamma = 1 change nothing
    assert projected[0, 3, 0, 0, -1] == pytest.approx(1)  # beyond v_max: all at the last atom


@every_variant
def test_target_stops_at_termination(config: CQNConfig) -> None:
    agent, batch = make_agent(config), make_batch()
    target = agent.td_target(batch)
    if config.atoms > 1:
        target = (target @ agent.critic.atoms)[..., None]
    ended = batch.discount == 0
    assert ended.any()
    expected = batch.reward[ended][:, None].expand(-1, 3)
    torch.testing.assert_close(target[0, ended, :, 0, 0], expected.clamp(-3, 3))


def test_demonstration_losses_written_out() -> None:
    agent, batch = make_agent(C51), make_batch(6)
    losses = agent.losses(batch)
    codes = agent.critic.binning.encode(batch.action)
    logits = agent.critic(batch.obs["state"], codes)
    prob = logits.softmax(-1)
    dominance, margin = [], []
    for level in range(2):
        for row in range(3):  # the demonstrations
            for dim in range(3):
                taken = prob[level, row, dim, codes[row, level, dim]]
                for other in prob[level, row, dim]:
                    dominance.append((taken.cumsum(0) - other.cumsum(0)).relu().sum())
                    margin.append((1 - (taken - other) @ agent.critic.atoms).relu())
    torch.testing.assert_close(losses.dominance, torch.stack(dominance).mean())
    torch.testing.assert_close(losses.margin, torch.stack(margin).mean())
    total = 0.1 * losses.td + losses.dominance + losses.margin
    torch.testing.assert_close(losses.total, total)
    nobody = agent.losses(batch._replace(is_demo=torch.zeros(6)))
    assert nobody.dominance == nobody.margin == 0


def test_scalar_td_written_out() -> None:
    agent, batch = make_agent(VARIANTS["scalar"]), make_batch(6)
    codes = agent.critic.binning.encode(batch.action)
    q = at_codes(agent.critic(batch.obs["state"], codes), codes)
    best = agent.critic.best_codes(batch.next_obs["state"])
    next_q = at_codes(agent.target_critic(batch.next_obs["state"], best), best)
    target = batch.reward[:, None] + batch.discount[:, None] * next_q[..., 0, 0]
    torch.testing.assert_close(agent.losses(batch).td, (q[..., 0, 0] - target).square().mean())


# --------------------------------------------------------------------------------------------------- update


@every_variant
def test_contract(config: CQNConfig) -> None:
    agent = make_agent(config)
    check_act(agent)
    check_metrics(agent)
    check_targets(agent, [(agent.critic, agent.target_critic)], config.tau)


@every_variant
def test_saved_agent_goes_on_exactly(config: CQNConfig) -> None:
    check_saved_agent_goes_on_exactly(lambda: CQN(SPACES, config, CPU))


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@every_variant
def test_update_never_waits_for_the_device(config: CQNConfig) -> None:
    check_update_never_waits_for_the_device(lambda: CQN(SPACES, config, CPU))


def test_exploration_noise_is_re_encoded() -> None:
    agent = make_agent(replace(C51, exploration_noise=0.5))
    binning = agent.critic.binning
    obs = make_batch(200).obs
    noisy, greedy = agent.act(obs, deterministic=False), agent.act(obs, deterministic=True)
    assert torch.equal(binning.decode(binning.encode(noisy)), noisy)
    assert 0.2 < (noisy - greedy).std() < 0.6


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"atoms": 0}, "atoms"), ({"hidden": ()}, "hidden"), ({"v_max": -5.0}, "v-max"), ({"bins": 1}, "bins")],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CQN(SPACES, replace(CQNConfig(), **settings), CPU)
