"""Multi-layer perceptrons, several of one shape evaluated together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

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
