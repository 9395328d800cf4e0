"""Distance to the nearest training features."""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt

from skood._data.chunks import row_slices
from skood._estimator.parameters import Interval, StrOptions, at_least, estimator, parameter
from skood.classifiers._outputs import Outputs
from skood.posthoc._approximate import ApproximateIndex
from skood.posthoc._covariance import as_float64, mean_row
from skood.posthoc._features import NormalizingDetector
from skood.posthoc._left_out import LeavesItselfOut
from skood.posthoc._neighbours import (
    Bank,
    at_most,
    kept_rows,
    row_scales,
    sampled_indices,
    search_dtype,
)
from skood.posthoc._outputs_score import reads_chunks

__all__ = ["KNN"]

# Rows that are converted to float64 at once.
_CHUNK = 4096


@estimator
class KNN(LeavesItselfOut, NormalizingDetector):
    r"""Distance to the k-th nearest training row, :math:`-\|z - z_{(k)}\|`.

    Parameters
    ----------
    n_neighbors : int, default=50
        Rank k of the neighbour whose distance is used; at most the number of rows in the bank.
    bank_fraction : float, default=1.0
        Fraction of the training rows, drawn at random, that forms the bank.
    index : {"faiss", "hnsw"} or None, default=None
        Library of an approximate search for banks of millions of rows: faiss (``pip install
        faiss-cpu``) or hnswlib (``pip install hnswlib``). None: the search is exact.

    Attributes
    ----------
    bank_ : ndarray of shape (n_bank, n_features)
        Training features minus their mean, computed on access.
    n_neighbors_ : int
        The k that is used, at most the number of rows in the bank.

    Notes
    -----
    The paper scales features of a network to length 1. Rows of a table are not scaled, because
    outliers mainly differ from them in length.

    The search is exact, and compares distances in float64: the distance of a row does not depend on
    the other rows that are scored with it. Rows of X that are memory-mapped for reading only
    (``np.load(path, mmap_mode="r")``) are searched on disk and not copied, if they are the features
    (``features=None``) and all are in the bank; keep the file as it is. A pickle holds the rows.

    A training row is its own nearest neighbour. The threshold is therefore set on distances of
    training rows to the other rows, and new rows are rejected at the rate `contamination`. Below
    500 rows, they are not left out, so that exactly `contamination` of the training rows is
    rejected, as scikit-learn expects, and a larger fraction of new rows.

    With an `index`, some neighbours are missed, and the distance then belongs to a farther row. The
    distances of the rows that are found are exact, and training rows are searched in the same way,
    so that the rate of false alarms is kept. "faiss" (k-means cells with values of 8 bits) is built
    fast and is small. "hnsw" (a graph) takes longer to build, and misses fewer neighbours in a
    search of the same duration. The index is in memory, and a pickle holds it;
    :func:`skood.save` does not store it.

    References
    ----------
    .. [1] Y. Sun, Y. Ming, X. Zhu, Y. Li, "Out-of-Distribution Detection with Deep Nearest
       Neighbors", ICML 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import KNN
    >>> X = load_iris().data
    >>> detector = KNN(n_neighbors=5).fit(X)
    >>> detector.predict([[5.0, 3.4, 1.5, 0.2], [9.0, 9.0, 9.0, 9.0]])
    array([ 1, -1])
    """

    n_neighbors: int = parameter(at_least(1), default=50)
    bank_fraction: float = parameter(
        Interval(numbers.Real, 0, 1, closed="right"), default=1.0, kw_only=True
    )
    index: str | None = parameter(StrOptions({"faiss", "hnsw"}), None, default=None, kw_only=True)

    @reads_chunks
    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        super()._learn(outputs, class_indices, seed)
        features = outputs.features
        n_rows = max(1, int(self.bank_fraction * len(features)))
        self._bank_rows = None
        if n_rows < len(features):
            self._bank_rows = sampled_indices(len(features), n_rows, seed)
            features = features[self._bank_rows]
        which = "training rows" if n_rows == len(outputs) else "rows in the bank"
        self._n_training_rows = len(outputs)
        self.n_neighbors_ = at_most(self.n_neighbors, n_rows, which)
        self._rows = kept_rows(features)
        dtype = search_dtype(self._rows.dtype)
        mean = mean_row(self._rows, lambda rows: self._prepare(as_float64(rows)))
        # Centred to limit cancellation, at a point that the precision of the search can represent.
        self._origin = mean.astype(dtype).astype(np.float64)
        self._half_square = np.empty(n_rows, dtype)
        self._scales = np.empty(n_rows, dtype) if self.normalizes_ else None
        for rows in row_slices(n_rows, _CHUNK):
            came = as_float64(self._rows[rows])
            prepared = self._prepare(came)
            self._half_square[rows] = np.square(prepared - self._origin).sum(1) / 2
            if self._scales is not None:
                self._scales[rows] = row_scales(came)
        self._index: ApproximateIndex | None = None
        if self.index is not None:
            self._index = self._bank().indexed_by(self.index)

    @property
    def bank_(self) -> npt.NDArray:
        """Training features minus their mean."""
        rows = as_float64(np.asarray(self._rows))
        return (self._prepare(rows) - self._origin).astype(self._half_square.dtype)

    def _bank(self) -> Bank:
        return Bank(
            self._rows,
            self._half_square.dtype,
            normalizes=self.normalizes_,
            scales=self._scales,
            origin=self._origin,
            half_squares=self._half_square,
            index=getattr(self, "_index", None),
        )

    def _queries(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return self._prepare(outputs.features)

    def _of_neighbors(
        self, outputs: Outputs, nearest: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        return -np.sqrt(-nearest[:, 0])

    def _neighbors(self, outputs: Outputs) -> dict[str, npt.NDArray]:
        queries = self._queries(outputs)
        values, rows = self._bank().nearest(queries, self.n_neighbors_)
        distances = np.sqrt(-values[:, ::-1])
        # The k-th distance is the score.
        contributions = np.zeros_like(distances)
        contributions[:, -1] = -distances[:, -1]
        return {
            "indices": rows[:, ::-1],
            "distances": distances,
            "contributions": contributions,
        }
