"""Inputs of networks: tensors, or dicts of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["copies_of", "n_items_of", "requiring_gradient"]


def n_items_of(x: Any) -> int:
    """Return the number of items in an input of a network."""
    return len(next(iter(x.values()))) if isinstance(x, dict) else len(x)


def copies_of(x: Any, rows: Sequence[int]) -> Any:
    """Return copies of some items of an input of a network."""
    rows = list(rows)
    return {name: part[rows] for name, part in x.items()} if isinstance(x, dict) else x[rows]


def requiring_gradient(x: Any) -> Any:
    """Return a copy of an input of a network through which gradients pass.

    They reach inner layers even if all parameters are frozen, unless X holds whole numbers.
    """
    if isinstance(x, dict):
        return {name: requiring_gradient(part) for name, part in x.items()}
    # The leaf requires a gradient; the network gets a copy, which it may change in place.
    return x.clone().requires_grad_().clone() if x.is_floating_point() else x.clone()
