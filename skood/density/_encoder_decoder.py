"""Encoder and decoder of the networks with a latent space, for rows and for images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["EncoderDecoder", "linear_layers"]


class EncoderDecoder(nn.Module):
    """Encoder and decoder.

    Images are encoded by 3 x 3 convolutions that halve height and width, and linear layers; they
    are decoded by linear layers and transposed convolutions. Rows use linear layers for both.

    Parameters
    ----------
    item_shape : tuple of int
        (C, H, W) or (d,).
    n_outputs : int
        Outputs of the encoder.
    n_inputs : int
        Inputs of the decoder.
    n_filters : sequence of int
        Channels after each convolution of the encoder and, in reverse order, of the decoder.
    encoder_features, decoder_features : sequence of int
        Widths of the hidden layers, each in the order of computation.
    n_classes : int, default=0
        Length of the one-hot vectors that join the hidden layers; 0 for none.
    """

    def __init__(
        self,
        item_shape: tuple[int, ...],
        n_outputs: int,
        n_inputs: int,
        *,
        n_filters: Sequence[int],
        encoder_features: Sequence[int],
        decoder_features: Sequence[int],
        n_classes: int = 0,
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

        n_values = math.prod(self.map_shape)
        self.encoder = linear_layers([n_values + n_classes, *encoder_features, n_outputs])
        self.decoder = linear_layers([n_inputs + n_classes, *decoder_features, n_values])
        self.deconvolutions = nn.Sequential()
        if is_image:
            self.deconvolutions = nn.Sequential(nn.ReLU(), *_doubling(filters, sizes))

    def encoded(self, x: Tensor, one_hot: Tensor | None = None) -> Tensor:
        """Return the outputs of the encoder, shape (b, n_outputs)."""
        features = self.convolutions(x).flatten(1)
        return self.encoder(_joined(features, one_hot))

    def decoded(self, z: Tensor, one_hot: Tensor | None = None) -> Tensor:
        r"""Return the outputs of the decoder, shape (b, \*item_shape)."""
        features = self.decoder(_joined(z, one_hot)).unflatten(1, self.map_shape)
        return self.deconvolutions(features)


def linear_layers(widths: Sequence[int]) -> nn.Sequential:
    """Build linear layers through `widths`, with ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


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


def _joined(features: Tensor, one_hot: Tensor | None) -> Tensor:
    return features if one_hot is None else torch.cat([features, one_hot.to(features.dtype)], 1)
