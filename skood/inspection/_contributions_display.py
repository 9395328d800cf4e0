"""Bars of the contributions to a score."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skood.explanation import DistanceExplanation, Explanation, explain
from skood.inspection._figures import axes
from skood.inspection._palette import COLOURS

__all__ = ["ContributionsDisplay"]


class ContributionsDisplay:
    """Bars of the largest contributions to the score of one item.

    Blue bars raise the score, red bars lower it. A last bar sums up the other contributions.

    Use :meth:`from_estimator` or :meth:`from_explanation` to make one.

    Parameters
    ----------
    names : list of str
        Names of the bars, the largest first.
    contributions : ndarray of shape (n_bars,)
        Lengths of the bars, in units of the score.
    title : str
        Title of the axes.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    bars_ : matplotlib BarContainer
        The bars.

    See Also
    --------
    PixelMapsDisplay : Draws contributions of pixels.
    NeighborsDisplay : Draws the nearest training items.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import Mahalanobis
    >>> from skood.inspection import ContributionsDisplay
    >>> X = load_iris(as_frame=True).data
    >>> detector = Mahalanobis().fit(X)
    >>> ContributionsDisplay.from_estimator(detector, X[:1]).names[0]
    'petal length (cm)'
    """

    def __init__(
        self, names: list[str], *, contributions: npt.NDArray[np.float64], title: str
    ) -> None:
        self.names = names
        self.contributions = contributions
        self.title = title

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, item: int = 0, ax: Any = None, **plot_params: Any
    ) -> ContributionsDisplay:
        """Draw what makes up the score of an item.

        Parameters
        ----------
        estimator : estimator
            Fitted detector with ``explain``, or an estimator around one.
        X : array-like of shape (n_samples, ...)
            Some items.
        item : int, default=0
            Which of them to draw.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to :meth:`from_explanation`.

        Returns
        -------
        ContributionsDisplay
        """
        return cls.from_explanation(explain(estimator, X), item=item, ax=ax, **plot_params)

    @classmethod
    def from_explanation(
        cls,
        explanation: Any,
        *,
        item: int = 0,
        n_bars: int = 10,
        directions: bool = False,
        ax: Any = None,
    ) -> ContributionsDisplay:
        """Draw what makes up a score in an explanation.

        Parameters
        ----------
        explanation : Explanation
            What ``explain`` or :func:`attribute` returned.
        item : int, default=0
            Which of its items to draw.
        n_bars : int, default=10
            Number of parts that have a bar of their own.
        directions : bool, default=False
            Whether to draw the directions of a
            :class:`~skood.explanation.DistanceExplanation`, instead of the coordinates.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        ContributionsDisplay

        Raises
        ------
        TypeError
            When `explanation` is no explanation, or has no directions.
        """
        if not isinstance(explanation, Explanation):
            raise TypeError(
                f"explanation is a {type(explanation).__name__}; expected what explain or "
                "skood.inspection.attribute returned"
            )
        one = explanation[item]
        if directions:
            values = getattr(one, "direction_contributions", None)
            if values is None:
                raise TypeError(f"{type(explanation).__name__} has no direction_contributions")
            values = values[0]
            order = np.argsort(-np.abs(values), kind="stable")
            parts = [(f"direction {k}", float(values[k])) for k in order]
        else:
            parts = one.largest(n=one._contributions.shape[1])
        shown, others = parts[:n_bars], parts[n_bars:]
        if others:
            shown.append((f"{len(others)} others", float(sum(value for _, value in others))))
        constants = getattr(one, "constants", np.zeros(1))
        if constants[0]:
            which = "energy" if isinstance(one, DistanceExplanation) else "constant"
            shown.append((which, float(constants[0])))
        names = [str(name) for name, _ in shown]
        contributions = np.array([value for _, value in shown])
        return cls(names, contributions=contributions, title=one._title(0)).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> ContributionsDisplay:
        """Draw the bars.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure that fits the bars.

        Returns
        -------
        ContributionsDisplay
            The display.
        """
        size = 5.5, 1.1 + 0.27 * len(self.names)
        ax = axes(ax, size)
        colours = [COLOURS[2] if value < 0 else COLOURS[0] for value in self.contributions]
        places = np.arange(len(self.names))
        self.bars_ = ax.barh(places, self.contributions, color=colours)
        ax.axvline(0, color="0.3", linewidth=0.8)
        ax.set_yticks(places, self.names)
        ax.invert_yaxis()
        ax.set(xlabel="contribution to the score")
        # Of two parts, the second has a line of its own.
        ax.set_title(self.title.replace(", ", "\n", 1), fontsize="medium")
        self.ax_, self.figure_ = ax, ax.figure
        return self
