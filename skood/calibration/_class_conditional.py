"""P-values within each predicted class."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from skood.calibration._p_values import conformal_p_values, n_rejected_ranks

__all__ = ["calibrated_classes", "p_values_by_class", "scores_by_class", "warn_of_rare_classes"]

Floats = npt.NDArray[np.float64]


def scores_by_class(scores: Floats, predicted: npt.NDArray) -> dict[Any, Floats]:
    """Return the ascending scores of the rows of each predicted class."""
    labels = np.unique(predicted).tolist()
    return {label: np.sort(scores[predicted == label]) for label in labels}


def calibrated_classes(
    by_class: Mapping[Any, Floats], alpha: float, delta: float | None
) -> dict[Any, Floats]:
    """Return the classes with enough calibration rows to reject some rows at level `alpha`."""
    return {
        label: scores
        for label, scores in by_class.items()
        if n_rejected_ranks(len(scores), alpha, delta) > 0
    }


def p_values_by_class(
    by_class: Mapping[Any, Floats],
    scores: Floats,
    predicted: npt.NDArray,
    delta: float | None,
    others: Floats,
) -> Floats:
    """Return the p-value of each row among the calibration scores of its predicted class.

    Parameters
    ----------
    by_class : mapping of label to ndarray
        Ascending calibration scores.
    scores, predicted : ndarray of shape (n_samples,)
    delta : float or None
        As in :func:`~skood.calibration._p_values.p_value_levels`.
    others : ndarray of shape (n_samples,)
        P-values of rows of other classes.
    """
    p_values = others.copy()
    for label, calibration in by_class.items():
        rows = predicted == label
        p_values[rows] = conformal_p_values(calibration, scores[rows], delta)
    return p_values


def warn_of_rare_classes(
    by_class: Mapping[Any, Floats], calibrated: Iterable[Any], alpha: float, n_calibration: int
) -> None:
    """Warn of classes whose calibration rows are too few to reject any row."""
    kept = set(calibrated)
    few = {label: len(scores) for label, scores in by_class.items() if label not in kept}
    if few:
        warnings.warn(
            f"predicted classes with too few calibration rows for alpha={alpha} (class: rows) "
            f"{few}; their rows are compared with all {n_calibration} calibration rows, and the "
            "bound does not hold within these classes. Give more data, hold out more of them, or "
            "take a larger alpha",
            stacklevel=2,
        )
