"""Images, for every agent: one CNN per camera, random shifts, and what the other networks see of the result.

The encoder and the projections are those of CQN (Seo et al., arXiv 2407.07787, and its code for RLBench),
which ARSQ shares; the augmentation is that of DrQ-v2 (Yarats et al., arXiv 2107.09645, section 3.1).

Shapes: B rows, V views, C channels of a view (frames times colours), Z image features, S state, E networks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlzoo.errors import UserError
from rlzoo.types import Batch, Spaces

SHIFT = 4  # pixels either way


# ------------------------------------------------------------------------------------------- augmentation


def random_shift(pixels: Tensor, limit: int = SHIFT) -> Tensor:
    """Move every view by up to `limit` pixels either way: pad by repeating the border, then crop at random.

    One shift per row and view, the same for all its frames.

    Args:
        pixels: [B, V, C, H, W] of any type; comes back in the same.
        limit: the largest shift, in pixels.
    """
    offset = torch.randint(-limit, limit + 1, (2, *pixels.shape[:2]), device=pixels.device)
    return shift(pixels, *offset)


def shift(pixels: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """out[b, v, c, y, x] = pixels[b, v, c, y + down[b, v], x + right[b, v]], the border repeated outside.

    Args:
        pixels: [B, V, C, H, W].
        down, right: int64 [B, V].
    """
    height, width = pixels.shape[-2:]
    source = _moved(down, height)[..., None] * width + _moved(right, width)[:, :, None]  # [B, V, H, W]
    images = pixels.flatten(-2)  # [B, V, C, H*W]
    # One gather over both axes: on a CPU three times as fast as one each.
    return images.gather(-1, source.flatten(-2)[:, :, None].expand_as(images)).view_as(pixels)


def _moved(offset: Tensor, size: int) -> Tensor:
    """Where each of `size` pixels comes from: offsets [B, V] -> [B, V, size]."""
    return (offset[..., None] + torch.arange(size, device=offset.device)).clamp(0, size - 1)


def augment(batch: Batch) -> Batch:
    """The batch with its images shifted at random, before and after the step each on their own.

    A batch without images comes back as it is. Part of an update, so that it is captured with it.
    """
    if "pixels" not in batch.obs:
        return batch
    obs, next_obs = ({**each, "pixels": random_shift(each["pixels"])} for each in (batch.obs, batch.next_obs))
    return batch._replace(obs=obs, next_obs=next_obs)


# ------------------------------------------------------------------------------------------------ encoder


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels at each place of an image: [B, C, H, W] -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        """In memory the channels lie side by side (channels_last), so neither permutation copies."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MultiViewEncoder(nn.Module):
    """A CNN per view, weights not shared: layers of [Conv 4x4 stride 2 pad 1, LayerNorm over channels, SiLU].

    Args:
        pixels: shape [V, C, H, W] of the images; each layer halves H and W, rounding down.
        channels: of each layer.

    Raises:
        UserError: the images are too small for so many layers.
    """

    def __init__(self, pixels: tuple[int, int, int, int], channels: Sequence[int]) -> None:
        super().__init__()
        views, frame_channels, height, width = pixels
        shrink = 2 ** len(channels)
        if min(height, width) < shrink:
            raise UserError(
                f"--agent.encoder-channels has {len(channels)} layers, each of which halves the image: "
                f"{height}x{width} pixels are too few, {shrink}x{shrink} are needed"
            )
        self.output_dim = views * channels[-1] * (height // shrink) * (width // shrink)
        self.views = nn.ModuleList(_cnn([frame_channels, *channels]) for _ in range(views))

    def forward(self, pixels: Tensor) -> Tensor:
        """u8 [B, V, C, H, W] -> features [B, Z].

        View by view: on a CPU one grouped convolution took 2.7 times as long, forward and backward.
        """
        features = [
            # [B, C, h, w] in channels_last order, flattened without a copy
            cnn(_centered(pixels[:, view])).permute(0, 2, 3, 1).flatten(1)
            for view, cnn in enumerate(self.views)
        ]
        return torch.cat(features, -1)


def _centered(pixels: Tensor) -> Tensor:
    """u8 [B, C, H, W] -> f32 in [-0.5, 0.5], channels_last; put into that order while they are bytes."""
    return pixels.contiguous(memory_format=torch.channels_last).float().div_(255).sub_(0.5)


def _cnn(channels: Sequence[int]) -> nn.Sequential:
    """Orthogonal weights with gain sqrt(2), zero biases."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(channels):
        convolution = nn.Conv2d(fan_in, fan_out, kernel_size=4, stride=2, padding=1)
        nn.init.orthogonal_(convolution.weight, math.sqrt(2))
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        layers += [convolution, ChannelNorm(fan_out), nn.SiLU()]
    return nn.Sequential(*layers)


class ObservationEncoder(nn.Module):
    """What an agent's networks see of an observation, [B, F]; trained with the agent's values.

    Without images it is the state itself, F = S. With images it is their features and then the state,
    F = Z + S, which every network narrows down by a `projection` of its own. Targets have projections but no
    encoder: the online one encodes the next observation, without gradient.

    Args:
        spaces: of the task.
        channels: of `MultiViewEncoder`'s layers.
        width: of what a projection makes of the images, and of what it makes of the state.
    """

    def __init__(self, spaces: Spaces, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.state_dim, self.width = spaces.state_dim, width
        self.views = None if spaces.pixels is None else MultiViewEncoder(spaces.pixels, channels)

    @property
    def projected_dim(self) -> int:
        """What is left for a network behind a projection: S, with images twice the width."""
        return self.state_dim if self.views is None else 2 * self.width

    def projection(self, *, ensemble: int = 1) -> Projection | None:
        """A new projection for a network of E members; None where there are no images."""
        if self.views is None:
            return None
        return Projection(self.views.output_dim, self.state_dim, self.width, ensemble=ensemble)

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Observations [B, ...] -> [B, F]."""
        if self.views is None:
            return obs["state"]
        return torch.cat((self.views(obs["pixels"]), obs["state"]), -1)


class Projection(nn.Module):
    """Linear (no bias)–LayerNorm–tanh to F units, of the image features and of the state, for E networks.

    Whatever else a network sees (an action) stays as it is.

    Args:
        pixel_dim, state_dim: Z and S.
        width: F.
        ensemble: E.

    Parameters: ``pixels.weight`` [E*F, Z], ``state.weight`` [E*F, S]; ``gain`` and ``bias`` [2, E, F].
    """

    def __init__(self, pixel_dim: int, state_dim: int, width: int, *, ensemble: int = 1) -> None:
        super().__init__()
        self.pixel_dim, self.state_dim = pixel_dim, state_dim
        self.ensemble, self.width = ensemble, width
        self.pixels = nn.Linear(pixel_dim, ensemble * width, bias=False)
        self.state = nn.Linear(state_dim, ensemble * width, bias=False)
        for layer in (self.pixels, self.state):
            for member in torch.split(layer.weight.detach(), width):
                nn.init.orthogonal_(member)
        self.gain = nn.Parameter(torch.ones(2, ensemble, width))
        self.bias = nn.Parameter(torch.zeros(2, ensemble, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, Z + S + K] -> [E, B, 2F + K]."""
        rest = x.shape[-1] - self.pixel_dim - self.state_dim
        pixels, state, others = torch.split(x, [self.pixel_dim, self.state_dim, rest], -1)
        both = torch.cat((self.pixels(pixels), self.state(state)), -1)
        both = both.view(-1, 2, self.ensemble, self.width)
        both = torch.addcmul(self.bias, F.layer_norm(both, (self.width,)), self.gain).tanh()
        both = both.permute(2, 0, 1, 3).flatten(2)  # [E, B, 2F]
        return torch.cat((both, others.expand(self.ensemble, -1, -1)), -1) if rest else both


def with_projection(projection: Projection | None, network: nn.Module) -> nn.Module:
    """`network` on projected features; the network itself where there is nothing to project."""
    return network if projection is None else nn.Sequential(projection, network)
