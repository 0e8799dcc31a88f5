"""BC: behavioural cloning, the demonstrations' likelihood and nothing else.

Two policy classes: the tanh-Gaussian of SAC and DSAC-T, and ARSQ's auto-regressive categorical, so that what
imitation alone gives is measured with either. `BC.md` says more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from algos.arsq import AdvantageNetwork, AutoregressiveConfig, at_codes, mean_over, policy_metrics
from rlzoo.agent import Agent, Update, check_not_negative, check_ordered, check_positive
from rlzoo.errors import UserError
from rlzoo.nn.gaussian import GaussianPolicy
from rlzoo.nn.images import ObservationEncoder, augment
from rlzoo.nn.mlp import Activation, adam
from rlzoo.types import Batch, Spaces


@dataclass(frozen=True)
class BCConfig(AutoregressiveConfig):
    """Hyperparameters of behavioural cloning.

    Those of `AutoregressiveConfig` matter to policy "arsq" alone, but for `hidden`, `activation` and those of
    images.
    """

    policy: Literal["gaussian", "arsq"] = "gaussian"
    """tanh-Gaussian, or ARSQ's auto-regressive categorical over codes."""
    temperature: float = 1.0
    """alpha of the categorical: its logits are divided by it. 1 is a plain softmax."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """After every hidden layer."""
    loss: Literal["likelihood", "mse"] = "likelihood"
    """What the Gaussian policy minimises: -log pi(a|s), or (tanh(mean) - a)^2, which teaches it no deviation:
    it then acts without noise, also where actions are sampled. The categorical's loss is always
    -log pi(codes|s), the cross-entropy summed over positions."""
    log_std_range: tuple[float, float] = (-5.0, 2.0)
    """Bounds of the Gaussian's log standard deviation before tanh."""
    action_limit: float = 0.999
    """Actions are cut to this size before atanh, which is infinite at 1: data from a squashed policy has many
    there. The nearer to 1, the more one saturated action outweighs the others (atanh 0.999 = 3.8)."""
    demo_rows: Literal["demos", "all"] = "demos"
    """The rows to imitate: those flagged as demonstrations, or the whole batch."""
    lr: float = 3e-4
    """Adam's learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay: 0 is Adam, more is AdamW."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "lr")
        check_not_negative(self, "weight_decay")
        check_ordered(self, "log_std_range")
        if not 0 < self.action_limit < 1:
            raise UserError(f"action_limit must lie between 0 and 1, not be {self.action_limit}")


def tanh_gaussian_log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """log pi(a) of a = tanh(u), u normal: log N(atanh a) - log(1 - a^2), each of [B, A] -> [B]."""
    deviation = (torch.atanh(action) - mean) * torch.exp(-log_std)
    log_normal = -0.5 * deviation.square() - log_std - 0.5 * math.log(2 * math.pi)
    return (log_normal - torch.log1p(-action.square())).sum(-1)


class BC(Agent):
    """The agent: one policy and, with images, an encoder; no value and no target."""

    policy: GaussianPolicy | AdvantageNetwork

    def __init__(self, spaces: Spaces, config: BCConfig, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.encoder = ObservationEncoder(spaces, config.encoder_channels, config.feature_dim)
        size, projection = self.encoder.projected_dim, self.encoder.projection()
        if config.policy == "gaussian":
            self.policy = GaussianPolicy(
                size, spaces.action_dim, config.hidden, config.activation, config.log_std_range, projection
            )
        else:
            self.policy = AdvantageNetwork(size, spaces.action_dim, config, ensemble=1, projection=projection)
        self.to(device)
        self.optimizers = {"policy": adam(self.parameters(), config.lr, config.weight_decay)}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of the rows to imitate, and what else to log."""
        rows = batch.is_demo if self.config.demo_rows == "demos" else torch.ones_like(batch.is_demo)
        if isinstance(self.policy, GaussianPolicy):
            return self._gaussian_loss(self.policy, batch, rows)
        return self._categorical_loss(self.policy, batch, rows)

    def _gaussian_loss(
        self, policy: GaussianPolicy, batch: Batch, rows: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mean, log_std = policy(self.encoder(batch.obs))
        error = mean_over(rows, (torch.tanh(mean) - batch.action).square().mean(-1))
        metrics = {"policy/demo_squared_error": error}
        if self.config.loss == "mse":
            return error, metrics
        limit = self.config.action_limit
        log_prob = tanh_gaussian_log_prob(mean, log_std, batch.action.clamp(-limit, limit))  # [B]
        log_prob = mean_over(rows, log_prob)
        metrics |= {"policy/demo_log_prob": log_prob, "policy/log_std": mean_over(rows, log_std.mean(-1))}
        return -log_prob, metrics

    def _categorical_loss(
        self, network: AdvantageNetwork, batch: Batch, rows: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        codes = network.binning.encode(batch.action)  # [B, L, D]
        advantage = network(self.encoder(batch.obs), codes)  # [1, T, B, N], log pi times the temperature
        codes = network.by_position(codes)  # [T, B]
        log_prob = at_codes(advantage, codes)[0].sum(0) / self.config.temperature  # [B]
        metrics = policy_metrics(advantage.detach(), codes, rows, self.config.temperature)
        return -mean_over(rows, log_prob), metrics

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One Adam step."""
        loss, metrics = self.loss(augment(batch))
        self.minimize("policy", loss)
        return {name: value.detach() for name, value in {"loss/bc": loss, **metrics}.items()}

    def update_cycle(self) -> tuple[Update, ...]:
        """Every update is the same."""
        return (self.update,)

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        """tanh of the Gaussian's mean (or the codes of `greedy`), or a sample: [N, D].

        A Gaussian that learned by squared error has no deviation worth sampling with.
        """
        deterministic |= self.config.policy == "gaussian" and self.config.loss == "mse"
        return self.policy.act(self.encoder(obs), deterministic=deterministic)
