"""Uncertainty from several predictions for a row: entropy and mutual information."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from skood._data.checked_data import CheckedData
from skood.functional import mutual_information, predictive_entropy
from skood.functional._logits import mean_log_proba
from skood.posthoc._base import ClassifierDetector

__all__ = ["UNCERTAINTIES", "Statistic", "UncertaintyDetector"]

# Takes log-probabilities of shape (n, n_predictions, n_classes) and returns n rows.
Statistic = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]

UNCERTAINTIES: dict[str, Statistic] = {
    "entropy": predictive_entropy,
    "mutual_information": mutual_information,
}


class UncertaintyDetector(ClassifierDetector):
    """Base of the detectors that combine several predictions for a row.

    A subclass has the parameter `score_type` and implements ``_reduce``. The class probabilities
    are the mean of the predictions.
    """

    score_type: str

    @abstractmethod
    def _reduce(self, statistic: Statistic, data: CheckedData) -> npt.NDArray[np.float64]:
        """Return a statistic of the predictions for each row."""

    def _check_enough(self, n_predictions: int, name: str) -> None:
        if self.score_type == "mutual_information" and n_predictions < 2:
            raise ValueError(
                f"score_type='mutual_information' measures how far predictions differ, but "
                f"{name}={n_predictions}; give at least 2, or score_type='entropy'"
            )

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return -self._reduce(UNCERTAINTIES[self.score_type], data)

    def _class_proba(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return np.exp(self._reduce(mean_log_proba, data))

    def _scores_and_class_proba(
        self, data: CheckedData
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        uncertainty = UNCERTAINTIES[self.score_type]

        def both(log_proba: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return np.column_stack([uncertainty(log_proba), mean_log_proba(log_proba)])

        reduced = self._reduce(both, data)
        return -reduced[:, 0], np.exp(reduced[:, 1:])
