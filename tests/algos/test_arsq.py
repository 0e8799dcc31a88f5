"""ARSQ against the reference vectors, its settings, and what every update must keep to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from algos.arsq import ARSQ, ARSQConfig, demonstration_loss
from algos.autoregressive import AdvantageNetwork, at_codes
from algos.binning import Binning
from rlzoo.errors import UserError
from rlzoo.nn.mlp import EnsembleMLP
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
from tests.helpers.golden import ABSOLUTE, RELATIVE, SMALLEST_GRADIENT, Golden, golden_files

SMALL = ARSQConfig(levels=2, bins=4, hidden=(16, 16), temperature=0.5, lr=1e-3, demo_weight=0.5)
VARIANTS = {
    "default": SMALL,
    "margin": replace(SMALL, demo_loss="margin", demo_rows="all"),
    "dimension-order": replace(SMALL, order="dimension"),
    "levels-alone": replace(SMALL, conditioning="levels"),
    "dimensions-alone": replace(SMALL, levels=3, bins=2, conditioning="dimensions"),
    "no-conditioning": replace(SMALL, conditioning="none"),
    "separate": replace(SMALL, trunk="separate"),
    "separate-levels-alone": replace(SMALL, trunk="separate", conditioning="levels"),
    "separate-dimensions-alone": replace(SMALL, trunk="separate", conditioning="dimensions"),
    "one-hidden-layer": replace(SMALL, hidden=(16,), activation="relu"),
    "target-acts": replace(SMALL, act_with="target", weight_decay=0.1),
    "demo-noise": replace(SMALL, demo_noise=0.05),
    "median": replace(SMALL, greedy="median"),
    "late-prefix": replace(SMALL, hidden=(16, 12, 8), state_layers=2),
    "late-prefix-layer-norm": replace(SMALL, state_layers=1, layer_norm=True),
    "late-prefix-levels-alone": replace(SMALL, state_layers=1, conditioning="levels"),
}
every_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())


def make_agent(config: ARSQConfig, seed: int = 0) -> ARSQ:
    torch.manual_seed(seed)
    agent = ARSQ(SPACES, config, CPU)
    for parameter in agent.parameters():  # away from the near-zero output layer and from target = online
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return agent


# ---------------------------------------------------------------------------------------- reference vectors


def golden_agent(golden: Golden) -> ARSQ:
    config = golden.config
    assert config["adam_betas"] == [0.9, 0.999]
    assert config["adam_eps"] == 1e-8
    agent = ARSQ(
        Spaces(config["obs_dim"], config["action_dim"]),
        ARSQConfig(
            levels=config["levels"],
            bins=config["bins"],
            temperature=config["temperature"],
            hidden=tuple(config["hidden"]),
            activation=config["activation"],
            demo_loss=config["bc_loss"],
            demo_rows=config["bc_rows"],
            demo_weight=config["bc_weight"],
            demo_floor=config["bc_clip_min"],
            lr=config["lr"],
            tau=config["tau"],
        ),
        CPU,
    )
    for parameter, twin, name in golden_parameters(agent):
        parameter.data[twin] = as_ours(golden[f"before.{name}"], parameter[twin])
    return agent


def golden_parameters(agent: ARSQ) -> list[tuple[Tensor, int, str]]:
    """Every parameter, which twin of it, and that one's recorded name."""
    networks: list[tuple[str, EnsembleMLP, AdvantageNetwork]] = [
        ("online", agent.value, agent.advantage),
        ("target", agent.target_value, agent.target_advantage),
    ]
    named: list[tuple[Tensor, str, str]] = []
    for kind, value, advantage in networks:
        weights = [*advantage.weights, advantage.head_weight]
        biases = [*advantage.biases, advantage.head_bias]
        for layer in range(len(weights)):
            named.append((value.weights[layer], kind, f"v.{layer}.weight"))
            named.append((value.biases[layer], kind, f"v.{layer}.bias"))
            named.append((weights[layer], kind, f"adv.{layer}.weight"))
            named.append((biases[layer], kind, f"adv.{layer}.bias"))
    return [(tensor, twin, f"{kind}{twin + 1}.{name}") for twin in range(2) for tensor, kind, name in named]


def as_ours(recorded: Tensor, ours: Tensor) -> Tensor:
    """[out, in] -> [in, out], heads [T * N, H] -> [T, H, N], biases [out] -> [1, out] or [T, 1, N]."""
    if recorded.ndim == 1:
        return recorded.reshape(ours.shape)
    return recorded.view(-1, ours.shape[-1], recorded.shape[1]).transpose(1, 2).reshape(ours.shape)


def as_recorded(ours: Tensor, name: str) -> Tensor:
    """The inverse of `as_ours`."""
    if name.endswith("bias"):
        return ours.flatten()
    return ours.transpose(-2, -1).reshape(-1, ours.shape[-2])


def golden_batch(golden: Golden) -> Batch:
    return Batch(
        obs={"state": golden["batch.observations"]},
        action=golden["batch.actions"],
        reward=golden["batch.rewards"].squeeze(-1),
        discount=golden.config["discount"] * (1 - golden["batch.dones"].squeeze(-1)),
        next_obs={"state": golden["batch.next_observations"]},
        is_demo=golden["batch.demos"].squeeze(-1),
    )


@pytest.mark.parametrize("path", golden_files("arsq_*.npz"))
def test_reference_vectors(path: Path) -> None:
    golden = Golden(path)
    agent, batch = golden_agent(golden), golden_batch(golden)
    binning = agent.advantage.binning
    codes = binning.encode(batch.action)
    golden.check("encode.bins", codes)
    golden.check("decode.actions", binning.decode(codes))
    value, advantage = agent.value(batch.obs["state"]), agent.advantage(batch.obs["state"], codes)
    for twin in range(2):
        golden.check(f"online{twin + 1}.value", value[twin])
        by_row = advantage[twin].transpose(0, 1)  # [B, T, N]
        shape = golden[f"online{twin + 1}.advantage"].shape  # [B, L, D, N]
        golden.check(f"online{twin + 1}.advantage", by_row.reshape(shape))
    golden.check("act.greedy", agent.act(batch.obs, deterministic=True))

    losses = agent.losses(batch)
    rows = len(batch.reward) if agent.config.demo_loss == "margin" else 1
    for twin in range(2):
        golden.check(f"loss.qf{twin + 1}_bellman_loss", losses.td[twin])
        golden.check(f"loss.cql.cql_qf{twin + 1}_diff", rows * losses.demo[twin])
        golden.check(f"loss.qf{twin + 1}_loss", losses.total[twin])

    agent.update(batch)
    for parameter, twin, name in golden_parameters(agent):
        gradient = f"grad.{name.replace('target', 'online')}"
        rounding = gradient_rounding(golden[gradient])
        if parameter.grad is not None:
            found, expected = as_recorded(parameter.grad[twin], name), golden[gradient]
            torch.testing.assert_close(found, expected, rtol=RELATIVE, atol=max(ABSOLUTE, rounding), msg=name)
        where = golden[gradient].abs() > SMALLEST_GRADIENT
        golden.check(f"after.{name}", as_recorded(parameter.detach()[twin], name), where)


def gradient_rounding(gradient: Tensor) -> float:
    """How far float32 can carry an element of this gradient: 1e-5 of the largest.

    A small temperature multiplies the logits' rounding (at 0.001 by 1,000, before an exponential), and the
    sums over rows and positions cancel: at door's sizes the recorded gradient itself is 8e-6 of its largest
    element away from the same gradient in float64.
    """
    return 1e-5 * gradient.abs().max().item()


# -------------------------------------------------------------------------------------------------- network


def naive_advantage(network: AdvantageNetwork, twin: int, state: Tensor, codes: Tensor) -> Tensor:
    """One row's advantages [T, N], written out position by position from the definition."""
    config, binning = network.config, network.binning
    dims = codes.shape[1]
    centers = binning.centers(codes[None])[:, 0]  # [L+1, D]
    rows = []
    for position, (level, dim) in enumerate(network.positions):
        if config.conditioning in ("full", "dimensions"):
            count = [sum(chosen == d for _, chosen in network.positions[:position]) for d in range(dims)]
        else:
            count = [level] * dims
        assert count[dim] == level
        prefix = torch.stack([centers[count[d], d] for d in range(dims)])
        if config.conditioning in ("dimensions", "none"):
            only = Binning(1, config.bins).centers(codes[None, level : level + 1])[1, 0]  # [D]
            prefix = torch.stack([only[d] if count[d] > level else torch.tensor(0.0) for d in range(dims)])
        x = state
        trunk = position if config.trunk == "separate" else 0
        for layer, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
            x = torch.cat([x, prefix]) if layer == config.state_layers else x
            x = x @ weight[twin, trunk]
            if config.layer_norm:
                x = torch.nn.functional.layer_norm(x, x.shape) * network.gains[layer][twin, trunk, 0]
            x = network.activation(x + bias[twin, trunk, 0])
        x = x @ network.head_weight[twin, position] + network.head_bias[twin, position, 0]
        rows.append(x - config.temperature * torch.logsumexp(x / config.temperature, 0))
    return torch.stack(rows)


@every_variant
def test_advantages_match_their_definition(config: ARSQConfig) -> None:
    network, batch = make_agent(config).advantage, make_batch(3)
    codes = network.binning.encode(batch.action)
    advantage = network(batch.obs["state"], codes)
    positions = 3 * config.levels
    assert advantage.shape == (2, positions, 3, config.bins)
    for twin in range(2):
        for row in range(3):
            expected = naive_advantage(network, twin, batch.obs["state"][row], codes[row])
            torch.testing.assert_close(advantage[twin, :, row], expected)
    torch.testing.assert_close(
        (advantage / config.temperature).logsumexp(-1), torch.zeros(2, positions, 3), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "median"])
def test_greedy_action_is_every_position_s_best_code(name: str) -> None:
    config = VARIANTS[name]
    agent, batch = make_agent(config), make_batch(50)
    network = agent.advantage if config.act_with == "online" else agent.target_advantage
    action = agent.act(batch.obs, deterministic=True)
    codes = network.binning.encode(action)
    assert torch.equal(network.binning.decode(codes), action)
    best = network(batch.obs["state"], codes).amin(0).argmax(-1)  # [T, B]
    assert torch.equal(best, network.by_position(codes))


@pytest.mark.parametrize(
    "settings",
    [
        {"levels": 2, "bins": 3, "order": "dimension"},
        {"levels": 1, "bins": 9},
        {"levels": 1, "bins": 9, "conditioning": "levels"},
        {"levels": 2, "bins": 3, "conditioning": "dimensions"},
    ],
    ids=["dimension", "one-level", "levels-alone", "dimensions-alone"],
)
def test_greedy_by_the_median_halves_every_dimension_given_those_before(settings: dict[str, Any]) -> None:
    """All joint actions of two dimensions of 9 intervals, enumerated."""
    config = replace(SMALL, greedy="median", **settings)
    torch.manual_seed(2)
    network = AdvantageNetwork(5, 2, config, ensemble=1)
    network.head_weight.data.mul_(100)
    intervals = (2 * torch.arange(9) + 1) / 9 - 1
    every_code = network.binning.encode(torch.cartesian_prod(intervals, intervals))
    first, second, likeliest = set(), set(), 0
    for state in torch.randn(50, 1, 5):
        advantage = network(state.expand(81, -1), every_code)
        log_prob = at_codes(advantage, network.by_position(every_code)).sum(1)[0] / config.temperature
        joint = log_prob.exp().view(9, 9)
        x = int((joint.sum(1).cumsum(0) < 0.5).sum())
        given = joint[x] / joint[x].sum()
        y = int((given.cumsum(0) < 0.5).sum())
        torch.testing.assert_close(network.act(state, deterministic=True)[0], intervals[[x, y]])
        first.add(x)
        second.add(y)
        likeliest += joint.argmax() == 9 * x + y
    assert min(len(first), len(second)) > 3  # the policy differs from state to state
    assert likeliest < 45  # and its median from its mode


def test_quantiles_lie_in_codes_of_positive_probability() -> None:
    network = AdvantageNetwork(5, 2, replace(SMALL, bins=5, temperature=1.0), ensemble=1)
    inside = torch.randn(1000, 3).log_softmax(-1)
    empty = torch.full((1000, 1), -1e4)
    for place in (0.0, 1e-12, 0.5, 1 - 1e-7, 1.0):
        for row in (torch.cat([empty, inside, empty], -1), torch.cat([inside, empty, empty], -1)):
            code, rest = network._at_quantile(row, torch.full((1000,), place))
            assert (row.gather(-1, code[:, None]) > -1e3).all()
            assert ((rest >= 0) & (rest <= 1)).all()


@pytest.mark.parametrize("order", ["level", "dimension"])
@pytest.mark.parametrize("quantiles", ["sampled", "random"])
def test_samples_follow_the_policy(order: Any, quantiles: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does the greedy rule by quantiles once these are random instead of 1/2, in either order."""
    torch.manual_seed(1)
    config = replace(SMALL, levels=2, bins=2, order=order, greedy="median")
    if quantiles == "random":
        monkeypatch.setattr(torch, "full", lambda size, half, device: torch.rand(size))
    network = AdvantageNetwork(5, 2, config, ensemble=1)
    network.head_weight.data.mul_(30)
    every_code = torch.cartesian_prod(*[torch.arange(2)] * 4).view(16, 2, 2)
    state = torch.randn(1, 5)
    advantage = network(state.expand(16, -1), every_code)
    log_prob = at_codes(advantage, network.by_position(every_code)).sum(1)[0] / config.temperature
    torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0))
    drawn = network.binning.encode(network.act(state.expand(40_000, -1), deterministic=quantiles == "random"))
    frequency = (drawn[:, None] == every_code).flatten(2).all(-1).float().mean(0)
    assert log_prob.exp().std() > 0.02  # far from uniform, so the comparison says something
    torch.testing.assert_close(frequency, log_prob.exp().detach(), atol=0.01, rtol=0)


@pytest.mark.parametrize("name", ["default", "levels-alone", "separate"])
def test_only_the_needed_products_are_computed(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = VARIANTS[name]
    network, batch = make_agent(config).advantage, make_batch(32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(batch.obs["state"], network.binning.encode(batch.action))
    positions, width = 6, 16
    prefixes = 2 if name == "levels-alone" else positions
    projections = positions if name == "separate" else 1  # of the features, once per trunk and row
    multiplications = projections * 5 * width + prefixes * (3 * width + width * width) + positions * width * 4
    assert counter.get_total_flops() == 2 * 2 * 32 * multiplications


def test_initial_policy_is_almost_uniform_and_twins_differ() -> None:
    agent = ARSQ(SPACES, replace(SMALL, temperature=1.0), CPU)
    batch = make_batch()
    advantage = agent.advantage(batch.obs["state"], agent.advantage.binning.encode(batch.action))
    torch.testing.assert_close(advantage.exp(), torch.full_like(advantage, 0.25), atol=0.01, rtol=0)
    assert not torch.equal(advantage[0], advantage[1])
    assert not agent.advantage.biases[0].any()
    weight = agent.advantage.weights[1][0, 0]
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(16), atol=1e-5, rtol=0)
    heads = agent.advantage.head_weight[0].transpose(0, 1).reshape(16, -1)  # [H, T * N]
    torch.testing.assert_close(heads @ heads.T, 1e-4 * torch.eye(16), atol=1e-8, rtol=0)


# --------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("kind", ["cql", "margin"])
def test_demonstration_loss_written_out(kind: Any) -> None:
    torch.manual_seed(0)
    advantage, codes = torch.randn(2, 3, 4, 5), torch.randint(5, (3, 4))
    loss = demonstration_loss(advantage, codes, kind, -0.5)
    for twin in range(2):
        for row in range(4):
            expected = 0.0
            for position in range(3):
                values = advantage[twin, position, row]
                taken = int(codes[position, row])
                others = torch.cat([values[:taken], values[taken + 1 :]]) - values[taken]
                if kind == "cql":
                    expected += max(float(others.logsumexp(0)), -0.5)
                else:
                    expected += float(others.clamp(min=-0.5).mean())
            assert loss[twin, row].item() == pytest.approx(expected, abs=1e-5)


def test_margin_asks_for_a_lead_only_below_a_floor_of_0() -> None:
    codes = torch.zeros(1, 1, dtype=torch.int64)
    equal = torch.zeros(1, 1, 1, 7).log_softmax(-1)
    ahead = torch.tensor([[[[2.0, *[0.0] * 6]]]]).log_softmax(-1)
    of = lambda advantage, floor: demonstration_loss(advantage, codes, "margin", floor).item()  # noqa: E731
    for floor in (0.0, 1.0):
        assert of(equal, floor) == of(ahead, floor) == floor
    assert of(equal, -1.0) == 0.0
    assert of(ahead, -1.0) == -1.0


def test_rows_of_the_demonstration_loss() -> None:
    agent, batch = make_agent(SMALL), make_batch()
    demos_only = Batch(*(first_rows(field, 6) for field in batch))
    torch.testing.assert_close(agent.losses(batch).demo, agent.losses(demos_only).demo)
    everything = ARSQ(SPACES, replace(SMALL, demo_rows="all"), CPU)
    everything.load_state_dict(agent.state_dict())
    flagged = batch._replace(is_demo=torch.ones_like(batch.is_demo))
    torch.testing.assert_close(everything.losses(batch).demo, agent.losses(flagged).demo)
    none = agent.losses(batch._replace(is_demo=torch.zeros_like(batch.is_demo)))
    assert none.demo.tolist() == [0, 0]
    torch.testing.assert_close(none.total, none.td)


def first_rows(field: Tensor | dict[str, Tensor], rows: int) -> Any:
    return {key: value[:rows] for key, value in field.items()} if isinstance(field, dict) else field[:rows]


def test_target_is_the_smaller_value_and_stops_at_termination() -> None:
    agent, batch = make_agent(SMALL), make_batch()
    values = agent.target_value(batch.next_obs["state"])[..., 0]
    target = agent.td_target(batch)
    ended = batch.discount == 0
    assert ended.any()
    assert torch.equal(target[ended], batch.reward[ended])
    torch.testing.assert_close(target, batch.reward + batch.discount * torch.minimum(*values))
    assert not target.requires_grad


def test_td_weight_zero_leaves_the_value_alone() -> None:
    agent = make_agent(replace(SMALL, td_weight=0.0))
    before = [parameter.clone() for parameter in agent.value.parameters()]
    agent.update(make_batch())
    assert all(torch.equal(old, new) for old, new in zip(before, agent.value.parameters(), strict=True))


# --------------------------------------------------------------------------------------------------- update


@every_variant
def test_contract(config: ARSQConfig) -> None:
    agent = make_agent(config)
    check_act(agent)
    check_metrics(agent)
    networks = [(agent.value, agent.target_value), (agent.advantage, agent.target_advantage)]
    check_targets(agent, networks, config.tau)


def test_the_target_advantages_may_follow_at_a_rate_of_their_own() -> None:
    agent = make_agent(replace(SMALL, tau=0.3, advantage_tau=0.01, act_with="target"))
    check_targets(agent, [(agent.value, agent.target_value)], 0.3)
    check_targets(agent, [(agent.advantage, agent.target_advantage)], 0.01)


@every_variant
def test_saved_agent_goes_on_exactly(config: ARSQConfig) -> None:
    check_saved_agent_goes_on_exactly(lambda: ARSQ(SPACES, config, CPU))


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@every_variant
def test_update_never_waits_for_the_device(config: ARSQConfig) -> None:
    check_update_never_waits_for_the_device(lambda: ARSQ(SPACES, config, CPU))


def test_noise_on_the_demonstrations_actions_is_on_theirs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, batch, seen = make_agent(replace(SMALL, demo_noise=0.01)), make_batch(), []
    losses = agent.losses
    monkeypatch.setattr(agent, "losses", lambda batch: (seen.append(batch.action), losses(batch))[1])
    for _ in range(200):
        agent.update(batch)
    noise = torch.stack(seen) - batch.action  # [200, B, D]
    demo = batch.is_demo > 0
    assert (noise[:, ~demo] == 0).all()
    assert noise[:, demo].std() == pytest.approx(0.01, rel=0.1)
    assert noise[:, demo].mean(0).abs().max() < 0.01 * 5 / 200**0.5  # another one for every update


def test_imitation_alone_recovers_the_demonstrations() -> None:
    """With the TD loss off, the most likely codes become those of the demonstrations."""
    torch.manual_seed(0)
    agent = ARSQ(SPACES, replace(SMALL, td_weight=0.0, demo_floor=-1.0), CPU)
    batch = make_batch(8)._replace(is_demo=torch.ones(8))
    for _ in range(500):
        metrics = agent.update(batch)
    assert metrics["policy/demo_accuracy"] == 1
    expected = agent.advantage.binning.decode(agent.advantage.binning.encode(batch.action))
    assert torch.equal(agent.act(batch.obs, deterministic=True), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "dimension", "conditioning": "levels"}, "order level"),
        ({"hidden": ()}, "--agent.hidden is"),
        ({"temperature": 0.0}, "temperature"),
        ({"levels": 0}, "levels"),
        ({"bins": 1}, "bins"),
        ({"state_layers": 3}, "--agent.state-layers is 3, expected less than the 3 hidden layers"),
        ({"state_layers": 1, "trunk": "separate"}, "needs --agent.trunk shared"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ARSQ(SPACES, replace(ARSQConfig(), **settings), CPU)
