"""Axes with one line for each set."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy.typing as npt

from skood.inspection._figures import axes
from skood.inspection._palette import COLOURS

__all__ = ["Lines"]

_STYLES = ("-", "--", "-.", ":")


class Lines:
    """Base of the displays with one line for each set."""

    # Width and height of a new figure, in inches.
    _size: ClassVar[tuple[float, float]] = (5, 5)

    def _begin(self, ax: Any) -> Any:
        ax = axes(ax, self._size)
        self.lines_: dict[str, Any] = {}
        self.ax_, self.figure_ = ax, ax.figure
        return ax

    def _draw(self, ax: Any, name: str, x: npt.NDArray, y: npt.NDArray, **line: Any) -> str:
        number = len(self.lines_)
        colour = COLOURS[number % len(COLOURS)]
        # Dashes tell the curves apart in print without colours.
        style = _STYLES[number % len(_STYLES)]
        (self.lines_[name],) = ax.plot(x, y, color=colour, linestyle=style, **line)
        return colour
