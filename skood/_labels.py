"""Validation of y: checks of class labels and their conversion to class indices."""

from __future__ import annotations

import numbers
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils import get_tags
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from skood._checked_data import CheckedData

__all__ = [
    "check_convention",
    "check_labels",
    "encode_labels",
    "is_outlier",
    "labels_of",
    "other_convention",
    "split_outliers",
]

# Fraction of ones from which labels 0 and 1 are classes also where y serves to mark outliers.
_MOST_ANOMALIES = 0.35

# Largest fraction of ones at which labels 0 and 1 are reported as a mask of anomalies.
_RARE = 0.2
# Labels that mark anomalies by their name.
_NAMES_OF_ANOMALIES = {
    *("abnormal", "anomalous", "anomaly", "novel", "novelty", "ood", "out-of-distribution"),
    *("outlier", "outlying"),
}

_EXPECTED = "expected class labels that are all strings or all whole numbers, and -1 for OOD rows"


def check_labels(
    y: Any,
    n_items: int | None = None,
    *,
    name: str = "y",
    items: str | None = "X",
    warn: bool = True,
) -> npt.NDArray:
    """Return labels as an array of strings, integers, whole floats or booleans, shape (n,).

    Parameters
    ----------
    y : array-like or Tensor of shape (n,)
        A -1 among strings marks an OOD row, and becomes "-1".
    n_items : int, default=None
        Expected number of labels; None accepts any number.
    name : str, default="y"
        Name of the argument, for error messages.
    items : str or None, default="X"
        Name of the labelled data, for error messages.
    warn : bool, default=True
        Whether to emit scikit-learn's DataConversionWarning for a column of shape (n, 1).

    Raises
    ------
    ValueError
        When y has more than one axis or another length, or holds values that are not labels:
        None, NaN or another missing value, dates, fractions, or both strings and numbers.
    """
    labels = _plain(column_or_1d(_as_array(y, name), warn=warn), name)
    if isinstance(y, (list, tuple)) and labels.dtype.kind == "O":
        labels = labels.astype(str)
    if n_items is not None and len(labels) != n_items:
        raise ValueError(
            f"{name} has {len(labels)} labels for {n_items} items; expected one for each"
            if items is None
            else f"{name} has {len(labels)} labels, but {items} has {n_items} items; expected one "
            "label for each"
        )
    return labels


def encode_labels(
    y: npt.NDArray, classes: npt.ArrayLike, *, name: str = "y", known: str | None = None
) -> npt.NDArray[np.int64]:
    """Return the class indices of checked labels, their positions in `classes`.

    Parameters
    ----------
    y : ndarray of shape (n,)
        As returned by :func:`check_labels`.
    classes : array-like of shape (n_classes,)
        In any order.
    name : str, default="y"
        Name of the argument, for error messages.
    known : str, default=None
        Description of the known labels in the error message; None lists `classes`.

    Raises
    ------
    ValueError
        For labels that are not in `classes`.
    """
    classes = np.asarray(classes)
    positions = {label: index for index, label in enumerate(classes.tolist())}
    values, inverse = np.unique(y, return_inverse=True)
    unknown = [value for value in values.tolist() if value not in positions]
    if unknown:
        known = f"; expected some of {classes}" if known is None else known
        raise ValueError(f"{name} has the labels {unknown[:5]}{known}")
    indices = np.array([positions[value] for value in values.tolist()], dtype=np.int64)
    return indices[inverse]


def is_outlier(labels: npt.NDArray) -> npt.NDArray[np.bool_]:
    """Mask of the labels that mark OOD rows, shape (n,)."""
    if labels.dtype.kind in "biuf":
        return labels == -1
    # In an array of strings, numpy converts -1 to "-1".
    return np.array([label in (-1, "-1") for label in labels.tolist()], dtype=bool)


def other_convention(labels: npt.NDArray, *, largest: float = _RARE) -> str | None:
    """Explain labels that seem to mark anomalies by another value than -1.

    These are 0 and a rare 1, as in most data sets and libraries of anomaly detection, masks of
    booleans, and names such as "anomaly". Labels of in-distribution rows that are all 1, as
    scikit-learn has them, and classes 0 and 1 of similar size are not reported.

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
    named = [value for value in values.tolist() if _names_anomaly(value)]
    if is_outlier(values).any():
        return None
    if named:
        found = repr(named[0])
    elif len(values) != 2 or labels.dtype.kind not in "biuf" or set(values.tolist()) != {0, 1}:
        return None
    elif labels.dtype.kind == "b":
        if counts[0] == counts[1]:
            return None
        found = "one of the two"
    elif counts[1] < largest * counts.sum():
        found = repr(values[1].item())
    else:
        return None
    return (
        f"y holds {', '.join(repr(value) for value in values.tolist()[:5])} and no -1, and every "
        f"label but -1 is that of in-distribution rows. If {found} marks anomalies, give "
        "np.where(is_ood, -1, y), is_ood being the mask of anomalies"
    )


def _names_anomaly(value: Any) -> bool:
    return isinstance(value, str) and value.strip().casefold() in _NAMES_OF_ANOMALIES


def _as_array(y: Any, name: str) -> Any:
    """Return labels as an array in which every entry keeps its original type."""
    if isinstance(y, Tensor):
        y = y.detach().cpu()
        # numpy has no bfloat16.
        return (y.float() if y.dtype == torch.bfloat16 else y).numpy()
    if not isinstance(y, (list, tuple)):
        return np.asarray(y)
    entries = [
        entry.item() if isinstance(entry, Tensor) and not entry.ndim else entry for entry in y
    ]
    try:
        array = np.asarray(entries)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} cannot be read as one label a row: {error}; {_EXPECTED}"
        ) from error
    # numpy would convert numbers and None to strings in a list that also holds strings.
    if array.ndim == 1 and array.dtype.kind == "U":
        array = np.empty(len(entries), dtype=object)
        array[:] = entries
    return array


def _plain(labels: npt.NDArray, name: str) -> npt.NDArray:
    """Check the types of the entries, and convert numbers of dtype object to a numeric dtype."""
    if labels.dtype.kind in "OT":
        entries = labels.tolist()
        for row, entry in enumerate(entries):
            if not isinstance(entry, (str, numbers.Real)) or entry != entry:
                raise ValueError(
                    f"{name} holds {entry!r} ({type(entry).__name__}) at row {row}; {_EXPECTED}. "
                    "Leave out rows without a label, or turn labels of another type into strings"
                )
        strings = [entry for entry in entries if isinstance(entry, str)]
        if strings:
            classes = [entry for entry in entries if not isinstance(entry, str) and entry != -1]
            if classes:
                raise ValueError(
                    f"{name} mixes strings, such as {strings[0]!r}, with numbers, such as "
                    f"{classes[0]!r}; {_EXPECTED}. Turn all labels into strings, for instance"
                )
            # Kept as objects, so that classes_ have the type of the input labels.
            return np.array([str(entry) for entry in entries], dtype=object)
        labels = np.array(entries)
    if labels.dtype.kind not in "biufU":
        raise ValueError(
            f"{name} has dtype {labels.dtype}; {_EXPECTED}. Turn labels of another type into "
            "strings"
        )
    if labels.dtype.kind == "f":
        missing = ~np.isfinite(labels)
        if missing.any():
            raise ValueError(
                f"{name} holds {labels[missing][0]} at {missing.sum()} of {len(labels)} rows; "
                f"{_EXPECTED}. Leave out rows without a label"
            )
        fractions = labels[labels != np.floor(labels)]
        if len(fractions):
            raise ValueError(
                f"{name} holds {fractions[0]}, which is no class (Unknown label type: "
                f"continuous); {_EXPECTED}"
            )
    return labels


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
        Whether labels that seem to mark outliers by another value than -1 are an error. If not,
        they may be two classes of in-distribution rows, and are a warning.

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

    Warns
    -----
    UserWarning
        Where y seems to mark outliers by another value than -1.
    """
    if y is None:
        return data, None, None
    y = check_labels(y, len(data))
    outlying = is_outlier(y)
    if not outlying.any():
        check_convention(y, refuse=refuse)
        return data, y, None
    inliers = np.flatnonzero(~outlying)
    if len(inliers) < 2:
        raise ValueError(
            f"{len(inliers)} of {len(y)} labels in y are in-distribution (not -1), at least 2 are "
            "needed: a detector learns from in-distribution data, and -1 marks known outliers"
        )
    return data.subset(inliers), y[inliers], data.subset(np.flatnonzero(outlying))


def check_convention(y: npt.NDArray, *, refuse: bool) -> None:
    """Warn of labels that seem to mark outliers by another value than -1, or refuse them.

    Parameters
    ----------
    y : ndarray of shape (n,)
        As returned by :func:`check_labels`.
    refuse : bool
        Whether y serves to mark outliers, so that 0 and 1 are refused unless they are about as
        frequent.
    """
    if refuse:
        found = other_convention(y, largest=_MOST_ANOMALIES)
        if found is not None:
            raise ValueError(f"{found}. If all rows are in-distribution, leave y out")
    elif (found := other_convention(y)) is not None:
        warnings.warn(
            f"{found}. If these are classes of in-distribution rows, other names than these, "
            "'a' and 'b' for instance, stop this warning",
            stacklevel=2,
        )
