"""Class means and scatter, accumulated over chunks of the data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse

__all__ = ["ClassMeans", "ClassMoments", "class_sums"]


def class_sums(
    rows: npt.NDArray[np.float64], class_indices: npt.NDArray[np.integer], n_classes: int
) -> npt.NDArray[np.float64]:
    """Sum the rows of each class 0, 1, ..., shape (n_classes, d)."""
    if n_classes == 1:
        return rows.sum(0)[None]
    entries = np.ones(len(rows)), class_indices, np.arange(len(rows) + 1)
    return scipy.sparse.csr_array(entries, shape=(len(rows), n_classes)).T @ rows


class ClassMeans:
    """Class means, accumulated over chunks of the data.

    Parameters
    ----------
    n_classes : int, default=1
        Further classes are added when their rows come.

    Attributes
    ----------
    counts : ndarray of shape (n_classes,)
    means : ndarray of shape (n_classes, n_features)
        0 for a class without rows.
    """

    means: npt.NDArray[np.float64]

    def __init__(self, n_classes: int = 1) -> None:
        self.counts = np.zeros(n_classes)

    def add(self, features: npt.NDArray, class_indices: npt.NDArray[np.integer]) -> None:
        """Add rows of shape (n, n_features) with class indices of shape (n,)."""
        if len(features):
            self._add(features.astype(np.float64), class_indices)

    def _add(self, rows: npt.NDArray[np.float64], class_indices: npt.NDArray[np.integer]) -> None:
        """Add rows that may be changed."""
        self._enlarge(int(class_indices.max()) + 1, rows.shape[1])
        classes, positions, counts = np.unique(
            class_indices, return_inverse=True, return_counts=True
        )
        means = class_sums(rows, positions, len(classes)) / counts[:, None]
        shifts, before = means - self.means[classes], self.counts[classes]
        total = before + counts
        self._add_scatter(rows, positions, classes, means, shifts, before * counts / total)
        self.means[classes] += shifts * (counts / total)[:, None]
        self.counts[classes] = total

    def _add_scatter(
        self,
        rows: npt.NDArray[np.float64],
        positions: npt.NDArray[np.integer],
        classes: npt.NDArray[np.integer],
        means: npt.NDArray[np.float64],
        shifts: npt.NDArray[np.float64],
        weights: npt.NDArray[np.float64],
    ) -> None:
        """Add the scatter of a chunk.

        Parameters
        ----------
        rows : ndarray of shape (n, n_features)
            May be changed.
        positions : ndarray of shape (n,)
            Position of the class of each row in `classes`.
        classes : ndarray of shape (m,)
            Classes of the chunk, ascending.
        means, shifts : ndarray of shape (m, n_features)
            Their means in the chunk, and the difference to the means so far.
        weights : ndarray of shape (m,)
            Weight of the outer product of each shift.
        """

    def _enlarge(self, n_classes: int, n_features: int) -> None:
        """Provide for classes up to the index `n_classes` - 1."""
        if not hasattr(self, "means"):
            self.means = np.zeros((len(self.counts), n_features))
        if n_classes > len(self.counts):
            more = n_classes - len(self.counts)
            self.counts = np.concatenate([self.counts, np.zeros(more)])
            self.means = np.concatenate([self.means, np.zeros((more, n_features))])

    def select(self, classes: npt.NDArray[np.integer]) -> None:
        """Keep some classes, in the given order; the others must have no rows."""
        self.counts, self.means = self.counts[classes], self.means[classes]

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Mean of all rows, shape (n_features,)."""
        return self.counts @ self.means / self.counts.sum()


class ClassMoments(ClassMeans):
    """Class means and the scatter around them, accumulated over chunks of the data.

    Chunks are merged with the update of Chan, Golub and LeVeque (1983), which avoids cancellation
    between large sums.

    Parameters
    ----------
    n_classes : int, default=1
        Further classes are added when their rows come, if the scatter is pooled.
    pooled : bool, default=True
        Whether the scatter is summed over all classes, not kept for each class.

    Attributes
    ----------
    counts : ndarray of shape (n_classes,)
    means : ndarray of shape (n_classes, n_features)
        0 for a class without rows.
    scatter : ndarray of shape (n_features, n_features) or (n_classes, n_features, n_features)
        Sum of the outer products of the rows minus their class mean.
    """

    scatter: npt.NDArray[np.float64]

    def __init__(self, n_classes: int = 1, *, pooled: bool = True) -> None:
        super().__init__(n_classes)
        self.pooled = pooled

    def _add_scatter(
        self,
        rows: npt.NDArray[np.float64],
        positions: npt.NDArray[np.integer],
        classes: npt.NDArray[np.integer],
        means: npt.NDArray[np.float64],
        shifts: npt.NDArray[np.float64],
        weights: npt.NDArray[np.float64],
    ) -> None:
        d = rows.shape[1]
        if not hasattr(self, "scatter"):
            self.scatter = np.zeros((d, d) if self.pooled else (len(self.counts), d, d))
        rows -= means[positions] if len(classes) > 1 else means[0]
        shifts = shifts * np.sqrt(weights)[:, None]
        if self.pooled:
            # numpy computes half of the product of a matrix with its own transpose.
            self.scatter += rows.T @ rows
            if weights.any():
                self.scatter += shifts.T @ shifts
            return
        for position, k in enumerate(classes):
            of_class = rows[positions == position]
            self.scatter[k] += of_class.T @ of_class + np.outer(shifts[position], shifts[position])

    @property
    def total_scatter(self) -> npt.NDArray[np.float64]:
        """Sum of the outer products of the rows minus the mean of all, if the scatter is pooled."""
        between = (self.means - self.mean) * np.sqrt(self.counts)[:, None]
        return self.scatter + between.T @ between
