"""X in the user's container: rows are selected, and nothing is converted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
from sklearn.utils import _safe_indexing

__all__ = ["Given", "is_frame"]


def is_frame(X: Any) -> bool:
    """Whether X is a data frame, of pandas, polars or a similar library."""
    return hasattr(X, "columns") and hasattr(X, "dtypes")


class Given:
    """Rows of X in the user's container, for third-party models.

    Parameters
    ----------
    X : DataFrame, sparse matrix, list, Tensor or array-like
    rows : ndarray of int or None, default=None
        Indices of the rows; None: all rows.
    """

    def __init__(self, X: Any, rows: npt.NDArray[np.integer] | None = None) -> None:
        self.X = X
        self.rows = rows

    @classmethod
    def of(cls, X: Any) -> Given | None:
        """Wrap X; None if rows of X cannot be selected."""
        if scipy.sparse.issparse(X):
            return cls(X.tocsr())
        is_one = isinstance(X, (str, bytes, PurePath, Mapping, Iterator)) or hasattr(X, "getbands")
        if is_one or (hasattr(X, "collect") and not hasattr(X, "to_numpy")):
            return None
        shape = getattr(X, "shape", None)
        if shape is None:
            return cls(X) if hasattr(X, "__len__") and hasattr(X, "__getitem__") else None
        return cls(X) if len(shape) else None

    def __len__(self) -> int:
        if self.rows is not None:
            return len(self.rows)
        return self.X.shape[0] if hasattr(self.X, "shape") else len(self.X)

    @property
    def frame(self) -> Any:
        """X if it is a data frame, or None."""
        return self.X if is_frame(self.X) else None

    @property
    def is_table(self) -> bool:
        """Whether an item is a row of columns or a text."""
        if len(getattr(self.X, "shape", ())) > 1:
            return len(self.X.shape) == 2
        return isinstance(next(iter(self.X), None), str)

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of an item, () for a text."""
        return tuple(self.X.shape[1:]) if hasattr(self.X, "shape") else ()

    def subset(self, indices: npt.NDArray[np.integer]) -> Given:
        return Given(self.X, indices if self.rows is None else self.rows[indices])

    def like(self, rows: npt.NDArray) -> Given:
        """Return other numeric rows in a container of the type of X, with the same columns."""
        if self.frame is None:
            return Given(rows)
        names = "schema" if type(self.X).__module__.startswith("polars") else "columns"
        return Given(type(self.X)(rows, **{names: list(self.X.columns)}))

    def take(self, indices: npt.NDArray[np.integer] | None = None) -> Any:
        """Return rows in the container of X, all by default."""
        rows = self.rows
        if indices is not None:
            rows = indices if rows is None else rows[indices]
        return self.X if rows is None else _safe_indexing(self.X, rows)
