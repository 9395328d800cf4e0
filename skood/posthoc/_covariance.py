"""Means and covariances of features, and a pseudo-inverse of a covariance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from skood._data.chunks import row_slices
from skood._moments import class_sums

__all__ = ["as_float64", "class_means", "mean_row", "scatter", "whitening"]

# Rows that are converted to float64 at once.
_CHUNK = 4096


def whitening(covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    r"""Return the factor W of the pseudo-inverse, :math:`\Sigma^+ = W W^\top`.

    The squared Mahalanobis distance of z to m is then ``np.square((z - m) @ W).sum(-1)``.

    Parameters
    ----------
    covariance : ndarray of shape (d, d), float64
        Symmetric and positive semi-definite.

    Returns
    -------
    ndarray of shape (d, rank), float64
        Directions with an eigenvalue below 1.4e-14 d times the largest are omitted: they contain
        only rounding errors and would otherwise dominate the distance. A single column of zeros if
        nothing varies.
    """
    values, vectors = np.linalg.eigh(covariance)
    # Rounding error of a zero variance computed from float32 features.
    cutoff = np.finfo(np.float32).eps ** 2 * len(values) * max(values[-1], 0.0)
    support = values > cutoff
    if not support.any():
        return np.zeros((len(values), 1))
    return vectors[:, support] / np.sqrt(values[support])


def class_means(
    features: Any,
    class_indices: npt.NDArray[np.int64],
    prepare: Callable[[npt.NDArray], npt.NDArray[np.float64]],
) -> npt.NDArray[np.float64]:
    """Mean of the prepared features of each class 0, 1, ..., shape (n_classes, d).

    d is the number of columns that `prepare` returns.
    """
    counts = np.bincount(class_indices)
    sums: Any = 0.0
    for rows in row_slices(len(features), _CHUNK):
        sums = sums + class_sums(prepare(features[rows]), class_indices[rows], len(counts))
    return sums / counts[:, None]


def mean_row(
    features: Any,
    prepare: Callable[[npt.NDArray], npt.NDArray[np.float64]] | None = None,
) -> npt.NDArray[np.float64]:
    """Mean of all features, prepared or as they are, shape (d,)."""
    total: Any = 0.0
    for rows in row_slices(len(features), _CHUNK):
        part = features[rows] if prepare is None else prepare(features[rows])
        total = total + part.sum(0, dtype=np.float64)
    return total / len(features)


def scatter(
    features: Any,
    centres: npt.NDArray[np.float64],
    class_indices: npt.NDArray[np.int64],
    prepare: Callable[[npt.NDArray], npt.NDArray[np.float64]],
) -> npt.NDArray[np.float64]:
    """Sum the outer products of prepared features minus their class's centre, shape (d, d)."""
    d = centres.shape[1]
    total = np.zeros((d, d))
    for rows in row_slices(len(features), _CHUNK):
        centred = prepare(features[rows]) - centres[class_indices[rows]]
        total += centred.T @ centred
    return total


def as_float64(features: npt.NDArray) -> npt.NDArray[np.float64]:
    """Return the same features in double precision."""
    return features.astype(np.float64, copy=False)
