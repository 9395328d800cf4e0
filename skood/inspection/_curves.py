"""Trade-offs between thresholds: one curve for each out-of-distribution set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve, roc_curve
from sklearn.utils.validation import check_is_fitted

from skood.inspection._lines import Lines
from skood.inspection._sets import check_scores_of_sets, check_sets
from skood.metrics import aupr_in, aupr_out, auroc, fpr_at_tpr

__all__ = ["PrecisionRecallCurvesDisplay", "RocCurvesDisplay"]


class _Curves(Lines, ABC):
    """Base of the curves of an in-distribution set against each other set."""

    def __init__(self, scores: Mapping[str, npt.NDArray]) -> None:
        self.scores = scores

    @classmethod
    def from_estimator(
        cls, detector: Any, sets: Mapping[str, Any], *, ax: Any = None, **plot_params: Any
    ) -> Any:
        """Draw the curves of the scores of sets by `detector`.

        Parameters
        ----------
        detector : estimator
            Fitted, with ``score_samples``.
        sets : dict of str to array-like, Tensor or Dataset of shape (n_samples, ...)
            Data by name, in-distribution data first.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to `plot`.

        Returns
        -------
        Display
        """
        check_is_fitted(detector)
        check_sets(sets, "sets", at_least=2)
        scores = {name: detector.score_samples(X) for name, X in sets.items()}
        return cls.from_predictions(scores, ax=ax, **plot_params)

    @classmethod
    def from_predictions(
        cls, scores: Mapping[str, Any], *, ax: Any = None, **plot_params: Any
    ) -> Any:
        """Draw the curves of scores, higher = more in-distribution.

        Parameters
        ----------
        scores : dict of str to array-like of shape (n_samples,)
            Scores by the name of the set; in-distribution data first.
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
            When `scores` is no dict.
        ValueError
            When `scores` has fewer than two sets, or a set is not one-dimensional, is empty or has
            NaN.
        """
        check_sets(scores, "scores", at_least=2)
        return cls(check_scores_of_sets(scores)).plot(ax=ax, **plot_params)

    @abstractmethod
    def plot(self, *, ax: Any = None) -> Any:
        """Draw the curves."""

    def _pairs(self) -> dict[str, tuple[npt.NDArray, npt.NDArray]]:
        """Return labels, 1 for ID and -1 for OOD, and scores of the first with each other set."""
        (_, inside), *others = self.scores.items()
        return {
            str(name): (
                np.repeat([1, -1], [len(inside), len(outside)]),
                np.concatenate([inside, outside]),
            )
            for name, outside in others
        }


class RocCurvesDisplay(_Curves):
    """Receiver operating characteristic of in-distribution items against each other set.

    In-distribution is the positive class: the x-axis is the accepted fraction of the
    out-of-distribution items, the y-axis the accepted fraction of the in-distribution items. A dot
    marks the FPR95, the false-positive rate at a true-positive rate of 95 %.

    Use :meth:`from_estimator` or :meth:`from_predictions` to make one.

    Parameters
    ----------
    scores : dict of str to ndarray of shape (n_samples,)
        Scores by the name of the set; the first is in-distribution.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    auroc_ : dict of str to float
        Area under each curve.
    fpr_ : dict of str to float
        Accepted fraction of each out-of-distribution set if a fraction `tpr` of the
        in-distribution items is accepted.
    lines_ : dict of str to matplotlib Line2D
        The curves.
    legend_ : matplotlib Legend or None
        None without a legend.

    See Also
    --------
    PrecisionRecallCurvesDisplay : Shows the fraction of correct decisions instead of the FPR.
    sklearn.metrics.RocCurveDisplay : One curve; takes ``pos_label=1``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import Mahalanobis
    >>> from skood.inspection import RocCurvesDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = Mahalanobis().fit(X[:40])
    >>> sets = {"setosa": X[40:50], "versicolor": X[y == 1], "virginica": X[y == 2]}
    >>> RocCurvesDisplay.from_estimator(detector, sets).auroc_
    {'versicolor': 1.0, 'virginica': 1.0}
    """

    def plot(
        self,
        *,
        ax: Any = None,
        tpr: float = 0.95,
        title: str | None = None,
        legend: bool = True,
    ) -> RocCurvesDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        tpr : float, default=0.95
            Accepted fraction of the in-distribution items at which a dot is drawn.
        title : str, default=None
            Title of the axes.
        legend : bool, default=True
            Whether to name the sets, with AUROC and FPR.

        Returns
        -------
        RocCurvesDisplay
            The display.
        """
        ax = self._begin(ax)
        self.auroc_, self.fpr_ = {}, {}
        for name, (truth, scores) in self._pairs().items():
            self.auroc_[name] = auroc(truth, scores)
            self.fpr_[name] = fpr_at_tpr(truth, scores, tpr=tpr)
            x, y, _ = roc_curve(truth, _ranks(scores), pos_label=1, drop_intermediate=True)
            label = (
                f"{name}: AUROC {self.auroc_[name]:.3f}, "
                f"FPR{100 * tpr:.4g} {100 * self.fpr_[name]:.1f} %"
            )
            colour = self._draw(ax, name, x, y, label=label, clip_on=False)
            ax.plot(self.fpr_[name], tpr, "o", color=colour, markersize=5, clip_on=False)
        ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
        ax.axhline(tpr, color="0.6", linewidth=0.8)
        ax.set(
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
            xlabel="out-of-distribution items accepted (FPR)",
            ylabel=f"{next(iter(self.scores))} accepted (TPR)",
            title=title,
        )
        self.legend_ = ax.legend(loc="lower right", fontsize="small") if legend else None
        return self


class PrecisionRecallCurvesDisplay(_Curves):
    """Precision and recall of in-distribution items against each other set.

    Use :meth:`from_estimator` or :meth:`from_predictions` to make one.

    Parameters
    ----------
    scores : dict of str to ndarray of shape (n_samples,)
        Scores by the name of the set; the first is in-distribution.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    aupr_ : dict of str to float
        Average precision, the area under each curve: AUPR-in or AUPR-out.
    lines_ : dict of str to matplotlib Line2D
        The curves.
    legend_ : matplotlib Legend or None
        None without a legend.

    See Also
    --------
    RocCurvesDisplay : Does not depend on the sizes of the sets.
    sklearn.metrics.PrecisionRecallDisplay : One curve; takes ``pos_label``.

    Notes
    -----
    Precision depends on the sizes of the sets. A dotted line marks the precision of random scores.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import Mahalanobis
    >>> from skood.inspection import PrecisionRecallCurvesDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = Mahalanobis().fit(X[:40])
    >>> sets = {"setosa": X[40:50], "versicolor": X[y == 1]}
    >>> display = PrecisionRecallCurvesDisplay.from_estimator(detector, sets, positive="out")
    >>> display.aupr_
    {'versicolor': 1.0}
    """

    def plot(
        self,
        *,
        ax: Any = None,
        positive: str = "in",
        title: str | None = None,
        legend: bool = True,
    ) -> PrecisionRecallCurvesDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        positive : {"in", "out"}, default="in"
            The positive class: "in" counts accepted items, "out" rejected items.
        title : str, default=None
            Title of the axes.
        legend : bool, default=True
            Whether to name the sets, with the average precision.

        Returns
        -------
        PrecisionRecallCurvesDisplay
            The display.

        Raises
        ------
        ValueError
            When `positive` is neither "in" nor "out".
        """
        if positive not in ("in", "out"):
            raise ValueError(f"positive={positive!r}; expected 'in' or 'out'")
        ax = self._begin(ax)
        sign, area = (1, aupr_in) if positive == "in" else (-1, aupr_out)
        self.aupr_ = {}
        for name, (truth, scores) in self._pairs().items():
            self.aupr_[name] = area(truth, scores)
            precision, recall, _ = precision_recall_curve(
                truth, sign * _ranks(scores), pos_label=sign
            )
            label = f"{name}: AUPR-{positive} {100 * self.aupr_[name]:.1f} %"
            colour = self._draw(
                ax, name, recall, precision, label=label, drawstyle="steps-post", clip_on=False
            )
            ax.axhline((truth == sign).mean(), color=colour, linewidth=0.8, linestyle=":")
        done, found = "accepted", "in-distribution"
        if positive == "out":
            done, found = "rejected", "out-of-distribution"
        ax.set(
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
            xlabel=f"{found} items {done} (recall)",
            ylabel=f"{done} items that are {found} (precision)",
            title=title,
        )
        self.legend_ = ax.legend(loc="lower left", fontsize="small") if legend else None
        return self


def _ranks(scores: npt.NDArray) -> npt.NDArray:
    """Replace scores, which may be infinite, by ranks: a curve uses only order and ties."""
    return np.unique(scores, return_inverse=True)[1].reshape(scores.shape)
