"""The local intrinsic dimension over the scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from skood.inspection._figures import axes, pyplot
from skood.inspection._palette import COLOURS
from skood.inspection._sets import check_sets

__all__ = ["DimensionCurveDisplay"]

# Percentiles of the items of a set between which a band is drawn.
_BAND = (10, 90)


class DimensionCurveDisplay:
    """Local intrinsic dimension (LID) of sets over the scale r.

    A line shows the mean of a set, and a band the 10th to the 90th percentile of its items. On a
    plateau, the dimension does not depend on the choice of the scale.

    Use :meth:`from_estimator` or :meth:`from_curves` to make one.

    Parameters
    ----------
    scales : ndarray of shape (n_scales,)
        Scales r, or times of a diffusion model.
    curves : dict of str to ndarray of shape (n_samples, n_scales)
        LID of each item at each scale, by the name of the set.
    scale : float, default=None
        The scale of a detector, which a vertical line shows.
    target_dimension : float, default=None
        The dimension that chose the scale, which a horizontal line shows.
    xlabel : str, default="scale r"
        Label of the axis of the scales.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    lines_ : dict of str to matplotlib Line2D
        Mean of each set.
    bands_ : dict of str to matplotlib FillBetweenPolyCollection
        Band of each set.
    legend_ : matplotlib Legend or None
        None without a legend.

    See Also
    --------
    skood.likelihood.LocalIntrinsicDimension : Detector with such curves and a scale.
    DualThresholdDisplay : Log-density and LID at one scale.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import LocalIntrinsicDimension, NeuralSplineFlow
    >>> from skood.inspection import DimensionCurveDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> flow = NeuralSplineFlow(max_epochs=5, random_state=0)
    >>> detector = LocalIntrinsicDimension(flow, random_state=0).fit(X[y < 2])
    >>> sets = {"setosa, versicolor": X[y < 2], "virginica": X[y == 2]}
    >>> display = DimensionCurveDisplay.from_estimator(detector, sets)
    >>> display.curves["virginica"].shape
    (50, 50)
    """

    def __init__(
        self,
        scales: npt.NDArray[np.float64],
        curves: Mapping[str, npt.NDArray[np.float64]],
        *,
        scale: float | None = None,
        target_dimension: float | None = None,
        xlabel: str = "scale r",
    ) -> None:
        self.scales = scales
        self.curves = curves
        self.scale = scale
        self.target_dimension = target_dimension
        self.xlabel = xlabel

    @classmethod
    def from_estimator(
        cls,
        detector: Any,
        sets: Mapping[str, Any],
        scales: Any = None,
        *,
        times: Any = None,
        ax: Any = None,
        **plot_params: Any,
    ) -> DimensionCurveDisplay:
        """Draw the curves of sets by `detector`, with its scale.

        Parameters
        ----------
        detector : LocalIntrinsicDimension
            Fitted.
        sets : dict of str to array-like, Tensor or Dataset of shape (n_samples, ...)
            Data by name. Some hundred items give a smooth mean.
        scales : array-like of float, shape (n_scales,), default=None
            Scales r. None: as in `dimension_curve` of the detector.
        times : array-like of float, shape (n_scales,), default=None
            Times of a diffusion model in place of scales; the axis then shows times, and no scale.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        DimensionCurveDisplay

        Raises
        ------
        TypeError
            When `detector` has no `dimension_curve`, or `sets` is no dict.
        ValueError
            When `sets` is empty, or scales or times do not suit the detector.
        """
        if not hasattr(detector, "dimension_curve"):
            raise TypeError(
                f"{type(detector).__name__} has no dimension_curve; expected a fitted "
                "skood.LocalIntrinsicDimension, or give curves to "
                "DimensionCurveDisplay.from_curves"
            )
        check_is_fitted(detector)
        check_sets(sets, "sets")
        curves = {}
        for name, X in sets.items():
            found, curves[name] = detector.dimension_curve(X, scales, times=times)
        return cls.from_curves(
            found if times is None else times,
            curves,
            scale=detector.scale_ if times is None else None,
            target_dimension=detector.target_dimension_,
            xlabel="scale r" if times is None else "time t",
            ax=ax,
            **plot_params,
        )

    @classmethod
    def from_curves(
        cls,
        scales: Any,
        curves: Mapping[str, Any],
        *,
        scale: float | None = None,
        target_dimension: float | None = None,
        xlabel: str = "scale r",
        ax: Any = None,
        **plot_params: Any,
    ) -> DimensionCurveDisplay:
        """Draw dimensions of items over scales.

        Parameters
        ----------
        scales : array-like of float, shape (n_scales,)
            Scales r, or times of a diffusion model.
        curves : dict of str to array-like of shape (n_samples, n_scales)
            LID of each item at each scale, by the name of the set.
        scale : float, default=None
            The scale of a detector, which a vertical line shows.
        target_dimension : float, default=None
            The dimension that chose the scale, which a horizontal line shows.
        xlabel : str, default="scale r"
            Label of the axis of the scales.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        DimensionCurveDisplay

        Raises
        ------
        TypeError
            When `curves` is no dict.
        ValueError
            When `curves` is empty, or a set does not have a value for each scale.
        """
        check_sets(curves, "curves")
        scales = np.asarray(scales, dtype=np.float64)
        checked = {name: np.asarray(values, dtype=np.float64) for name, values in curves.items()}
        for name, values in checked.items():
            if values.ndim != 2 or len(values) == 0 or values.shape[1:] != scales.shape:
                raise ValueError(
                    f"curves[{name!r}] has shape {values.shape}; expected at least one item and a "
                    f"value for each of the scales, whose shape is {scales.shape}"
                )
        display = cls(
            scales, checked, scale=scale, target_dimension=target_dimension, xlabel=xlabel
        )
        return display.plot(ax=ax, **plot_params)

    def plot(
        self, *, ax: Any = None, title: str | None = None, legend: bool = True
    ) -> DimensionCurveDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        title : str, default=None
            Title of the axes.
        legend : bool, default=True
            Whether to name the sets.

        Returns
        -------
        DimensionCurveDisplay
            The display.
        """
        plt = pyplot()

        ax = axes(ax, (6, 4))
        order = np.argsort(self.scales)
        x = self.scales[order]
        self.lines_, self.bands_ = {}, {}
        for number, (name, values) in enumerate(self.curves.items()):
            colour = COLOURS[number % len(COLOURS)]
            (self.lines_[name],) = ax.plot(x, values.mean(0)[order], color=colour, label=str(name))
            low, high = np.percentile(values, _BAND, axis=0)
            self.bands_[name] = ax.fill_between(
                x, low[order], high[order], color=colour, alpha=0.15, linewidth=0
            )
        # White on a dark background.
        style = {"color": plt.rcParams["text.color"], "linestyle": "--", "linewidth": 1}
        if self.scale is not None:
            ax.axvline(self.scale, label=f"r = {self.scale:.2f}".replace("-", "−"), **style)
        if self.target_dimension is not None:
            ax.axhline(
                self.target_dimension,
                label=f"target dimension {self.target_dimension:.4g}",
                **{**style, "linestyle": ":"},
            )
        ax.set(xlabel=self.xlabel, ylabel="local intrinsic dimension", title=title)
        self.legend_ = ax.legend(frameon=False) if legend else None
        self.ax_, self.figure_ = ax, ax.figure
        return self
