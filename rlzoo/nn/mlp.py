"""Multi-layer perceptrons, several of one shape evaluated together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "gelu", "tanh", "silu", "elu"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,  # the exact one, with erf
    "tanh": torch.tanh,
    "silu": F.silu,
    "elu": F.elu,
}


class _NarrowLinear(torch.autograd.Function):
    """`narrow_linear` with its derivatives, of which autograd would take one the slow way round."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias.mT, weight.mT, x.mT).mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_bias, of_x, of_weight = ctx.needs_input_grad
        return (
            gradient.sum(1, keepdim=True) if of_bias else None,
            torch.bmm(gradient, weight.mT) if of_x else None,
            torch.bmm(gradient.mT, x).mT if of_weight else None,
        )


def narrow_linear(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """bias + x @ weight for few outputs N, as heads have: [E, 1, N], [E, B, in], [E, in, N] -> [E, B, N].

    Computed as the transpose of weight.T @ x.T, and so is the weight's gradient: with few columns a CPU's
    libraries take two to five times as long as with few rows (36 products of 512 rows, 512 units and 7
    outputs on an AMD EPYC: 15.9 and 6.3 ms, their weights' gradients 23.4 and 6.0).
    """
    output: Tensor = _NarrowLinear.apply(bias, x, weight)  # type: ignore[no-untyped-call]
    return output


class EnsembleMLP(nn.Module):
    """E independent MLPs of one shape, evaluated together: twin critics are E = 2.

    One batched product per layer instead of E small ones: fewer kernels on a GPU, and on a CPU the E
    products run side by side.

    Args:
        sizes: [in, hidden..., out].
        ensemble: E.
        activation: after every layer but the last.

    Parameters: ``weights[l]`` [E, in, out] and ``biases[l]`` [E, 1, out], initialised as `nn.Linear` does.
    """

    def __init__(self, sizes: Sequence[int], *, ensemble: int = 1, activation: Activation = "relu") -> None:
        super().__init__()
        self.ensemble = ensemble
        self.activation = ACTIVATIONS[activation]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)
            self.weights.append(torch.empty(ensemble, fan_in, fan_out).uniform_(-bound, bound))
            self.biases.append(torch.empty(ensemble, 1, fan_out).uniform_(-bound, bound))

    def orthogonal_(self, *, gain: float, output_gain: float) -> EnsembleMLP:
        """Initialise weights orthogonally (`output_gain` for the last layer) and biases with zero."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            for member in weight:
                is_output = layer == len(self.weights) - 1
                nn.init.orthogonal_(member.detach(), output_gain if is_output else gain)
            nn.init.zeros_(bias)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """[B, in], the same for all members, or [E, B, in], one each -> [E, B, out]."""
        if x.ndim == 2:
            x = x.expand(self.ensemble, *x.shape)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if layer < last:
                x = self.activation(x)
        return x
