"""Optimisers and moving averages of networks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def frozen_copy(module: Module) -> Module:
    """A copy with equal weights that no optimiser touches: a target network."""
    return copy.deepcopy(module).requires_grad_(False)


class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980) with decoupled weight decay (AdamW, arXiv 1711.05101).

    One fused kernel for all parameters, its step counter on the device so that a CUDA graph can hold it. It
    computes what `torch.optim.AdamW(fused=True)` does, bit for bit, without that class's bookkeeping at every
    step (0.2 ms of a small update) and without PyTorch's compiler, whose import takes seconds.

    Args:
        parameters: all on one device; each must have a gradient when `step` is called.
        lr: learning rate.
        weight_decay: 0 is Adam.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.lr, self.weight_decay = lr, weight_decay
        self.steps = torch.zeros((), device=self.parameters[0].device)
        self.means = [torch.zeros_like(each) for each in self.parameters]  # of gradients
        self.squares = [torch.zeros_like(each) for each in self.parameters]  # means of their squares

    def minimize(self, loss: Tensor) -> None:
        """One step along the gradient of `loss`, of which only these parameters get one."""
        for parameter in self.parameters:
            parameter.grad = None
        # With `inputs`, an actor's loss neither fills nor computes the gradients of the critics' weights.
        loss.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]
        self.step()

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters along their gradients."""
        self.steps += 1
        torch._fused_adamw_(
            self.parameters,
            [parameter.grad for parameter in self.parameters],  # type: ignore[misc]
            self.means,
            self.squares,
            [],
            [self.steps] * len(self.parameters),
            lr=self.lr,
            beta1=0.9,
            beta2=0.999,
            weight_decay=self.weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """What it has accumulated; the rates are the agent's settings."""
        return {"steps": self.steps, "means": self.means, "squares": self.squares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned, on a device of any kind.

        Raises:
            RuntimeError, ValueError: if it came from parameters of other shapes, or another number of them.
        """
        self.steps.copy_(state["steps"])
        for own, saved in ((self.means, state["means"]), (self.squares, state["squares"])):
            for tensor, value in zip(own, saved, strict=True):
                if tensor.shape != value.shape:  # copying would broadcast some
                    raise RuntimeError(f"size mismatch: {tuple(value.shape)} for {tuple(tensor.shape)}")
                tensor.copy_(value)


@torch.no_grad()
def polyak_update(targets: Sequence[Tensor], online: Sequence[Tensor], tau: float) -> None:
    """target <- (1 - tau) * target + tau * online, for all tensors in one fused call."""
    torch._foreach_lerp_(list(targets), [tensor.detach() for tensor in online], tau)
