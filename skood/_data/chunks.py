"""Consecutive slices of rows, to process a data set in chunks."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["row_slices"]


def row_slices(n: int, size: int, start: int = 0) -> Iterator[slice]:
    """Divide the rows from `start` to `n` into slices of `size` rows; the last may be shorter."""
    for first in range(start, n, size):
        yield slice(first, min(first + size, n))
