"""BC: behavioural cloning, the demonstrations' likelihood and nothing else.

Two policy classes: the tanh-Gaussian of SAC and DSAC-T, and ARSQ's auto-regressive categorical, so that what
imitation alone gives is measured with either. `BC.md` says more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from algos.autoregressive import AdvantageNetwork, AutoregressiveConfig, at_codes, mean_over, policy_metrics
from rlzoo.agent import Agent, Learning, Update
from rlzoo.errors import UserError
from rlzoo.nn.gaussian import GaussianPolicy
from rlzoo.nn.images import ObservationEncoder, augment
from rlzoo.nn.mlp import Activation
from rlzoo.nn.optim import Adam
from rlzoo.settings import NotNegative, Positive, Range, Widths
from rlzoo.types import Batch, Spaces

# What the Gaussian makes no use of.
OF_CODES = (
    "levels",
    "bins",
    "temperature",
    "order",
    "conditioning",
    "greedy",
    "trunk",
    "state_layers",
    "layer_norm",
)


@dataclass(frozen=True)
class BCConfig(AutoregressiveConfig):
    """Hyperparameters of behavioural cloning; those of codes matter to policy "arsq" alone."""

    policy: Literal["gaussian", "arsq"] = "gaussian"
    """tanh-Gaussian, or ARSQ's auto-regressive categorical over codes."""
    temperature: Positive = 1.0
    """alpha of the categorical: its logits are divided by it."""
    hidden: Widths = (256, 256)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """After every hidden layer."""
    loss: Literal["likelihood", "mse"] = "likelihood"
    """What the Gaussian minimises: -log pi(a|s), or the squared error of tanh(mean)."""
    log_std_range: Range = (-5.0, 2.0)
    """Bounds of the Gaussian's log standard deviation before tanh."""
    action_limit: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Actions are cut to this size before atanh, which is infinite at 1."""
    demo_rows: Literal["demos", "all"] = "demos"
    """What is imitated: a batch's demonstrations, or all of it."""
    lr: Positive = 3e-4
    """Adam's learning rate."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay: 0 is Adam, more is AdamW."""

    @property
    def greedy_rules(self) -> tuple[str, ...]:
        return super().greedy_rules if self.policy == "arsq" else ()

    def remarks(self, learning: Learning) -> list[str]:
        lines = []
        if self.demo_rows == "demos" and not learning.has_demos:
            lines.append("bc imitates demonstrations, and there are none: it will learn nothing")
        elif self.demo_rows == "demos" and not learning.demo_rows:
            raise UserError(
                f"bc imitates the demonstrations in a batch, and --demo-fraction "
                f"{learning.demo_fraction:g} of --batch-size {learning.batch_size} is none"
            )
        return lines

    def idle(self) -> dict[str, str]:
        of_values = ("bootstrap_through_success", "discount", "n_step", "reward_scale")
        idle = {f"train.{name}": "on bc, which learns no values" for name in of_values}
        likelihood = ["log_std_range", "action_limit"]
        if self.policy == "arsq":
            names, missing = ["loss", *likelihood], "without --agent.policy gaussian"
        else:
            names, missing = list(OF_CODES), "without --agent.policy arsq"
            if self.loss == "mse":
                idle |= {f"agent.{name}": "without --agent.loss likelihood" for name in likelihood}
        return idle | {f"agent.{name}": missing for name in names}


def tanh_gaussian_log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """log pi(a) of a = tanh(u), u normal: log N(atanh a) - log(1 - a^2), each of [B, A] -> [B]."""
    deviation = (torch.atanh(action) - mean) * torch.exp(-log_std)
    log_normal = -0.5 * deviation.square() - log_std - 0.5 * math.log(2 * math.pi)
    return (log_normal - torch.log1p(-action.square())).sum(-1)


class BC(Agent):
    """The agent: one policy and, with images, an encoder; no value and no target."""

    Config = BCConfig
    about = "Behavioural cloning, tanh-Gaussian or ARSQ's categorical"

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
        self.optimizers = {"policy": Adam(self.parameters(), config.lr, config.weight_decay)}

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
        return (self.update,)

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        """tanh of the Gaussian's mean (or the codes of `greedy`), or a sample: [N, D].

        A Gaussian that learned by squared error has no deviation worth sampling with.
        """
        deterministic |= self.config.policy == "gaussian" and self.config.loss == "mse"
        return self.policy.act(self.encoder(obs), deterministic=deterministic)

    @torch.no_grad()
    def code_logits(self, obs: dict[str, Tensor], action: Tensor) -> tuple[Tensor, Tensor] | None:
        if isinstance(self.policy, GaussianPolicy):
            return None
        return self.policy.logits(self.encoder(obs), action)
