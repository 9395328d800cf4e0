"""Features from several layers of a network, and reconstruction errors in its first layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._models import in_chunks, rows_through
from skood.classifiers._layers import forward, in_row_chunks, modules_named
from skood.classifiers._network import Network

__all__ = ["distinct_layers", "layer_features", "reconstruction_errors"]

# Number of items on which the features of two layers are compared.
_LOOKED_AT = 32


def layer_features(
    network: Network,
    layers: Sequence[str],
    data: CheckedData,
    n_outputs: int,
    *,
    with_penultimate: bool = True,
) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """Yield the features of every item from several layers, in one forward pass.

    Parameters
    ----------
    network : Network
    layers : sequence of str
        Names of inner layers.
    data : CheckedData
    n_outputs : int
        Number of outputs of the last layer to include.
    with_penultimate : bool, default=True
        Whether the penultimate features are included.

    Yields
    ------
    rows : slice
        About a thousand items at a time.
    features : ndarray of shape (n_rows, n_features), float32
        Spatial means of the layers, penultimate features and outputs, side by side.
    """
    modules = modules_named(network, layers)

    def ensemble(x: Tensor) -> tuple[Tensor, ...]:
        penultimate, outputs, maps = forward(network, x, modules)
        parts = [*map(_mean_over_space, maps)]
        if with_penultimate:
            parts.append(penultimate)
        parts.append(outputs[:, :n_outputs])
        return (torch.cat([part.float() for part in parts], 1),)

    for rows, (features,) in in_row_chunks(network, ensemble, data, "features"):
        yield rows, features


def distinct_layers(network: Network, layers: Sequence[str], data: CheckedData) -> tuple[str, ...]:
    """Return the names of the layers whose spatial means are not the penultimate features.

    Parameters
    ----------
    network : Network
    layers : sequence of str
    data : CheckedData
        The first items are compared.
    """
    modules = modules_named(network, layers)

    def means(x: Tensor) -> tuple[Tensor, ...]:
        penultimate, _, maps = forward(network, x, modules)
        return (*map(_mean_over_space, maps), penultimate)

    looked_at = data.subset(np.arange(min(len(data), _LOOKED_AT)))
    *outputs, penultimate = network.map(means, looked_at, "layers")
    return tuple(
        name
        for name, output in zip(layers, outputs, strict=True)
        if output.shape != penultimate.shape or not np.allclose(output, penultimate, 1e-4, 1e-6)
    )


def reconstruction_errors(
    network: Network,
    layer: str,
    autoencoder: Any,
    data: CheckedData,
    value_range: tuple[float, float] | None = None,
) -> npt.NDArray[np.float64]:
    r"""Mean squared difference of a layer's spatial means between items and reconstructions.

    Parameters
    ----------
    network : Network
    layer : str
        Name of the layer.
    autoencoder : estimator
        With ``transform`` and ``inverse_transform``.
    data : CheckedData
    value_range : (float, float), default=None
        Range to which reconstructions are clipped, since the network may accept no other values.

    Returns
    -------
    ndarray of shape (n,), float64
    """
    modules = modules_named(network, [layer])

    def means(x: Tensor) -> tuple[Tensor, ...]:
        return (_mean_over_space(forward(network, x, modules)[2][0]).double(),)

    errors = np.empty(len(data))
    for rows, (seen,) in in_row_chunks(network, means, data, "first layer"):
        items = data.subset(np.arange(rows.start, rows.stop))
        latents = rows_through(autoencoder, "transform", items)
        decoded = in_chunks(autoencoder.inverse_transform, latents)
        if value_range is not None:
            decoded = decoded.clip(*value_range)
        if items.dtype.kind in "iu":
            decoded = decoded.round().astype(items.dtype)
        decoded = decoded.reshape(len(items), *items.item_shape)
        (again,) = network.map(means, CheckedData.of(decoded), "first layer, reconstructed")
        errors[rows] = np.square(seen - again).mean(1)
    return errors


def _mean_over_space(output: Tensor) -> Tensor:
    """Return the mean over height and width of maps, and rows unchanged."""
    return output.flatten(2).mean(2) if output.ndim > 2 else output
