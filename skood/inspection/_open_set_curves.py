"""Curves of open-set classification: one curve for each out-of-distribution set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from skood._models import threshold_of
from skood.inspection._lines import Lines
from skood.inspection._sets import check_scores_of_sets, check_sets
from skood.metrics import ccr_at_fpr, ccr_curve, open_set_f1_curve, oscr

__all__ = ["CCRCurvesDisplay", "OpenSetF1CurvesDisplay"]


class _OpenSetCurves(Lines, ABC):
    """Base of the curves of a classified in-distribution set with each other set."""

    _size = (5.5, 4.5)

    def __init__(
        self,
        scores: Mapping[str, npt.NDArray],
        y_pred: Mapping[str, npt.NDArray],
        y_id: npt.NDArray,
        offset: float | None = None,
    ) -> None:
        self.scores = scores
        self.y_pred = y_pred
        self.y_id = y_id
        self.offset = offset

    @classmethod
    def from_estimator(
        cls,
        detector: Any,
        sets: Mapping[str, Any],
        y_id: Any,
        *,
        ax: Any = None,
        **plot_params: Any,
    ) -> Any:
        """Draw the curves of a detector that predicts classes.

        Parameters
        ----------
        detector : estimator
            Fitted, with ``score_samples``, ``predict_proba`` and ``classes_``.
        sets : dict of str to array-like, Tensor or Dataset of shape (n_samples, ...)
            Data by name, in-distribution data first.
        y_id : array-like of shape (n_samples,)
            Class labels of the in-distribution data.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to `plot`.

        Returns
        -------
        Display

        Raises
        ------
        TypeError
            When `detector` predicts no classes, or classes that do not exclude each other.
        """
        check_is_fitted(detector)
        check_sets(sets, "sets", at_least=2)
        if not hasattr(detector, "predict_proba") or not hasattr(detector, "classes_"):
            raise TypeError(
                f"{type(detector).__name__} predicts no classes; expected a detector with "
                "predict_proba and classes_, such as a detector on a classifier. Predictions of "
                "another classifier are for from_predictions"
            )
        scores = {name: detector.score_samples(X) for name, X in sets.items()}
        y_pred = {name: _predict(detector, X) for name, X in sets.items()}
        return cls.from_predictions(
            scores, y_pred, y_id, offset=threshold_of(detector), ax=ax, **plot_params
        )

    @classmethod
    def from_predictions(
        cls,
        scores: Mapping[str, Any],
        y_pred: Mapping[str, Any],
        y_id: Any,
        *,
        offset: float | None = None,
        ax: Any = None,
        **plot_params: Any,
    ) -> Any:
        """Draw the curves of scores, higher = more in-distribution, and of predicted classes.

        Parameters
        ----------
        scores : dict of str to array-like of shape (n_samples,)
            Scores by the name of the set; in-distribution data first.
        y_pred : dict of str to array-like of shape (n_samples,)
            Classes predicted without rejection, by the name of the set.
        y_id : array-like of shape (n_samples,)
            Class labels of the in-distribution data.
        offset : float, default=None
            Threshold of the detector, which is marked.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to `plot`.

        Returns
        -------
        Display

        Raises
        ------
        TypeError
            When `scores` or `y_pred` is no dict.
        ValueError
            When there are fewer than two sets, a set has no predictions, lengths differ, or a
            score is NaN.
        """
        check_sets(scores, "scores", at_least=2)
        check_sets(y_pred, "y_pred")
        checked = check_scores_of_sets(scores)
        missing = [name for name in checked if name not in y_pred]
        if missing:
            raise ValueError(
                f"y_pred has no predictions of {missing}; expected predictions of all sets"
            )
        predicted = {name: np.asarray(y_pred[name]) for name in checked}
        labels = np.asarray(y_id)
        first = next(iter(checked))
        for name, values in (*predicted.items(), ("y_id", labels)):
            expected = checked.get(name, checked[first]).shape
            if values.shape != expected:
                raise ValueError(
                    f"labels of {name!r} have shape {values.shape}; expected {expected}, one for "
                    "each score"
                )
        return cls(checked, predicted, labels, offset).plot(ax=ax, **plot_params)

    @abstractmethod
    def plot(self, *, ax: Any = None) -> Any:
        """Draw the curves."""

    def _arrays(self) -> dict[str, tuple[npt.NDArray, npt.NDArray, npt.NDArray]]:
        """Return labels, predictions and scores of the first with each other set."""
        (first, inside), *others = self.scores.items()
        unknown = "-1" if self.y_id.dtype.kind in "OUT" else -1
        return {
            name: (
                np.concatenate([self.y_id, np.full(len(outside), unknown)]),
                np.concatenate([self.y_pred[first], self.y_pred[name]]),
                np.concatenate([inside, outside]),
            )
            for name, outside in others
        }


def _predict(detector: Any, X: Any) -> npt.NDArray:
    proba = np.asarray(detector.predict_proba(X))
    if not np.allclose(proba.sum(1), 1, atol=1e-3):
        raise TypeError(
            f"the probabilities of {type(detector).__name__} do not add up to 1, so that its "
            "classes do not exclude each other; expected one class for each item"
        )
    return np.asarray(detector.classes_)[proba.argmax(1)]


class CCRCurvesDisplay(_OpenSetCurves):
    """Correct-classification rate by false-positive rate, against each other set.

    The y-axis is the fraction of in-distribution items that are accepted and classified correctly,
    the x-axis, which is logarithmic, the accepted fraction of the out-of-distribution items. A dot
    marks a given false-positive rate.

    Use :meth:`from_estimator` or :meth:`from_predictions` to make one.

    Parameters
    ----------
    scores : dict of str to ndarray of shape (n_samples,)
        Scores by the name of the set; the first is in-distribution.
    y_pred : dict of str to ndarray of shape (n_samples,)
        Classes predicted without rejection, by the name of the set.
    y_id : ndarray of shape (n_samples,)
        Class labels of the in-distribution items.
    offset : float, default=None
        Threshold of the detector.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    oscr_ : dict of str to float
        Area under each curve over a linear x-axis.
    ccr_ : dict of str to float
        Rate at the dot.
    lines_ : dict of str to matplotlib Line2D
        The curves.
    legend_ : matplotlib Legend or None
        None without a legend.

    See Also
    --------
    skood.metrics.ccr_curve : The points of a curve.
    RocCurvesDisplay : Without classes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skood import MSP
    >>> from skood.inspection import CCRCurvesDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = MSP(LogisticRegression()).fit(X[:100], y[:100])
    >>> sets = {"two classes": X[:100], "virginica": X[100:]}
    >>> display = CCRCurvesDisplay.from_estimator(detector, sets, y[:100])
    >>> list(display.oscr_)
    ['virginica']
    """

    def plot(
        self,
        *,
        ax: Any = None,
        fpr: float = 0.01,
        title: str | None = None,
        legend: bool = True,
    ) -> CCRCurvesDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        fpr : float, default=0.01
            Accepted fraction of the out-of-distribution items at which a dot is drawn.
        title : str, default=None
            Title of the axes.
        legend : bool, default=True
            Whether to name the sets, with OSCR and CCR.

        Returns
        -------
        CCRCurvesDisplay
            The display.
        """
        ax = self._begin(ax)
        self.oscr_, self.ccr_ = {}, {}
        smallest = fpr
        for name, arrays in self._arrays().items():
            self.oscr_[name] = oscr(*arrays)
            self.ccr_[name] = ccr_at_fpr(*arrays, fpr=fpr)
            x, y, _ = ccr_curve(*arrays)
            label = (
                f"{name}: OSCR {self.oscr_[name]:.3f}, "
                f"CCR {100 * self.ccr_[name]:.1f} % at FPR {100 * fpr:.4g} %"
            )
            colour = self._draw(ax, name, x, y, label=label, drawstyle="steps-post")
            ax.plot(fpr, self.ccr_[name], "o", color=colour, markersize=5)
            smallest = min(smallest, 1 / len(self.scores[name]))
        first = next(iter(self.scores))
        ax.set_xscale("log")
        ax.set(
            xlim=(smallest, 1),
            ylim=(0, 1),
            xlabel="out-of-distribution items accepted (FPR)",
            ylabel=f"{first} accepted and classified correctly (CCR)",
            title=title,
        )
        self.legend_ = ax.legend(loc="best", fontsize="small") if legend else None
        return self


class OpenSetF1CurvesDisplay(_OpenSetCurves):
    """Macro-averaged F1 of open-set classification by threshold, for each other set.

    The F1 is averaged over the in-distribution classes and the unknown class. A vertical line marks
    the threshold of the detector, which it learned without the test items. The maximum of a curve
    is chosen with the test items and is not attained by a detector.

    Use :meth:`from_estimator` or :meth:`from_predictions` to make one.

    Parameters
    ----------
    scores : dict of str to ndarray of shape (n_samples,)
        Scores by the name of the set; the first is in-distribution.
    y_pred : dict of str to ndarray of shape (n_samples,)
        Classes predicted without rejection, by the name of the set.
    y_id : ndarray of shape (n_samples,)
        Class labels of the in-distribution items.
    offset : float, default=None
        Threshold of the detector, which is marked.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    f1_ : dict of str to float
        F1 at the threshold of the detector; empty without a threshold.
    best_ : dict of str to float
        Maximum of each curve.
    lines_ : dict of str to matplotlib Line2D
        The curves.
    legend_ : matplotlib Legend or None
        None without a legend.

    See Also
    --------
    skood.metrics.open_set_f1_curve : The points of a curve.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skood import MSP
    >>> from skood.inspection import OpenSetF1CurvesDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = MSP(LogisticRegression()).fit(X[:100], y[:100])
    >>> sets = {"two classes": X[:100], "virginica": X[100:]}
    >>> display = OpenSetF1CurvesDisplay.from_estimator(detector, sets, y[:100])
    >>> display.best_["virginica"] >= display.f1_["virginica"]
    True
    """

    def plot(
        self,
        *,
        ax: Any = None,
        x: str = "threshold",
        title: str | None = None,
        legend: bool = True,
    ) -> OpenSetF1CurvesDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        x : {"threshold", "accepted"}, default="threshold"
            The x-axis: thresholds of the score, or the fraction of the in-distribution items that
            they accept, which has the same units for all detectors.
        title : str, default=None
            Title of the axes.
        legend : bool, default=True
            Whether to name the sets, with the F1.

        Returns
        -------
        OpenSetF1CurvesDisplay
            The display.

        Raises
        ------
        ValueError
            When `x` is neither "threshold" nor "accepted".
        """
        if x not in ("threshold", "accepted"):
            raise ValueError(f"x={x!r}; expected 'threshold' or 'accepted'")
        ax = self._begin(ax)
        first, inside = next(iter(self.scores.items()))
        inside = np.sort(inside)
        self.f1_, self.best_ = {}, {}
        for name, arrays in self._arrays().items():
            f1, thresholds = open_set_f1_curve(*arrays)
            self.best_[name] = float(f1.max())
            label = f"{name}: largest F1 {self.best_[name]:.3f}"
            if self.offset is not None:
                # The smallest threshold that is not below the offset accepts the same items.
                at = np.flatnonzero(thresholds >= self.offset)[-1]
                self.f1_[name] = float(f1[at])
                label = f"{name}: F1 {self.f1_[name]:.3f}, largest {self.best_[name]:.3f}"
            accepted = 1 - np.searchsorted(inside, thresholds) / len(inside)
            accepted[0] = 0
            shown = np.isfinite(thresholds) if x == "threshold" else np.full(len(f1), True)
            at_x = thresholds if x == "threshold" else accepted
            self._draw(ax, name, at_x[shown], f1[shown], label=label)
        if self.offset is not None and np.isfinite(self.offset):
            place = self.offset if x == "threshold" else float(np.mean(inside >= self.offset))
            ax.axvline(place, color="0.6", linewidth=0.8)
        name = "threshold of the score" if x == "threshold" else f"{first} accepted (TPR)"
        ax.set(ylim=(0, 1), xlabel=name, ylabel="macro F1, with the unknown class", title=title)
        self.legend_ = ax.legend(loc="best", fontsize="small") if legend else None
        return self
