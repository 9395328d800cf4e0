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

    The lowest layers may be maps; the latents of all others are columns. Skip connections: every
    posterior reads the features of x, every prior and posterior reads all latents above, and the
    decoder reads all latents.

    A pass from the top layer down has a *state*, which holds the latents drawn so far: their
    columns, from the lowest drawn layer to the top, or, above a layer of maps, the feature map that
    the decoder has reached.

    Parameters
    ----------
    item_shape : tuple of int
        (C, H, W) or (d,).
    n_latents : sequence of int
        Latents of each layer, from the bottom to the top; channels of a layer of maps.
    n_spatial_layers : int
        Number of layers of maps, counted from the bottom. Layer l has the size of the encoder's
        map after l + 1 convolutions.
    n_blocks : int
        Residual blocks in every map of the encoder and the decoder that is smaller than the image,
        and again after every layer of maps.
    hidden_features : sequence of int
        Widths of the hidden layers of every posterior and, in reverse order, of every prior and,
        for rows, of the decoder. Layers of maps use convolutions.
    **settings : object
        As in `LikelihoodNetwork`.
    """

    n_steps: Tensor

    def __init__(
        self,
        item_shape: tuple[int, ...],
        n_latents: Sequence[int],
        *,
        n_spatial_layers: int,
        n_blocks: int,
        n_filters: Sequence[int],
        hidden_features: Sequence[int],
        **settings: Any,
    ) -> None:
        columns = n_latents[n_spatial_layers:]
        super().__init__(
            item_shape,
            2 * columns[-1],
            sum(columns),
            n_filters=n_filters,
            hidden_features=hidden_features,
            **settings,
        )
        self.n_spatial_layers = n_spatial_layers
        # Of the latents of an item, layer by layer.
        self.latent_shapes: list[tuple[int, ...]] = [(n,) for n in n_latents]
        size = item_shape[1:]
        for layer in range(n_spatial_layers):
            size = tuple((length + 1) // 2 for length in size)
            self.latent_shapes[layer] += size
        self.n_latents = tuple(math.prod(shape) for shape in self.latent_shapes)

        n_values = math.prod(self.map_shape)
        n_above = list(accumulate(columns[:0:-1]))[::-1]
        self.posteriors = nn.ModuleList(
            linear_layers([n_values + above, *hidden_features, 2 * n])
            for n, above in zip(columns, n_above, strict=False)
        )
        self.priors = nn.ModuleList(
            linear_layers([above, *hidden_features[::-1], 2 * n])
            for n, above in zip(columns, n_above, strict=False)
        )
        # Channels of the encoder's and the decoder's map of each size below the size of the image.
        encoded: Sequence[int] = ()
        decoded: Sequence[int] = ()
        if len(item_shape) == 3 and (n_blocks or n_spatial_layers):
            encoded, decoded = n_filters, [*n_filters[1:], n_filters[-1]]
        self.encoder_blocks = nn.ModuleList(_blocks(n, n_blocks) for n in encoded)
        self.decoder_blocks = nn.ModuleList(_blocks(n, n_blocks) for n in decoded)
        spatial = list(zip(n_latents, encoded, decoded, strict=False))[:n_spatial_layers]
        self.map_posteriors = nn.ModuleList(
            nn.Sequential(_convolution(f + c, c), nn.ReLU(), _convolution(c, 2 * n))
            for n, f, c in spatial
        )
        self.map_priors = nn.ModuleList(_convolution(c, 2 * n) for n, _, c in spatial)
        self.map_inputs = nn.ModuleList(
            nn.ModuleList([_convolution(n, c), _blocks(c, n_blocks)]) for n, _, c in spatial
        )
        # Training steps so far, which the warm-up depends on.
        self.register_buffer("n_steps", torch.zeros(()))

    def features(self, x: Tensor) -> list[Tensor]:
        """Features of x that posteriors read: one map per layer of maps, and (b, n_features)."""
        if not len(self.encoder_blocks):
            return [self.convolutions(x).flatten(1)]
        maps = []
        for size, blocks in enumerate(self.encoder_blocks):
            x = blocks(self.convolutions[2 * size : 2 * size + 2](x))
            maps.append(x)
        return [*maps[: self.n_spatial_layers], x.flatten(1)]

    def start(self, n_items: int) -> Tensor:
        """State before the top layer, no columns."""
        return self.n_steps.new_zeros(n_items, 0)

    def posterior(self, layer: int, features: list[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
        r"""Mean and log-variance of q(z_layer | z_above, x), both (b, \*latent_shapes[layer]).

        Parameters
        ----------
        layer : int
            From 0 at the bottom.
        features : list of Tensor
            Result of the method `features`.
        state : Tensor
            With all latents above.
        """
        if layer < self.n_spatial_layers:
            read = torch.cat([features[layer], state.relu()], 1)
            return mean_and_log_variance(self.map_posteriors[layer](read))
        index = layer - self.n_spatial_layers
        network = self.encoder if index == len(self.posteriors) else self.posteriors[index]
        return mean_and_log_variance(network(torch.cat([features[-1], state], 1)))

    def prior(self, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(z_layer | z_above); standard normal at the top."""
        if layer < self.n_spatial_layers:
            return mean_and_log_variance(self.map_priors[layer](state.relu()))
        index = layer - self.n_spatial_layers
        if index == len(self.priors):
            zeros = state.new_zeros(len(state), self.n_latents[layer])
            return zeros, zeros
        return mean_and_log_variance(self.priors[index](state))

    def joined(self, layer: int, state: Tensor, z: Tensor) -> Tensor:
        """State with the latents of one more layer."""
        if layer > self.n_spatial_layers or not self.n_spatial_layers:
            return torch.cat([z, state], 1)
        if layer == self.n_spatial_layers:
            return self._enlarged(self._smallest_map(torch.cat([z, state], 1)), layer - 1)
        convolution, blocks = self.map_inputs[layer]
        return self._enlarged(blocks(state + convolution(z)), max(0, layer - 1), layer)

    def decode(self, state: Tensor) -> Tensor:
        r"""Location of p(x | z) before any sigmoid, shape (b, \*item_shape), from all latents."""
        if not len(self.decoder_blocks):
            return self.decoded(state)
        if not self.n_spatial_layers:
            state = self._enlarged(self._smallest_map(state), 0)
        return self.deconvolutions[-4:](state)

    def _smallest_map(self, columns: Tensor) -> Tensor:
        return self.decoder_blocks[-1](self.decoder(columns).unflatten(1, self.map_shape))

    def _enlarged(self, state: Tensor, to: int, of: int | None = None) -> Tensor:
        """Decode a map of size `of`, by default the smallest one, to the map of size `to`.

        Size i is the size of the encoder's map after i + 1 convolutions.
        """
        smallest = len(self.decoder_blocks) - 1
        for size in range(smallest if of is None else of, to, -1):
            step = 2 * (smallest - size)
            state = self.decoder_blocks[size - 1](self.deconvolutions[step : step + 2](state))
        return state


class _Residual(nn.Module):
    """Adds two convolutions to its input; the identity before training."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.first = _convolution(n_channels, n_channels)
        self.second = _convolution(n_channels, n_channels)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x.relu()).relu())


def _blocks(n_channels: int, n_blocks: int) -> nn.Sequential:
    return nn.Sequential(*(_Residual(n_channels) for _ in range(n_blocks)))


def _convolution(n_in: int, n_out: int) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, padding=1)
