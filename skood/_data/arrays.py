"""Read X as an array of numbers, or raise an error with a remedy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from skood._data.checked_data import NUMBERS
from skood._data.chunks import row_slices
from skood._data.given import is_frame

__all__ = ["as_numbers", "is_finite_half", "naming_rows", "why_unread"]

# Rows that are checked for NaN at once.
_CHUNK = 4096

# Longest error of numpy that a message repeats: a text may hold a whole vector.
_LONGEST = 160


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
        message = f"X cannot be read as an array of numbers: {error}; {why_unread(X)}"
        raise (TypeError if isinstance(error, TypeError) else ValueError)(message) from error
    if array.dtype.kind in "mMV":
        raise ValueError(f"X has dtype {array.dtype}; expected numbers")
    return array


def why_unread(X: Any) -> str:
    """Return what keeps numpy from reading a sequence as numbers, and a remedy."""
    items = list(X) if hasattr(X, "__len__") and hasattr(X, "__iter__") else []
    lengths = [_length(item) for item in items]
    vectors = [row for row, length in enumerate(lengths) if length is not None]
    if not vectors:
        return "expected numeric rows or images of equal shapes"
    first = vectors[0]
    for row, length in enumerate(lengths):
        if length is None:
            return (
                f"item {row} is {items[row]!r:.40}, but item {first} is a vector of "
                f"{lengths[first]} values; leave out the items that are no vectors"
            )
        if length != lengths[first]:
            return (
                f"expected items of equal length, but item {first} has {lengths[first]} values "
                f"and item {row} has {length}"
            )
    if isinstance(X, (list, tuple)) or getattr(X, "ndim", 1) > 1:
        return "expected numeric rows or images of equal shapes"
    return f"the items are vectors of {lengths[first]} values: give np.stack(list(X))"


def _length(item: Any) -> int | None:
    """Return the length of a sequence of values, or None."""
    if isinstance(item, (str, bytes, Mapping)):
        return None
    try:
        return len(item)
    except TypeError:
        return None


@contextmanager
def naming_rows(X: Any) -> Iterator[None]:
    """Add the rows that have NaN or infinity, or a remedy, to errors of scikit-learn's checks."""
    try:
        yield
    except TypeError as error:
        if not str(error).startswith("Sparse data was passed"):
            raise
        raise TypeError(
            f"{error} In a Pipeline, the step before the detector has to return dense rows: set "
            "sparse_output=False in OneHotEncoder and sparse_threshold=0 in ColumnTransformer. "
            "Give a vectorizer of texts to the detector itself, for instance "
            "KNN(TfidfVectorizer())"
        ) from None
    except ValueError as error:
        found = re.match(r"Input (X )?contains (NaN|infinity)", str(error))
        rows = np.arange(0)
        if found is not None:
            with suppress(TypeError, ValueError):
                rows = _rows_not_finite(X)
        if found is None or not len(rows):
            raise
        of_x = "" if found[1] else " of X"
        which = f"row {rows[0]}{of_x}"
        if len(rows) > 1:
            which = f"{len(rows)} rows{of_x}, first in row {rows[0]}"
        raise ValueError(
            f"{found[0]} in {which}; leave these rows out, or fill in their values, for instance "
            "with scikit-learn's SimpleImputer"
        ) from None


def _rows_not_finite(X: Any) -> npt.NDArray[np.intp]:
    """Return the indices of the rows that have NaN or infinity."""
    found = [np.arange(0)]
    for rows in row_slices(len(X), _CHUNK):
        values = np.asarray(X[rows], dtype=np.float64)
        is_finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        found.append(rows.start + np.flatnonzero(~is_finite))
    return np.concatenate(found)


def is_finite_half(X: Any) -> bool:
    """Whether X is a finite array of float16, for which scikit-learn makes masks of its size."""
    if not isinstance(X, np.ndarray) or X.dtype != np.float16 or not X.ndim:
        return False
    return all(np.isfinite(X[rows]).all() for rows in row_slices(len(X), _CHUNK))


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
        raise ValueError(
            f"X is {X!r}; load it, and give an array or a torch Dataset. "
            "torchvision.datasets.ImageFolder reads a folder of images; a single text is given as "
            "a list, [text]"
        )
    first = X[0] if isinstance(X, (list, tuple)) and X else None
    if isinstance(X, np.ndarray) and X.ndim == 1 and X.size:
        first = X[0]
    if isinstance(first, (str, bytes, PurePath)):
        raise ValueError(
            f"X contains strings or paths, such as {first!r}; expected numbers. For images, give "
            "a torch Dataset that opens them, such as torchvision.datasets.ImageFolder; for texts, "
            "token ids. An extractor of skood.embeddings in the detector reads both as they are"
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
                f"numeric ({str(error)[:_LONGEST]}); {_remedy_for(column, name)}"
            ) from error


def _remedy_for(column: Any, name: Any) -> str:
    """Return how to make numbers of a column, which may hold vectors."""
    cell = next(iter(column), None)
    if _length(cell) is not None:
        return f"its cells are vectors: give np.stack(list(X[{name!r}])) in place of the frame"
    if isinstance(cell, str) and cell.strip()[:1] == "[":
        if "..." in cell:
            return (
                "its cells are printed vectors, whose middle numpy replaced by '...'; save the "
                "vectors again as an array, for instance with np.save"
            )
        return (
            "its cells are printed vectors: read each text as a list of numbers, for instance "
            f"with np.stack([json.loads(text) for text in X[{name!r}]])"
        )
    return (
        "drop the column, or encode it in a Pipeline with the detector, for instance with "
        "scikit-learn's OneHotEncoder(sparse_output=False)"
    )
