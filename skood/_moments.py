"""Class means and scatter, accumulated over chunks of the data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["ClassMoments"]


class ClassMoments:
    """Class means and the scatter around them, accumulated over chunks of the data.

    Chunks are merged with the update of Chan, Golub and LeVeque (1983), which avoids cancellation
    between large sums.

    Parameters
    ----------
    n_classes : int
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

    means: npt.NDArray[np.float64]
    scatter: npt.NDArray[np.float64]

    def __init__(self, n_classes: int, *, pooled: bool = True) -> None:
        self.counts = np.zeros(n_classes)
        self.pooled = pooled

    def add(self, features: npt.NDArray, class_indices: npt.NDArray[np.integer]) -> None:
        """Add rows of shape (n, n_features) with class indices of shape (n,)."""
        if not self.counts.any():
            n_classes, d = len(self.counts), features.shape[1]
            self.means = np.zeros((n_classes, d))
            self.scatter = np.zeros((d, d) if self.pooled else (n_classes, d, d))
        for k in np.unique(class_indices):
            rows = features[class_indices == k].astype(np.float64)
            mean = rows.mean(0)
            centred, shift = rows - mean, mean - self.means[k]
            before, total = self.counts[k], self.counts[k] + len(rows)
            added = centred.T @ centred
            added += np.outer(shift, shift) * (before * len(rows) / total)
            self.scatter[() if self.pooled else k] += added
            self.means[k] += shift * (len(rows) / total)
            self.counts[k] = total
