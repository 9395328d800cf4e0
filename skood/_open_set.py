"""Open-set classification: a class for each row that a detector accepts, and -1 for the others."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import ClassifierTags, Tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skood._data.checked_data import CheckedData
from skood._data.validation import check_scores
from skood._detector import Detector
from skood._models import rows_through

__all__ = ["OpenSetDetector", "class_proba_of", "excludes_classes", "knows_classes", "rejecting"]


def _has_proba(detector: OpenSetDetector) -> bool:
    return detector._has_classes


def _has_one_class_each(detector: OpenSetDetector) -> bool:
    return detector._has_classes and not detector._is_multilabel


class OpenSetDetector(Detector):
    """Base of the detectors that also classify.

    A subclass implements ``_class_proba`` and sets ``classes_`` in `fit`.
    """

    if TYPE_CHECKING:

        @property
        def classes_(self) -> npt.NDArray: ...

    @property
    def _has_classes(self) -> bool:
        """Whether the detector has classes; before `fit`, whether it may have them."""
        return True

    @property
    def _is_multilabel(self) -> bool:
        """Whether a row may belong to several classes, so that no single class can be predicted."""
        return False

    @abstractmethod
    def _class_proba(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Return the probability of each class, in the order of ``classes_``."""

    def _scores_and_class_proba(
        self, data: CheckedData
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return both; override if one pass over the data computes both."""
        return self._score_samples(data), self._class_proba(data)

    @available_if(_has_proba)
    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the probability of each class, given that the row belongs to one of them.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            Columns are in the order of `classes_`. No row is rejected.
        """
        check_is_fitted(self)
        data = self._check(X)
        with self._shows_progress("classifying"):
            return self._class_proba(data)

    @available_if(_has_one_class_each)
    def predict_class(self, X: Any) -> npt.NDArray:
        """Return the most probable class, or -1 if `predict` rejects the row.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels, and -1 ("-1" among strings) exactly where `predict` is -1. `predict_proba`
            also gives the most probable class of a rejected row.
        """
        check_is_fitted(self)
        data = self._check(X)
        with self._shows_progress("classifying"):
            scores, proba = self._scores_and_class_proba(data)
        check_scores(self, scores)
        # The same comparison as in `predict`.
        return rejecting(np.asarray(self.classes_)[proba.argmax(1)], scores - self.offset_ >= 0)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # scikit-learn checks these tags when it uses predict_proba.
        tags.classifier_tags = ClassifierTags()
        return tags


def rejecting(labels: npt.NDArray, accepted: npt.NDArray[np.bool_]) -> npt.NDArray:
    """Replace the labels of rejected rows by -1, or "-1" among strings."""
    are_strings = labels.dtype.kind in "UT" or (
        labels.dtype.kind == "O" and any(isinstance(label, str) for label in labels.tolist())
    )
    return np.where(accepted, labels, "-1" if are_strings else np.int64(-1))


def knows_classes(model: Any) -> bool:
    """Whether a fitted model predicts the probability of each class."""
    return hasattr(model, "predict_proba") and hasattr(model, "classes_")


def excludes_classes(model: Any) -> bool:
    """Whether the classes of a fitted model exclude each other."""
    if isinstance(model, FrozenEstimator):
        return excludes_classes(model.estimator)
    if isinstance(model, Pipeline):
        return excludes_classes(model.steps[-1][1])
    for name in ("estimator_", "best_estimator_"):
        if hasattr(model, name):
            return excludes_classes(getattr(model, name))
    return not (isinstance(model, OpenSetDetector) and model._is_multilabel)


def class_proba_of(model: Any, data: CheckedData) -> npt.NDArray[np.float64]:
    """Return the class probabilities of any fitted model, shape (n, n_classes).

    Raises
    ------
    ValueError
        If the model does not return one probability for each of its ``classes_``.
    """
    proba = rows_through(model, "predict_proba", data).astype(np.float64)
    expected = len(data), len(model.classes_)
    if proba.shape != expected:
        raise ValueError(
            f"predict_proba of {type(model).__name__} returned shape {proba.shape}; expected "
            f"{expected}, one probability for each of its classes_"
        )
    return proba
