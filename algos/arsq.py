"""ARSQ: Auto-Regressive Soft Q-learning.

Liu et al., "Learning from Suboptimal Data in Continuous Control via Auto-Regressive Soft Q-Network",
arXiv 2502.00288 (ICML 2025). Soft Q-learning over discrete codes of continuous actions, with no actor:
Q(s, a) = V(s) + sum_t A_t(s, a_<t, a_t), position by position. `ARSQ.md` lists every deviation from the paper
and from the authors' code.

Shapes: B rows, D action dimensions, L levels, N bins, T = L * D positions, E = 2 twins, H hidden units.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from algos.autoregressive import (
    AdvantageNetwork,
    AutoregressiveConfig,
    at_codes,
    mean_over,
    orthogonal,
    policy_metrics,
)
from rlzoo.agent import Agent, Update
from rlzoo.nn.images import ObservationEncoder, augment, with_projection
from rlzoo.nn.mlp import ACTIVATIONS, Activation, EnsembleMLP
from rlzoo.nn.optim import Adam, frozen_copy, polyak_update
from rlzoo.settings import NotNegative, Positive, Rate
from rlzoo.types import Batch, Spaces


@dataclass(frozen=True)
class ARSQConfig(AutoregressiveConfig):
    """Hyperparameters of ARSQ; the defaults are the authors' for D4RL tasks without values of their own."""

    demo_loss: Literal["cql", "margin"] = "cql"
    """Keeps other codes below the data's: all together, or one by one."""
    demo_rows: Literal["demos", "all"] = "demos"
    """What demo-loss is taken over: a batch's demonstrations, or all of it."""
    demo_weight: NotNegative = 5.0
    """w: weight of demo-loss, summed over positions, averaged over rows."""
    demo_floor: Annotated[float, Field(lt=math.inf)] = -1.0
    """c: demo-loss is cut there; a lead of -c over other codes is enough."""
    demo_noise: NotNegative = 0.0
    """Deviation of noise on the demonstrations' actions (ours)."""
    td_weight: NotNegative = 1.0
    """Weight of the TD loss."""
    act_with: Literal["online", "target"] = "online"
    """The networks that choose actions."""
    lr: Positive = 3e-4
    """Adam's learning rate."""
    weight_decay: NotNegative = 0.0
    """AdamW's weight decay; 0 is Adam (0.1 with pixels)."""
    tau: Rate = 0.005
    """Rate of targets (0.02 with pixels)."""
    advantage_tau: Rate | None = None
    """Rate of the target advantages, with --agent.act-with target; None: tau."""

    def idle(self) -> dict[str, str]:
        return {} if self.act_with == "target" else {"agent.advantage_tau": "without --agent.act-with target"}


# ------------------------------------------------------------------------------------------------- values


class NormalizedMLP(nn.Module):
    """E independent MLPs of Linear (no bias)–LayerNorm–activation layers, whose output starts at zero.

    Args:
        sizes: [in, hidden..., out].
        ensemble: E.
        activation: after every layer but the last.
    """

    def __init__(self, sizes: Sequence[int], *, ensemble: int, activation: Activation) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        *hidden, output = itertools.pairwise(sizes)
        self.weights = nn.ParameterList(orthogonal((ensemble, 1), *pair, gain=1.0)[:, 0] for pair in hidden)
        self.gains = nn.ParameterList(torch.ones(ensemble, 1, width) for _, width in hidden)
        self.biases = nn.ParameterList(torch.zeros(ensemble, 1, width) for _, width in hidden)
        self.head_weight = nn.Parameter(torch.zeros(ensemble, *output))
        self.head_bias = nn.Parameter(torch.zeros(ensemble, 1, output[1]))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in] or [E, B, in] -> [E, B, out]."""
        for weight, gain, bias in zip(self.weights, self.gains, self.biases, strict=True):
            x = x @ weight
            x = self.activation(torch.addcmul(bias, F.layer_norm(x, x.shape[-1:]), gain))
        return torch.baddbmm(self.head_bias, x, self.head_weight)


def value_network(feature_dim: int, config: AutoregressiveConfig, *, ensemble: int) -> nn.Module:
    """V(s), E independent networks of the advantage network's shape: [B, F] -> [E, B, 1]."""
    sizes = [feature_dim, *config.hidden, 1]
    if config.layer_norm:
        return NormalizedMLP(sizes, ensemble=ensemble, activation=config.activation)
    network = EnsembleMLP(sizes, ensemble=ensemble, activation=config.activation)
    return network.orthogonal_(gain=math.sqrt(2), output_gain=0.01)


# ------------------------------------------------------------------------------------------------- losses


def demonstration_loss(
    advantage: Tensor, codes: Tensor, kind: Literal["cql", "margin"], floor: float
) -> Tensor:
    """How far other codes are ahead of the data's, summed over positions (see `ARSQConfig.demo_loss`).

    Args:
        advantage: [E, T, B, N].
        codes: the data's, [T, B].
        kind, floor: as in `ARSQConfig`.

    Returns:
        One loss per twin and row, [E, B].
    """
    bins = advantage.shape[-1]
    taken = at_codes(advantage, codes)  # [E, T, B]
    is_taken = codes[..., None] == torch.arange(bins, device=codes.device)  # [T, B, N]
    if kind == "cql":
        others = advantage.masked_fill(is_taken, -math.inf).logsumexp(-1)
        return (others - taken).clamp(min=floor).sum(1)
    ahead = (advantage - taken[..., None]).clamp(min=floor)
    return ahead.masked_fill(is_taken, 0).sum((1, 3)) / (bins - 1)


class Losses(NamedTuple):
    """What one update minimises, and what it logs."""

    td: Tensor  # [E]
    demo: Tensor  # [E], before its weight
    total: Tensor  # [E]
    metrics: dict[str, Tensor]


# -------------------------------------------------------------------------------------------------- agent


class ARSQ(Agent):
    """The agent: twin V and twin advantage networks, each with a target copy.

    With images one encoder serves all of them; each projects its features for itself.
    """

    Config = ARSQConfig
    about = "Auto-Regressive Soft Q-learning (arXiv 2502.00288)"

    def __init__(self, spaces: Spaces, config: ARSQConfig, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.encoder = ObservationEncoder(spaces, config.encoder_channels, config.feature_dim)
        size, project = self.encoder.projected_dim, self.encoder.projection
        self.value = with_projection(project(ensemble=2), value_network(size, config, ensemble=2))
        self.advantage = AdvantageNetwork(
            size, spaces.action_dim, config, ensemble=2, projection=project(ensemble=2)
        )
        self.target_value = frozen_copy(self.value)
        self.target_advantage = frozen_copy(self.advantage)
        self.to(device)
        advantage_tau = config.tau if config.advantage_tau is None else config.advantage_tau
        self._averages = [
            (list(self.target_value.parameters()), list(self.value.parameters()), config.tau),
            (list(self.target_advantage.parameters()), list(self.advantage.parameters()), advantage_tau),
        ]
        trained = [*self.encoder.parameters(), *self.value.parameters(), *self.advantage.parameters()]
        self.optimizers = {"networks": Adam(trained, config.lr, config.weight_decay)}

    @torch.no_grad()
    def td_target(self, batch: Batch) -> Tensor:
        """y = r + gamma (1 - terminated) min_i V_target,i(s'): [B]. Soft Q-learning needs V alone there."""
        next_value: Tensor = self.target_value(self.encoder(batch.next_obs)).squeeze(-1).amin(0)
        return batch.reward + batch.discount * next_value

    def losses(self, batch: Batch) -> Losses:
        """The TD and the demonstration loss of both twins."""
        config = self.config
        features = self.encoder(batch.obs)
        codes = self.advantage.binning.encode(batch.action)  # [B, L, D]
        value = self.value(features).squeeze(-1)  # [E, B]
        advantage = self.advantage(features, codes)  # [E, T, B, N]
        codes = self.advantage.by_position(codes)  # [T, B]
        q = value + at_codes(advantage, codes).sum(1)  # [E, B]
        target = self.td_target(batch)
        td = (q - target).square().mean(-1)
        rows = batch.is_demo if config.demo_rows == "demos" else torch.ones_like(batch.is_demo)
        demo = mean_over(rows, demonstration_loss(advantage, codes, config.demo_loss, config.demo_floor))
        total = config.td_weight * td + config.demo_weight * demo
        metrics = {
            "loss/td": td.mean(),
            "loss/demo": demo.mean(),
            "loss/total": total.mean(),
            "value/v": value.mean(),
            "value/q": q.mean(),
            "value/target": target.mean(),
            **policy_metrics(advantage.detach(), codes, batch.is_demo, config.temperature),
        }
        return Losses(td, demo, total, metrics)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One Adam step of all networks, then the targets' moving average."""
        batch = augment(batch)
        if self.config.demo_noise:
            noise = self.config.demo_noise * torch.randn_like(batch.action)
            batch = batch._replace(action=batch.action + noise * batch.is_demo[:, None])
        losses = self.losses(batch)
        self.minimize("networks", losses.total.sum())  # a sum: the twins share an encoder at most
        for targets, online, tau in self._averages:
            polyak_update(targets, online, tau)
        return {name: value.detach() for name, value in losses.metrics.items()}

    def update_cycle(self) -> tuple[Update, ...]:
        return (self.update,)

    @property
    def _acting(self) -> AdvantageNetwork:
        return self.advantage if self.config.act_with == "online" else self.target_advantage

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        """A code for every position in turn, decoded: of `greedy`, or sampled: [N, D]."""
        return self._acting.act(self.encoder(obs), deterministic=deterministic)

    @torch.no_grad()
    def code_logits(self, obs: dict[str, Tensor], action: Tensor) -> tuple[Tensor, Tensor]:
        return self._acting.logits(self.encoder(obs), action)
