"""The network of a variational autoencoder, for rows and for images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood.density._encoder_decoder import EncoderDecoder

__all__ = ["LikelihoodNetwork", "VAENetwork", "mean_and_log_variance"]

# Bounds of log-variances. Beyond, q(z | x) would be a point or ignore x, and exp could overflow.
_LOG_VARIANCES = -15.0, 15.0
# Smallest scale, relative to the range or a feature's standard deviation: the likelihood of a
# constant value would otherwise grow without bound.
_SMALLEST_SCALE = 1e-3
# Learning rate of a scale relative to a weight, since a scale has to change by more.
_RELATIVE_RATE = 10.0


class LikelihoodNetwork(EncoderDecoder):
    """Encoder and decoder, and the scale of the likelihood that is decoded to.

    Parameters
    ----------
    item_shape : tuple of int
        (C, H, W) or (d,).
    n_outputs, n_inputs : int
        Outputs of the encoder and inputs of the decoder.
    hidden_features : sequence of int
        Widths of the hidden layers of the encoder and, for rows, in reverse order of the decoder.
    initial_scale : float or None
        Initial scale of the likelihood, for each channel or feature; None for a likelihood
        without a scale.
    **settings : object
        As in `EncoderDecoder`.
    """

    def __init__(
        self,
        item_shape: tuple[int, ...],
        n_outputs: int,
        n_inputs: int,
        *,
        hidden_features: Sequence[int],
        initial_scale: float | None,
        **settings: Any,
    ) -> None:
        is_image = len(item_shape) == 3
        super().__init__(
            item_shape,
            n_outputs,
            n_inputs,
            encoder_features=hidden_features,
            decoder_features=() if is_image else hidden_features[::-1],
            **settings,
        )
        self.raw_scale = None
        if initial_scale is not None:
            start = math.log(math.expm1(initial_scale)) / _RELATIVE_RATE
            shape = (item_shape[0], 1, 1) if is_image else item_shape
            self.raw_scale = nn.Parameter(torch.full(shape, start))

    def scale(self) -> Tensor | None:
        """Scale of the likelihood, shape (C, 1, 1) or (d,); None for a likelihood without."""
        if self.raw_scale is None:
            return None
        return F.softplus(_RELATIVE_RATE * self.raw_scale) + _SMALLEST_SCALE


class VAENetwork(LikelihoodNetwork):
    """Encoder to the parameters of q(z | x), decoder to p(x | z).

    Parameters
    ----------
    item_shape : tuple of int
        (C, H, W) or (d,).
    n_latent : int
    **settings : object
        As in `LikelihoodNetwork`.
    """

    def __init__(self, item_shape: tuple[int, ...], n_latent: int, **settings: Any) -> None:
        super().__init__(item_shape, 2 * n_latent, n_latent, **settings)

    def encode(self, x: Tensor, one_hot: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of q(z | x, y), both of shape (b, n_latent)."""
        return mean_and_log_variance(self.encoded(x, one_hot))

    def decode(self, z: Tensor, one_hot: Tensor | None) -> Tensor:
        r"""Location of p(x | z, y) before any sigmoid, shape (b, \*item_shape)."""
        return self.decoded(z, one_hot)


def mean_and_log_variance(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Read a network's outputs (b, 2 n) as two tensors (b, n), float32."""
    mean, log_variance = outputs.float().chunk(2, 1)
    return mean, log_variance.clamp(*_LOG_VARIANCES)
