"""The network of a variational autoencoder, for rows and for images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["VAENetwork"]

# Below, q(z | x) is a point; above, it ignores x. Between these bounds exp is finite.
_LOG_VARIANCES = -15.0, 15.0
# Smallest scale, relative to the range or a feature's standard deviation: the likelihood of a
# constant value would otherwise grow without bound.
_SMALLEST_SCALE = 1e-3
# Learning rate of a scale relative to a weight; larger, since a scale has to change by more.
_HASTE = 10.0


class VAENetwork(nn.Module):
    """Encoder and decoder.

    Images are encoded by 3 x 3 convolutions that halve height and width, and a hidden layer; they
    are decoded by a linear layer and transposed convolutions. Rows use hidden layers for both.

    Parameters
    ----------
    item_shape : tuple of int
        (C, H, W) or (d,).
    n_latent : int
    n_filters : sequence of int
        Channels after each convolution of the encoder, and in reverse order of the decoder.
    hidden_features : sequence of int
        Widths of the encoder's hidden layers; for rows, in reverse order, of the decoder's too.
    n_classes : int
        0 for a model that is not conditional.
    initial_scale : float or None
        Initial scale of the likelihood, for each channel or feature; None for a likelihood
        without a scale.
    """

    def __init__(
        self,
        item_shape: tuple[int, ...],
        n_latent: int,
        *,
        n_filters: Sequence[int],
        hidden_features: Sequence[int],
        n_classes: int,
        initial_scale: float | None,
    ) -> None:
        super().__init__()
        self.item_shape = item_shape
        is_image = len(item_shape) == 3
        filters = [item_shape[0], *n_filters] if is_image else []
        sizes = [item_shape[1:]] if is_image else []
        convolutions: list[nn.Module] = []
        for n_in, n_out in pairwise(filters):
            convolution = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1)
            convolutions += [convolution, nn.ReLU()]
            sizes.append(tuple((size + 1) // 2 for size in sizes[-1]))
        self.convolutions = nn.Sequential(*convolutions)
        self.map_shape = (filters[-1], *sizes[-1]) if is_image else item_shape

        widths = [math.prod(self.map_shape) + n_classes, *hidden_features]
        self.encoder = nn.Sequential(*_hidden(widths), nn.Linear(widths[-1], 2 * n_latent))
        back = [n_latent + n_classes, *(() if is_image else reversed(hidden_features))]
        self.decoder = nn.Sequential(*_hidden(back), nn.Linear(back[-1], math.prod(self.map_shape)))
        self.deconvolutions = nn.Sequential()
        if is_image:
            self.deconvolutions = nn.Sequential(nn.ReLU(), *_doubling(filters, sizes))
        self.raw_scale = None
        if initial_scale is not None:
            start = math.log(math.expm1(initial_scale)) / _HASTE
            shape = (filters[0], 1, 1) if is_image else item_shape
            self.raw_scale = nn.Parameter(torch.full(shape, start))

    def scale(self) -> Tensor | None:
        """Scale of the likelihood, shape (C, 1, 1) or (d,); None for a likelihood without."""
        if self.raw_scale is None:
            return None
        return F.softplus(_HASTE * self.raw_scale) + _SMALLEST_SCALE

    def encode(self, x: Tensor, one_hot: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of q(z | x, y), both of shape (b, n_latent)."""
        features = self.convolutions(x).flatten(1)
        mean, log_variance = self.encoder(_beside(features, one_hot)).float().chunk(2, 1)
        return mean, log_variance.clamp(*_LOG_VARIANCES)

    def decode(self, z: Tensor, one_hot: Tensor | None) -> Tensor:
        r"""Location of p(x | z, y) before any sigmoid, shape (b, \*item_shape)."""
        features = self.decoder(_beside(z, one_hot)).unflatten(1, self.map_shape)
        return self.deconvolutions(features)


def _hidden(widths: Sequence[int]) -> list[nn.Module]:
    return [
        layer for n_in, n_out in pairwise(widths) for layer in (nn.Linear(n_in, n_out), nn.ReLU())
    ]


def _doubling(filters: Sequence[int], sizes: Sequence[tuple[int, ...]]) -> list[nn.Module]:
    """Build transposed convolutions back through `sizes`, and one to the channels of the image."""
    layers: list[nn.Module] = []
    n_in = filters[-1]
    for n_out, small, large in zip(
        reversed(filters[1:]), reversed(sizes[1:]), reversed(sizes[:-1]), strict=True
    ):
        added = tuple(to - (2 * of - 1) for of, to in zip(small, large, strict=True))
        convolution = nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=added)
        layers += [convolution, nn.ReLU()]
        n_in = n_out
    return [*layers, nn.ConvTranspose2d(n_in, filters[0], 3, padding=1)]


def _beside(features: Tensor, one_hot: Tensor | None) -> Tensor:
    return features if one_hot is None else torch.cat([features, one_hot.to(features.dtype)], 1)
