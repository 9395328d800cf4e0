"""Data that could not be read as numbers, for third-party models."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from skood._data.checked_data import CheckedData
from skood._data.given import Given
from skood._data.readers import RaisingReader

__all__ = ["UnreadData", "unread_frame"]


class UnreadData(CheckedData):
    """Items that are not finite numbers, for third-party models.

    Rows are selected from the user's container. Reading them as numbers raises `error`.
    """

    def __init__(self, given: Given, error: Exception) -> None:
        self.error = error
        super().__init__(
            RaisingReader(error), len(given), given.item_shape, object, in_memory=True, given=given
        )

    def check_read(self) -> None:
        raise self.error.with_traceback(None)

    def subset(self, indices: npt.NDArray[np.integer]) -> CheckedData:
        assert self.given is not None
        part = UnreadData(self.given.subset(np.asarray(indices)), self.error)
        part.parent = self, np.asarray(indices)
        return part

    def content(self) -> str:
        assert self.given is not None
        return joblib.hash(self.given.take())


def unread_frame(data: CheckedData) -> Any:
    """Return the rows of a frame that could not be read as numbers; None for other data."""
    if isinstance(data, UnreadData) and data.given is not None and data.given.frame is not None:
        return data.given.take()
    return None
