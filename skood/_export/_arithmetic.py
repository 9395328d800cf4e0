"""Operations that the scores share, in the operators of both file formats."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "chosen",
    "count_up_to",
    "energy",
    "largest_products",
    "length",
    "log1p",
    "ratio",
    "sigmoid_log",
    "softplus",
    "squared_distances",
    "unit_length",
]


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    return temperature * torch.logsumexp(logits / temperature, 1)


def log1p(x: Tensor) -> Tensor:
    """Logarithm of 1 + x for x >= 0, also if ONNX computes it as ``log(1 + x)``."""
    u = 1 + x
    is_tiny = u == 1
    # The rounding error of u cancels in the ratio.
    return torch.where(is_tiny, x, u.log() * x / torch.where(is_tiny, 1.0, u - 1))


def softplus(x: Tensor) -> Tensor:
    return x.clamp(min=0) + log1p(torch.exp(-x.abs()))


def sigmoid_log(x: Tensor) -> Tensor:
    return -softplus(-x)


def length(vectors: Tensor) -> Tensor:
    return vectors.square().sum(1).sqrt()


def unit_length(features: Tensor) -> Tensor:
    """As :func:`skood.functional.unit_length`."""
    lengths = length(features)
    is_zero = lengths < 10 * torch.finfo(features.dtype).eps
    return features / torch.where(is_zero, 1.0, lengths)[:, None]


def squared_distances(vectors: Tensor, centres: Tensor) -> Tensor:
    products = -2 * (vectors @ centres.T)
    return (products + vectors.square().sum(1, keepdim=True) + centres.square().sum(1)).clamp(min=0)


def ratio(total: Tensor, some: Tensor) -> Tensor:
    """Return total / some, and 1 where all activations are zero."""
    return torch.where(some != 0, total / torch.where(some != 0, some, 1.0), 1.0)


def chosen(table: Tensor, logits: Tensor) -> Tensor:
    """Return the row of each item's predicted class."""
    return table.index_select(0, logits.argmax(1))


def largest_products(queries: Tensor, bank: Tensor, k: int, offset: Tensor | None = None) -> Tensor:
    """Return the rows of `bank` with the largest ``queries @ bank.T + offset``, in float64.

    As in :func:`skood.posthoc._neighbours.largest_products`, the products have the precision of
    the bank.

    Returns
    -------
    Tensor of shape (n, min(k, n_bank), d)
    """
    products = queries.to(bank.dtype) @ bank.T
    if offset is not None:
        products = products + offset
    return bank[products.topk(min(k, bank.shape[0]), 1).indices].double()


def count_up_to(calibration: Tensor, scores: Tensor) -> Tensor:
    """Count the `calibration` scores that are at most each of `scores`, as float64."""
    return (calibration <= scores[:, None]).double().sum(1)
