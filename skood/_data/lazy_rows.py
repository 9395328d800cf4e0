"""Matrices whose rows are read on access, so that they need not fit in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from skood._data.chunks import row_slices

__all__ = ["LazyRows", "in_memory", "is_on_disk", "owner_of", "subset_of"]

# Rows that are read at once when all are read into memory.
_CHUNK = 4096

_Rows = slice | npt.NDArray[np.integer]


class LazyRows:
    """Matrix whose rows are read, or computed, on access.

    A slice or an integer array selects rows, which are then an array. A pickle holds the rows
    themselves, as an array.

    Parameters
    ----------
    read : callable
        Takes a slice with bounds, or an integer array; returns an array of shape (b, d).
    shape : tuple of int
        (n, d)
    dtype : dtype
        Of the arrays that `read` returns.
    on_disk : bool, default=False
        Whether the rows come from a read-only memory map.
    computed : bool, default=False
        Whether the rows are computed from others, which takes more time than reading them.
    """

    ndim = 2

    def __init__(
        self,
        read: Callable[[_Rows], npt.NDArray],
        shape: tuple[int, int],
        dtype: npt.DTypeLike,
        *,
        on_disk: bool = False,
        computed: bool = False,
    ) -> None:
        self._read = read
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.on_disk = on_disk
        self.computed = computed

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: _Rows) -> npt.NDArray:
        return self._read(slice(*rows.indices(len(self))) if isinstance(rows, slice) else rows)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray:
        array = np.empty(self.shape, self.dtype if dtype is None else dtype)
        for rows in row_slices(len(self), _CHUNK):
            array[rows] = self[rows]
        return array

    def __reduce__(self) -> tuple[Any, ...]:
        return np.asarray, (np.asarray(self),)


def subset_of(rows: Any, indices: npt.NDArray[np.integer]) -> LazyRows:
    """Select rows of an array or of :class:`LazyRows`, which are read on access."""
    return LazyRows(
        lambda part: rows[indices[part]],
        (len(indices), rows.shape[1]),
        rows.dtype,
        on_disk=is_on_disk(rows),
        computed=getattr(rows, "computed", False),
    )


def in_memory(rows: Any) -> npt.NDArray:
    """Return rows as an array."""
    return np.asarray(rows) if isinstance(rows, LazyRows) else rows


def is_on_disk(rows: Any) -> bool:
    """Whether rows come from a read-only memory map, so that they need no copy in memory."""
    if isinstance(rows, LazyRows):
        return rows.on_disk
    return isinstance(owner_of(rows), np.memmap) and not rows.flags.writeable


def owner_of(array: npt.NDArray) -> Any:
    """Return the array at the end of a chain of views."""
    while isinstance(array, np.ndarray) and isinstance(array.base, np.ndarray):
        array = array.base
    return array
