"""DSAC-T: Distributional Soft Actor-Critic with Three Refinements.

Duan et al., arXiv 2310.05858 (IEEE TPAMI 2025). SAC whose critic is a Gaussian over returns. `DSAC_T.md`
lists every deviation from the paper and from the authors' code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlzoo.agent import Agent, AgentConfig, Update
from rlzoo.nn.gaussian import GaussianPolicy
from rlzoo.nn.images import ObservationEncoder, augment, with_projection
from rlzoo.nn.mlp import Activation, EnsembleMLP
from rlzoo.nn.optim import Adam, frozen_copy, polyak_update
from rlzoo.settings import Count, Finite, Positive, Range, Rate, Widths
from rlzoo.types import Batch, Spaces

# Constants of the authors' code that the paper does not vary.
HUBER_DELTA = 50.0  # beyond this many return units a temporal difference counts linearly
STD_OFFSET = 0.1  # keeps divisions by the critic's standard deviation bounded
WEIGHT_RANGE = (0.1, 10.0)  # of the variance-based weight w
TARGET_NOISE_LIMIT = 3.0  # a sampled return lies within this many standard deviations of its mean


@dataclass(frozen=True)
class DSACTConfig(AgentConfig):
    """Hyperparameters of DSAC-T; the defaults are those of the paper and its code."""

    hidden: Widths = (256, 256, 256)
    """Widths of the hidden layers of policy and critics."""
    activation: Activation = "gelu"
    """After every hidden layer."""
    log_std_range: Range = (-20.0, 0.5)
    """Bounds of the policy's log standard deviation before tanh."""
    critic_lr: Positive = 1e-4
    """Adam's learning rate for the critics."""
    actor_lr: Positive = 1e-4
    """Adam's learning rate for the policy."""
    temperature_lr: Positive = 3e-4
    """Adam's learning rate for the logarithm of the temperature."""
    tau: Rate = 0.005
    """Rate at which the targets of critics and policy follow, at every actor update."""
    actor_delay: Count = 2
    """Policy, temperature and targets update once in this many critic updates."""
    initial_temperature: Positive = math.e
    """alpha at the start; stays if automatic_temperature is off."""
    automatic_temperature: bool = True
    """Adapt alpha so that the policy's entropy approaches target_entropy."""
    target_entropy: Finite | None = None
    """In nats; None: minus the number of action dimensions."""
    expected_value_substitution: bool = True
    """Refinement 1: regress the critic's mean on the expected target, not a sampled one."""
    twin_value_distributions: bool = True
    """Refinement 2: two critics, the target from the one with the smaller mean."""
    variance_based_adjustment: bool = True
    """Refinement 3: bound and weight by the critic's deviation; off: DSAC v1's loss."""
    running_std_rate: Rate = 0.005
    """tau_b, the rate of the running mean of the critic's deviation (refinement 3)."""
    fixed_td_bound: Positive = 20.0
    """Bound of the sampled target in return units without refinement 3 (DSAC v1)."""
    feature_dim: Count = 64
    """Width of images' projections."""
    encoder_channels: Widths = (32, 64, 128, 256)
    """With images: channels of the convolutions."""

    def idle(self) -> dict[str, str]:
        names = () if self.automatic_temperature else ("target_entropy", "temperature_lr")
        idle = {f"agent.{name}": "without --agent.automatic-temperature" for name in names}
        if self.variance_based_adjustment:
            return idle | {"agent.fixed_td_bound": "without --agent.no-variance-based-adjustment"}
        return idle | {"agent.running_std_rate": "without --agent.variance-based-adjustment"}


@dataclass(frozen=True)
class DSACConfig(DSACTConfig):
    """Hyperparameters of DSAC v1: DSAC-T's with its three refinements off."""

    expected_value_substitution: bool = False
    """Refinement 1: regress the critic's mean on the expected target, not a sampled one."""
    twin_value_distributions: bool = False
    """Refinement 2: two critics, the target from the one with the smaller mean."""
    variance_based_adjustment: bool = False
    """Refinement 3: bound and weight by the critic's deviation; off: DSAC v1's loss."""


class Noise(NamedTuple):
    """The standard-normal draws of one update."""

    action: Tensor  # [B, A], for the action of the actor loss
    next_action: Tensor  # [B, A], for the target policy's action
    next_return: Tensor  # [E, B], one per target critic


class DSACT(Agent):
    """The agent. E = 2 critics (1 without refinement 2), evaluated together.

    With images one encoder serves all networks and the critics' loss alone trains it.
    """

    Config = DSACTConfig
    about = "Distributional Soft Actor-Critic with Three refinements (arXiv 2310.05858)"

    running_std: Tensor

    def __init__(self, spaces: Spaces, config: DSACTConfig, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.action_dim = spaces.action_dim
        self.num_critics = 2 if config.twin_value_distributions else 1
        self.target_entropy = (
            -float(spaces.action_dim) if config.target_entropy is None else config.target_entropy
        )
        self.encoder = ObservationEncoder(spaces, config.encoder_channels, config.feature_dim)
        size, project = self.encoder.projected_dim, self.encoder.projection
        sizes = [size + spaces.action_dim, *config.hidden, 2]  # out: mean, raw std
        critic = EnsembleMLP(sizes, ensemble=self.num_critics, activation=config.activation)
        self.critic = with_projection(project(ensemble=self.num_critics), critic)
        self.policy = GaussianPolicy(
            size, spaces.action_dim, config.hidden, config.activation, config.log_std_range, project()
        )
        self.target_critic = frozen_copy(self.critic)
        self.target_policy = frozen_copy(self.policy)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.initial_temperature)))
        # b_i; negative until the first batch sets it.
        self.register_buffer("running_std", torch.full((self.num_critics,), -1.0))
        self.to(device)
        self.optimizers = {
            "critic": Adam([*self.encoder.parameters(), *self.critic.parameters()], config.critic_lr),
            "actor": Adam(self.policy.parameters(), config.actor_lr),
            "temperature": Adam([self.log_temperature], config.temperature_lr),
        }
        self._online = [*self.critic.parameters(), *self.policy.parameters()]
        self._targets = [*self.target_critic.parameters(), *self.target_policy.parameters()]

    # --------------------------------------------------------------------------------------- networks

    @staticmethod
    def _evaluate(critic: nn.Module, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean q and standard deviation sigma = softplus(raw) of the return, each [E, B]."""
        mean, raw = critic(torch.cat((state, action), dim=-1)).unbind(dim=-1)
        return mean, F.softplus(raw)

    @property
    def temperature(self) -> Tensor:
        """alpha, 0-d, without gradient."""
        return self.log_temperature.detach().exp()

    # ----------------------------------------------------------------------------------------- losses

    @torch.no_grad()
    def _targets_of_return(self, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        """y_q, the expected soft return, and y_z, a sampled one, each [B]."""
        next_state = self.encoder(batch.next_obs)
        next_action, next_log_prob = self.target_policy.sample(next_state, noise.next_action)
        mean, std = self._evaluate(self.target_critic, next_state, next_action)  # [E, B]
        chosen = mean.argmin(dim=0, keepdim=True)  # refinement 2, sample by sample
        next_mean, next_std = mean.gather(0, chosen)[0], std.gather(0, chosen)[0]
        deviation = noise.next_return.gather(0, chosen)[0].clamp(-TARGET_NOISE_LIMIT, TARGET_NOISE_LIMIT)
        soft_mean = next_mean - self.temperature * next_log_prob
        expected = batch.reward + batch.discount * soft_mean
        sampled = batch.reward + batch.discount * (soft_mean + deviation * next_std)
        return (expected if self.config.expected_value_substitution else sampled), sampled

    def _critic_loss(self, batch: Batch, state: Tensor, noise: Noise) -> tuple[Tensor, dict[str, Tensor]]:
        target_mean, target_sample = self._targets_of_return(batch, noise)
        mean, std = self._evaluate(self.critic, state, batch.action)  # [E, B]
        if self.config.variance_based_adjustment:
            loss = self._adjusted_loss(mean, std, target_mean, target_sample)
        else:
            loss = self._likelihood_loss(mean, std, target_mean, target_sample)
        metrics = {
            "loss/critic": loss,
            "value/q": mean.mean(),
            "value/q_std": std.mean(),
            "value/q_std_min": std.min(),
            "value/target": target_mean.mean(),
        }
        return loss, metrics

    def _adjusted_loss(self, mean: Tensor, std: Tensor, target_mean: Tensor, target_sample: Tensor) -> Tensor:
        """Refinement 3: w [huber(q, y_q) + sigma (sigma^2 - huber(q, y_z)) / (sigma + 0.1)]."""
        fixed_mean, fixed_std = mean.detach(), std.detach()
        batch_std = fixed_std.mean(dim=1)  # [E]
        rate = self.config.running_std_rate
        self.running_std.copy_(
            torch.where(self.running_std < 0, batch_std, self.running_std.lerp(batch_std, rate))
        )
        bound = self.running_std[:, None]  # [E, 1]
        limit = 3 * bound
        bounded = fixed_mean + (target_sample - fixed_mean).clamp(-limit, limit)
        weight = (bound.square() / (fixed_std.square() + STD_OFFSET)).clamp(*WEIGHT_RANGE)
        mean_term = F.huber_loss(mean, target_mean.expand_as(mean), delta=HUBER_DELTA, reduction="none")
        spread = F.huber_loss(fixed_mean, bounded, delta=HUBER_DELTA, reduction="none")
        std_term = std * (fixed_std.square() - spread) / (fixed_std + STD_OFFSET)
        return (weight * (mean_term + std_term)).mean(dim=1).sum()

    def _likelihood_loss(
        self, mean: Tensor, std: Tensor, target_mean: Tensor, target_sample: Tensor
    ) -> Tensor:
        """DSAC v1 (Duan et al., arXiv 2001.02811): the Gaussian likelihood's gradients, with a fixed bound.

        (q - y)^2 / (2 (sigma^2 + 0.1)) for the mean and sigma (sigma^2 - (q - y_z)^2) / (sigma^3 + 0.1) for
        the deviation; without the 0.1 these are the gradients of -log N(y; q, sigma).
        """
        fixed_mean, fixed_std = mean.detach(), std.detach()
        limit = self.config.fixed_td_bound
        spread = (target_sample - fixed_mean).clamp(-limit, limit).square()
        mean_term = (mean - target_mean).square() / (2 * (fixed_std.square() + STD_OFFSET))
        std_term = std * (fixed_std.square() - spread) / (fixed_std.pow(3) + STD_OFFSET)
        return (mean_term + std_term).mean(dim=1).sum()

    def _actor_loss(self, state: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """mean(alpha log pi - min_i q_i), and log pi [B] for the temperature."""
        action, log_prob = self.policy.sample(state, noise.action)
        mean, _ = self._evaluate(self.critic, state, action)
        return (self.temperature * log_prob - mean.amin(dim=0)).mean(), log_prob.detach()

    # ----------------------------------------------------------------------------------------- update

    def update_cycle(self) -> tuple[Update, ...]:
        """One update of everything, then actor_delay - 1 of the critics alone."""
        return (self._update_all, *[self._update_critic] * (self.config.actor_delay - 1))

    def draw_noise(self, batch: Batch) -> Noise:
        """Fresh standard-normal draws for one update."""
        size, device = len(batch.reward), batch.reward.device
        return Noise(
            action=torch.randn(size, self.action_dim, device=device),
            next_action=torch.randn(size, self.action_dim, device=device),
            next_return=torch.randn(self.num_critics, size, device=device),
        )

    def _update_critic(self, batch: Batch, noise: Noise | None = None) -> dict[str, Tensor]:
        batch, noise = augment(batch), noise or self.draw_noise(batch)
        loss, metrics = self._critic_loss(batch, self.encoder(batch.obs), noise)
        self.minimize("critic", loss)
        return {name: value.detach() for name, value in metrics.items()}

    def _update_all(self, batch: Batch, noise: Noise | None = None) -> dict[str, Tensor]:
        batch, noise = augment(batch), noise or self.draw_noise(batch)
        state = self.encoder(batch.obs)
        critic_loss, metrics = self._critic_loss(batch, state, noise)
        # As in the authors' code, the actor's gradient is taken at the critics before their step. It does not
        # reach the encoder.
        actor_loss, log_prob = self._actor_loss(state.detach(), noise)
        temperature = self.temperature
        # Its backward pass reads the critics' weights too, so it comes before they change.
        self.minimize("actor", actor_loss)
        self.minimize("critic", critic_loss)
        if self.config.automatic_temperature:
            self.minimize("temperature", -self.log_temperature * (log_prob + self.target_entropy).mean())
        polyak_update(self._targets, self._online, self.config.tau)
        metrics |= {
            "loss/actor": actor_loss,
            "policy/entropy": -log_prob.mean(),
            "policy/temperature": temperature,
        }
        return {name: value.detach() for name, value in metrics.items()}

    # -------------------------------------------------------------------------------------------- act

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        """tanh of the policy's mean, or a sample: [N, A]."""
        return self.policy.act(self.encoder(obs), deterministic=deterministic)


class DSAC(DSACT):
    """The same agent before its refinements: Duan et al., arXiv 2001.02811 (IEEE TNNLS 2021)."""

    Config = DSACConfig
    about = "Distributional Soft Actor-Critic, DSAC-T's first version (arXiv 2001.02811)"
