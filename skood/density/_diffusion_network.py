"""Networks of diffusion models, for images and for rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from skood.density._noise_schedule import mean_and_std

__all__ = ["AveragedNetwork", "NoiseNetwork"]

# Features of the log-ratio, and the longest of their wavelengths.
_N_WAVES = 16
_LONGEST_WAVE = 40.0
_N_GROUPS = 8


class NoiseNetwork(nn.Module):
    r"""Predicts the noise in noisy items.

    With :math:`x_t = \psi x + \sigma \epsilon`, the noise is :math:`\sigma x_t + \psi v`, where v
    is the output of a network (Salimans and Ho 2022). An untrained network returns 0 and models the
    standard normal distribution.

    Parameters
    ----------
    item_shape : tuple of int
        (C, H, W) or (d,).
    n_filters : sequence of int
        For images: channels of each scale of a U-Net.
    n_blocks : int
        Residual blocks, in each scale of the U-Net, or in all for rows.
    hidden_features : int
        For rows: width of the blocks.
    patch_size : int
        For images: side of the patches that become channels.
    dropout : float
    """

    def __init__(
        self,
        item_shape: tuple[int, ...],
        *,
        n_filters: Sequence[int],
        n_blocks: int,
        hidden_features: int,
        patch_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        is_image = len(item_shape) == 3
        width = 4 * n_filters[0] if is_image else hidden_features
        self.embedding = nn.Sequential(
            _Waves(), nn.Linear(2 * _N_WAVES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.body = (
            _UNet(item_shape[0], n_filters, n_blocks, width, patch_size, dropout)
            if is_image
            else _RowNetwork(item_shape[0], n_blocks, width, dropout)
        )

    def forward(self, x: Tensor, log_ratio: Tensor) -> Tensor:
        """Noise in x (b, ...), whose log-ratios have the shape () or (b,)."""
        log_ratio = log_ratio.to(x).reshape(-1, *[1] * (x.ndim - 1))
        psi, sigma = mean_and_std(log_ratio)
        return sigma * x + psi * self.body(x, self.embedding(log_ratio.reshape(-1, 1))).float()


class AveragedNetwork(nn.Module):
    """A network, and an exponential moving average of its weights, which is used in eval mode.

    Parameters
    ----------
    network : Module
    decay : float
        Decay of the average in an update; smaller in the first updates.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.network = network

        def update(averages: list[Tensor], weights: list[Tensor], n_updates: Tensor) -> None:
            kept = min(decay, (1 + int(n_updates)) / (10 + int(n_updates)))
            torch._foreach_lerp_(averages, weights, 1 - kept)

        self.average = AveragedModel(network, multi_avg_fn=update).requires_grad_(False)

    def forward(self, x: Tensor, log_ratio: Tensor) -> Tensor:
        """Noise in x."""
        return (self.network if self.training else self.average)(x, log_ratio)

    def update(self) -> None:
        """Update the average with the weights of a step."""
        self.average.update_parameters(self.network)


class _Waves(nn.Module):
    """Sines and cosines of numbers (b, 1), (b, 2 _N_WAVES)."""

    def __init__(self) -> None:
        super().__init__()
        wavelengths = _LONGEST_WAVE / 2.0 ** (0.5 * torch.arange(_N_WAVES))
        self.register_buffer("frequencies", 2 * math.pi / wavelengths, persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        angles = numbers * self.frequencies
        return torch.cat((angles.sin(), angles.cos()), 1)


class _UNet(nn.Module):
    """A U-Net of residual blocks on patches, with attention in its last scale."""

    def __init__(
        self,
        n_channels: int,
        n_filters: Sequence[int],
        n_blocks: int,
        width: int,
        patch_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        n_patch = n_channels * patch_size**2
        self.first = nn.Conv2d(n_patch, n_filters[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, n_in = [n_filters[0]], n_filters[0]
        for k, n in enumerate(n_filters):
            if k > 0:
                self.down.append(nn.Conv2d(n_in, n_in, 3, stride=2, padding=1))
                skips.append(n_in)
            for _ in range(n_blocks):
                self.down.append(_Block(n_in, n, width, dropout))
                n_in = n
                skips.append(n)
        self.middle = _Block(n_in, n_in, width, dropout)
        self.attention = _Attention(n_in)
        for n in reversed(n_filters):
            for _ in range(n_blocks + 1):
                self.up.append(_Block(n_in + skips.pop(), n, width, dropout))
                n_in = n
        self.last = nn.Sequential(
            _norm(n_in), nn.SiLU(), _zero(nn.Conv2d(n_in, n_patch, 3, padding=1))
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.first(F.pixel_unshuffle(x, self.patch_size))
        skips = [h]
        for layer in self.down:
            h = layer(h, embedding) if isinstance(layer, _Block) else layer(h)
            skips.append(h)
        h = self.attention(self.middle(h, embedding))
        for layer in self.up:
            skip = skips.pop()
            if h.shape[2:] != skip.shape[2:]:
                h = F.interpolate(h, size=skip.shape[2:], mode="nearest")
            h = layer(torch.cat((h, skip), 1), embedding)
        return F.pixel_shuffle(self.last(h), self.patch_size)


class _Block(nn.Module):
    """Two convolutions, with the embedding of the noise between them, added to their input."""

    def __init__(self, n_in: int, n_out: int, width: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(n_in), nn.SiLU(), nn.Conv2d(n_in, n_out, 3, padding=1))
        self.modulation = nn.Linear(width, 2 * n_out)
        self.norm = _norm(n_out)
        self.second = nn.Sequential(
            nn.SiLU(), nn.Dropout(dropout), _zero(nn.Conv2d(n_out, n_out, 3, padding=1))
        )
        self.skip = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        return self.skip(x) + self.second(self.norm(self.first(x)) * (1 + scale) + shift)


class _Attention(nn.Module):
    """Self-attention of pixels, with one head, added to its input."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.norm = _norm(n_channels)
        self.qkv = nn.Conv2d(n_channels, 3 * n_channels, 1)
        self.out = _zero(nn.Conv2d(n_channels, n_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).flatten(2).chunk(3, 1)
        weights = (query.mT @ key / math.sqrt(x.shape[1])).softmax(-1)
        return x + self.out((value @ weights.mT).view_as(x))


class _RowNetwork(nn.Module):
    """Residual blocks of linear layers."""

    def __init__(self, n_features: int, n_blocks: int, width: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(n_features, width)
        self.blocks = nn.ModuleList(_RowBlock(width, dropout) for _ in range(n_blocks))
        self.last = _zero(nn.Linear(width, n_features))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = block(h, embedding)
        return self.last(F.silu(h))


class _RowBlock(nn.Module):
    """Two linear layers, after the embedding of the noise, added to their input."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(width, 2 * width)
        self.layers = nn.Sequential(
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, 1)
        return x + self.layers(self.norm(x) * (1 + scale) + shift)


def _norm(n_channels: int) -> nn.Module:
    """Normalise groups of at least four channels; a single value in a group would become 0."""
    return nn.GroupNorm(math.gcd(_N_GROUPS, max(1, n_channels // 4)), n_channels)


def _zero(layer: nn.Module) -> nn.Module:
    """Initialise a layer with 0, so that an untrained block is the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
