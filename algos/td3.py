"""TD3: Twin Delayed Deep Deterministic policy gradient.

Fujimoto, van Hoof, Meger 2018, "Addressing Function Approximation Error in Actor-Critic Methods",
arXiv 1802.09477.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from rlzoo.agent import Agent, AgentConfig, Update
from rlzoo.nn.images import ObservationEncoder, augment, with_projection
from rlzoo.nn.mlp import Activation, EnsembleMLP
from rlzoo.nn.optim import Adam, frozen_copy, polyak_update
from rlzoo.settings import Count, NotNegative, Positive, Rate, Widths
from rlzoo.types import Batch, Spaces


@dataclass(frozen=True)
class TD3Config(AgentConfig):
    """Hyperparameters of TD3; the defaults are the paper's (appendix C)."""

    hidden: Widths = (400, 300)
    """Widths of the hidden layers of policy and critics."""
    activation: Activation = "relu"
    """After every hidden layer."""
    critic_lr: Positive = 1e-3
    """Adam's learning rate for the critics."""
    actor_lr: Positive = 1e-3
    """Adam's learning rate for the policy."""
    tau: Rate = 0.005
    """Rate at which the targets of critics and policy follow, at every actor update."""
    actor_delay: Count = 2
    """d: policy and targets update once in this many critic updates."""
    exploration_noise: NotNegative = 0.1
    """Standard deviation of the Gaussian noise added when acting."""
    target_noise: NotNegative = 0.2
    """Standard deviation of the noise that smooths the target policy's action."""
    target_noise_clip: Annotated[float, Field(ge=0)] = 0.5
    """c: that noise is clipped to +-c."""
    feature_dim: Count = 64
    """Width of images' projections."""
    encoder_channels: Widths = (32, 64, 128, 256)
    """With images: channels of the convolutions."""


class TD3(Agent):
    """The agent: a deterministic policy and two critics, evaluated together.

    With images one encoder serves all networks and the critics' loss alone trains it.
    """

    Config = TD3Config
    about = "Twin Delayed Deep Deterministic policy gradient (arXiv 1802.09477)"

    def __init__(self, spaces: Spaces, config: TD3Config, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.encoder = ObservationEncoder(spaces, config.encoder_channels, config.feature_dim)
        size, project = self.encoder.projected_dim, self.encoder.projection
        critic_sizes = [size + spaces.action_dim, *config.hidden, 1]
        policy_sizes = [size, *config.hidden, spaces.action_dim]
        critic = EnsembleMLP(critic_sizes, ensemble=2, activation=config.activation)
        self.critic = with_projection(project(ensemble=2), critic)
        self.policy = with_projection(project(), EnsembleMLP(policy_sizes, activation=config.activation))
        self.target_critic = frozen_copy(self.critic)
        self.target_policy = frozen_copy(self.policy)
        self.to(device)
        self.optimizers = {
            "critic": Adam([*self.encoder.parameters(), *self.critic.parameters()], config.critic_lr),
            "actor": Adam(self.policy.parameters(), config.actor_lr),
        }
        self._online = [*self.critic.parameters(), *self.policy.parameters()]
        self._targets = [*self.target_critic.parameters(), *self.target_policy.parameters()]

    @staticmethod
    def _evaluate(critic: nn.Module, state: Tensor, action: Tensor) -> Tensor:
        """Q_i(s, a): [2, B]."""
        q: Tensor = critic(torch.cat((state, action), dim=-1))[..., 0]
        return q

    @staticmethod
    def _action(policy: nn.Module, state: Tensor) -> Tensor:
        """pi(s): [B, A]."""
        return torch.tanh(policy(state)[0])

    def _critic_loss(self, batch: Batch, state: Tensor) -> tuple[Tensor, Tensor]:
        """sum_i mean (Q_i - y)^2, y = r + gamma min_i Q'_i(s', pi'(s') + clipped noise)."""
        with torch.no_grad():
            next_state = self.encoder(batch.next_obs)
            noise = torch.randn_like(batch.action) * self.config.target_noise
            noise = noise.clamp(-self.config.target_noise_clip, self.config.target_noise_clip)
            next_action = (self._action(self.target_policy, next_state) + noise).clamp(-1, 1)
            next_q = self._evaluate(self.target_critic, next_state, next_action).amin(dim=0)
            target = batch.reward + batch.discount * next_q
        q = self._evaluate(self.critic, state, batch.action)
        return (q - target).square().mean(dim=1).sum(), q

    def _actor_loss(self, state: Tensor) -> Tensor:
        """-mean Q_1(s, pi(s)): the deterministic policy gradient."""
        return -self._evaluate(self.critic, state, self._action(self.policy, state))[0].mean()

    def update_cycle(self) -> tuple[Update, ...]:
        """actor_delay - 1 updates of the critics alone, then one of everything."""
        return (*[self._update_critic] * (self.config.actor_delay - 1), self._update_all)

    def _step_critics(self, batch: Batch, state: Tensor) -> dict[str, Tensor]:
        loss, q = self._critic_loss(batch, state)
        self.minimize("critic", loss)
        return {"loss/critic": loss.detach(), "value/q": q.detach().mean()}

    def _update_critic(self, batch: Batch) -> dict[str, Tensor]:
        batch = augment(batch)
        return self._step_critics(batch, self.encoder(batch.obs))

    def _update_all(self, batch: Batch) -> dict[str, Tensor]:
        batch = augment(batch)
        state = self.encoder(batch.obs)
        metrics = self._step_critics(batch, state)
        actor_loss = self._actor_loss(state.detach())
        self.minimize("actor", actor_loss)
        polyak_update(self._targets, self._online, self.config.tau)
        return metrics | {"loss/actor": actor_loss.detach()}

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        """pi(s), with exploration noise unless deterministic: [N, A]."""
        action = self._action(self.policy, self.encoder(obs))
        if deterministic:
            return action
        noise = torch.randn_like(action) * self.config.exploration_noise
        return (action + noise).clamp(-1, 1)
