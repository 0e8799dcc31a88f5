"""Turns an update into a CUDA graph: hundreds of small kernels started by one launch."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from rlzoo.agent import Update
from rlzoo.replay import map_batch
from rlzoo.types import Batch

# PyTorch asks for a few eager runs before a capture, so that lazy initialisation is behind it.
WARMUP_UPDATES = 3

Capture = Literal["auto", "off"]


def capture(update: Update, device: torch.device, mode: Capture = "auto") -> Update:
    """The update as a CUDA graph on a GPU; on a CPU, or with mode "off", the update itself.

    On the CPU the update is run eagerly: compiling the twin critics' forward and backward pass was seen to
    gain 8 % with one thread and to lose with two, and it needs a C++ compiler and half a minute to start.
    """
    return CapturedUpdate(update) if device.type == "cuda" and mode == "auto" else update


class CapturedUpdate:
    """An update replayed from a CUDA graph.

    The first calls run eagerly on a side stream: they are real updates on real batches, so capturing costs
    no update and leaves no trace in the agent. All batches must have the shapes of the first. One that is
    handed over every time, filled anew, is read where it lies; others are copied. The metrics are overwritten
    by the next call.
    """

    def __init__(self, update: Update) -> None:
        self.update = update
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batch: Batch | None = None
        self.metrics: dict[str, Tensor] = {}
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """One update. Returns metrics as 0-d tensors on the device."""
        self.calls += 1
        if self.calls <= WARMUP_UPDATES:
            self.batch = batch
            return self._warm_up(batch)
        if self.graph is None:
            self._capture(batch if batch is self.batch else map_batch(torch.clone, batch))
        assert self.graph is not None
        assert self.batch is not None
        if batch is not self.batch:
            _copy_into(self.batch, batch)
        self.graph.replay()
        return self.metrics

    def _warm_up(self, batch: Batch) -> dict[str, Tensor]:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream), warnings.catch_warnings():
            # Adam's step counter lives on the device for the capture to come; PyTorch advises against that
            # while it sees none.
            warnings.filterwarnings("ignore", ".*capturable", UserWarning)
            metrics = self.update(batch)
        torch.cuda.current_stream().wait_stream(self.stream)
        return metrics

    def _capture(self, batch: Batch) -> None:
        self.batch = batch
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.metrics = self.update(self.batch)


def _copy_into(static: Batch, batch: Batch) -> None:
    """All tensors in one call; a captured update reads those of `static`."""
    targets: list[Tensor] = []
    sources: list[Tensor] = []

    def collect(target: Tensor, source: Tensor) -> Tensor:
        targets.append(target)
        sources.append(source)
        return target

    map_batch(collect, static, batch)
    torch._foreach_copy_(targets, sources)
