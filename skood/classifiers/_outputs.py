"""Logits, probabilities and features of a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Outputs"]


@dataclass(frozen=True)
class Outputs:
    """Outputs of a classifier for a data set.

    Attributes
    ----------
    logits : ndarray of shape (n, n_classes)
    log_proba : ndarray of shape (n, n_classes), nats
    features : ndarray of shape (n, d)
        Penultimate features; d is 0 where they are not known.
    normalized : bool
        Whether `logits` are logarithms of probabilities, whose size says nothing.
    multilabel : bool
        Whether every class has a probability of its own, the sigmoid of its logit.
    """

    logits: npt.NDArray
    log_proba: npt.NDArray
    features: npt.NDArray
    normalized: bool = False
    multilabel: bool = False

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, rows: slice | npt.NDArray[np.integer]) -> Outputs:
        return self._each(lambda array: array[rows])

    def astype(self, dtype: npt.DTypeLike, order: Literal["K", "C"] = "K") -> Outputs:
        """Return the same numbers in another precision, or order in memory."""
        return self._each(lambda array: array.astype(dtype, order=order, copy=False))

    def _each(self, function: Callable[[npt.NDArray], npt.NDArray]) -> Outputs:
        return replace(
            self,
            logits=function(self.logits),
            log_proba=function(self.log_proba),
            features=function(self.features),
        )
