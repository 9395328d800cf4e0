"""Scores that compare an item with a bank of training rows, which leave a row of the bank out."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from skood._data.checked_data import CheckedData
from skood._data.chunks import row_slices
from skood._thresholds import FEWEST_HELD_OUT, threshold_rows
from skood.classifiers._outputs import Outputs
from skood.posthoc._base import in_float64
from skood.posthoc._explained import ExplainedByNeighbors
from skood.posthoc._neighbours import Bank
from skood.posthoc._outputs_detector import FeatureDetector

__all__ = ["LeavesItselfOut"]

# Rows that are scored at once, the same number as in other scores.
_CHUNK = 192
# Training rows from which a row is left out. scikit-learn's checks expect that exactly
# `contamination` of a few training rows is rejected, whose scores do not leave them out.
_FEWEST = 10 * FEWEST_HELD_OUT


class LeavesItselfOut(ExplainedByNeighbors):
    """Base of the scores of the nearest rows of a bank, for which a training row is new.

    A row of the bank is among its own neighbours, so that it scores higher than a new row. For the
    threshold, it is compared with the other rows.

    A subclass implements ``_queries`` and ``_of_neighbors``, and its ``_learn`` sets ``_rows`` and
    calls ``_note_training_rows``.
    """

    n_neighbors_: int
    if TYPE_CHECKING:
        _n_training_rows: int

    @abstractmethod
    def _queries(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        """Return what is compared with the bank."""

    @abstractmethod
    def _of_neighbors(
        self, outputs: Outputs, nearest: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Return scores from the values of the nearest rows, ascending, shape (n, n_neighbors_)."""

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        nearest = self._bank().largest(self._queries(outputs), self.n_neighbors_)
        return self._of_neighbors(outputs, nearest)

    @property
    def _leaves_out(self) -> bool:
        return self._n_training_rows >= _FEWEST and self.n_neighbors_ < len(self._rows)

    def _training_scores(
        self, outputs: Outputs, rows: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float64]:
        if not self._leaves_out:
            return super()._training_scores(outputs, rows)
        members = rows
        if self._bank_rows is not None:
            at = np.minimum(np.searchsorted(self._bank_rows, rows), len(self._bank_rows) - 1)
            members = np.where(self._bank_rows[at] == rows, at, -1)
        bank, scores = self._bank(), np.empty(len(rows))
        for chunk in row_slices(len(rows), _CHUNK):
            scores[chunk] = in_float64(partial(self._without, bank, members[chunk]), outputs[chunk])
        return scores

    def _without(
        self, bank: Bank, members: npt.NDArray[np.integer], outputs: Outputs
    ) -> npt.NDArray[np.float64]:
        """Score rows as if their own members of the bank, -1 for none, were not in it."""
        values, rows = bank.nearest(self._queries(outputs), self.n_neighbors_ + 1)
        is_left_out = rows == members[:, None]
        # A row that is not found has more duplicates than there are neighbours.
        is_left_out[~is_left_out.any(1), 0] = True
        others = values[~is_left_out].reshape(len(values), self.n_neighbors_)
        return self._of_neighbors(outputs, others)

    def _scores_for_threshold(
        self, inliers: CheckedData, rows: npt.NDArray[np.integer] | None, seed: int
    ) -> npt.NDArray[np.float64]:
        if isinstance(self, FeatureDetector):
            return super()._scores_for_threshold(inliers, rows, seed)
        chosen = threshold_rows(len(inliers), seed)
        with self._shows_progress("scoring"):
            return self._training_scores(self._outputs(inliers.subset(chosen)), chosen)

    def _set_threshold(self, scores: npt.NDArray[np.float64], *, is_new: bool) -> None:
        super()._set_threshold(scores, is_new=is_new or self._leaves_out)
