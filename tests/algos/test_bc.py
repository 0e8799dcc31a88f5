"""Behavioural cloning with both policy classes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from algos.autoregressive import AdvantageNetwork
from algos.bc import BC, BCConfig, tanh_gaussian_log_prob
from rlzoo.errors import UserError
from rlzoo.nn.gaussian import GaussianPolicy
from rlzoo.types import Batch
from tests.helpers.agent_checks import (
    CPU,
    SPACES,
    check_act,
    check_metrics,
    check_saved_agent_goes_on_exactly,
    check_update_never_waits_for_the_device,
    make_batch,
)

GAUSSIAN = BCConfig(hidden=(32, 32), lr=3e-3)
VARIANTS = {
    "gaussian": GAUSSIAN,
    "gaussian-mse": replace(GAUSSIAN, loss="mse", demo_rows="all"),
    "arsq": replace(GAUSSIAN, policy="arsq", levels=2, bins=4),
    "arsq-median": replace(GAUSSIAN, policy="arsq", levels=2, bins=4, greedy="median"),
    "arsq-dimension-order": replace(GAUSSIAN, policy="arsq", levels=2, bins=4, order="dimension"),
}
every_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())


def make_agent(config: BCConfig) -> BC:
    torch.manual_seed(0)
    return BC(SPACES, config, CPU)


# --------------------------------------------------------------------------------------------------- losses


def test_tanh_gaussian_density_integrates_to_one() -> None:
    edges = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    for mean, log_std in ((0.3, -1.0), (-1.0, 0.2)):
        log_prob = tanh_gaussian_log_prob(torch.tensor(mean), torch.tensor(log_std), middle[:, None])
        assert (log_prob.exp() * (edges[1] - edges[0])).sum().item() == pytest.approx(1, abs=1e-3)


def test_gaussian_loss_written_out() -> None:
    agent, batch = make_agent(GAUSSIAN), make_batch(6)
    assert isinstance(agent.policy, GaussianPolicy)
    mean, log_std = agent.policy(batch.obs["state"])
    total = 0.0
    for row in range(3):  # the demonstrations
        for dim in range(3):
            action = batch.action[row, dim].item()
            std = math.exp(log_std[row, dim].item())
            normal = torch.distributions.Normal(mean[row, dim], std)
            total -= normal.log_prob(torch.tensor(math.atanh(action))).item() - math.log(1 - action**2)
    assert agent.loss(batch)[0].item() == pytest.approx(total / 3, rel=1e-4)


def test_categorical_loss_is_the_cross_entropy_of_the_codes() -> None:
    agent, batch = make_agent(VARIANTS["arsq"]), make_batch(6)
    network = agent.policy
    assert isinstance(network, AdvantageNetwork)
    codes = network.binning.encode(batch.action)
    logits = network(batch.obs["state"], codes)[0, :, :3]  # [T, 3, N], the demonstrations
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), network.by_position(codes)[:, :3].flatten(), reduction="sum"
    )
    torch.testing.assert_close(agent.loss(batch)[0], expected / 3)


@every_variant
def test_saturated_actions_keep_the_loss_finite(config: BCConfig) -> None:
    agent, batch = make_agent(config), make_batch(8)
    batch = batch._replace(action=batch.action.sign())
    for _ in range(20):
        metrics = agent.update(batch)
    assert all(value.isfinite() for value in metrics.values())
    assert all(parameter.isfinite().all() for parameter in agent.parameters())


@every_variant
def test_rows_that_are_no_demonstrations_count_only_if_asked_to(config: BCConfig) -> None:
    agent, batch = make_agent(config), make_batch()
    changed = batch._replace(action=torch.where(batch.is_demo[:, None] > 0, batch.action, -batch.action))
    same = torch.equal(agent.loss(batch)[0], agent.loss(changed)[0])
    assert same == (config.demo_rows == "demos")
    nobody = agent.loss(batch._replace(is_demo=torch.zeros(12)))[0]
    assert config.demo_rows == "all" or nobody == 0


# ------------------------------------------------------------------------------------------------- learning


@every_variant
def test_it_imitates(config: BCConfig) -> None:
    """a = tanh of a linear map of the state, in new states too."""
    torch.manual_seed(0)
    agent = BC(SPACES, replace(config, bins=9), CPU)
    weight = torch.randn(5, 3) / 2
    for _ in range(300):
        state = torch.randn(128, 5)
        ones = torch.ones(128)
        batch = Batch({"state": state}, torch.tanh(state @ weight), ones, ones, {"state": state}, ones)
        agent.update(batch)
    state = torch.randn(500, 5)
    error = (agent.act({"state": state}, deterministic=True) - torch.tanh(state @ weight)).abs().mean()
    assert error < 0.08


def test_squared_error_teaches_no_deviation_so_nothing_is_sampled_with_it() -> None:
    agent, batch = make_agent(VARIANTS["gaussian-mse"]), make_batch()
    assert torch.equal(agent.act(batch.obs, deterministic=False), agent.act(batch.obs, deterministic=True))
    assert agent.update(batch).keys() == {"loss/bc", "policy/demo_squared_error"}
    categorical = make_agent(replace(VARIANTS["arsq"], loss="mse"))  # which that setting is not of
    obs = {"state": torch.zeros(50, 5)}
    assert len(categorical.act(obs, deterministic=False).unique(dim=0)) > 1


def test_the_categorical_keeps_modes_apart() -> None:
    """Two equally frequent modes: samples come from either one, none from between or from a mixture."""
    torch.manual_seed(0)
    agent = BC(SPACES, replace(VARIANTS["arsq"], levels=1, bins=9), CPU)
    modes = torch.tensor([[0.7, 0.7, -0.7], [-0.7, -0.7, 0.7]])
    for _ in range(200):
        state = torch.randn(128, 5)
        action = modes[torch.randint(2, (128,))] + 0.05 * torch.randn(128, 3)
        ones = torch.ones(128)
        agent.update(Batch({"state": state}, action, ones, ones, {"state": state}, ones))
    action = agent.act({"state": torch.randn(1000, 5)}, deterministic=False)
    near = (action[:, None] - modes).abs().amax(-1) < 0.3  # [1000, 2]
    assert near.any(1).float().mean() > 0.95
    assert 0.3 < near[:, 0].float().mean() < 0.7


@pytest.mark.parametrize("order", ["level", "dimension"])
def test_the_median_keeps_modes_apart(order: Any) -> None:
    """Dimension 1 is up with 0.35 and down with 0.65, but where dimension 0 is up, with 0.35 of 0.55."""
    torch.manual_seed(0)
    agent = BC(SPACES, replace(VARIANTS["arsq-median"], order=order, bins=3), CPU)
    modes = torch.tensor([[0.7, 0.7, 0.7], [0.7, -0.7, 0.7], [-0.7, -0.7, -0.7]])
    shares = torch.tensor([0.35, 0.2, 0.45])
    for _ in range(300):
        state = torch.randn(256, 5)
        action, ones = modes[torch.multinomial(shares, 256, replacement=True)], torch.ones(256)
        agent.update(Batch({"state": state}, action, ones, ones, {"state": state}, ones))
    action = agent.act({"state": torch.randn(1000, 5)}, deterministic=True)
    assert ((action - modes[0]).abs().amax(-1) < 0.3).float().mean() > 0.9


# ------------------------------------------------------------------------------------------------- contract


@every_variant
def test_contract(config: BCConfig) -> None:
    agent = make_agent(config)
    check_act(agent)
    check_metrics(agent)


@every_variant
def test_saved_agent_goes_on_exactly(config: BCConfig) -> None:
    check_saved_agent_goes_on_exactly(lambda: BC(SPACES, config, CPU))


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@every_variant
def test_update_never_waits_for_the_device(config: BCConfig) -> None:
    check_update_never_waits_for_the_device(lambda: BC(SPACES, config, CPU))


@pytest.mark.parametrize("settings", [{"action_limit": 1.0}, {"temperature": 0.0}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(settings)).replace("_", "-")):
        BCConfig(**settings)
