"""Distributions of scores, with the threshold between in and out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from skood._models import threshold_of
from skood.inspection._figures import axes, pyplot
from skood.inspection._palette import COLOURS
from skood.inspection._sets import check_scores_of_sets, check_sets

__all__ = ["ScoreDistributionDisplay"]

# Range of quantiles of every set that is shown.
_IN_VIEW = (0.01, 0.99)
# The axes extend beyond the first set by at most this multiple of its width.
_FURTHEST = 3.0


class ScoreDistributionDisplay:
    """Histograms of the scores of in-distribution and out-of-distribution sets.

    Scores at the threshold and to the right of it are accepted as in-distribution.

    Use :meth:`from_estimator` or :meth:`from_predictions` to make one.

    Parameters
    ----------
    scores : dict of str to ndarray of shape (n_samples,)
        Scores by the name of the set.
    threshold : float, default=None
        Smallest accepted score. None draws no threshold.
    score_name : str, default=None
        Label of the scores on the axis. None: "score".

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    accepted_ : dict of str to float
        Fraction of each set that reaches the threshold; empty without a threshold.
    histograms_ : dict of str to matplotlib StepPatch
        Outline of the histogram of each set. The outer bins count scores beyond the axes.
    line_ : matplotlib Line2D or None
        The threshold.
    legend_ : matplotlib Legend or None
        None without a legend.

    See Also
    --------
    RocCurvesDisplay : The trade-off between thresholds.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import Mahalanobis
    >>> from skood.inspection import ScoreDistributionDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = Mahalanobis().fit(X[y < 2], y[y < 2])
    >>> sets = {"setosa, versicolor": X[y < 2], "virginica": X[y == 2]}
    >>> display = ScoreDistributionDisplay.from_estimator(detector, sets)
    >>> sorted(display.accepted_) == sorted(sets)
    True
    """

    def __init__(
        self,
        scores: Mapping[str, npt.NDArray],
        *,
        threshold: float | None = None,
        score_name: str | None = None,
    ) -> None:
        self.scores = scores
        self.threshold = threshold
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls, detector: Any, sets: Mapping[str, Any], *, ax: Any = None, **plot_params: Any
    ) -> ScoreDistributionDisplay:
        """Draw the scores of sets by `detector`, with its threshold.

        Parameters
        ----------
        detector : estimator
            Fitted, with ``score_samples``; the threshold is its ``offset_``, if it has one, or
            the ``offset_`` of the detector inside a Pipeline or a search.
        sets : dict of str to array-like, Tensor or Dataset of shape (n_samples, ...)
            Data by name, in-distribution data first.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        ScoreDistributionDisplay
        """
        check_is_fitted(detector)
        check_sets(sets, "sets")
        return cls.from_predictions(
            {name: detector.score_samples(X) for name, X in sets.items()},
            threshold_of(detector),
            score_name=f"score of {type(detector).__name__}",
            ax=ax,
            **plot_params,
        )

    @classmethod
    def from_predictions(
        cls,
        scores: Mapping[str, Any],
        threshold: float | None = None,
        *,
        score_name: str | None = None,
        ax: Any = None,
        **plot_params: Any,
    ) -> ScoreDistributionDisplay:
        """Draw scores, higher = more in-distribution.

        Parameters
        ----------
        scores : dict of str to array-like of shape (n_samples,)
            Scores by the name of the set; in-distribution data first.
        threshold : float, default=None
            Smallest accepted score. None draws no threshold.
        score_name : str, default=None
            Label of the scores on the axis. None: "score".
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        ScoreDistributionDisplay

        Raises
        ------
        TypeError
            When `scores` is no dict.
        ValueError
            When `scores` is empty, or a set is not one-dimensional, is empty or has NaN.
        """
        check_sets(scores, "scores")
        display = cls(check_scores_of_sets(scores), threshold=threshold, score_name=score_name)
        return display.plot(ax=ax, **plot_params)

    def plot(
        self,
        *,
        ax: Any = None,
        bins: int = 50,
        title: str | None = None,
        legend: bool = True,
        xlim: tuple[float, float] | None = None,
    ) -> ScoreDistributionDisplay:
        """Draw the histograms and the threshold.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        bins : int, default=50
            Number of bins over the width of the axes, the same for all sets.
        title : str, default=None
            Title of the axes.
        legend : bool, default=True
            Whether to name the sets, with the accepted fraction of each.
        xlim : (float, float), default=None
            Limits of the axes. None shows the threshold and the 1st to 99th percentile of every
            set, unless the first set would become too narrow. The outer bins count scores beyond
            the axes.

        Returns
        -------
        ScoreDistributionDisplay
            The display.
        """
        plt = pyplot()

        ax = axes(ax, (7, 4))
        low, high = self._view() if xlim is None else xlim
        edges = np.linspace(low, high, bins + 1)
        self.accepted_, self.histograms_ = {}, {}
        for number, (name, scores) in enumerate(self.scores.items()):
            label = str(name)
            if self.threshold is not None:
                self.accepted_[name] = float((scores >= self.threshold).mean())
                label += f": {100 * self.accepted_[name]:.1f} % accepted"
            counts = np.histogram(np.clip(scores, low, high), edges)[0] / len(scores)
            colour = COLOURS[number % len(COLOURS)]
            ax.stairs(counts, edges, fill=True, alpha=0.35, color=colour)
            # Dashes tell the outlines apart in print without colours.
            style = ("-", "--", "-.", ":")[number % 4]
            self.histograms_[name] = ax.stairs(
                counts, edges, color=colour, linestyle=style, linewidth=1.5, label=label
            )
        self.line_ = None
        if self.threshold is not None:
            self.line_ = ax.axvline(
                self.threshold,
                color=plt.rcParams["text.color"],
                linewidth=1,
                label=f"threshold {self.threshold:.4g}",
            )
        self.legend_ = ax.legend(frameon=False) if legend else None
        ax.set(
            xlim=(low, high),
            xlabel=f"{self.score_name or 'score'} (right: in-distribution)",
            ylabel="fraction of the set",
            title=title,
        )
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _view(self) -> tuple[float, float]:
        """Return limits that show the first set, and others as far as it stays visible."""
        ends = [] if self.threshold is None else [self.threshold]
        first, *others = [
            np.quantile(scores[np.isfinite(scores)], _IN_VIEW) if np.isfinite(scores).any() else []
            for scores in self.scores.values()
        ]
        ends.extend(first)
        low, high = min(ends, default=0.0), max(ends, default=0.0)
        furthest = _FURTHEST * ((high - low) or np.inf)
        for others_ends in others:
            ends.extend(np.clip(others_ends, low - furthest, high + furthest))
        low, high = min(ends, default=0.0), max(ends, default=0.0)
        margin = 0.02 * (high - low) or 1.0
        return low - margin, high + margin
