"""Classes and rejections of a fitted estimator, for scorers of open-set classification."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ScoredRows"]


class ScoredRows:
    """Rows of a test part, with their scores; classes are predicted when a metric needs them.

    Parameters
    ----------
    estimator : estimator
    X : array-like of shape (n, ...)
    labels : ndarray of shape (n,)
        Class labels.
    is_ood : ndarray of bool, shape (n,)
    scores : ndarray of shape (n,)
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        labels: npt.NDArray,
        is_ood: npt.NDArray[np.bool_],
        scores: npt.NDArray[np.float64],
    ) -> None:
        self._estimator, self._X = estimator, X
        self._labels, self._is_ood = labels, is_ood
        self.scores = scores
        self.kinds = np.where(is_ood, -1, 1)

    @property
    def labels(self) -> npt.NDArray:
        """Class labels; -1, among strings "-1", for OOD rows."""
        return self._with_unknown(self._labels, self._is_ood)

    @cached_property
    def predicted(self) -> npt.NDArray:
        """Predicted classes, without rejection.

        Raises
        ------
        TypeError
            If the estimator does not predict a probability of classes that exclude each other.
        ValueError
            If the estimator's classes include no label of the ID rows.
        """
        name = type(self._estimator).__name__
        classes = getattr(self._estimator, "classes_", None)
        proba = getattr(self._estimator, "predict_proba", None)
        if proba is None or classes is None:
            raise TypeError(
                f"{name} predicts no classes; expected a detector with predict_proba and classes_, "
                "such as skood.MSP(classifier) or another detector on a classifier"
            )
        classes, values = np.asarray(classes), np.asarray(proba(self._X))
        exclusive = values.ndim == 2 and np.allclose(values.sum(1), 1, atol=1e-3)
        if not exclusive or values.shape[1] != len(classes):
            raise TypeError(
                f"predict_proba of {name} returned shape {values.shape} for {len(classes)} "
                "classes; expected probabilities that add up to 1, of classes that exclude each "
                "other"
            )
        known = self._labels[~self._is_ood]
        if not set(classes.tolist()) & set(known.tolist()):
            raise ValueError(
                f"the classes of {name} ({classes[:5].tolist()}) include no label of the "
                f"in-distribution rows ({np.unique(known)[:5].tolist()}); expected the labels that "
                "the classifier was trained with"
            )
        return classes[values.argmax(1)]

    @property
    def decided(self) -> npt.NDArray:
        """Predicted classes, and -1, among strings "-1", where ``predict`` is -1.

        Raises
        ------
        TypeError
            If ``predict`` does not return +1 and -1.
        """
        decisions = np.asarray(self._estimator.predict(self._X))
        if decisions.dtype.kind not in "iuf" or not np.isin(decisions, [-1, 1]).all():
            raise TypeError(
                f"predict of {type(self._estimator).__name__} returned other values than +1 and "
                "-1; expected a detector, which accepts or rejects a row"
            )
        return self._with_unknown(self.predicted, decisions == -1)

    @staticmethod
    def _with_unknown(labels: npt.NDArray, unknown: npt.NDArray[np.bool_]) -> npt.NDArray:
        strings = labels.dtype.kind in "OUT"
        return np.where(unknown, "-1" if strings else np.int64(-1), labels)
