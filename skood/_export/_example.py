"""Example items for a graph: those that the user gives, or random ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from skood._data.checked_data import CheckedData
from skood.classifiers import NeuralClassifier
from skood.classifiers._inputs import first_layer
from skood.classifiers._module import ModuleHandle

__all__ = ["as_given", "random_items"]

# Number of random items.
_N_ITEMS = 4


def as_given(data: CheckedData) -> npt.NDArray:
    """Return the items of checked data as one array with the axes that the user gave."""
    items = data.take(np.arange(len(data)))
    if data.channels_last:
        items = np.moveaxis(items, 1, -1)
    return np.ascontiguousarray(items.reshape(len(items), *data.came_as))


def random_items(detector: Any, models: Sequence[Any]) -> npt.NDArray:
    """Return random items of the shape, the axes and, as far as known, the range of the fit.

    Raises
    ------
    ValueError
        If the detector does not know what its items are.
    """
    shape, _ = detector._given_as
    rng = np.random.default_rng(0)
    given = "; give a few items as skood.export(detector, path, X)"
    if not isinstance(shape, tuple) or not shape:
        raise ValueError(f"items of {type(detector).__name__} are not arrays of one shape{given}")
    if any(_takes_tokens(model) for model in models):
        raise ValueError(f"the network takes whole numbers, whose range is unknown{given}")
    size = (_N_ITEMS, *shape)
    for model in models:
        if isinstance(model, NeuralClassifier):
            known = model._preprocessing
            if known.value_range == (0.0, 255.0) and known.stated_range is None:
                return rng.integers(0, 256, size, dtype=np.uint8)
            if known.value_range is not None:
                low, high = known.value_range
                return rng.uniform(low, high, size).astype(np.float32)
            rows = known.mean + known.scale * rng.normal(size=size)
            return rows.astype(np.float32)
        if isinstance(model, ModuleHandle) and model.value_range is not None:
            low, high = model.value_range
            return rng.uniform(low, high, size).astype(np.float32)
    if len(shape) > 1:
        return rng.random(size, dtype=np.float32)
    return rng.normal(size=size).astype(np.float32)


def _takes_tokens(model: Any) -> bool:
    if not isinstance(model, ModuleHandle):
        return False
    network = model.network()
    is_table = isinstance(first_layer(network.module), (nn.Embedding, nn.EmbeddingBag))
    return is_table or (network.reading is not None and network.reading.integers)
