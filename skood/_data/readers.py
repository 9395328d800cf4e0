"""Callables that read items by their indices.

They are classes, not closures, so that data that hold them can be pickled and hashed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "ArrayReader",
    "ConcatenationReader",
    "FieldsReader",
    "RaisingReader",
    "Read",
    "SubsetReader",
    "array_behind",
]

# Takes an integer array of indices and returns the items or labels there.
Read = Callable[[npt.NDArray[np.integer]], Any]


@dataclass(eq=False)
class ArrayReader:
    array: npt.NDArray

    def __call__(self, indices: npt.NDArray[np.integer]) -> npt.NDArray:
        return np.asarray(self.array[indices])


@dataclass(eq=False)
class FieldsReader:
    fields: dict[str, npt.NDArray]

    def __call__(self, indices: npt.NDArray[np.integer]) -> dict[str, npt.NDArray]:
        return {name: array[indices] for name, array in self.fields.items()}


@dataclass(eq=False)
class SubsetReader:
    read: Read
    indices: npt.NDArray[np.integer]

    def __call__(self, indices: npt.NDArray[np.integer]) -> Any:
        return self.read(self.indices[indices])


@dataclass(eq=False)
class ConcatenationReader:
    """Reads from several data sets as if they were one.

    Parameters
    ----------
    reads : sequence of callable
        Reads the items of each data set.
    sizes : sequence of int
        Number of items of each data set.
    """

    reads: Sequence[Read]
    sizes: Sequence[int]

    def __call__(self, indices: npt.NDArray[np.integer]) -> npt.NDArray:
        starts = np.cumsum([0, *self.sizes])
        source = np.searchsorted(starts, indices, side="right") - 1
        positions = [np.flatnonzero(source == k) for k in range(len(self.reads))]
        taken = [
            read(indices[where] - start)
            for read, start, where in zip(self.reads, starts, positions, strict=False)
            if len(where)
        ]
        items = np.concatenate(taken) if taken else self.reads[0](indices)
        return items[np.argsort(np.concatenate(positions))]


@dataclass(eq=False)
class RaisingReader:
    error: Exception

    def __call__(self, indices: npt.NDArray[np.integer]) -> Any:
        raise self.error.with_traceback(None)


def array_behind(read: Read) -> npt.NDArray | None:
    """Return the array that a reader, or a reader of a subset, reads from; None without one."""
    while isinstance(read, SubsetReader):
        read = read.read
    return read.array if isinstance(read, ArrayReader) else None
