"""Dimension of data by principal component analysis, without a model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

from skood._checked_data import CheckedData

__all__ = ["count_components", "local_pca_dimension"]

# Items of at most this many values are looked at in neighbourhoods.
_MOST_VALUES = 50
_FEWEST_NEIGHBORS = 50
_N_NEIGHBORHOODS = 200
_LOCAL_ALPHA = 0.05
_GLOBAL_ALPHA = 0.001


def local_pca_dimension(
    data: CheckedData, *, rng: np.random.Generator, max_items: int = 5000
) -> float:
    r"""Count the principal components whose variance is above a part of the largest one.

    Items of at most 50 values: the mean over 200 neighbourhoods of twice as many nearest rows, at
    least 50, each feature scaled to unit variance, counting :math:`\lambda > 0.05 \lambda_1` [1]_.

    Larger items, images above all: one analysis of all rows, counting
    :math:`\lambda > 0.001 \lambda_1`, by which [2]_ find the dimensions of image sets. With 3 000
    images it finds 322 on MNIST (335 published), 402 on Omniglot (409), 192 on CIFAR-10 (193) and
    59 on SVHN (60), but 188 on Fashion-MNIST (245).

    Parameters
    ----------
    data : CheckedData
    rng : numpy Generator
    max_items : int, default=5000
        More are not read.

    Returns
    -------
    float
        0 for data that are all the same.

    References
    ----------
    .. [1] K. Fukunaga and D. R. Olsen, "An Algorithm for Finding Intrinsic Dimensionality of Data",
       IEEE Trans. Computers C-20(2), 1971.
    .. [2] H. Kamkari et al., "A Geometric Explanation of the Likelihood OOD Detection Paradox",
       ICML 2024, appendix on the calibration of the scale.
    """
    read = np.sort(rng.permutation(len(data))[:max_items])
    rows = data.subset(read).rows().astype(np.float64)
    rows = rows[np.isfinite(rows).all(1)]
    if rows.shape[1] > _MOST_VALUES:
        return float(count_components(rows, _GLOBAL_ALPHA))
    spread = rows.std(0)
    rows = rows / np.where(spread > 0, spread, 1.0)
    centers = rows[rng.permutation(len(rows))[:_N_NEIGHBORHOODS]]
    n_neighbors = min(max(_FEWEST_NEIGHBORS, 2 * rows.shape[1]), len(rows))
    nearest = NearestNeighbors(n_neighbors=n_neighbors).fit(rows)
    neighborhoods = nearest.kneighbors(centers, return_distance=False)
    return float(np.mean([count_components(rows[near], _LOCAL_ALPHA) for near in neighborhoods]))


def count_components(rows: npt.NDArray[np.float64], alpha: float) -> int:
    """Count the variances along principal axes that are above `alpha` times the largest."""
    centered = rows - rows.mean(0)
    variances = np.linalg.eigvalsh(centered.T @ centered / len(rows))
    return int((variances > max(alpha * variances[-1], 0.0)).sum())
