"""Checks of shared parameters of data sets."""

from __future__ import annotations

import math
import numbers
from typing import Any

__all__ = ["check_n_samples", "is_count", "is_finite"]


def is_count(value: Any) -> bool:
    """Whether a value is an integer of at least 1, and no boolean."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, numbers.Real) and math.isfinite(value)


def check_n_samples(n_samples: Any) -> int:
    """Return a number of samples, or raise a ValueError."""
    if not is_count(n_samples):
        raise ValueError(f"n_samples={n_samples!r}; expected an integer of at least 1")
    return int(n_samples)
