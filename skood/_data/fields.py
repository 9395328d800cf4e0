"""Checks of X that is a dict of arrays, as tokenizers and processors return it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from skood._data.checked_data import NUMBERS, CheckedFields
from skood._data.masks import without_mask
from skood._data.memory_layout import from_torch
from skood._data.readers import ArrayReader, FieldsReader
from skood._data.streams import split_label

__all__ = ["open_fields"]


def open_fields(X: Mapping, min_samples: int) -> CheckedFields:
    """Check a dict of arrays, and return it as :class:`CheckedFields`."""
    given, labels = split_label(X)
    fields = {str(name): _field(name, values) for name, values in given.items()}
    n_items = {name: len(array) if array.ndim else None for name, array in fields.items()}
    if len(set(n_items.values())) != 1 or None in n_items.values():
        raise ValueError(
            f"X is a dict whose fields have {n_items} items; expected arrays whose first axes are "
            "equal in length, one entry for each item"
        )
    n = next(iter(n_items.values())) or 0
    if n < min_samples:
        raise ValueError(
            f"Found dict with {n} sample(s) while a minimum of {min_samples} is required of X"
        )
    return CheckedFields(
        FieldsReader(fields),
        n,
        {name: array.shape[1:] for name, array in fields.items()},
        object,
        in_memory=True,
        read_labels=None if labels is None else ArrayReader(_as_array(labels)),
    )


def _field(name: Any, values: Any) -> npt.NDArray:
    """Return a field as an array of finite numbers."""
    values = without_mask(values, f"the field {name!r} of X")
    try:
        array = _as_array(values)
    except ValueError as error:
        raise ValueError(
            f"the field {name!r} of X cannot be read as an array: {error}; let the tokenizer "
            "pad to one length (padding=True, return_tensors='np')"
        ) from error
    if array.dtype.kind not in NUMBERS:
        raise ValueError(
            f"the field {name!r} of X has dtype {array.dtype}; expected numbers, padded to one "
            "length: leave the field out, or let the tokenizer pad (padding=True, "
            "return_tensors='np')"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"the field {name!r} of X contains NaN or infinity")
    return array


def _as_array(values: Any) -> npt.NDArray:
    return from_torch(values) if isinstance(values, Tensor) else np.asarray(values)
