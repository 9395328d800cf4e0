"""Explanations of detectors inside other estimators."""

from __future__ import annotations

from typing import Any

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from skood.explanation._base import Explanation

__all__ = ["EXPLAINABLE", "explain", "explains", "no_explanation"]

# Detectors with a method `explain`, for error messages.
EXPLAINABLE = (
    *("CosinePrototypes", "Energy", "Entropy", "FDBD", "GEN", "GradNorm", "KLMatching", "KNN"),
    *("LikelihoodRatio", "LogLikelihood", "MSP", "Mahalanobis", "MaxLogit", "NCI", "NNGuide"),
    *("RelativeMahalanobis", "Residual", "SHE", "TemperatureScaling", "ViM"),
)


def explain(estimator: Any, X: Any) -> Explanation:
    """Explain the scores of items by a detector, also inside other estimators.

    Parameters
    ----------
    estimator : estimator
        A fitted detector with ``explain``; or a ``Pipeline`` that ends in one, a search or a
        ``FrozenEstimator`` around one.
    X : array-like, DataFrame, Tensor or Dataset of shape (n_samples, ...)

    Returns
    -------
    Explanation
        In the terms of the method; of a Pipeline, for the features after its other steps, with
        their names if the steps have ``get_feature_names_out``. Indices of training rows are rows
        of the X that was given to ``fit`` of `estimator`.

    Raises
    ------
    TypeError
        If the detector has no explanation of its own. :func:`skood.inspection.attribute` explains
        the score of any detector.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skood import Mahalanobis
    >>> from skood.explanation import explain
    >>> X = load_iris(as_frame=True).data
    >>> pipeline = make_pipeline(StandardScaler(), Mahalanobis()).fit(X)
    >>> explain(pipeline, X[:1]).largest(n=1)[0][0]
    'petal length (cm)'
    """
    if isinstance(estimator, FrozenEstimator):
        return explain(estimator.estimator, X)
    if hasattr(estimator, "best_estimator_"):
        return explain(estimator.best_estimator_, X)
    if isinstance(estimator, Pipeline):
        *steps, (_, last) = estimator.steps
        if not explains(last):
            raise TypeError(no_explanation(last))
        return (
            explain(last, estimator[:-1].transform(X)).with_names(_names(estimator[:-1]))
            if steps
            else explain(last, X)
        )
    if not explains(estimator):
        raise TypeError(no_explanation(estimator))
    return estimator.explain(X)


def explains(estimator: Any) -> bool:
    """Whether a fitted estimator has an explanation of its own."""
    if isinstance(estimator, FrozenEstimator):
        return explains(estimator.estimator)
    if hasattr(estimator, "best_estimator_"):
        return explains(estimator.best_estimator_)
    if isinstance(estimator, Pipeline):
        return explains(estimator.steps[-1][1])
    return hasattr(estimator, "explain")


def no_explanation(estimator: Any) -> str:
    """Return the message of an error."""
    return (
        f"{type(estimator).__name__} has no explanation of its own. These detectors have one: "
        f"{', '.join(EXPLAINABLE)} (LikelihoodRatio and LogLikelihood on a density with "
        "score_pixels or score_positions). skood.inspection.attribute(detector, X) explains any "
        "detector by occlusion"
    )


def _names(steps: Pipeline) -> list[str] | None:
    """Return the names of the features that the steps make, if they are known."""
    try:
        return list(steps.get_feature_names_out())
    except (AttributeError, TypeError, ValueError):
        # A step without names, or without columns.
        return None
