"""Validation of y: checks of class labels and their conversion to class indices."""

from __future__ import annotations

import numbers
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import column_or_1d

from skood._data.masks import without_mask

__all__ = ["check_labels", "check_ood_labels", "encode_labels", "is_outlier"]

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


def check_ood_labels(y: Any, name: str = "y", *, needed_by: str | None = None) -> npt.NDArray:
    """Check labels among which -1 marks OOD rows, and all others are strings or at least 0.

    Parameters
    ----------
    y : array-like or Tensor of shape (n,)
    name : str, default="y"
        Name of the argument, for error messages.
    needed_by : str, default=None
        Name of the function or class that needs the labels, for the error if y is None.

    Returns
    -------
    ndarray of shape (n,)
        As returned by :func:`check_labels`.
    """
    if y is None:
        raise ValueError(
            f"{needed_by} requires {name}, which is None; expected class labels >= 0 (or strings) "
            "for in-distribution rows and -1 for OOD rows"
        )
    labels = check_labels(y, name=name, warn=False)
    if labels.dtype.kind in "if" and labels.min(initial=0) < -1:
        raise ValueError(
            f"{name} holds the label {labels.min()}; expected class labels >= 0 for "
            "in-distribution rows and -1 for OOD rows. Relabel every OOD row as -1"
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


def _as_array(y: Any, name: str) -> Any:
    """Return labels as an array in which every entry keeps its original type."""
    if _is_tensor(y):
        y = y.detach().cpu()
        # numpy has no bfloat16.
        return (y.float() if "bfloat16" in str(y.dtype) else y).numpy()
    y = without_mask(y, name)
    if not isinstance(y, (list, tuple)):
        return np.asarray(y)
    entries = [entry.item() if _is_tensor(entry) and not entry.ndim else entry for entry in y]
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


def _is_tensor(value: Any) -> bool:
    """Whether a value is a tensor, without importing torch: metrics work without it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


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
