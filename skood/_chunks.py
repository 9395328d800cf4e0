"""Consecutive slices of the rows of a data set, for work that is done a part at a time."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["row_slices"]


def row_slices(n: int, size: int, start: int = 0) -> Iterator[slice]:
    """Divide the rows from `start` to `n` into slices of `size` rows; the last may be shorter.

    Parameters
    ----------
    n : int
        Number of rows.
    size : int
        At least 1.
    start : int, default=0
        First row.

    Yields
    ------
    slice
        With a start and a stop of at most `n`.
    """
    for first in range(start, n, size):
        yield slice(first, min(first + size, n))
