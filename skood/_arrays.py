"""Read X as an array of numbers, or raise an error with a remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import scipy.sparse

from skood._checked_data import NUMBERS
from skood._given import is_frame

__all__ = ["as_numbers"]


def as_numbers(X: Any) -> Any:
    """Return X as an array, or unchanged if it is a data frame of numbers or a sparse matrix.

    Raises
    ------
    ValueError or TypeError
        If X is not numeric. Unlike numpy's errors, the message names X.
    """
    if scipy.sparse.issparse(X) or (isinstance(X, np.ndarray) and X.dtype.kind in NUMBERS):
        return X
    _check_known_mistakes(X)
    if is_frame(X):
        _check_columns(X)
        return X
    try:
        array = np.asarray(X)
        if array.dtype.kind == "O" and array.ndim:
            array = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        message = (
            f"X cannot be read as an array of numbers: {error}; expected numeric rows or images "
            "of equal shapes"
        )
        raise (TypeError if isinstance(error, TypeError) else ValueError)(message) from error
    if array.dtype.kind in "mMV":
        raise ValueError(f"X has dtype {array.dtype}; expected numbers")
    return array


def _check_known_mistakes(X: Any) -> None:
    """Raise an error if X is a common object that only leads to the data."""
    name = type(X).__name__
    if hasattr(X, "collect") and not hasattr(X, "to_numpy"):
        raise ValueError(f"X is a {name}, which has not been computed; give X.collect()")
    if isinstance(X, Iterator):
        raise ValueError(
            f"X is a {name}, whose items can be read only once; give an array, "
            "np.stack(list(X)), or a torch Dataset"
        )
    if hasattr(X, "getbands"):
        raise ValueError("X is a single PIL image; give a batch, np.asarray(X)[None]")
    if isinstance(X, (str, PurePath)):
        raise ValueError(f"X is {X!r}; load it, and give an array or a torch Dataset")
    first = X[0] if isinstance(X, (list, tuple)) and X else None
    if isinstance(X, np.ndarray) and X.ndim == 1 and X.size:
        first = X[0]
    if isinstance(first, (str, bytes, PurePath)):
        raise ValueError(
            f"X contains strings or paths, such as {first!r}; expected numbers. For images, give "
            "a torch Dataset that opens them, such as torchvision.datasets.ImageFolder; for texts, "
            "token ids or embeddings"
        )
    if isinstance(first, Mapping):
        raise ValueError(
            f"X is a {name} of dicts; give one dict of arrays, whose first axis counts the items, "
            "or a torch Dataset whose items are dicts"
        )


def _check_columns(frame: Any) -> None:
    """Raise an error if a data frame has repeated column names or non-numeric columns."""
    names = list(frame.columns)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(
            f"X is a data frame with several columns named {repeated[0]!r}; give every column its "
            "own name"
        )
    for name in names:
        column = frame[name]
        if getattr(column.dtype, "kind", "O") in NUMBERS:
            continue
        try:
            if np.asarray(column).dtype.kind in "mM":
                raise TypeError("dates and durations are not numbers")
            np.asarray(column, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"X is a data frame whose column {name!r} has dtype {column.dtype} and is not "
                f"numeric ({error}); encode the column, for instance with scikit-learn's "
                "OrdinalEncoder, or drop it"
            ) from error
