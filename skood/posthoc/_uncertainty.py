"""Uncertainty that several predictions for a row show: entropy and mutual information."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from skood._checked_data import CheckedData
from skood._parameters import StrOptions, estimator, parameter
from skood.posthoc._base import ClassifierDetector

__all__ = ["Statistic", "UncertaintyDetector"]

# Takes log-probabilities of shape (n, n_predictions, n_classes), and returns n rows.
Statistic = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def mean_log_proba(log_proba: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithm of the mean probability of each class, shape (n, n_classes)."""
    return logsumexp(log_proba, axis=1) - np.log(log_proba.shape[1])


def predictive_entropy(log_proba: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Entropy of the mean prediction in nats, shape (n,)."""
    return _entropy(mean_log_proba(log_proba))


def mutual_information(log_proba: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Entropy of the mean prediction minus the mean entropy, in nats, shape (n,)."""
    difference = predictive_entropy(log_proba) - _entropy(log_proba).mean(1)
    # Rounding can take it below zero where the predictions agree.
    return np.maximum(difference, 0.0)


def _entropy(log_proba: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return -(np.exp(log_proba) * log_proba).sum(-1)


_UNCERTAINTIES: dict[str, Statistic] = {
    "entropy": predictive_entropy,
    "mutual_information": mutual_information,
}


@estimator
class UncertaintyDetector(ClassifierDetector):
    """Base of the detectors that compare several predictions for a row.

    A subclass writes ``_reduce``. The class probabilities are the mean of the predictions.

    Parameters
    ----------
    score_type : {"entropy", "mutual_information"}, default="entropy"
        Entropy of the mean prediction, or mutual information between the prediction and the
        member that makes it; the score is its negative.
    """

    score_type: str = parameter(StrOptions(set(_UNCERTAINTIES)), default="entropy", kw_only=True)

    @abstractmethod
    def _reduce(self, statistic: Statistic, data: CheckedData) -> npt.NDArray[np.float64]:
        """Return a statistic of the predictions for each row."""

    def _check_enough(self, n_predictions: int, name: str) -> None:
        if self.score_type == "mutual_information" and n_predictions < 2:
            raise ValueError(
                f"score_type='mutual_information' measures how far predictions differ, but "
                f"{name}={n_predictions}; at least 2 are needed, or score_type='entropy'"
            )

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return -self._reduce(_UNCERTAINTIES[self.score_type], data)

    def _class_proba(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return np.exp(self._reduce(mean_log_proba, data))

    def _scores_and_class_proba(
        self, data: CheckedData
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        uncertainty = _UNCERTAINTIES[self.score_type]

        def both(log_proba: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return np.column_stack([uncertainty(log_proba), mean_log_proba(log_proba)])

        reduced = self._reduce(both, data)
        return -reduced[:, 0], np.exp(reduced[:, 1:])
