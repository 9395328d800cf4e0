"""Masked arrays, of which numpy reads the values under the mask too."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["without_mask"]


def without_mask(values: Any, name: str) -> Any:
    """Return the plain array of a masked array, and any other object unchanged.

    Raises
    ------
    ValueError
        If a value is masked, in the array itself or in an array of a list.
    """
    if isinstance(values, (list, tuple)):
        for position, part in enumerate(values):
            if isinstance(part, np.ma.MaskedArray):
                without_mask(part, f"item {position} of {name}")
        return values
    if not isinstance(values, np.ma.MaskedArray):
        return values
    n_masked = int(np.ma.count_masked(values))
    if n_masked:
        raise ValueError(
            f"{name} is a masked array, and {n_masked} of its {values.size} values are masked; "
            "fill them in with its filled(value), or leave out the items that have masked values"
        )
    return values.data
