"""Means and covariances of features, and the inverse of one that may lack rank."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from skood._chunks import row_slices

__all__ = ["as_float64", "class_means", "scatter", "squared_distances", "unit_rows", "whitening"]

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
        Directions with an eigenvalue below 1.4e-14 d times the largest are left out: they hold
        rounding errors, and would otherwise outweigh all others. A single column of zeros where
        nothing varies.
    """
    values, vectors = np.linalg.eigh(covariance)
    # Rounding error of a zero variance that is computed from float32 features.
    cutoff = np.finfo(np.float32).eps ** 2 * len(values) * max(values[-1], 0.0)
    support = values > cutoff
    if not support.any():
        return np.zeros((len(values), 1))
    return vectors[:, support] / np.sqrt(values[support])


def class_means(
    features: npt.NDArray,
    class_indices: npt.NDArray[np.int64],
    prepare: Callable[[npt.NDArray], npt.NDArray[np.float64]],
) -> npt.NDArray[np.float64]:
    """Mean of the prepared features of each class 0, 1, ..., shape (n_classes, d)."""
    counts = np.bincount(class_indices)
    sums = np.zeros((len(counts), features.shape[1]))
    for rows in row_slices(len(features), _CHUNK):
        member = np.eye(len(counts))[class_indices[rows]]
        sums += member.T @ prepare(features[rows])
    return sums / counts[:, None]


def scatter(
    features: npt.NDArray,
    centres: npt.NDArray[np.float64],
    class_indices: npt.NDArray[np.int64],
    prepare: Callable[[npt.NDArray], npt.NDArray[np.float64]],
) -> npt.NDArray[np.float64]:
    """Sum the outer products of prepared features less their class's centre, shape (d, d)."""
    total = np.zeros((features.shape[1],) * 2)
    for rows in row_slices(len(features), _CHUNK):
        centred = prepare(features[rows]) - centres[class_indices[rows]]
        total += centred.T @ centred
    return total


def squared_distances(
    rows: npt.NDArray[np.float64], centres: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Squared Euclidean distances of n rows to k centres, shape (n, k).

    scikit-learn's ``euclidean_distances`` takes longer to check a row than to compute with it.
    """
    squares = [np.einsum("ij,ij->i", vectors, vectors) for vectors in (rows, centres)]
    distances = -2 * (rows @ centres.T)
    distances += squares[0][:, None]
    distances += squares[1]
    return np.maximum(distances, 0, out=distances)


def unit_rows(rows: npt.NDArray) -> npt.NDArray:
    """Scale each row to length 1; rows that are 0 up to rounding stay as they are.

    The same numbers as scikit-learn's ``normalize``, which takes longer to check a row.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    lengths[lengths < 10 * np.finfo(rows.dtype).eps] = 1
    return rows / lengths[:, None]


def as_float64(features: npt.NDArray) -> npt.NDArray[np.float64]:
    """Return the same features in double precision."""
    return features.astype(np.float64, copy=False)
