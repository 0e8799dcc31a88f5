"""Optimisers and moving averages of networks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def frozen_copy(module: Module) -> Module:
    """A copy with equal weights that no optimiser touches: a target network."""
    return copy.deepcopy(module).requires_grad_(False)


def adam(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW in one fused kernel, its step counter on the device so that a CUDA graph can hold it.

    Without decoupled weight decay this is Adam.
    """
    parameters = list(parameters)
    on_gpu = parameters[0].is_cuda
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True, capturable=on_gpu)


@torch.no_grad()
def polyak_update(targets: Sequence[Tensor], online: Sequence[Tensor], tau: float) -> None:
    """target <- (1 - tau) * target + tau * online, for all tensors in one fused call."""
    torch._foreach_lerp_(list(targets), [tensor.detach() for tensor in online], tau)
