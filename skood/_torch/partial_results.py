"""Partial results of slow scoring, from which an interrupted call resumes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

__all__ = ["PartialResults"]

_SECONDS_BETWEEN_SAVES = 60.0


class PartialResults:
    """File of the results for the first items of a data set.

    Parameters
    ----------
    path : Path
        Its name must identify the data and the computation.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._saved_at = monotonic()

    def load(self) -> tuple[int, list[npt.NDArray]]:
        """Return the number of scored items, and the array of each result for all items."""
        try:
            with self.path.open("rb") as file, np.load(file) as saved:
                n_done, *results = (saved[f"arr_{k}"] for k in range(len(saved)))
                return int(n_done), results
        except (FileNotFoundError, BadZipFile, KeyError, EOFError, ValueError):
            # An unreadable file is ignored.
            return 0, []

    def save_if_due(self, n_done: int, results: Sequence[npt.NDArray]) -> None:
        """Save once a minute, and when all items are done."""
        is_last = n_done == len(results[0])
        if not is_last and monotonic() - self._saved_at < _SECONDS_BETWEEN_SAVES:
            return
        self._saved_at = monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(f".{os.getpid()}.tmp")
        with unfinished.open("wb") as file:
            np.savez(file, np.array(n_done), *results)
        unfinished.replace(self.path)
