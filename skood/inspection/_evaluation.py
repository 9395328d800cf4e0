"""A table of detectors by OOD sets, as a heat map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from skood.inspection._figures import axes, pyplot

__all__ = ["EvaluationDisplay"]

# Beginnings of the names of metrics where lower is better.
_FALLING = ("fpr", "detection_error")


class EvaluationDisplay:
    """Heat map of a metric, detectors by out-of-distribution sets.

    Use :meth:`from_table` to make one.

    Parameters
    ----------
    values : ndarray of shape (n_detectors, n_sets)
        The metric; NaN for a pair that was not measured.
    detectors : list of str
        Names of the rows.
    ood_sets : list of str
        Names of the columns.
    metric : str
        Name of the metric.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    image_ : matplotlib AxesImage
        The cells.
    texts_ : ndarray of shape (n_detectors, n_sets) of matplotlib Text
        Figures in the cells; None for a pair that was not measured.

    See Also
    --------
    skood.evaluate : Makes such tables.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import GMM, KNN, evaluate
    >>> from skood.inspection import EvaluationDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> detectors = {"neighbours": KNN(n_neighbors=3), "mixture": GMM()}
    >>> table = evaluate(
    ...     detectors, X[:50], {"versicolor": X[50:100], "virginica": X[100:]}, X_train=X[:50]
    ... )
    >>> EvaluationDisplay.from_table(table).values.shape
    (2, 2)
    """

    def __init__(
        self,
        values: npt.NDArray[np.float64],
        *,
        detectors: list[str],
        ood_sets: list[str],
        metric: str,
    ) -> None:
        self.values = values
        self.detectors = detectors
        self.ood_sets = ood_sets
        self.metric = metric

    @classmethod
    def from_table(
        cls,
        table: Iterable[Mapping[str, Any]],
        metric: str = "auroc",
        *,
        ax: Any = None,
        **plot_params: Any,
    ) -> EvaluationDisplay:
        """Draw a metric of a table.

        Parameters
        ----------
        table : list of dict
            Rows with "detector", "ood_set" and `metric`, as :func:`skood.evaluate` returns them.
        metric : str, default="auroc"
            Which column to draw.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        EvaluationDisplay

        Raises
        ------
        ValueError
            When `table` is empty or has no column `metric`.
        """
        rows = [row for row in table if metric in row]
        if not rows:
            known = sorted({name for row in table for name in row} - {"detector", "ood_set"})
            raise ValueError(
                f"no row of the table has metric={metric!r}; "
                + (f"its columns are {known}" if known else "it is empty")
            )
        detectors = list(dict.fromkeys(str(row["detector"]) for row in rows))
        ood_sets = list(dict.fromkeys(str(row["ood_set"]) for row in rows))
        values = np.full((len(detectors), len(ood_sets)), np.nan)
        for row in rows:
            place = detectors.index(str(row["detector"])), ood_sets.index(str(row["ood_set"]))
            values[place] = row[metric]
        display = cls(values, detectors=detectors, ood_sets=ood_sets, metric=metric)
        return display.plot(ax=ax, **plot_params)

    def plot(
        self,
        *,
        ax: Any = None,
        cmap: Any = "cividis",
        vmin: float | None = None,
        vmax: float | None = None,
        title: str | None = None,
    ) -> EvaluationDisplay:
        """Draw the heat map; brighter is better.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure that fits the table.
        cmap : str or matplotlib Colormap, default="cividis"
            Colours from bad to good; reversed for metrics where lower is better.
        vmin, vmax : float, default=None
            Values at the ends of the colours. None takes the smallest and the largest.
        title : str, default=None
            Title of the axes; None is the name of the metric.

        Returns
        -------
        EvaluationDisplay
            The display.
        """
        size = 2.5 + 1.1 * len(self.ood_sets), 1.2 + 0.3 * len(self.detectors)
        ax = axes(ax, size)
        colours = pyplot().colormaps[cmap] if isinstance(cmap, str) else cmap
        if self.metric.startswith(_FALLING):
            colours = colours.reversed()
        self.image_ = ax.imshow(self.values, aspect="auto", cmap=colours, vmin=vmin, vmax=vmax)
        self.texts_ = np.full(self.values.shape, None, dtype=object)
        for place, value in np.ndenumerate(self.values):
            if np.isnan(value):
                continue
            red, green, blue, _ = self.image_.cmap(self.image_.norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            self.texts_[place] = ax.text(
                *place[::-1],
                f"{value:.3f}",
                ha="center",
                va="center",
                color="white" if dark else "black",
                fontsize="small",
            )
        ax.set_xticks(range(len(self.ood_sets)), self.ood_sets, rotation=30, ha="right")
        ax.set_yticks(range(len(self.detectors)), self.detectors)
        ax.set_title(self.metric if title is None else title)
        self.ax_, self.figure_ = ax, ax.figure
        return self
