"""SAC: Soft Actor-Critic, the version with an adapted temperature.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", arXiv 1812.05905.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlzoo.agent import Agent, AgentConfig, Update
from rlzoo.nn.gaussian import GaussianPolicy
from rlzoo.nn.images import ObservationEncoder, augment, with_projection
from rlzoo.nn.mlp import Activation, EnsembleMLP
from rlzoo.nn.optim import Adam, frozen_copy, polyak_update
from rlzoo.settings import Count, Finite, Positive, Range, Rate, Widths
from rlzoo.types import Batch, Spaces


@dataclass(frozen=True)
class SACConfig(AgentConfig):
    """Hyperparameters of SAC; the defaults are the paper's (table 1)."""

    hidden: Widths = (256, 256)
    """Widths of the hidden layers of policy and critics."""
    activation: Activation = "relu"
    """After every hidden layer."""
    log_std_range: Range = (-20.0, 2.0)
    """Bounds of the policy's log standard deviation before tanh."""
    critic_lr: Positive = 3e-4
    """Adam's learning rate for the critics."""
    actor_lr: Positive = 3e-4
    """Adam's learning rate for the policy."""
    temperature_lr: Positive = 3e-4
    """Adam's learning rate for the logarithm of the temperature."""
    tau: Rate = 0.005
    """Rate at which the target critics follow, at every update."""
    initial_temperature: Positive = 1.0
    """alpha at the start; stays if automatic_temperature is off."""
    automatic_temperature: bool = True
    """Adapt alpha so that the policy's entropy approaches target_entropy."""
    target_entropy: Finite | None = None
    """In nats; None: minus the number of action dimensions."""
    feature_dim: Count = 64
    """Width of images' projections."""
    encoder_channels: Widths = (32, 64, 128, 256)
    """With images: channels of the convolutions."""

    def idle(self) -> dict[str, str]:
        names = () if self.automatic_temperature else ("target_entropy", "temperature_lr")
        return {f"agent.{name}": "without --agent.automatic-temperature" for name in names}


class SAC(Agent):
    """The agent: a tanh-Gaussian policy and two critics, evaluated together.

    With images one encoder serves all networks and the critics' loss alone trains it.
    """

    Config = SACConfig
    about = "Soft Actor-Critic with an adapted temperature (arXiv 1812.05905)"

    def __init__(self, spaces: Spaces, config: SACConfig, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.target_entropy = (
            -float(spaces.action_dim) if config.target_entropy is None else config.target_entropy
        )
        self.encoder = ObservationEncoder(spaces, config.encoder_channels, config.feature_dim)
        size, project = self.encoder.projected_dim, self.encoder.projection
        sizes = [size + spaces.action_dim, *config.hidden, 1]
        critic = EnsembleMLP(sizes, ensemble=2, activation=config.activation)
        self.critic = with_projection(project(ensemble=2), critic)
        self.policy = GaussianPolicy(
            size, spaces.action_dim, config.hidden, config.activation, config.log_std_range, project()
        )
        self.target_critic = frozen_copy(self.critic)
        self.log_temperature = nn.Parameter(torch.tensor(config.initial_temperature).log())
        self.to(device)
        self.optimizers = {
            "critic": Adam([*self.encoder.parameters(), *self.critic.parameters()], config.critic_lr),
            "actor": Adam(self.policy.parameters(), config.actor_lr),
            "temperature": Adam([self.log_temperature], config.temperature_lr),
        }
        self._online = list(self.critic.parameters())
        self._targets = list(self.target_critic.parameters())

    @staticmethod
    def _evaluate(critic: nn.Module, state: Tensor, action: Tensor) -> Tensor:
        """Q_i(s, a): [2, B]."""
        q: Tensor = critic(torch.cat((state, action), dim=-1))[..., 0]
        return q

    @property
    def temperature(self) -> Tensor:
        """alpha, 0-d, without gradient."""
        return self.log_temperature.detach().exp()

    def _sample(self, state: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(len(state), self.policy.action_dim, device=state.device)
        return self.policy.sample(state, noise)

    def _critic_loss(self, batch: Batch, state: Tensor) -> tuple[Tensor, Tensor]:
        """J_Q = sum_i mean (Q_i - y)^2 / 2 with y = r + gamma (min_i Q'_i - alpha log pi) (eq. 5-6)."""
        with torch.no_grad():
            next_state = self.encoder(batch.next_obs)
            next_action, next_log_prob = self._sample(next_state)
            next_q = self._evaluate(self.target_critic, next_state, next_action).amin(dim=0)
            target = batch.reward + batch.discount * (next_q - self.temperature * next_log_prob)
        q = self._evaluate(self.critic, state, batch.action)
        return 0.5 * (q - target).square().mean(dim=1).sum(), q

    def _actor_loss(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """J_pi = mean(alpha log pi - min_i Q_i) (eq. 9), and log pi [B]."""
        action, log_prob = self._sample(state)
        q = self._evaluate(self.critic, state, action).amin(dim=0)
        return (self.temperature * log_prob - q).mean(), log_prob.detach()

    def update_cycle(self) -> tuple[Update, ...]:
        """One update of critics, policy, temperature and targets."""
        return (self._update,)

    def _update(self, batch: Batch) -> dict[str, Tensor]:
        batch = augment(batch)
        state = self.encoder(batch.obs)
        critic_loss, q = self._critic_loss(batch, state)
        self.minimize("critic", critic_loss)
        temperature = self.temperature
        actor_loss, log_prob = self._actor_loss(state.detach())
        self.minimize("actor", actor_loss)
        if self.config.automatic_temperature:
            # On log alpha instead of alpha (eq. 18), as the authors' code does.
            self.minimize("temperature", -self.log_temperature * (log_prob + self.target_entropy).mean())
        polyak_update(self._targets, self._online, self.config.tau)
        metrics = {
            "loss/critic": critic_loss,
            "loss/actor": actor_loss,
            "value/q": q.mean(),
            "policy/entropy": -log_prob.mean(),
            "policy/temperature": temperature,
        }
        return {name: value.detach() for name, value in metrics.items()}

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        """tanh of the policy's mean, or a sample: [N, A]."""
        return self.policy.act(self.encoder(obs), deterministic=deterministic)
