"""Dimension of data by principal component analysis, without a model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skood._data.checked_data import CheckedData

__all__ = ["count_components", "local_pca_dimension"]

# A stable count needs at least 20 neighbours. Beyond, a fixed fraction of the rows keeps the extent
# of neighbourhoods for any number of rows.
_FEWEST_NEIGHBORS = 20
_FRACTION_OF_ROWS = 0.01
# In a d-dimensional normal sample of n rows, the ratio of the smallest to the largest variance is
# ((1 - sqrt(d / n)) / (1 + sqrt(d / n)))^2 (Marchenko and Pastur 1967): 0.05 at n = 2.5 d.
_NEIGHBORS_PER_DIMENSION = 2.5
_LOCAL_ALPHA = 0.05
_GLOBAL_ALPHA = 0.001
# Rows in all neighbourhoods together.
_ROWS_OF_NEIGHBORHOODS = 20_000


def local_pca_dimension(
    data: CheckedData, *, rng: np.random.Generator, max_items: int = 5000
) -> float:
    r"""Count the principal components whose variance exceeds a fraction of the largest [1]_.

    Rows are analysed in neighbourhoods, in which a curved manifold is nearly flat. Features are
    scaled to unit variance. A neighbourhood is the 1 % of the rows nearest to a row, at least 20;
    its components with :math:`\lambda > 0.05 \lambda_1` are counted, and the counts of many
    neighbourhoods are averaged. Neighbourhoods with fewer than 2.5 rows per dimension would give
    too low counts: their size is doubled until they have more.

    Images are analysed all together, by the number of :math:`\lambda > 0.001 \lambda_1`, which [2]_
    calls local PCA. All training images of CIFAR-10 give the published 193, and 10 000 images of
    CIFAR-100 and SVHN the published 165 and 60. The default 5 000 images give about 190, 165 and
    60, on MNIST 337 (335 published) and on Omniglot 418 (409). Fashion-MNIST gives 187, and 189
    with all images; the published 245 is also the value for EMNIST in the authors' settings.

    Parameters
    ----------
    data : CheckedData
    rng : numpy Generator
        Draws items and the centres of neighbourhoods.
    max_items : int, default=5000
        Most items that are read.

    Returns
    -------
    float
        From 0, if all rows are equal, to the number of values in an item. A neighbourhood of equal
        rows counts as 0.

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
    if data.is_image:
        return float(count_components(rows, _GLOBAL_ALPHA))
    rows = np.asarray(StandardScaler().fit_transform(rows))
    centers = rows[rng.permutation(len(rows))]
    nearest = NearestNeighbors().fit(rows)
    n_neighbors = min(max(_FEWEST_NEIGHBORS, int(_FRACTION_OF_ROWS * len(rows))), len(rows))
    while True:
        some = centers[: max(_ROWS_OF_NEIGHBORHOODS // n_neighbors, 1)]
        neighborhoods = nearest.kneighbors(some, n_neighbors, return_distance=False)
        counts = [count_components(rows[near], _LOCAL_ALPHA) for near in neighborhoods]
        dimension = float(np.mean(counts))
        if n_neighbors == len(rows) or n_neighbors >= _NEIGHBORS_PER_DIMENSION * dimension:
            return dimension
        n_neighbors = min(2 * n_neighbors, len(rows))


def count_components(rows: npt.NDArray[np.float64], alpha: float) -> int:
    """Count the variances along principal axes that are above `alpha` times the largest."""
    # With the first row subtracted, equal rows are exactly 0.
    centered = rows - rows[0]
    centered -= centered.mean(0)
    # Both products have the same nonzero eigenvalues; the smaller one is computed.
    n_rows, n_values = rows.shape
    products = centered @ centered.T if n_rows < n_values else centered.T @ centered
    variances = np.linalg.eigvalsh(products)
    return int((variances > alpha * variances[-1]).sum())
