"""The network of a hierarchical variational autoencoder, for rows and for images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from skood.density._encoder_decoder import linear_layers
from skood.density._vae_network import LikelihoodNetwork, mean_and_log_variance

__all__ = ["HierarchicalVAENetwork"]


class HierarchicalVAENetwork(LikelihoodNetwork):
    """Layers of latents, each with a prior and a posterior given all the layers above it.

    The latents of all layers are columns, from the bottom to the top: the latents above a layer are
    the last columns. Skip connections: every posterior reads the features of x, every prior and
    posterior reads all latents above, and the decoder reads all latents.

    Parameters
    ----------
    item_shape : tuple of int
        (C, H, W) or (d,).
    n_latents : sequence of int
        Latents of each layer, from the bottom to the top.
    hidden_features : sequence of int
        Widths of the hidden layers of every posterior and, in reverse order, of every prior and,
        for rows, of the decoder.
    **settings : object
        As in `LikelihoodNetwork`.
    """

    n_steps: Tensor

    def __init__(
        self,
        item_shape: tuple[int, ...],
        n_latents: Sequence[int],
        *,
        hidden_features: Sequence[int],
        **settings: Any,
    ) -> None:
        super().__init__(
            item_shape,
            2 * n_latents[-1],
            sum(n_latents),
            hidden_features=hidden_features,
            **settings,
        )
        self.n_latents = tuple(n_latents)
        n_values = math.prod(self.map_shape)
        n_above = list(accumulate(n_latents[:0:-1]))[::-1]
        self.posteriors = nn.ModuleList(
            linear_layers([n_values + above, *hidden_features, 2 * n])
            for n, above in zip(n_latents, n_above, strict=False)
        )
        self.priors = nn.ModuleList(
            linear_layers([above, *hidden_features[::-1], 2 * n])
            for n, above in zip(n_latents, n_above, strict=False)
        )
        # Training steps so far, which the warm-up depends on.
        self.register_buffer("n_steps", torch.zeros(()))

    def features(self, x: Tensor) -> Tensor:
        """Features of x that posteriors read, shape (b, n_features)."""
        return self.convolutions(x).flatten(1)

    def posterior(self, layer: int, features: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z_layer | z_above, x), both (b, n_latents[layer]).

        Parameters
        ----------
        layer : int
            From 0 at the bottom.
        features : Tensor of shape (b, n_features)
        above : Tensor of shape (b, n_above)
            All latents above; none at the top.
        """
        network = self.encoder if layer == len(self.posteriors) else self.posteriors[layer]
        return mean_and_log_variance(network(torch.cat([features, above], 1)))

    def prior(self, layer: int, above: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(z_layer | z_above); standard normal at the top."""
        if layer == len(self.priors):
            zeros = above.new_zeros(len(above), self.n_latents[layer])
            return zeros, zeros
        return mean_and_log_variance(self.priors[layer](above))

    def decode(self, z: Tensor) -> Tensor:
        r"""Location of p(x | z) before any sigmoid, shape (b, \*item_shape), from all latents."""
        return self.decoded(z)
