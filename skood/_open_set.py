"""Open-set classification: a class for every row that a detector accepts, and -1 for the others."""

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

from skood._checked_data import CheckedData
from skood._data import check_scores
from skood._detector import Detector
from skood._models import rows_through

__all__ = ["OpenSetDetector", "class_proba_of", "excludes_classes", "knows_classes", "rejecting"]


def _has_proba(detector: OpenSetDetector) -> bool:
    return detector._has_classes


def _has_one_class_each(detector: OpenSetDetector) -> bool:
    return detector._has_classes and not detector._is_multilabel


class OpenSetDetector(Detector):
    """Base of the detectors that know a classifier.

    A subclass writes ``_class_proba`` and has ``classes_`` once it is fitted.
    """

    if TYPE_CHECKING:

        @property
        def classes_(self) -> npt.NDArray: ...

    @property
    def _has_classes(self) -> bool:
        """Whether the classes are known, or before `fit` whether they may be."""
        return True

    @property
    def _is_multilabel(self) -> bool:
        """Whether a row may be of several classes, so that no class can be predicted."""
        return False

    @abstractmethod
    def _class_proba(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Return the probability of each class, in the order of ``classes_``."""

    def _scores_and_class_proba(
        self, data: CheckedData
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return both; override where one pass over the data gives them."""
        return self._score_samples(data), self._class_proba(data)

    @available_if(_has_proba)
    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the probability of each class, given that the row is of one of the classes.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            In the order of `classes_`. No row is rejected.
        """
        check_is_fitted(self)
        data = self._check(X)
        with self._shows_progress("classifying"):
            return self._class_proba(data)

    @available_if(_has_one_class_each)
    def predict_class(self, X: Any) -> npt.NDArray:
        """Return the most probable class, or -1 for a row that `predict` rejects.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels, and -1 ("-1" among strings) exactly where `predict` is -1. The class of a
            rejected row is the largest of `predict_proba`.
        """
        check_is_fitted(self)
        data = self._check(X)
        with self._shows_progress("classifying"):
            scores, proba = self._scores_and_class_proba(data)
        check_scores(self, scores)
        # The comparison that `predict` makes.
        return rejecting(np.asarray(self.classes_)[proba.argmax(1)], scores - self.offset_ >= 0)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # Whoever asks for class probabilities asks for these.
        tags.classifier_tags = ClassifierTags()
        return tags


def rejecting(labels: npt.NDArray, accepted: npt.NDArray[np.bool_]) -> npt.NDArray:
    """Replace the labels of rows that are not accepted by -1, or "-1" among strings."""
    are_strings = labels.dtype.kind in "UT" or (
        labels.dtype.kind == "O" and any(isinstance(label, str) for label in labels.tolist())
    )
    return np.where(accepted, labels, "-1" if are_strings else np.int64(-1))


def knows_classes(model: Any) -> bool:
    """Whether any fitted model tells the probability of each class."""
    return hasattr(model, "predict_proba") and hasattr(model, "classes_")


def excludes_classes(model: Any) -> bool:
    """Whether the classes of any fitted model exclude each other."""
    if isinstance(model, FrozenEstimator):
        return excludes_classes(model.estimator)
    if isinstance(model, Pipeline):
        return excludes_classes(model.steps[-1][1])
    for name in ("estimator_", "best_estimator_"):
        if hasattr(model, name):
            return excludes_classes(getattr(model, name))
    return not (isinstance(model, OpenSetDetector) and model._is_multilabel)


def class_proba_of(model: Any, data: CheckedData) -> npt.NDArray[np.float64]:
    """Return the class probabilities that any fitted model gives, shape (n, n_classes).

    Raises
    ------
    ValueError
        When the model does not give one probability for each of its ``classes_``.
    """
    proba = rows_through(model, "predict_proba", data).astype(np.float64)
    expected = len(data), len(model.classes_)
    if proba.shape != expected:
        raise ValueError(
            f"predict_proba of {type(model).__name__} returned shape {proba.shape}; expected "
            f"{expected}, a probability for each of its classes_"
        )
    return proba
