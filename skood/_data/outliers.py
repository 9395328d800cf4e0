"""Separation of known outliers, and labels that seem to mark outliers by another value than -1."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import get_tags

from skood._data.checked_data import CheckedData
from skood._data.labels import check_labels, is_outlier

__all__ = ["MOST_OUTLIERS", "labels_of", "other_convention", "split_outliers"]

# Fraction of ones from which labels 0 and 1 are classes: where y may hold classes, and where it
# serves to mark outliers.
_FEWEST_OF_A_CLASS = 0.2
MOST_OUTLIERS = 0.35
_NAMES_OF_ANOMALIES = {
    *("abnormal", "anomalous", "anomaly", "novel", "novelty", "ood", "out-of-distribution"),
    *("outlier", "outlying"),
}


def labels_of(estimator: Any, data: CheckedData, y: Any) -> Any:
    """Return y, or where it is None and the estimator needs labels, those that come with X."""
    if y is None and data.has_labels and get_tags(estimator).target_tags.required:
        return data.labels
    return y


def split_outliers(
    data: CheckedData, y: Any, *, refuse: bool = False
) -> tuple[CheckedData, npt.NDArray | None, CheckedData | None]:
    """Separate known outliers.

    Parameters
    ----------
    data : CheckedData
    y : array-like of shape (n_samples,) or None
        Labels; -1 marks an outlier.
    refuse : bool, default=False
        Whether y serves to mark outliers, so that labels that seem to mark them by another value
        than -1 are an error. Otherwise they may be classes, and are a warning.

    Returns
    -------
    inliers : CheckedData
    labels : ndarray or None
        Labels of the inliers.
    outliers : CheckedData or None

    Raises
    ------
    ValueError
        When y does not have one label per item, or leaves fewer than two inliers.
    """
    if y is None:
        return data, None, None
    y = check_labels(y, len(data))
    outlying = is_outlier(y)
    if not outlying.any():
        found = other_convention(y, largest=MOST_OUTLIERS if refuse else _FEWEST_OF_A_CLASS)
        if found is not None and refuse:
            raise ValueError(f"{found}. If all rows are in-distribution, leave y out")
        if found is not None:
            warnings.warn(
                f"{found}. If these are classes of in-distribution rows, other names than these, "
                "'a' and 'b' for instance, stop this warning",
                stacklevel=2,
            )
        return data, y, None
    inliers = np.flatnonzero(~outlying)
    if len(inliers) < 2:
        raise ValueError(
            f"{len(inliers)} of {len(y)} labels in y are in-distribution (not -1), at least 2 are "
            "needed: a detector learns from in-distribution data, and -1 marks known outliers"
        )
    return data.subset(inliers), y[inliers], data.subset(np.flatnonzero(outlying))


def other_convention(labels: npt.NDArray, *, largest: float = _FEWEST_OF_A_CLASS) -> str | None:
    """Explain labels that seem to mark anomalies by another value than -1.

    These are 0 and a rare 1, as in most data sets and libraries of anomaly detection, masks of
    booleans, and names such as "anomaly". Labels that are all 1, as scikit-learn labels inliers,
    and classes 0 and 1 of similar size are not reported.

    Parameters
    ----------
    labels : ndarray of shape (n,)
        As returned by :func:`check_labels`.
    largest : float, default=0.2
        Fraction of ones from which 0 and 1 are taken for classes; for booleans it is 0.5.

    Returns
    -------
    str or None
        What was found and what to do; None for labels that are as expected.
    """
    values, counts = np.unique(labels, return_counts=True)
    if is_outlier(values).any():
        return None
    named = [value for value in values.tolist() if _names_anomaly(value)]
    if named:
        found = repr(named[0])
    elif labels.dtype.kind not in "biuf" or values.tolist() != [0, 1]:
        return None
    elif labels.dtype.kind == "b" and counts[0] != counts[1]:
        found = "one of the two"
    elif labels.dtype.kind != "b" and counts[1] < largest * counts.sum():
        found = repr(values[1].item())
    else:
        return None
    return (
        f"y holds {', '.join(repr(value) for value in values.tolist()[:5])} and no -1, and every "
        f"label but -1 means an in-distribution row. If {found} marks anomalies, give "
        "np.where(is_ood, -1, y), is_ood being the mask of anomalies"
    )


def _names_anomaly(value: Any) -> bool:
    return isinstance(value, str) and value.strip().casefold() in _NAMES_OF_ANOMALIES
