"""Labels y for model selection: class labels >= 0 or strings, and -1 for OOD."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skood._labels import check_labels, is_outlier

__all__ = ["labels_and_outliers"]


def labels_and_outliers(y: Any, name: str) -> tuple[npt.NDArray, npt.NDArray[np.bool_]]:
    """Return the labels, shape (n,), and the mask of the OOD rows.

    Parameters
    ----------
    y : array-like of shape (n,)
    name : str
        Name of the function or class that needs the labels, for error messages.

    Raises
    ------
    ValueError
        When y is None, or holds a number below -1 or a value that is not a label.
    """
    if y is None:
        raise ValueError(
            f"{name} requires y, which is None; expected class labels >= 0 (or strings) for "
            "in-distribution rows and -1 for OOD rows"
        )
    labels = check_labels(y, warn=False)
    if labels.dtype.kind in "if" and len(labels) and labels.min() < -1:
        raise ValueError(
            f"y holds the label {labels.min()}; expected class labels >= 0 for in-distribution "
            "rows and -1 for OOD rows. Relabel every OOD row as -1"
        )
    return labels, is_outlier(labels)
