"""Marks package-internal methods, which the documentation omits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["internal"]

Method = TypeVar("Method", bound=Callable)


def internal(method: Method) -> Method:
    """Mark a method as internal: other modules of the package may call it, users should not."""
    method.is_internal = True  # type: ignore[attr-defined]
    return method
