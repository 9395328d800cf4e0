"""Methods that the parts of the package call on each other, and that users do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["internal"]

Method = TypeVar("Method", bound=Callable)


def internal(method: Method) -> Method:
    """Mark a method that other parts of the package call; the documentation leaves it out.

    It is as stable as their tests make it, and no more.
    """
    method.is_internal = True  # type: ignore[attr-defined]
    return method
