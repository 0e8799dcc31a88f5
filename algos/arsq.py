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
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.binning import Binning
from rlzoo.agent import Agent, Update, check_not_negative, check_positive, check_rate
from rlzoo.errors import UserError
from rlzoo.nn.images import ObservationEncoder, Projection, augment, with_projection
from rlzoo.nn.mlp import ACTIVATIONS, Activation, EnsembleMLP, adam, frozen_copy, polyak_update
from rlzoo.types import Batch, Spaces


@dataclass(frozen=True)
class AutoregressiveConfig:
    """How an action becomes a sequence of codes, and the network that scores them one by one."""

    levels: int = 1
    """L: how often an interval of an action dimension is cut into `bins` parts; resolution 2 / N^L."""
    bins: int = 41
    """N: the number of parts of each cut."""
    temperature: float = 0.1
    """alpha: A_t = alpha * log_softmax(logits_t / alpha), so pi(a_t | s, a_<t) = exp(A_t / alpha)."""
    order: Literal["level", "dimension"] = "level"
    """Which codes come first: every dimension's coarse code before any fine one (position l * D + d), or all
    codes of a dimension before the next dimension's (ablation of the paper)."""
    autoregressive: bool = True
    """False: every position sees the prefix as it stood at the start of its level (ablation of the paper)."""
    greedy: Literal["mode", "median"] = "mode"
    """The deterministic action: the most likely code of every position, as in the paper, or the code in which
    the median lies, drawn as a sample is from its distribution, but with 1/2 for the random number of each
    dimension (ours). Neighbouring codes count for it where none stands out."""
    trunk: Literal["shared", "separate"] = "shared"
    """One trunk with a head per position, or a network of its own for every position (ablation)."""
    hidden: tuple[int, ...] = (512, 512, 512)
    """Widths of the hidden layers of every network."""
    activation: Activation = "tanh"
    """After every hidden layer."""
    layer_norm: bool = False
    """Normalise every hidden layer: Linear (no bias)–LayerNorm–activation, and an output layer that starts at
    zero. The authors' networks for images are so, with 512-512 and silu."""
    feature_dim: int = 64
    """With images: width of the layers between their features, or the state, and each network."""
    encoder_channels: tuple[int, ...] = (32, 64, 128, 256)
    """With images: channels of the convolutions, each of which halves the image."""

    def __post_init__(self) -> None:
        if self.order == "dimension" and not self.autoregressive:
            raise UserError("autoregressive=False needs order='level': only there do levels have a start")
        if not self.hidden:
            raise UserError("hidden is empty: the prefix enters through a hidden layer, so give at least one")
        check_positive(self, "hidden", "temperature", "feature_dim", "encoder_channels")


@dataclass(frozen=True)
class ARSQConfig(AutoregressiveConfig):
    """Hyperparameters of ARSQ; the defaults are the authors' for D4RL tasks without values of their own."""

    demo_loss: Literal["cql", "margin"] = "cql"
    """Per position, with a_t the code of the data: `cql` is clamp(logsumexp_{k != a_t} A_t[k] - A_t[a_t],
    min=demo_floor), `margin` the mean over k != a_t of clamp(A_t[k] - A_t[a_t], min=demo_floor)."""
    demo_rows: Literal["demos", "all"] = "demos"
    """The rows that `demo_loss` averages over: those flagged as demonstrations, or the whole batch."""
    demo_weight: float = 5.0
    """w: weight of the demonstration loss, summed over positions and averaged over rows."""
    demo_floor: float = -1.0
    """c: a code that leads the others by -c is good enough, and its loss has no gradient. `margin` takes them
    one by one; `cql` all together, so at c = -1 equal ones have to be 1 + ln(N - 1) behind. `margin` with
    c >= 0 asks for no lead: equal advantages meet it, and alone it can leave the policy uniform."""
    demo_noise: float = 0.0
    """Standard deviation of Gaussian noise on the demonstrations' actions, anew for every update, in units of
    the agent's [-1, 1]. Of about a bin's width, it keeps the noise of the data's own actions from
    being learnt by heart (ours; 0: none, as in the paper)."""
    td_weight: float = 1.0
    """Weight of the TD loss mean (V(s) + sum_t A_t[a_t] - y)^2, y = r + gamma * min_i V_target,i(s')."""
    act_with: Literal["online", "target"] = "online"
    """The networks that choose actions: the paper's D4RL experiments use online, its RLBench ones target."""
    lr: float = 3e-4
    """Adam's learning rate (5e-5 with pixels)."""
    weight_decay: float = 0.0
    """Decoupled weight decay: 0 is Adam, more is AdamW (0.1 with pixels)."""
    tau: float = 0.005
    """Rate at which the targets follow, every update (0.02 with pixels)."""
    advantage_tau: float | None = None
    """The rate for the target advantages alone, which only act, and only with `act_with` "target"; None: tau.
    A slow one steadies the greedy policy (0.001 averages it over 1,000 updates) without holding up the
    values, which need about 1 / (tau (1 - gamma)) updates to reach the size of the returns."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "lr")
        check_rate(self, "tau", "advantage_tau")
        check_not_negative(self, "td_weight", "demo_weight", "demo_noise", "weight_decay")
        if not self.demo_floor < math.inf:  # minus infinity: no lead is ever enough
            raise UserError(f"--agent.demo-floor is {self.demo_floor}, expected a number, finite or -inf")


# ------------------------------------------------------------------------------------------------ network


class AdvantageNetwork(nn.Module):
    """Normalised advantages A_t(s, a_<t, .), E independent networks evaluated together.

    Position t sees the state's features and a prefix: for each dimension the centre of the interval chosen
    so far, 0 before any choice. The first layer is linear, so its product with the features is taken once
    per row, not once per position, and each position's head computes its own N logits only.

    Parameters, G = 1 trunk (or T separate ones): ``weights[l]`` [E, G, in, out], of which the first holds the
    rows of the features above those of the prefix; ``biases[l]`` [E, G, 1, out]; ``head_weight``
    [E, T, H, N]; ``head_bias`` [E, T, 1, N]. With LayerNorm the biases are its own, beside its ``gains[l]``.
    """

    visible: Tensor  # [P, D], how many levels of each dimension are chosen, for each distinct prefix
    code_index: Tensor  # [T], where position t's code lies in the flattened codes [L * D]

    def __init__(
        self,
        feature_dim: int,
        action_dim: int,
        config: AutoregressiveConfig,
        *,
        ensemble: int,
        projection: Projection | None = None,
    ) -> None:
        super().__init__()
        self.config, self.projection = config, projection
        self.input_dims = [feature_dim, action_dim]
        self.binning = Binning(config.levels, config.bins)
        self.activation = ACTIVATIONS[config.activation]
        self.positions = position_order(config, action_dim)
        trunks = len(self.positions) if config.trunk == "separate" else 1
        visible = visible_levels(self.positions, action_dim, autoregressive=config.autoregressive)
        if trunks == 1 and not config.autoregressive:
            visible = visible[::action_dim]  # a level's positions share one prefix: P = L instead of T
        self.register_buffer("visible", torch.tensor(visible), persistent=False)
        index = [level * action_dim + dim for level, dim in self.positions]
        self.register_buffer("code_index", torch.tensor(index), persistent=False)
        self._build(ensemble, trunks)

    def _build(self, ensemble: int, trunks: int) -> None:
        """Orthogonal weights, gain sqrt(2), output layer 0.01 (with LayerNorm 1 and 0); biases zero."""
        gain, output_gain = (1.0, 0.0) if self.config.layer_norm else (math.sqrt(2), 0.01)
        sizes = [sum(self.input_dims), *self.config.hidden]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.gains = nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            self.weights.append(orthogonal((ensemble, trunks), fan_in, fan_out, gain=gain))
            self.biases.append(torch.zeros(ensemble, trunks, 1, fan_out))
            if self.config.layer_norm:
                self.gains.append(torch.ones(ensemble, trunks, 1, fan_out))
        count, bins = len(self.positions), self.config.bins
        # One orthogonal matrix over all heads of a trunk, as if they were a single layer of T * N outputs.
        heads = orthogonal((ensemble, trunks), sizes[-1], count // trunks * bins, gain=output_gain)
        heads = heads.view(ensemble, trunks, sizes[-1], -1, bins).transpose(2, 3)  # [E, G, T/G, H, N]
        self.head_weight = nn.Parameter(heads.reshape(ensemble, count, sizes[-1], bins))
        self.head_bias = nn.Parameter(torch.zeros(ensemble, count, 1, bins))

    def by_position(self, codes: Tensor) -> Tensor:
        """Codes [B, L, D] -> [T, B]."""
        return codes.flatten(1).index_select(1, self.code_index).T

    def prefix(self, codes: Tensor) -> Tensor:
        """The prefixes that the positions of whole actions see: codes [B, L, D] -> [P, B, D]."""
        centers = self.binning.centers(codes)  # [L+1, B, D]
        return centers.gather(0, self.visible[:, None].expand(-1, len(codes), -1))

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        """Features [B, F] and codes [B, L, D] -> all positions' advantages at these prefixes [E, T, B, N].

        With a projection the features are those that it projects.
        """
        return self._advantage(self._project(features), self.prefix(codes), slice(None), slice(None))

    def _project(self, features: Tensor) -> Tensor:
        """The first layer's share that does not depend on the position: [B, F] -> [E, G, B, H]."""
        if self.projection is not None:
            features = self.projection(features)[:, None]  # [E, 1, B, F]
        product = features @ self.weights[0][:, :, : self.input_dims[0]]
        return product if self.config.layer_norm else torch.add(product, self.biases[0])

    def _advantage(self, projected: Tensor, prefix: Tensor, trunks: slice, heads: slice) -> Tensor:
        """Projected features [E, G, B, H] and prefixes [P, B, D] -> advantages [E, heads, B, N]."""
        weight = self.weights[0][:, trunks, self.input_dims[0] :]  # [E, G, D, H]
        ensemble, groups, dims, width = weight.shape
        rows = prefix.shape[1]
        x = prefix.view(groups, -1, dims) @ weight  # [E, G, P/G*B, H]
        x = x.view(ensemble, groups, -1, rows, width) + projected[:, trunks, None]  # [E, G, P/G, B, H]
        x = self._activate(x.view(ensemble * groups, -1, width), 0, trunks)  # [E*G, P/G*B, H]
        for layer in range(1, len(self.weights)):
            weight = self.weights[layer][:, trunks].flatten(0, 1)
            if self.config.layer_norm:
                x = x @ weight
            else:
                x = torch.baddbmm(self.biases[layer][:, trunks].flatten(0, 1), x, weight)
            x = self._activate(x, layer, trunks)
        weight, bias = self.head_weight[:, heads], self.head_bias[:, heads]  # [E, T, ...]
        x = x.view(ensemble * len(prefix), 1, rows, -1)  # [E*P, 1, B, H]
        x = x.expand(-1, weight.shape[1] // len(prefix), -1, -1).flatten(0, 1)  # heads that share a prefix
        logits = torch.baddbmm(bias.flatten(0, 1), x, weight.flatten(0, 1))  # [E*T, B, N]
        scaled = logits.view(ensemble, -1, *logits.shape[1:]) / self.config.temperature
        return self.config.temperature * scaled.log_softmax(-1)

    def _activate(self, x: Tensor, layer: int, trunks: slice) -> Tensor:
        """A hidden layer after its product: LayerNorm, if there is one, and activation. x: [E*G, ..., H]."""
        if self.config.layer_norm:
            gain, bias = (each[layer][:, trunks].flatten(0, 1) for each in (self.gains, self.biases))
            x = torch.addcmul(bias, F.layer_norm(x, x.shape[-1:]), gain)
        return self.activation(x)

    @torch.no_grad()
    def act(self, features: Tensor, *, deterministic: bool) -> Tensor:
        """Features [B, F] -> actions [B, D]: each code in turn from exp(min_i A_i,t / alpha), or `greedy`."""
        projected = self._project(features)
        index = torch.zeros(len(features), self.input_dims[1], dtype=torch.int64, device=features.device)
        center = prefix = torch.zeros_like(index, dtype=features.dtype)  # [B, D]
        quantile = torch.full_like(center, 0.5)  # where the median lies in the interval chosen so far
        for position, (level, dim) in enumerate(self.positions):
            if self.config.autoregressive or dim == 0:
                prefix = center.clone()
            trunk = position if self.config.trunk == "separate" else 0
            trunks, heads = slice(trunk, trunk + 1), slice(position, position + 1)
            advantage = self._advantage(projected, prefix[None], trunks, heads).amin(0)[0]  # [B, N]
            if not deterministic:
                code = self._sample(advantage)
            elif self.config.greedy == "mode":
                code = advantage.argmax(-1)
            else:
                code, quantile[:, dim] = self._at_quantile(advantage, quantile[:, dim])
            index[:, dim] = self.binning.refine(index[:, dim], code)
            center[:, dim] = self.binning.center(index[:, dim], level + 1)
        return center

    def _at_quantile(self, advantage: Tensor, quantile: Tensor) -> tuple[Tensor, Tensor]:
        """The code in which a quantile of the policy lies, and which quantile of that code's interval it is.

        Bins are in order, so codes have a cumulative distribution. The second result goes on to the
        dimension's next level, as in inverse transform sampling.

        Args:
            advantage: [B, N].
            quantile: from 0 to 1, [B].

        Returns:
            Codes of positive probability [B] and quantiles [B].
        """
        probability = (advantage / self.config.temperature).softmax(-1)
        cumulative = probability.cumsum(-1)
        smallest = torch.finfo(probability.dtype).tiny  # above 0, where an empty first bin ends
        target = (quantile.clamp(min=smallest) * cumulative[:, -1])[:, None]  # rounding leaves sums beside 1
        code = (cumulative < target).sum(-1, keepdim=True)
        inside = probability.gather(-1, code)
        below = cumulative.gather(-1, code) - inside
        rest = ((target - below) / inside.clamp(min=smallest)).clamp(0, 1)
        return code.squeeze(-1), rest.squeeze(-1)

    def _sample(self, advantage: Tensor) -> Tensor:
        """A code per row, with probability proportional to exp(A / alpha): [B, N] -> [B].

        The largest of A / alpha plus Gumbel noise, written as minus the logarithm of an exponential draw:
        the same distribution as `torch.multinomial`, which would wait for the device.
        """
        noise = torch.empty_like(advantage).exponential_()
        return (advantage / self.config.temperature - noise.log()).argmax(-1)


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


def position_order(config: AutoregressiveConfig, action_dim: int) -> list[tuple[int, int]]:
    """The (level, dimension) of every position, in the order in which codes are chosen."""
    if config.order == "level":
        return [(level, dim) for level in range(config.levels) for dim in range(action_dim)]
    return [(level, dim) for dim in range(action_dim) for level in range(config.levels)]


def visible_levels(
    positions: Sequence[tuple[int, int]], action_dim: int, *, autoregressive: bool
) -> list[list[int]]:
    """For every position the number of levels of each dimension that its prefix shows: [T, D]."""
    chosen = [0] * action_dim
    rows = []
    for level, dim in positions:
        rows.append(list(chosen) if autoregressive else [level] * action_dim)
        chosen[dim] += 1
    return rows


def orthogonal(batch: tuple[int, int], fan_in: int, fan_out: int, *, gain: float) -> Tensor:
    """Independent orthogonal matrices [*batch, fan_in, fan_out]."""
    weight = torch.empty(*batch, fan_in, fan_out)
    for matrix in weight.flatten(0, 1):
        nn.init.orthogonal_(matrix, gain)
    return weight


# ------------------------------------------------------------------------------------------------- losses


def at_codes(values: Tensor, codes: Tensor) -> Tensor:
    """The entries of `values` [E, T, B, N] at `codes` [T, B] -> [E, T, B]."""
    return values.gather(-1, codes.expand(len(values), -1, -1)[..., None]).squeeze(-1)


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


def mean_over(rows: Tensor, values: Tensor) -> Tensor:
    """The mean of `values` [..., B] over the rows flagged 1 in `rows` [B]; 0 where there is none."""
    return (values * rows).sum(-1) / rows.sum().clamp(min=1)


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
        self.optimizers = {"networks": adam(trained, config.lr, config.weight_decay)}

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
        """Every update is the same."""
        return (self.update,)

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        """A code for every position in turn, decoded: of `greedy`, or sampled: [N, D]."""
        network = self.advantage if self.config.act_with == "online" else self.target_advantage
        return network.act(self.encoder(obs), deterministic=deterministic)


def policy_metrics(
    advantage: Tensor, codes: Tensor, is_demo: Tensor, temperature: float
) -> dict[str, Tensor]:
    """What the policy exp(min_i A_i / alpha) thinks of the data: advantage [E, T, B, N], codes [T, B]."""
    log_prob = (advantage.amin(0) / temperature).log_softmax(-1)  # [T, B, N]
    entropy = -(log_prob.exp() * log_prob).sum(-1).mean()
    taken = at_codes(log_prob[None], codes)[0]  # [T, B]
    hit = (log_prob.argmax(-1) == codes).float()
    return {
        "policy/entropy": entropy,
        "policy/demo_log_prob": mean_over(is_demo, taken.sum(0)),
        "policy/demo_accuracy": mean_over(is_demo, hit.mean(0)),
    }
