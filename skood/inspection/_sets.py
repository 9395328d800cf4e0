"""Sets of data by name, which several displays draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["check_sets"]


def check_sets(sets: Any, name: str) -> None:
    """Raise unless `sets`, the argument `name`, is a dict that is not empty."""
    if not isinstance(sets, Mapping):
        raise TypeError(
            f"{name} is of type {type(sets).__name__}; expected a dict of sets by name, "
            '{"test": X} for instance'
        )
    if not sets:
        raise ValueError(f"{name} is empty; expected at least one set, by its name")
