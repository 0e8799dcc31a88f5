"""The tanh-Gaussian policy of SAC and its descendants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlzoo.nn.images import Projection, with_projection
from rlzoo.nn.mlp import Activation, EnsembleMLP


def tanh_gaussian_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """a = tanh(mean + std * noise) and log pi(a), by the reparametrisation trick.

    Haarnoja et al. 2018 (arXiv 1812.05905), appendix C: the density of the Gaussian, less the log-derivative
    of tanh, here log(1 + 1e-6 - a^2) as in the authors' code.

    Args:
        mean, log_std, noise: [B, A]; noise is standard normal.

    Returns:
        action [B, A] in (-1, 1) and log_prob [B].
    """
    action = torch.tanh(mean + log_std.exp() * noise)
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    return action, (log_normal - torch.log(1 + 1e-6 - action.square())).sum(dim=-1)


class GaussianPolicy(nn.Module):
    """pi(a|s): one MLP -> (mean, log std clamped to a range), squashed by tanh.

    Args:
        state_dim, action_dim: S and A.
        hidden: widths of the hidden layers.
        log_std_range: the clamp's bounds.
        projection: of an observation's features to S, where it has images.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        activation: Activation,
        log_std_range: tuple[float, float],
        projection: Projection | None = None,
    ) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.log_std_range = log_std_range
        network = EnsembleMLP([state_dim, *hidden, 2 * action_dim], activation=activation)
        self.network = with_projection(projection, network)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S] -> mean and log std before tanh, each [B, A]."""
        mean, log_std = self.network(state)[0].chunk(2, dim=-1)
        return mean, log_std.clamp(*self.log_std_range)

    def sample(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S] and standard-normal noise [B, A] -> action [B, A], log pi [B]."""
        mean, log_std = self(state)
        return tanh_gaussian_sample(mean, log_std, noise)

    @torch.no_grad()
    def act(self, state: Tensor, *, deterministic: bool) -> Tensor:
        """[N, S] -> actions [N, A]: tanh of the mean, or a sample."""
        mean, log_std = self(state)
        if deterministic:
            return torch.tanh(mean)
        return torch.tanh(mean + log_std.exp() * torch.randn_like(mean))
