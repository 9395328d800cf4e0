"""Explanations by training rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from skood._estimator.internal import internal
from skood.explanation._base import Explanation

__all__ = ["NeighborsExplanation"]


@dataclass(frozen=True, eq=False, repr=False)
class NeighborsExplanation(Explanation):
    """The training rows that a score compares an item with, nearest first.

    Parameters
    ----------
    scores : ndarray of shape (n,), float64
        Scores of the items, as ``score_samples`` returns them.
    indices : ndarray of shape (n, k), int64
        Rows of the X that was given to ``fit``, also if ``fit`` held out rows for the threshold or
        left out known outliers.
    distances : ndarray of shape (n, k), float64
        Euclidean distance to each of them in the feature space of the detector, after features are
        scaled to length 1 if the detector scales them.
    contributions : ndarray of shape (n, k), float64
        How each of them adds to the score, in units of the score; the sum over k is the score.

    See Also
    --------
    skood.inspection.NeighborsDisplay : Draws the items and their neighbours.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import KNN
    >>> X = load_iris().data
    >>> KNN(n_neighbors=3).fit(X).explain([[9.0, 9.0, 9.0, 9.0]])
    NeighborsExplanation of 1 item
    score -9.166
      training row  distance  contribution
      117              8.959             0
      109              9.114             0
      131              9.166        -9.166
    """

    indices: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]
    contributions: npt.NDArray[np.float64]

    _of_items: ClassVar[tuple[str, ...]] = ("scores", "indices", "distances", "contributions")

    @property
    def _contributions(self) -> npt.NDArray[np.float64]:
        return self.contributions

    def _name(self, part: int) -> Any:
        return part

    def _named(self, item: int, part: int) -> Any:
        return int(self.indices[item, part])

    @internal
    def in_rows(self, rows: npt.NDArray[np.integer] | None) -> NeighborsExplanation:
        return self if rows is None else replace(self, indices=np.asarray(rows)[self.indices])

    def _rows_shown(self, item: int) -> list[tuple[str, ...]]:
        k = self.indices.shape[1]
        # The first neighbours and the last one, whose distance may be the score.
        shown = list(range(k)) if k <= 5 else [*range(4), k - 1]
        rows: list[tuple[str, ...]] = [("training row", "distance", "contribution")]
        for j in shown:
            if j == k - 1 and k > 5:
                rows.append((f"... {k - 5} more", "", ""))
            # 0 instead of -0.
            values = self.distances[item, j] + 0.0, self.contributions[item, j] + 0.0
            rows.append((str(self.indices[item, j]), *(f"{value:.4g}" for value in values)))
        return rows
