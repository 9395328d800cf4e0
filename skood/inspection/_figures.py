"""New figures, with a clear error where matplotlib is missing."""

from __future__ import annotations

from typing import Any

from skood._optional import import_optional

__all__ = ["axes", "pyplot"]


def pyplot() -> Any:
    """Import ``matplotlib.pyplot``."""
    return import_optional("matplotlib.pyplot", "A display", "matplotlib")


def axes(ax: Any, size: tuple[float, float]) -> Any:
    """Return `ax`, or the axes of a new figure of `size` inches if it is None."""
    plt = pyplot()
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax
