"""CQN: Coarse-to-fine Q-Network.

Seo, Uruç, James, "Continuous Control with Coarse-to-fine Reinforcement Learning", arXiv 2407.07787 (2024).
Q-learning over discrete codes of continuous actions, level by level; within a level every dimension is
scored on its own, which is what ARSQ changes. `CQN.md` lists every deviation from the paper and from the code
that ARSQ's authors compare with.

Shapes: B rows, D action dimensions, L levels, N bins, Z atoms (1: a scalar value).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.binning import Binning
from rlzoo.agent import Agent, AgentConfig, Learning, Update
from rlzoo.errors import UserError
from rlzoo.nn.images import ObservationEncoder, Projection, augment
from rlzoo.nn.optim import Adam, frozen_copy, polyak_update
from rlzoo.settings import Count, Finite, NotNegative, Positive, Rate, Widths
from rlzoo.types import Batch, Spaces

# Bins whose values differ by less than this count as equal when exploring; the heads start at zero.
TIE = 1e-4


@dataclass(frozen=True)
class CQNConfig(AgentConfig):
    """Hyperparameters of CQN; the defaults are those of ARSQ's comparison on D4RL where these are known."""

    levels: Count = 3
    """L: how often an interval is cut into `bins` parts."""
    bins: Count = 5
    """N: parts of each cut."""
    atoms: Count = 51
    """Z: atoms of the distribution over returns (C51); 1 learns the mean by squared error."""
    v_min: Finite = 0.0
    """The smallest return the atoms can express."""
    v_max: Finite = 400.0
    """The largest return the atoms can express."""
    feature_dim: Count = 64
    """F: width of the layer between observation (images, state) and each stream."""
    encoder_channels: Widths = (32, 64, 128, 256)
    """With images: channels of the convolutions."""
    hidden: Widths = (512, 512)
    """Widths of the hidden layers of each stream."""
    td_weight: NotNegative = 0.1
    """Weight of the Q-learning loss."""
    demo_weight: NotNegative = 1.0
    """Weight of the sum of both demonstration losses."""
    dominance_weight: NotNegative = 1.0
    """Weight of first-order stochastic dominance within that sum (atoms > 1)."""
    margin: NotNegative = 1.0
    """m in mean relu(m - (Q(a) - Q(k))), the other demonstration loss (0.01 on RLBench)."""
    exploration_noise: NotNegative = 0.1
    """Standard deviation of the Gaussian noise added when acting (0.01 on RLBench)."""
    lr: Positive = 1e-4
    """Adam's learning rate (5e-5 with pixels)."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay: 0 is Adam, more is AdamW (0.1 with pixels)."""
    tau: Rate = 0.005
    """Rate at which the target follows, every update (0.02 with pixels)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.atoms > 1 and self.v_max <= self.v_min:
            raise UserError(f"--agent.v-max is {self.v_max:g}, expected above --agent.v-min {self.v_min:g}")

    def idle(self) -> dict[str, str]:
        names = ("v_min", "v_max", "dominance_weight") if self.atoms == 1 else ()
        return {f"agent.{name}": "with --agent.atoms 1" for name in names}

    def remarks(self, learning: Learning) -> list[str]:
        if self.atoms == 1:
            return []
        if learning.returns is None:
            if (self.v_min, self.v_max) != (CQNConfig.v_min, CQNConfig.v_max):
                return []
            return [
                f"CQN's atoms stand for discounted returns of {self.v_min:g} to {self.v_max:g}, and no data "
                "tell whether the task's do: what lies beyond is cut (--agent.v-min, --agent.v-max)"
            ]
        low, high = learning.returns()
        # By a tenth of the atoms' range: how a cut episode would have gone on is an estimate.
        slack = (self.v_max - self.v_min) / 10
        if self.v_min - slack <= low and high <= self.v_max + slack:
            return []
        return [
            f"the data's discounted returns span {low:,.1f} to {high:,.1f}, CQN's atoms {self.v_min:g} to "
            f"{self.v_max:g}: what lies beyond is cut (--agent.v-min, --agent.v-max)"
        ]


# ------------------------------------------------------------------------------------------------ network


def linear(fan_in: int, fan_out: int) -> nn.Linear:
    """A linear layer without bias, initialised orthogonally."""
    layer = nn.Linear(fan_in, fan_out, bias=False)
    nn.init.orthogonal_(layer.weight)
    return layer


class Stream(nn.Module):
    """Features, interval centres and the level -> one head's outputs, for several levels at once.

    Linear-LayerNorm-tanh (where there are images, one for them and one for the state), then on [features,
    centres, one-hot of the level] Linear-LayerNorm-SiLU for every hidden layer, then the head, which starts
    at zero. Of the linear layers only the head has a bias.
    """

    trunk: nn.Sequential | Projection

    def __init__(self, encoder: ObservationEncoder, action_dim: int, outputs: int, config: CQNConfig) -> None:
        super().__init__()
        width, projection = config.feature_dim, encoder.projection()
        if projection is None:
            self.trunk = nn.Sequential(linear(encoder.state_dim, width), nn.LayerNorm(width), nn.Tanh())
        else:
            self.trunk, width = projection, encoder.projected_dim
        self.splits = [width, action_dim, config.levels]
        sizes = [sum(self.splits), *config.hidden]
        self.first, *rest = (linear(*pair) for pair in itertools.pairwise(sizes))
        self.rest = nn.ModuleList(rest)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in config.hidden)
        self.head = nn.Linear(sizes[-1], outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def enter(self, state: Tensor) -> Tensor:
        """The first layer's share that is the same for all levels: features [B, S] -> [B, H]."""
        return F.linear(self.trunk(state), self.first.weight[:, : self.splits[0]])

    def forward(self, entered: Tensor, centers: Tensor, levels: slice) -> Tensor:
        """What `enter` returned and centres [l, B, D] of the l levels of the slice -> [l, B, outputs]."""
        _, center, level = torch.split(self.first.weight.T, self.splits)  # [F, H], [D, H], [L, H]
        # A product with a one-hot is a row of the weight.
        x = centers @ center + entered + level[levels, None]  # [l, B, H]
        x = F.silu(self.norms[0](x))
        for layer, norm in zip(self.rest, self.norms[1:], strict=True):
            x = F.silu(norm(layer(x)))
        output: Tensor = self.head(x)
        return output


class Critic(nn.Module):
    """Dueling critic: logits = value + advantage - mean of the advantage over bins."""

    atoms: Tensor  # [Z], the returns that the atoms stand for
    up_to: Tensor  # [Z, Z]; a distribution times this is its cumulative distribution

    def __init__(self, encoder: ObservationEncoder, action_dim: int, config: CQNConfig) -> None:
        super().__init__()
        self.config = config
        self.action_dim = action_dim
        self.binning = Binning(config.levels, config.bins)
        outputs = action_dim * config.atoms
        self.advantage = Stream(encoder, action_dim, outputs * config.bins, config)
        self.value = Stream(encoder, action_dim, outputs, config)
        self.register_buffer(
            "atoms", torch.linspace(config.v_min, config.v_max, config.atoms), persistent=False
        )
        self.register_buffer("up_to", torch.ones(config.atoms, config.atoms).triu(), persistent=False)

    def _enter(self, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.advantage.enter(state), self.value.enter(state)

    def _logits(self, entered: tuple[Tensor, Tensor], centers: Tensor, levels: slice) -> Tensor:
        shape = (*centers.shape[:2], self.action_dim, -1, self.config.atoms)
        advantage = self.advantage(entered[0], centers, levels).view(shape)  # [l, B, D, N, Z]
        value = self.value(entered[1], centers, levels).view(shape)  # [l, B, D, 1, Z]
        logits: Tensor = (value - advantage.mean(-2, keepdim=True)) + advantage
        return logits

    def forward(self, state: Tensor, codes: Tensor) -> Tensor:
        """States [B, S] and codes [B, L, D] -> logits [L, B, D, N, Z] of every level's bins, within the
        intervals that the codes chose at the levels before."""
        return self._logits(self._enter(state), self.binning.centers(codes)[:-1], slice(None))

    def q(self, logits: Tensor) -> Tensor:
        """Logits [..., Z] -> expected returns [...]."""
        if self.config.atoms == 1:
            return logits.squeeze(-1)
        return logits.softmax(-1) @ self.atoms

    @torch.no_grad()
    def best_codes(self, state: Tensor, *, break_ties: bool = False) -> Tensor:
        """The codes that maximise Q level by level, every dimension on its own: [B, S] -> [B, L, D].

        With `break_ties`, a dimension all of whose bins score the same draws one of them.
        """
        index = torch.zeros(state.shape[0], self.action_dim, dtype=torch.int64, device=state.device)
        entered = self._enter(state)
        codes = []
        for level in range(self.config.levels):
            center = self.binning.center(index, level)
            q = self.q(self._logits(entered, center[None], slice(level, level + 1)))[0]  # [B, D, N]
            code = q.argmax(-1)
            if break_ties:
                tied = q.amax(-1) - q.amin(-1) < TIE
                code = torch.where(tied, torch.randint_like(code, self.config.bins), code)
            index = self.binning.refine(index, code)
            codes.append(code)
        return torch.stack(codes, 1)


def at_codes(values: Tensor, codes: Tensor) -> Tensor:
    """The entries of `values` [L, B, D, N, Z] at `codes` [B, L, D] -> [L, B, D, 1, Z]."""
    index = codes.transpose(0, 1)[..., None, None]
    return values.gather(-2, index.expand(-1, -1, -1, -1, values.shape[-1]))


class Losses(NamedTuple):
    """What one update minimises, and what it logs."""

    td: Tensor
    dominance: Tensor
    margin: Tensor
    total: Tensor
    metrics: dict[str, Tensor]


# -------------------------------------------------------------------------------------------------- agent


class CQN(Agent):
    """The agent: one critic and its target copy, with images an encoder for both."""

    Config = CQNConfig
    about = "Coarse-to-fine Q-Network (arXiv 2407.07787)"

    def __init__(self, spaces: Spaces, config: CQNConfig, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.encoder = ObservationEncoder(spaces, config.encoder_channels, config.feature_dim)
        self.critic = Critic(self.encoder, spaces.action_dim, config)
        self.target_critic = frozen_copy(self.critic)
        self.to(device)
        self._online = list(self.critic.parameters())
        self._targets = list(self.target_critic.parameters())
        trained = [*self.encoder.parameters(), *self._online]
        self.optimizers = {"critic": Adam(trained, config.lr, config.weight_decay)}

    @torch.no_grad()
    def td_target(self, batch: Batch) -> Tensor:
        """Distribution (or value) of r + gamma Q at the next state: [L, B, D, 1, Z].

        Double Q-learning: the online critic chooses the next codes, the target critic evaluates them.
        """
        state = self.encoder(batch.next_obs)
        codes = self.critic.best_codes(state)
        logits = at_codes(self.target_critic(state, codes), codes)
        if self.config.atoms == 1:
            return batch.reward[:, None, None, None] + batch.discount[:, None, None, None] * logits
        return project(logits.softmax(-1), self.critic.atoms, batch.reward, batch.discount)

    def losses(self, batch: Batch) -> Losses:
        """The Q-learning loss and both demonstration losses."""
        config, critic = self.config, self.critic
        codes = critic.binning.encode(batch.action)  # [B, L, D]
        logits = critic(self.encoder(batch.obs), codes)  # [L, B, D, N, Z]
        target = self.td_target(batch)
        if config.atoms == 1:
            td = (at_codes(logits, codes) - target).square().mean()
            dominance = torch.zeros_like(td)
            q = logits  # [L, B, D, N, 1]
        else:
            log_prob = logits.log_softmax(-1)
            td = -(target * at_codes(log_prob, codes)).sum(-1).mean()
            prob = log_prob.exp()
            # A product, because the gradient of `cumsum` flips its tensor twice.
            cdf = prob @ critic.up_to
            above = (at_codes(cdf, codes) - cdf).relu().sum(-1, keepdim=True)
            dominance = mean_of_demos(above, batch.is_demo)
            q = (prob @ critic.atoms)[..., None]  # [L, B, D, N, 1]
        margin = mean_of_demos((config.margin - (at_codes(q, codes) - q)).relu(), batch.is_demo)
        demo = config.dominance_weight * dominance + margin
        total = config.td_weight * td + config.demo_weight * demo
        metrics = {
            "loss/td": td,
            "loss/demo_dominance": dominance,
            "loss/demo_margin": margin,
            "loss/total": total,
            "value/q": at_codes(q, codes).mean(),
            "value/q_max": q.amax(-2).mean(),
            "policy/demo_accuracy": mean_of_demos(
                (q.argmax(-2, keepdim=True) == codes.transpose(0, 1)[..., None, None]).float(), batch.is_demo
            ),
        }
        return Losses(td, dominance, margin, total, metrics)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One Adam step, then the target's moving average."""
        losses = self.losses(augment(batch))
        self.minimize("critic", losses.total)
        polyak_update(self._targets, self._online, self.config.tau)
        return {name: value.detach() for name, value in losses.metrics.items()}

    def update_cycle(self) -> tuple[Update, ...]:
        return (self.update,)

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        """The target critic's best codes, decoded; to explore, with noise and re-encoded: [N, D]."""
        binning = self.critic.binning
        codes = self.target_critic.best_codes(self.encoder(obs), break_ties=not deterministic)
        action = binning.decode(codes)
        if deterministic:
            return action
        noise = self.config.exploration_noise * torch.randn_like(action)
        return binning.decode(binning.encode(action + noise))  # encode cuts to [-1, 1]

    @torch.no_grad()
    def code_logits(self, obs: dict[str, Tensor], action: Tensor) -> tuple[Tensor, Tensor]:
        """Of CQN: the target critic's Q."""
        codes = self.critic.binning.encode(action)  # [B, L, D]
        q = self.target_critic.q(self.target_critic(self.encoder(obs), codes))
        return q, codes.transpose(0, 1)


def project(prob: Tensor, atoms: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
    """The distribution of r + gamma Z on the atoms (Bellemare et al. 2017, arXiv 1707.06887, eq. 7).

    Each shifted atom's mass goes to its two neighbours in proportion to nearness. The shift is the same for
    all levels and dimensions of a row, so the projection is one [Z, Z] matrix per row.

    Args:
        prob: [L, B, D, 1, Z].
        atoms: [Z], equally spaced.
        reward, discount: [B].
    """
    shifted = (reward[:, None] + discount[:, None] * atoms).clamp(atoms[0], atoms[-1])  # [B, Z]
    # [B, Z, Z]: 1 less the distance in atoms, where that is positive. In place, as it is large.
    share = (shifted[..., None] - atoms).abs_().mul_(-1 / (atoms[1] - atoms[0])).add_(1).clamp_(min=0)
    # One batched product over rows: broadcasting would copy a row's matrix for every level and dimension.
    return torch.einsum("lbdkz,bzy->lbdky", prob, share)


def mean_of_demos(values: Tensor, is_demo: Tensor) -> Tensor:
    """The mean of `values` [L, B, D, N, Z] over everything in the rows flagged in `is_demo` [B]."""
    per_row = values.mean((0, 2, 3, 4))
    return (per_row * is_demo).sum() / is_demo.sum().clamp(min=1)
