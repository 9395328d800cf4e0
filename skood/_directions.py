"""Direction of scores: high for inliers, as in scikit-learn, or for outliers, as in PyOD."""

from __future__ import annotations

from typing import Any

from sklearn.base import MetaEstimatorMixin, is_outlier_detector
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

__all__ = ["final_estimator", "is_of_pyod", "known_direction"]

# Packages whose detectors give inliers higher scores.
_INLIER = {"sklearn", "skood"}


def final_estimator(model: Any) -> Any:
    """Return the estimator that scores: the last step of a Pipeline, or the one inside a search."""
    if isinstance(model, Pipeline) and model.steps:
        return final_estimator(model.steps[-1][1])
    inner = getattr(model, "estimator", None)
    # Ensembles have an `estimator`, too, which may be None.
    if isinstance(model, (FrozenEstimator, MetaEstimatorMixin)) and hasattr(inner, "fit"):
        return final_estimator(inner)
    return model


def is_of_pyod(model: Any) -> bool:
    """Whether a PyOD detector computes the scores of `model`."""
    return any(_package(cls) == "pyod" for cls in type(final_estimator(model)).__mro__)


def known_direction(model: Any, method: str) -> tuple[str | None, bool]:
    """Return which rows have higher scores, by the conventions of the detector's library.

    Parameters
    ----------
    model : estimator
    method : {"score_samples", "decision_function"}

    Returns
    -------
    direction : {"inlier", "outlier"} or None
        None: unknown.
    certain : bool
        Whether the library itself defines the method, not a class derived from one of its classes.
    """
    final = final_estimator(model)
    classes = type(final).__mro__
    definer = next((cls for cls in classes if method in vars(cls)), object)
    if is_of_pyod(final):
        return "outlier", _package(definer) == "pyod"
    # The decision function of a classifier separates classes and is no outlier score.
    is_score = method == "score_samples" or is_outlier_detector(final)
    if is_score and any(_package(cls) in _INLIER and hasattr(cls, method) for cls in classes):
        return "inlier", _package(definer) in _INLIER
    return None, False


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]
