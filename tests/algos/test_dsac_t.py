"""DSAC-T against the reference vectors, and what it is without its refinements: DSAC."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from algos.dsac_t import DSAC, DSACT, DSACConfig, DSACTConfig, Noise
from rlzoo.nn.mlp import EnsembleMLP
from rlzoo.types import Batch, Spaces
from tests.helpers.agent_checks import make_batch
from tests.helpers.golden import SMALLEST_GRADIENT, Golden, golden_files

CPU = torch.device("cpu")


def build(golden: Golden) -> DSACT:
    config = golden.config
    agent = DSACT(
        Spaces(config["obs_dim"], config["action_dim"]),
        DSACTConfig(
            hidden=tuple(config["hidden"]),
            activation=config["activation"].partition(" ")[0],  # "gelu (exact)"
            log_std_range=tuple(config["policy_log_std_range"]),
            critic_lr=config["lr_q"],
            actor_lr=config["lr_pi"],
            temperature_lr=config["lr_alpha"],
            tau=config["tau"],
            actor_delay=config["delay_update"],
            initial_temperature=math.exp(config["log_alpha_init"]),
            target_entropy=config["target_entropy"],
            running_std_rate=config["tau_b"],
        ),
        CPU,
    )
    for network, names in networks(agent).items():
        for member, name in enumerate(names):
            for parameter, recorded in entries(network, member, name):
                parameter.data.copy_(golden[f"before.{recorded}"].reshape(parameter.shape[::-1]).T)
    agent.log_temperature.data.copy_(golden["before.log_alpha"])
    return agent


def networks(agent: DSACT) -> dict[EnsembleMLP, list[str]]:
    """Each ensemble with the recorded names of its members."""
    return {
        agent.critic: ["q1", "q2"],
        agent.target_critic: ["q1_target", "q2_target"],
        agent.policy.network: ["policy"],
        agent.target_policy.network: ["policy_target"],
    }


def entries(network: EnsembleMLP, member: int, name: str) -> list[tuple[Tensor, str]]:
    """One member's tensors [in, out] and [1, out] with their recorded names ([out, in] and [out])."""
    pairs: list[tuple[Tensor, str]] = []
    for layer, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        pairs.append((weight[member], f"{name}.{layer}.weight"))
        pairs.append((bias[member], f"{name}.{layer}.bias"))
    return pairs


def recorded_shape(tensor: Tensor) -> Tensor:
    """[in, out] -> [out, in]; [1, out] -> [out]."""
    return tensor[0] if tensor.shape[0] == 1 else tensor.T


def batch_and_noise(golden: Golden, step: int) -> tuple[Batch, Noise]:
    prefix = f"step{step}"
    discount = golden.config["discount"] * (1 - golden[f"{prefix}.batch.done"])
    batch = Batch(
        obs={"state": golden[f"{prefix}.batch.obs"]},
        action=golden[f"{prefix}.batch.act"],
        reward=golden[f"{prefix}.batch.rew"],
        discount=discount,
        next_obs={"state": golden[f"{prefix}.batch.obs2"]},
        is_demo=torch.zeros_like(discount),
    )
    noise = Noise(
        action=golden[f"{prefix}.noise.eps_new_act"],
        next_action=golden[f"{prefix}.noise.eps_act2"],
        next_return=torch.stack([golden[f"{prefix}.noise.z_q{i}_next"] for i in (1, 2)]),
    )
    return batch, noise


@pytest.mark.parametrize("path", golden_files("dsac_t_*.npz"))
def test_three_iterations_match_the_reference(path: Path) -> None:
    golden = Golden(path)
    agent = build(golden)
    cycle = agent.update_cycle()
    largest_gradient = {id(p): torch.zeros_like(p) for p in agent.parameters()}
    for step in range(3):
        batch, noise = batch_and_noise(golden, step)
        alpha = agent.temperature
        metrics = cycle[step % len(cycle)](batch, noise)  # type: ignore[call-arg]
        info = f"step{step}.info"
        golden.check(f"{info}.alpha", alpha)
        golden.check(f"{info}.Critic_loss", metrics["loss/critic"])
        golden.check(f"{info}.mean_std1", agent.running_std[0])
        golden.check(f"{info}.mean_std2", agent.running_std[1])
        average_q = (golden[f"{info}.critic_avg_q1"] + golden[f"{info}.critic_avg_q2"]) / 2
        torch.testing.assert_close(metrics["value/q"].double(), average_q, rtol=1e-4, atol=1e-5)
        trained: list[EnsembleMLP] = [agent.critic]
        if step % agent.config.actor_delay == 0:
            trained.append(agent.policy.network)
            golden.check(f"{info}.Actor_loss", metrics["loss/actor"])
            golden.check(f"{info}.entropy", metrics["policy/entropy"])
            assert agent.log_temperature.grad is not None
            golden.check(f"step{step}.grad.log_alpha", agent.log_temperature.grad)
        for network in trained:
            check_gradients(golden, agent, network, f"step{step}.grad")
            for parameter in network.parameters():
                assert parameter.grad is not None
                seen = largest_gradient[id(parameter)]
                torch.maximum(seen, parameter.grad.abs(), out=seen)
    check_parameters(golden, agent, largest_gradient)


def check_gradients(golden: Golden, agent: DSACT, network: EnsembleMLP, prefix: str) -> None:
    gradients = EnsembleMLP([1, 1])
    gradients.weights = nn.ParameterList([p.grad for p in network.weights])
    gradients.biases = nn.ParameterList([p.grad for p in network.biases])
    for member, name in enumerate(networks(agent)[network]):
        for value, recorded in entries(gradients, member, name):
            golden.check(f"{prefix}.{recorded}", recorded_shape(value))


def check_parameters(golden: Golden, agent: DSACT, largest_gradient: dict[int, Tensor]) -> None:
    online = {agent.target_critic: agent.critic, agent.target_policy.network: agent.policy.network}
    for network, names in networks(agent).items():
        learner = online.get(network, network)
        for layer in range(len(network.weights)):
            for kind in ("weight", "bias"):
                parameter = getattr(network, f"{kind}s" if kind == "weight" else "biases")[layer]
                source = getattr(learner, f"{kind}s" if kind == "weight" else "biases")[layer]
                for member, name in enumerate(names):
                    moved = largest_gradient[id(source)][member] > SMALLEST_GRADIENT
                    golden.check(
                        f"after3.{name}.{layer}.{kind}",
                        recorded_shape(parameter[member].detach()),
                        where=recorded_shape(moved),
                    )
    golden.check("after3.log_alpha", agent.log_temperature.detach())


def small_dsac() -> DSAC:
    torch.manual_seed(0)
    return DSAC(Spaces(5, 3), DSACConfig(hidden=(8,)), CPU)


def test_dsac_is_dsac_t_without_its_refinements() -> None:
    first, refined = dataclasses.asdict(DSACConfig()), dataclasses.asdict(DSACTConfig())
    changed = {name for name in refined if first[name] != refined[name]}
    refinements = {
        "expected_value_substitution",
        "twin_value_distributions",
        "variance_based_adjustment",
    }
    assert changed == refinements
    assert not any(first[name] for name in refinements)
    agent = small_dsac()
    assert agent.critic.weights[0].shape[0] == 1
    batch = make_batch(8)
    mean, sampled = agent._targets_of_return(batch, agent.draw_noise(batch))
    assert torch.equal(mean, sampled)


def test_dsacs_critic_follows_the_gradients_of_version_1() -> None:
    """By hand, with 0.1 beside the powers of sigma; the last row's sample lies beyond the bound of 20."""
    q, sigma, y = [1.0, -2.0, 0.0], [0.01, 0.5, 2.0], [1.5, 1.0, 50.0]
    mean = torch.tensor([q], requires_grad=True)
    std = torch.tensor([sigma], requires_grad=True)
    target = torch.tensor(y)
    small_dsac()._likelihood_loss(mean, std, target, target).backward()  # type: ignore[no-untyped-call]
    assert mean.grad is not None
    assert std.grad is not None
    for i, (a, s, b) in enumerate(zip(q, sigma, y, strict=True)):
        cut = max(-20.0, min(20.0, b - a))
        assert mean.grad[0, i] == pytest.approx((a - b) / (s**2 + 0.1) / 3)
        assert std.grad[0, i] == pytest.approx((s**2 - cut**2) / (s**3 + 0.1) / 3)


def test_dsacs_gradients_are_the_likelihoods_where_sigma_is_not_small() -> None:
    gradients = []
    for loss in (
        lambda q, s, y: small_dsac()._likelihood_loss(q, s, y, y),
        lambda q, s, y: -torch.distributions.Normal(q, s).log_prob(y).mean(),
    ):
        mean = torch.tensor([[0.0, 3.0, -8.0]], requires_grad=True)
        std = torch.tensor([[6.0, 9.0, 7.0]], requires_grad=True)
        loss(mean, std, torch.tensor([4.0, -9.0, -2.0])).backward()  # type: ignore[no-untyped-call]
        gradients.append((mean.grad, std.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.01, atol=1e-5)
