"""The auto-regressive policy over codes that ARSQ and BC share: its network, and how actions are drawn.

An action is a sequence of codes (`algos.binning`), and every position's advantages depend on the codes before
it (Liu et al., arXiv 2502.00288). Shapes: B rows, D action dimensions, L levels, N bins, T = L * D positions,
E networks evaluated together (ARSQ's twins), H hidden units.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.binning import Binning
from rlzoo.agent import AgentConfig
from rlzoo.errors import UserError
from rlzoo.nn.images import Projection
from rlzoo.nn.mlp import ACTIVATIONS, Activation, narrow_linear
from rlzoo.settings import Count, CountOrZero, Positive, Widths


@dataclass(frozen=True)
class AutoregressiveConfig(AgentConfig):
    """How an action becomes a sequence of codes, and the network that scores them one by one."""

    levels: Count = 1
    """L: how often an interval is cut into `bins` parts."""
    bins: Count = 41
    """N: parts of each cut."""
    temperature: Positive = 0.1
    """alpha of exp(A_t / alpha)."""
    order: Literal["level", "dimension"] = "level"
    """Codes by level, coarse first, or by dimension (ablation)."""
    conditioning: Literal["full", "levels", "dimensions", "none"] = "full"
    """A code sees all before it, coarser levels', its own level's or none (ablation)."""
    greedy: Literal["mode", "median"] = "mode"
    """The deterministic action's codes: most likely, or median."""
    trunk: Literal["shared", "separate"] = "shared"
    """One trunk with heads, or a network per position (ablation)."""
    state_layers: CountOrZero = 0
    """Hidden layers that see the state alone (ours)."""
    hidden: Widths = (512, 512, 512)
    """Widths of the hidden layers of every network."""
    activation: Activation = "tanh"
    """After every hidden layer."""
    layer_norm: bool = False
    """Hidden layers without bias, normalised; output layers that start at zero."""
    feature_dim: Count = 64
    """Width of images' projections."""
    encoder_channels: Widths = (32, 64, 128, 256)
    """With images: channels of the convolutions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order == "dimension" and self.conditioning != "full":
            setting = f"--agent.conditioning {self.conditioning}"
            raise UserError(f"{setting} needs --agent.order level: only there do levels begin")
        if self.state_layers >= len(self.hidden):
            layers = f"the {len(self.hidden)} hidden layers, through one of which the prefix enters"
            raise UserError(f"--agent.state-layers is {self.state_layers}, expected less than {layers}")
        if self.state_layers and self.trunk == "separate":
            raise UserError("--agent.state-layers needs --agent.trunk shared: separate trunks share no layer")

    @property
    def sees_levels(self) -> bool:
        """Whether a code sees those of coarser levels (coarse-to-fine conditioning)."""
        return self.conditioning in ("full", "levels")

    @property
    def sees_dimensions(self) -> bool:
        """Whether a code sees those of its own level that come before it (dimension conditioning)."""
        return self.conditioning in ("full", "dimensions")

    @property
    def greedy_rules(self) -> tuple[str, ...]:
        return ("mode", "median")


class AdvantageNetwork(nn.Module):
    """Normalised advantages A_t(s, a_<t, .), E independent networks evaluated together.

    Position t sees the state's features and a prefix: for each dimension the centre of the interval chosen
    so far, 0 before any choice. Without coarser levels (`conditioning`) it is the interval of the position's
    own level, as if that were the only one. The prefix enters at hidden layer k = `state_layers`, counted
    from 0 (the paper's): what comes before depends on the state alone and is computed once per row, not once
    per position. So is layer k's product with what comes before, and each position's head computes its own N
    logits only.

    Parameters, G = 1 trunk (or T separate ones): ``weights[l]`` [E, G, in, out], of which ``weights[k]`` has
    the rows of the state's part above those of the prefix; ``biases[l]`` [E, G, 1, out]; ``head_weight``
    [E, T, H, N]; ``head_bias`` [E, T, 1, N]. With LayerNorm the biases are its own, beside ``gains[l]``.
    """

    visible: Tensor  # [P, D], how many levels of each dimension are chosen, for each distinct prefix
    level: Tensor  # [P], that of each distinct prefix
    code_index: Tensor  # [T], where position t's code lies in the flattened codes [L * D]
    offsets: Tensor  # [L, N, 1], how far a level's code moves its dimension's centre

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
        self.action_dim, self.entry = action_dim, config.state_layers
        sizes = [feature_dim, *config.hidden]
        self.state_dim = sizes[self.entry]  # what of the state meets the prefix
        self.binning = Binning(config.levels, config.bins)
        self.activation = ACTIVATIONS[config.activation]
        self.positions = position_order(config, action_dim)
        trunks = len(self.positions) if config.trunk == "separate" else 1
        visible = visible_levels(self.positions, action_dim, within_level=config.sees_dimensions)
        levels = [level for level, _ in self.positions]
        if trunks == 1 and not config.sees_dimensions:  # a level's positions share one prefix: P = L, not T
            visible, levels = visible[::action_dim], levels[::action_dim]
        self.register_buffer("visible", torch.tensor(visible), persistent=False)
        self.register_buffer("level", torch.tensor(levels), persistent=False)
        index = [level * action_dim + dim for level, dim in self.positions]
        self.register_buffer("code_index", torch.tensor(index), persistent=False)
        self.register_buffer("offsets", self.binning.offsets()[..., None], persistent=False)
        self._build(sizes, ensemble, trunks)

    def _build(self, sizes: list[int], ensemble: int, trunks: int) -> None:
        """Orthogonal weights, gain sqrt(2), output layer 0.01 (with LayerNorm 1 and 0); biases zero."""
        gain, output_gain = (1.0, 0.0) if self.config.layer_norm else (math.sqrt(2), 0.01)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.gains = nn.ParameterList()
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            fan_in += self.action_dim if layer == self.entry else 0
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
        if not self.config.sees_levels:
            shown = self.visible > self.level[:, None]  # [P, D], whether a code of this level is there
            own = codes.transpose(0, 1).index_select(0, self.level)  # [P, B, D]
            return self.offsets[0, :, 0][own] * shown[:, None]
        centers = self.binning.centers(codes)  # [L+1, B, D]
        return centers.gather(0, self.visible[:, None].expand(-1, len(codes), -1))

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        """Features [B, F] and codes [B, L, D] -> all positions' advantages at these prefixes [E, T, B, N].

        With a projection the features are those that it projects.
        """
        return self._advantage(self._project(features), self.prefix(codes))

    def logits(self, features: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """min_i A_i / alpha behind actions [B, D], and their codes: see `Agent.code_logits`."""
        codes = self.binning.encode(action)  # [B, L, D]
        by_position = self(features, codes).amin(0) / self.config.temperature  # [T, B, N]
        logits = torch.empty_like(by_position).index_copy_(0, self.code_index, by_position)  # [L*D, B, N]
        by_level = logits.view(-1, self.action_dim, *logits.shape[1:]).transpose(1, 2)  # [L, B, D, N]
        return by_level, codes.transpose(0, 1)

    def _project(self, features: Tensor) -> Tensor:
        """Layer k's share that does not depend on the position: features [B, F] -> [E, G, B, H]."""
        if self.projection is not None:
            features = self.projection(features)[:, None]  # [E, 1, B, F]
        if self.entry:
            own = self.projection is not None  # features of its own for each of the E networks
            x = features[:, 0] if own else features.expand(len(self.head_bias), -1, -1)  # [E, B, F]
            for layer in range(self.entry):
                x = self._layer(x, layer, 0)
            features = x[:, None]  # [E, 1, B, H]
        product = features @ self.weights[self.entry][:, :, : self.state_dim]
        return product if self.config.layer_norm else torch.add(product, self.biases[self.entry])

    def _advantage(self, projected: Tensor, prefix: Tensor) -> Tensor:
        """Projected features [E, G, B, H] and prefixes [P, B, D] -> advantages [E, T, B, N]."""
        weight = self.weights[self.entry][:, :, self.state_dim :]  # [E, G, D, H]
        ensemble, groups, dims, width = weight.shape
        rows = prefix.shape[1]
        x = prefix.view(groups, -1, rows, dims) @ weight[:, :, None]  # [E, G, P/G, B, H]
        x = x.add_(projected[:, :, None])  # in place: these are the largest tensors of an update
        x = self._activate(x.view(ensemble * groups, -1, width), self.entry)  # [E*G, P/G*B, H]
        for layer in range(self.entry + 1, len(self.weights)):
            x = self._layer(x, layer)
        x = x.view(ensemble * len(prefix), 1, rows, -1)  # [E*P, 1, B, H]
        # The heads that share a prefix, all on the same rows: [E*T, B, H].
        x = x.expand(-1, len(self.positions) // len(prefix), -1, -1).flatten(0, 1)
        logits = narrow_linear(self.head_bias.flatten(0, 1), x, self.head_weight.flatten(0, 1))  # [E*T, B, N]
        scaled = logits.view(ensemble, -1, *logits.shape[1:]) / self.config.temperature
        return self.config.temperature * scaled.log_softmax(-1)

    def _layer(self, x: Tensor, layer: int, trunk: int | None = None) -> Tensor:
        """Hidden layer `layer`: [E*G, R, in] -> [E*G, R, out]; of one trunk, [E, R, in] -> [E, R, out]."""
        weight = _of_trunk(self.weights[layer], trunk)
        if self.config.layer_norm:
            x = x @ weight
        else:
            x = torch.baddbmm(_of_trunk(self.biases[layer], trunk), x, weight)
        return self._activate(x, layer, trunk)

    def _activate(self, x: Tensor, layer: int, trunk: int | None = None) -> Tensor:
        """A hidden layer after its product: LayerNorm, if there is one, and activation. x: [E*G, ..., H]."""
        if self.config.layer_norm:
            gain, bias = (_of_trunk(each[layer], trunk) for each in (self.gains, self.biases))
            x = torch.addcmul(bias, F.layer_norm(x, x.shape[-1:]), gain)
        return self.activation(x)

    @torch.no_grad()
    def act(self, features: Tensor, *, deterministic: bool) -> Tensor:
        """Features [B, F] -> actions [B, D]: each code in turn from exp(min_i A_i,t / alpha), or `greedy`.

        A code moves one dimension's centre, so layer k's product is not taken anew at every position: that
        dimension's row of the weight is added to it. One environment's action is some ten small operations
        per position, whose number is what it costs.
        """
        config, rows = self.config, features.shape[0]
        projected = self._project(features)  # [E, G, B, H]
        ensemble, groups, _, width = projected.shape
        entering = projected.permute(2, 0, 1, 3).reshape(rows, -1)  # [B, E*G*H], of the prefix so far
        current = entering.view(rows, ensemble, groups, width).transpose(0, 1)  # the same memory
        prefix_weight = self.weights[self.entry][:, :, self.state_dim :]  # [E, G, D, H]
        moves = prefix_weight.permute(2, 0, 1, 3).reshape(self.action_dim, -1).unbind()  # D of [E*G*H]
        begins = None if config.sees_levels else entering.clone()  # of a prefix that shows nothing yet
        offsets, heads, biases = self.offsets.unbind(), self.head_weight.unbind(1), self.head_bias.unbind(1)
        rate = 1 / config.temperature
        if not deterministic:
            # A draw is the largest of the log probabilities plus Gumbel noise: minus the logarithm
            # of an exponential draw. `torch.multinomial` would wait for the device.
            shape = (len(self.positions), rows, config.bins)
            noise = torch.empty(shape, device=features.device).exponential_().log_().neg_().unbind()
        # Where the median lies in the interval chosen so far.
        quantile = torch.full((self.action_dim, rows), 0.5, device=features.device)
        visible = current.unbind(2)  # G of [E, B, H]
        codes = []
        for position, (level, dim) in enumerate(self.positions):
            if dim == 0 and begins is not None:
                entering.copy_(begins)
            if dim == 0 and not config.sees_dimensions:
                visible = current.clone().unbind(2)  # what all codes of this level see
            trunk = position if config.trunk == "separate" else 0
            x = self._activate(visible[trunk], self.entry, trunk)  # [E, B, H]
            for layer in range(self.entry + 1, len(self.weights)):
                x = self._layer(x, layer, trunk)
            scaled = torch.baddbmm(biases[position], x, heads[position], beta=rate, alpha=rate)  # [E, B, N]
            log_prob = scaled.log_softmax(-1).amin(0)  # [B, N], min_i A_i / alpha
            if deterministic and config.greedy == "median":
                code, quantile[dim] = self._at_quantile(log_prob, quantile[dim])
            else:
                code = (log_prob if deterministic else log_prob + noise[position]).argmax(-1)
            moved = offsets[level if config.sees_levels else 0].index_select(0, code)
            entering.addcmul_(moved, moves[dim])
            codes.append(code)
        chosen = torch.stack(codes, 1)  # [B, T]
        by_level = torch.empty_like(chosen).index_copy_(1, self.code_index, chosen)
        return self.binning.decode(by_level.view(rows, -1, self.action_dim))

    def _at_quantile(self, log_prob: Tensor, quantile: Tensor) -> tuple[Tensor, Tensor]:
        """The code in which a quantile of the policy lies, and which quantile of that code's interval it is.

        Bins are in order, so codes have a cumulative distribution. The second result goes on to the
        dimension's next level, as in inverse transform sampling: logarithms of probabilities, up to a
        constant, [B, N] and quantiles from 0 to 1 [B] -> codes of positive probability [B], quantiles [B].
        """
        probability = log_prob.softmax(-1)
        cumulative = probability.cumsum(-1)
        smallest = torch.finfo(probability.dtype).tiny  # above 0, where an empty first bin ends
        target = (quantile.clamp(min=smallest) * cumulative[:, -1])[:, None]  # rounding leaves sums beside 1
        code = (cumulative < target).sum(-1, keepdim=True)
        inside = probability.gather(-1, code)
        below = cumulative.gather(-1, code) - inside
        rest = ((target - below) / inside.clamp(min=smallest)).clamp(0, 1)
        return code.squeeze(-1), rest.squeeze(-1)


def _of_trunk(parameter: Tensor, trunk: int | None) -> Tensor:
    """A parameter [E, G, ...] of one trunk, [E, ...], or of all of them, [E*G, ...]."""
    return parameter.flatten(0, 1) if trunk is None else parameter[:, trunk]


def position_order(config: AutoregressiveConfig, action_dim: int) -> list[tuple[int, int]]:
    """The (level, dimension) of every position, in the order in which codes are chosen."""
    if config.order == "level":
        return [(level, dim) for level in range(config.levels) for dim in range(action_dim)]
    return [(level, dim) for dim in range(action_dim) for level in range(config.levels)]


def visible_levels(
    positions: Sequence[tuple[int, int]], action_dim: int, *, within_level: bool
) -> list[list[int]]:
    """For every position the number of levels of each dimension that its prefix shows: [T, D].

    `within_level`: also those chosen before it on its own level.
    """
    chosen = [0] * action_dim
    rows = []
    for level, dim in positions:
        rows.append(list(chosen) if within_level else [level] * action_dim)
        chosen[dim] += 1
    return rows


def orthogonal(batch: tuple[int, int], fan_in: int, fan_out: int, *, gain: float) -> Tensor:
    """Independent orthogonal matrices [*batch, fan_in, fan_out]."""
    weight = torch.empty(*batch, fan_in, fan_out)
    for matrix in weight.flatten(0, 1):
        nn.init.orthogonal_(matrix, gain)
    return weight


def at_codes(values: Tensor, codes: Tensor) -> Tensor:
    """The entries of `values` [E, T, B, N] at `codes` [T, B] -> [E, T, B]."""
    return values.gather(-1, codes.expand(len(values), -1, -1)[..., None]).squeeze(-1)


def mean_over(rows: Tensor, values: Tensor) -> Tensor:
    """The mean of `values` [..., B] over the rows flagged 1 in `rows` [B]; 0 where there is none."""
    return (values * rows).sum(-1) / rows.sum().clamp(min=1)


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
