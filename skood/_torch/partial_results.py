"""Partial results of slow scoring, from which an interrupted call resumes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import numpy as np
import numpy.typing as npt

from skood._safe_files import (
    UnreadableFileError,
    check_writable,
    checked_file,
    make_folder,
    open_checked,
    remove_abandoned,
)

__all__ = ["PartialResults"]

_SECONDS_BETWEEN_SAVES = 60.0

# Changes with the content; files of other versions are not read.
_VERSION = 1


class PartialResults:
    """File of the results for the first items of a data set.

    A file that is damaged, or that holds something else, is not read; a warning names it, and all
    items are scored.

    Parameters
    ----------
    path : Path
        Its name must identify the data and the computation.
    """

    def __init__(self, path: Path) -> None:
        # A relative path would change its meaning with the working directory.
        self.path = path.absolute()
        self._label = f"scores {_VERSION} {path.name}"
        self._warned_of_writing = False
        self._is_forgotten = False
        self._saved_at = monotonic()

    def load(self, n_items: int) -> tuple[int, list[npt.NDArray]]:
        """Return the number of scored items, and the array of each result for all items.

        Parameters
        ----------
        n_items : int
            Number of items of the data set.

        Raises
        ------
        OSError
            When items are left to score, and their results cannot be written.
        """
        remove_abandoned(self.path.parent)
        n_done, results = (0, []) if self._is_forgotten else self._read(n_items)
        if n_done < n_items:
            check_writable(self.path.parent, "checkpoint_dir")
            if self.path.is_dir():
                raise IsADirectoryError(f"{self.path} is a folder, not a file; remove it")
        return n_done, results

    def _read(self, n_items: int) -> tuple[int, list[npt.NDArray]]:
        try:
            with open_checked(self.path, self._label) as file, np.load(file) as saved:
                count, *results = (saved[f"arr_{k}"] for k in range(len(saved)))
        except FileNotFoundError:
            return 0, []
        except UnreadableFileError as error:
            return self._anew(str(error))
        except MemoryError:
            raise
        except Exception as error:
            return self._anew(f"{self.path} cannot be read: {type(error).__name__}: {error}")
        is_count = count.shape == () and count.dtype.kind == "i" and 0 < count <= n_items
        if not is_count or not results or any(r.shape[:1] != (n_items,) for r in results):
            return self._anew(f"{self.path} does not hold results for {n_items} items")
        return int(count), results

    def _anew(self, problem: str) -> tuple[int, list[npt.NDArray]]:
        warnings.warn(f"{problem}. All items are scored, and the file is overwritten", stacklevel=4)
        return 0, []

    def continues(self, saved: Sequence[npt.NDArray], parts: Sequence[npt.NDArray]) -> bool:
        """Return whether new results have the form of the saved ones; else warn, and forget these.

        Parameters
        ----------
        saved : sequence of ndarray of shape (n_items, ...)
        parts : sequence of ndarray of shape (b, ...)
            Results of a batch.
        """
        forms = [[(r.shape[1:], r.dtype) for r in results] for results in (saved, parts)]
        if forms[0] == forms[1]:
            return True
        self._anew(f"{self.path} holds results of another shape or dtype")
        self._is_forgotten = True
        return False

    def save_if_due(self, n_done: int, results: Sequence[npt.NDArray]) -> None:
        """Save once a minute, and when all items are done; if that fails, warn once."""
        is_last = n_done == len(results[0])
        if not is_last and monotonic() - self._saved_at < _SECONDS_BETWEEN_SAVES:
            return
        self._saved_at = monotonic()
        try:
            make_folder(self.path.parent)
            with checked_file(self.path, self._label) as file:
                np.savez(file, np.array(n_done), *results)
        except OSError as error:
            if not self._warned_of_writing:
                self._warned_of_writing = True
                warnings.warn(
                    f"the scores in {self.path} cannot be written: {error.strerror or error}. "
                    "Scoring goes on; the next save tries again",
                    stacklevel=3,
                )
