"""Uniform samples of the rows of a stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Reservoir"]


class Reservoir:
    """Uniform sample of the rows of a stream, whatever the batches that the rows come in.

    Every row comes with a random key in [0, 1), and the rows with the smallest keys are kept.

    Parameters
    ----------
    size : int
        Largest number of rows.
    limit : float, default=1.0
        Rows with a key of `limit` or more are not kept.
    """

    def __init__(self, size: int, limit: float = 1.0) -> None:
        self.size = size
        self.limit = limit
        self._keys: list[npt.NDArray[np.float64]] = []
        self._rows: list[tuple[npt.NDArray, ...]] = []

    def __len__(self) -> int:
        return sum(map(len, self._keys))

    def takes(self, keys: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Whether rows with these keys may be kept: all of those that `add` is to get."""
        largest = self._keys[0].max() if self._keys and len(self._keys[0]) == self.size else 1.0
        return (keys < self.limit) & (keys <= largest)

    def add(self, keys: npt.NDArray[np.float64], rows: Sequence[npt.NDArray]) -> None:
        """Add rows, each given by its entry in every array of `rows`; `trim` drops some."""
        if len(keys):
            self._keys.append(keys)
            self._rows.append(tuple(rows))

    def trim(self) -> tuple[npt.NDArray, ...] | None:
        """Keep at most `size` rows, and return the others, if there are any."""
        if not self._keys:
            return None
        keys = np.concatenate(self._keys)
        rows = tuple(map(np.concatenate, zip(*self._rows, strict=True)))
        others = None
        if len(keys) > self.size:
            order = np.argsort(keys)
            kept, dropped = np.sort(order[: self.size]), np.sort(order[self.size :])
            others = tuple(array[dropped] for array in rows)
            keys, rows = keys[kept], tuple(array[kept] for array in rows)
        self._keys, self._rows = [keys], [rows]
        return others

    @property
    def is_full(self) -> bool:
        """Whether there are so many rows that `trim` is worth its time."""
        return len(self) > 2 * self.size

    @property
    def rows(self) -> tuple[npt.NDArray, ...]:
        """The rows, after `trim`; no arrays if there are no rows."""
        return self._rows[0] if self._rows else ()
