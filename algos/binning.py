"""Coarse-to-fine binning of continuous actions, shared by ARSQ and CQN."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlzoo.errors import UserError

# Up to here every interval's centre is a float32 of its own and encode(decode(k)) == k holds.
MAX_INTERVALS = 2**20


@dataclass(frozen=True)
class Binning:
    """Cuts [-1, 1] into `bins` equal intervals, each of them into `bins` again, `levels` times.

    Seo et al. 2024 (arXiv 2407.07787), section 3.1. An action dimension's code is a number of `levels`
    digits in base N = `bins`, the coarsest first: digit l says which part of the interval chosen at level
    l - 1 holds the action. All of them together are one index into the N^L finest intervals, so the digits
    come from one division instead of L rounded steps, and intervals of different levels nest exactly.

    Attributes:
        levels: L, how often an interval is cut.
        bins: N, the number of parts of each cut.
    """

    levels: int
    bins: int

    def __post_init__(self) -> None:
        if self.levels < 1 or self.bins < 2:
            raise UserError(f"binning needs levels >= 1 and bins >= 2, not {self.levels} and {self.bins}")
        if self.intervals > MAX_INTERVALS:
            raise UserError(
                f"binning with {self.levels} levels of {self.bins} bins is finer than float32 can hold: "
                f"bins ** levels must be at most {MAX_INTERVALS}"
            )

    @property
    def intervals(self) -> int:
        """N^L, the number of intervals of the last level; each is 2 / N^L wide."""
        return int(self.bins**self.levels)

    def encode(self, action: Tensor) -> Tensor:
        """Actions [..., D] -> codes int64 [..., L, D], 0..N-1.

        The clamp puts 1 itself (and whatever lies outside) into the outermost interval. The reference clips
        actions to ±0.99999 instead, which is the same for fewer than 200,000 intervals.
        """
        index = torch.floor((action + 1) * (self.intervals / 2)).long().clamp(0, self.intervals - 1)
        digits = [index // self.bins ** (self.levels - 1 - level) for level in range(self.levels)]
        return torch.stack(digits, -2) % self.bins  # [..., L, D]

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [..., L, D] -> the centres of their last intervals [..., D], within 1 / N^L of the action."""
        return self.centers(codes)[-1]

    def centers(self, codes: Tensor) -> Tensor:
        """Codes [..., L, D] -> centres [L+1, ..., D] of the interval chosen after 0, 1, ..., L levels."""
        index = torch.zeros_like(codes[..., 0, :])
        centers = [self.center(index, 0)]
        for level in range(self.levels):
            index = self.refine(index, codes[..., level, :])
            centers.append(self.center(index, level + 1))
        return torch.stack(centers)  # [L+1, ..., D]

    def refine(self, index: Tensor, code: Tensor) -> Tensor:
        """The index, among one level's intervals, of part `code` of interval `index` of the level before."""
        return index * self.bins + code

    def center(self, index: Tensor, level: int) -> Tensor:
        """The centre of interval `index` after `level` cuts: index 0 of level 0 is [-1, 1] with centre 0."""
        return torch.div(2 * index + 1, self.bins**level) - 1

    def offsets(self) -> Tensor:
        """How far the centre moves when an interval's part is chosen: [L, N], by level and code."""
        parts = torch.arange(self.bins) * 2 + 1 - self.bins
        return torch.stack([parts / self.bins ** (level + 1) for level in range(self.levels)])
