"""The plane of log-density and local intrinsic dimension, with a threshold on each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from skood.inspection._figures import axes, pyplot
from skood.inspection._palette import COLOURS
from skood.inspection._sets import check_sets

__all__ = ["DualThresholdDisplay"]

# Without triangles, which mark items beyond the axes.
_MARKERS = "osDPX*"
# Range of quantiles of every set that is shown.
_IN_VIEW = (0.01, 0.99)
# Points on each axis at which a region is evaluated.
_GRID = 300


class DualThresholdDisplay:
    """Sets in the plane of log-density and local intrinsic dimension (LID).

    The shaded region is accepted as in-distribution: pairs that reach both thresholds, or whose
    joint score reaches the threshold of a detector.

    Use :meth:`from_estimator` or :meth:`from_pairs` to make one.

    Parameters
    ----------
    pairs : dict of str to ndarray of shape (n_samples, 2)
        Log-density in nats and LID of the items, by the name of the set.
    thresholds : (float, float), default=None
        Smallest accepted log-density and LID. None draws no thresholds.
    accepts : callable, default=None
        Takes pairs (n, 2) and returns whether each is accepted, in place of `thresholds`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    accepted_ : dict of str to float
        Fraction of each set, without items with NaN, that is accepted; empty without `thresholds`
        and `accepts`.
    scatters_ : dict of str to matplotlib PathCollection
        Items of each set within the axes.
    edge_scatters_ : dict of str to matplotlib PathCollection
        Items of each set beyond the axes: triangles at the edge that point to the items.
    lines_ : list of matplotlib Line2D
        Threshold on the log-density and threshold on the LID; empty without thresholds.
    region_ : matplotlib Rectangle, QuadContourSet or None
        Visible part of the accepted region: a rectangle of thresholds, or filled contours of
        `accepts`. None without both, or if `accepts` accepts nothing within the axes.
    legend_ : matplotlib Legend or None
        None without a legend.

    See Also
    --------
    skood.likelihood.LocalIntrinsicDimension : Detector with such pairs and thresholds.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import LocalIntrinsicDimension, NeuralSplineFlow
    >>> from skood.inspection import DualThresholdDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> sets = {"setosa, versicolor": X[y < 2], "virginica": X[y == 2]}
    >>> flow = NeuralSplineFlow(max_epochs=5, random_state=0)
    >>> detector = LocalIntrinsicDimension(flow, random_state=0).fit(X[y < 2])
    >>> display = DualThresholdDisplay.from_estimator(detector, sets)
    >>> display.pairs["virginica"].shape
    (50, 2)
    """

    def __init__(
        self,
        pairs: Mapping[str, npt.NDArray],
        *,
        thresholds: tuple[float, float] | None = None,
        accepts: Callable[[npt.NDArray], npt.NDArray[np.bool_]] | None = None,
    ) -> None:
        self.pairs = pairs
        self.thresholds = thresholds
        self.accepts = accepts

    @classmethod
    def from_estimator(
        cls, detector: Any, sets: Mapping[str, Any], *, ax: Any = None, **plot_params: Any
    ) -> DualThresholdDisplay:
        """Draw the pairs of sets by `detector`, with the region that it accepts.

        Of a detector with combine="min", the region is drawn by the equivalent thresholds.

        Parameters
        ----------
        detector : LocalIntrinsicDimension
            Fitted.
        sets : dict of str to array-like, Tensor or Dataset of shape (n_samples, ...)
            Data by name, in-distribution data first; the first set is drawn below the others.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        DualThresholdDisplay

        Raises
        ------
        TypeError
            When `detector` has no `score_pairs`, or `sets` is no dict.
        ValueError
            When `sets` is empty, and as in :meth:`from_pairs`.
        """
        if not hasattr(detector, "score_pairs"):
            raise TypeError(
                f"{type(detector).__name__} has no score_pairs, which returns log-density and "
                "local intrinsic dimension; expected a fitted skood.LocalIntrinsicDimension, or "
                "give pairs to DualThresholdDisplay.from_pairs"
            )
        check_is_fitted(detector)
        check_sets(sets, "sets")
        pairs = {name: detector.score_pairs(X) for name, X in sets.items()}
        if getattr(detector, "mixture_", None) is not None:

            def accepts(pairs: npt.NDArray) -> npt.NDArray[np.bool_]:
                return detector.combine_pairs(pairs) >= detector.offset_

            return cls.from_pairs(pairs, accepts=accepts, ax=ax, **plot_params)
        # Smallest rank among the training items whose score reaches `offset_`.
        n_train = len(detector.train_pairs_)
        rank = np.searchsorted(np.arange(1, n_train + 1) / n_train, detector.offset_)
        thresholds = np.sort(detector.train_pairs_, axis=0)[rank]
        return cls.from_pairs(pairs, thresholds, ax=ax, **plot_params)

    @classmethod
    def from_pairs(
        cls,
        pairs: Mapping[str, Any],
        thresholds: Any = None,
        *,
        accepts: Callable[[npt.NDArray], npt.NDArray[np.bool_]] | None = None,
        ax: Any = None,
        **plot_params: Any,
    ) -> DualThresholdDisplay:
        """Draw pairs of log-density and LID.

        Parameters
        ----------
        pairs : dict of str to array-like of shape (n_samples, 2)
            Log-density in nats and LID of the items, by the name of the set, in-distribution data
            first; the first set is drawn below the others. Items with NaN are left out and counted
            in the legend; infinite values are drawn at the edge.
        thresholds : (float, float), default=None
            Smallest accepted log-density and LID. None draws no thresholds.
        accepts : callable, default=None
            Takes pairs (n, 2) and returns whether each is accepted, in place of `thresholds`.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        DualThresholdDisplay

        Raises
        ------
        TypeError
            When `pairs` is no dict.
        ValueError
            When `pairs` is empty, a set does not have two columns or has no item without NaN,
            `thresholds` are not two finite numbers, or `accepts` is given with `thresholds`.
        """
        check_sets(pairs, "pairs")
        checked = {name: _check_pairs(values, name) for name, values in pairs.items()}
        if thresholds is not None and accepts is not None:
            raise ValueError("both thresholds and accepts are given; expected one of them")
        if thresholds is not None:
            given, thresholds = thresholds, np.asarray(thresholds, dtype=np.float64)
            if thresholds.shape != (2,) or not np.isfinite(thresholds).all():
                raise ValueError(
                    f"thresholds={given!r}; expected two finite numbers, the smallest "
                    "accepted log-density and local intrinsic dimension, or None to draw none"
                )
            thresholds = tuple(thresholds.tolist())
        return cls(checked, thresholds=thresholds, accepts=accepts).plot(ax=ax, **plot_params)

    def plot(
        self,
        *,
        ax: Any = None,
        title: str | None = None,
        legend: bool = True,
        xlim: tuple[float, float] | None = None,
        ylim: tuple[float, float] | None = None,
        scatter_kwargs: Mapping[str, Any] | None = None,
    ) -> DualThresholdDisplay:
        """Draw the sets and the accepted region.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure. The legend stands to the right of the axes:
            ``plt.subplots(..., layout="constrained")`` makes room for it.
        title : str, default=None
            Title of the axes.
        legend : bool, default=True
            Whether to name the sets, with the accepted fraction of each.
        xlim, ylim : (float, float), default=None
            Limits of the axes, low and high. None shows the thresholds and the 1st to 99th
            percentile of every set. Shared axes of several displays need the same limits.
        scatter_kwargs : dict, default=None
            For `matplotlib.axes.Axes.scatter` of items within the axes, such as ``{"s": 4}``.

        Returns
        -------
        DualThresholdDisplay
            The display.
        """
        plt = pyplot()

        ax = axes(ax, (8, 4.8))
        known = {name: pairs[~np.isnan(pairs).any(1)] for name, pairs in self.pairs.items()}
        low, high = self._view(known, xlim, ylim)
        handles = self._draw_sets(ax, known, low, high, scatter_kwargs or {})
        handles += self._draw_thresholds(ax, low, high)
        handles += self._draw_region(ax, low, high)
        if any(len(edge.get_offsets()) for edge in self.edge_scatters_.values()):
            style = {"ls": "", "marker": _arrow(1, 0), "ms": 6, "mew": 0, "color": "grey"}
            handles.append(plt.Line2D([], [], label="beyond the axes", **style))
        self.legend_ = None
        if legend:
            self.legend_ = ax.legend(
                handles=handles,
                loc="upper left",
                bbox_to_anchor=(1.02, 1),
                borderaxespad=0,
                frameon=False,
            )
        ax.set(
            xlim=(low[0], high[0]),
            ylim=(low[1], high[1]),
            xlabel="log p(x) (nats)",
            ylabel="local intrinsic dimension",
            title=title,
        )
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _view(
        self, known: Mapping[str, npt.NDArray], xlim: Any, ylim: Any
    ) -> tuple[npt.NDArray, npt.NDArray]:
        """Return the lower left and the upper right corner of the axes."""
        limits = [xlim, ylim]
        for axis, given in enumerate(limits):
            if given is not None:
                continue
            ends = [] if self.thresholds is None else [self.thresholds[axis]]
            for pairs in known.values():
                finite = pairs[np.isfinite(pairs[:, axis]), axis]
                ends.extend(np.quantile(finite, _IN_VIEW) if len(finite) else ())
            first, last = min(ends, default=0.0), max(ends, default=0.0)
            margin = 0.05 * (last - first) or 1.0
            limits[axis] = first - margin, last + margin
        low, high = np.transpose(limits)
        return low, high

    def _draw_sets(
        self,
        ax: Any,
        known: Mapping[str, npt.NDArray],
        low: npt.NDArray,
        high: npt.NDArray,
        given: Mapping[str, Any],
    ) -> list[Any]:
        """Draw the items of each set, and return handles for the legend."""
        plt = pyplot()

        handles = []
        self.accepted_, self.scatters_, self.edge_scatters_ = {}, {}, {}
        for number, (name, pairs) in enumerate(known.items()):
            colour, marker = COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
            seen = np.clip(pairs, low, high)
            beyond = (seen != pairs).any(1)
            # The fewer items, the larger the markers.
            size = np.clip(8e3 / len(pairs), 4, 20)
            style = {"color": colour, "marker": marker, "s": size, "alpha": 0.6, "linewidths": 0}
            self.scatters_[name] = ax.scatter(*pairs[~beyond].T, **{**style, **given})
            edge = ax.scatter(
                *seen[beyond].T, s=25, color=colour, linewidths=0, clip_on=False, zorder=3
            )
            edge.set_paths([_arrow(*sides) for sides in np.sign(pairs[beyond] - seen[beyond])])
            self.edge_scatters_[name] = edge

            label = str(name)
            if self.thresholds is not None or self.accepts is not None:
                self.accepted_[name] = float(self._is_accepted(pairs).mean())
                label += f": {100 * self.accepted_[name]:.1f} % accepted"
            n_left_out = len(self.pairs[name]) - len(pairs)
            if n_left_out:
                label += f"\n({n_left_out} with NaN left out)"
            style = {"ls": "", "marker": marker, "ms": 6, "mew": 0, "color": colour}
            handles.append(plt.Line2D([], [], label=label, **style))
        return handles

    def _is_accepted(self, pairs: npt.NDArray) -> npt.NDArray[np.bool_]:
        if self.accepts is not None:
            return np.asarray(self.accepts(pairs), dtype=bool)
        return np.all(pairs >= self.thresholds, axis=1)

    def _draw_region(self, ax: Any, low: npt.NDArray, high: npt.NDArray) -> list[Any]:
        """Draw the region of `accepts`, and return handles for the legend."""
        plt = pyplot()

        if self.accepts is None:
            return []
        x, y = (np.linspace(*ends, _GRID) for ends in zip(low, high, strict=True))
        pairs = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        accepted = self._is_accepted(pairs).reshape(_GRID, _GRID)
        if not accepted.any():
            return []
        style = {"alpha": 0.15, "colors": [COLOURS[0]], "zorder": 0}
        self.region_ = ax.contourf(x, y, accepted, levels=(0.5, 1.5), **style)
        return [plt.Rectangle((0, 0), 1, 1, color=COLOURS[0], alpha=0.15, lw=0, label="accepted")]

    def _draw_thresholds(self, ax: Any, low: npt.NDArray, high: npt.NDArray) -> list[Any]:
        """Draw the accepted region, and return handles for the legend."""
        plt = pyplot()
        from matplotlib.ticker import Formatter

        self.lines_, self.region_ = [], None
        if self.thresholds is None:
            return []
        log_density, dimension = self.thresholds
        # White on a dark background.
        style = {"color": plt.rcParams["text.color"], "linestyle": "--", "linewidth": 1}
        self.lines_ = [ax.axvline(log_density, **style), ax.axhline(dimension, **style)]
        corner = np.clip(self.thresholds, low, high)
        self.region_ = plt.Rectangle(
            corner,
            *(high - corner),
            color=COLOURS[0],
            alpha=0.15,
            linewidth=0,
            zorder=0,
            label=Formatter.fix_minus(
                f"accepted: log p(x) ≥ {log_density:.1f},\nLID ≥ {dimension:.1f}"
            ),
        )
        ax.add_patch(self.region_)
        return [self.region_]


def _check_pairs(pairs: Any, name: str) -> npt.NDArray[np.float64]:
    pairs = np.asarray(pairs, dtype=np.float64)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(
            f"pairs[{name!r}] has shape {pairs.shape}; expected (n_samples, 2), log-density and "
            "local intrinsic dimension, as score_pairs of a detector returns them"
        )
    if np.isnan(pairs).any(1).all():
        raise ValueError(
            f"pairs[{name!r}] has no row without NaN among {len(pairs)}; expected at least one: "
            "leave the set out, or rescale its data"
        )
    return pairs


def _arrow(right: float, up: float) -> Any:
    """Return the path of a triangle that points in a direction of -1, 0 or 1 on each axis."""
    from matplotlib.markers import MarkerStyle

    triangle = MarkerStyle((3, 0, np.degrees(np.arctan2(-right, up))))
    return triangle.get_path().transformed(triangle.get_transform())
