"""A threshold chosen on held-out data for an objective."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import Tags

from skood._data.checked_data import CheckedData
from skood._detector import Detector
from skood._estimator.parameters import (
    FRACTION,
    NONNEGATIVE,
    Interval,
    IsDetector,
    StrOptions,
    estimator,
    parameter,
)
from skood._torch.seeding import Stream, numpy_rng
from skood.calibration._base import CalibratedDetector, fit_detector, needs_labels, scores_of

__all__ = ["TunedThreshold"]


@estimator
class TunedThreshold(CalibratedDetector):
    r"""Detector whose threshold is chosen on held-out data for an objective.

    The counterpart of :class:`sklearn.model_selection.TunedThresholdClassifierCV` for detectors.
    Rows with a score :math:`\ge t` are accepted. Let tpr(t) and fpr(t) be the fractions of held-out
    ID rows and of held-out known outliers that are accepted, and N and M the numbers of
    in-distribution rows and known outliers given to `fit`. The threshold t has

    - "tpr": the largest value with tpr(t) >= `target`;
    - "fpr": the smallest value with fpr(t) <= `target`;
    - "f1": the largest
      :math:`F_1 = 2 M (1 - fpr) / [2 M (1 - fpr) + N (1 - tpr) + M fpr]`, outliers positive;
    - "cost": the smallest mean cost
      :math:`[c_{alarm} N (1 - tpr) + c_{miss} M fpr] / (N + M)`.

    Parameters
    ----------
    detector : estimator
        Anything with ``fit`` and ``score_samples``, higher = more in-distribution. A detector in
        :class:`sklearn.frozen.FrozenEstimator` is not fitted again: all rows given to `fit` then
        choose the threshold, and must be new to it. The rows held out must also be new to a trained
        model inside the detector; ``fit(X, y, X_calibration=...)`` takes such rows.
    objective : {"tpr", "fpr", "f1", "cost"}, default="tpr"
        All but "tpr" need known outliers: rows with y == -1.
    target : float, default=None
        Rate for "tpr" and "fpr", in [0, 1]. None takes 0.95 for "tpr" and 0.05 for "fpr".
    false_alarm_cost : float, default=1.0
        Cost of an in-distribution row that is rejected, for "cost".
    miss_cost : float, default=1.0
        Cost of an outlier that is accepted, for "cost".
    validation_fraction : float, default=0.3
        Fraction of the in-distribution rows, and of known outliers, that is held out.

    Attributes
    ----------
    detector_ : estimator
        The fitted detector.
    offset_ : float
        The chosen threshold on the score.
    best_score_ : float
        Value of the objective at the threshold; a cost is negated.
    results_ : dict of ndarray
        The "threshold", "tpr", "fpr" if known outliers were held out, and "objective" of each
        candidate, ascending. Candidates are the held-out scores and the float after the largest.

    See Also
    --------
    ConformalDetector : Bounds the rate of false alarms on new data.

    Notes
    -----
    The rates are measured on the held-out rows. Rates on new data differ by sampling, without a
    guarantee; :class:`ConformalDetector` gives one.

    Known outliers serve to choose the threshold. A detector of this package may learn from
    outliers, and detects them more easily than new ones: only outliers that are not held out for
    the threshold are passed to it. With "tpr", which uses no outliers, all are
    passed to it. For other detectors, all known outliers are held out.

    F1 and the mean cost depend on the prevalence of outliers, which is taken from N and M in `fit`.
    If the prevalence differs in use, scale the costs accordingly.

    The smallest of several thresholds that are equally good by "f1" or "cost" is taken.

    References
    ----------
    .. [1] C. Elkan, "The Foundations of Cost-Sensitive Learning", IJCAI 2001.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from skood import KNN
    >>> from skood.calibration import TunedThreshold
    >>> X, y = load_iris(return_X_y=True)
    >>> y = np.where(y == 2, -1, y)
    >>> detector = TunedThreshold(KNN(n_neighbors=3), "f1", random_state=0).fit(X, y)
    >>> detector.predict([[5.0, 3.4, 1.5, 0.2], [9.0, 9.0, 9.0, 9.0]])
    array([ 1, -1])
    >>> sorted(detector.results_)
    ['fpr', 'objective', 'threshold', 'tpr']
    """

    detector: Any = parameter(IsDetector())
    objective: str = parameter(StrOptions({"tpr", "fpr", "f1", "cost"}), default="tpr")
    target: float | None = parameter(
        Interval(numbers.Real, 0, 1, closed="both"), None, default=None
    )
    false_alarm_cost: float = parameter(NONNEGATIVE, default=1.0, kw_only=True)
    miss_cost: float = parameter(NONNEGATIVE, default=1.0, kw_only=True)
    validation_fraction: float = parameter(FRACTION, default=0.3, kw_only=True)

    def _fit(
        self,
        inliers: CheckedData,
        y: npt.NDArray | None,
        outliers: CheckedData | None,
        seed: int,
        calibration: CheckedData | None = None,
    ) -> None:
        if self.objective != "tpr" and outliers is None:
            raise ValueError(
                f"objective={self.objective!r} needs known outliers, but no label in y is -1; "
                "give some rows with y == -1, as np.where(is_ood, -1, y) makes them of other "
                'labels, or take objective="tpr"'
            )
        training, labels, calibration = self._hold_out(
            [self.detector], inliers, y, calibration, seed, "validation_fraction"
        )
        self._training_rows = training.rows_in(inliers)
        given, validation = self._divide_outliers(outliers, seed)
        self.detector_ = fit_detector(
            self.detector, training, labels, given, seed=seed, memory=self.memory
        )
        id_scores = scores_of(self.detector_, calibration)
        ood_scores = np.empty(0) if validation is None else scores_of(self.detector_, validation)
        n_outliers = 0 if outliers is None else len(outliers)
        self._choose(np.sort(id_scores), np.sort(ood_scores), len(inliers), n_outliers)

    @property
    def _explained(self) -> Any:
        return getattr(self, "detector_", None)

    def _divide_outliers(
        self, outliers: CheckedData | None, seed: int
    ) -> tuple[CheckedData | None, CheckedData | None]:
        """Divide known outliers into rows for the detector and rows for the threshold."""
        if outliers is None or not isinstance(self.detector, Detector):
            return None, outliers
        if self.objective == "tpr":
            return outliers, None
        order = numpy_rng(seed, Stream.VALIDATION_OUTLIERS).permutation(len(outliers))
        n_held_out = max(1, round(self.validation_fraction * len(order)))
        given, validation = np.sort(order[n_held_out:]), np.sort(order[:n_held_out])
        return outliers.subset(given) if len(given) else None, outliers.subset(validation)

    def _choose(
        self,
        id_scores: npt.NDArray[np.float64],
        ood_scores: npt.NDArray[np.float64],
        n_inliers: int,
        n_outliers: int,
    ) -> None:
        """Set the threshold from ascending scores."""
        thresholds = np.unique(np.concatenate([id_scores, ood_scores]))
        thresholds = np.append(thresholds, np.nextafter(thresholds[-1], np.inf))
        tpr = _fraction_accepted(id_scores, thresholds)
        self.results_ = {"threshold": thresholds, "tpr": tpr}
        if len(ood_scores):
            self.results_["fpr"] = fpr = _fraction_accepted(ood_scores, thresholds)
            misses, hits = n_outliers * fpr, n_outliers * (1 - fpr)
        alarms = n_inliers * (1 - tpr)
        if self.objective == "tpr":
            objective = tpr
            target = 0.95 if self.target is None else self.target
            best = np.flatnonzero(tpr >= target)[-1]
        elif self.objective == "fpr":
            objective = fpr
            target = 0.05 if self.target is None else self.target
            best = np.flatnonzero(fpr <= target)[0]
        else:
            if self.objective == "f1":
                objective = 2 * hits / (2 * hits + alarms + misses)
            else:
                cost = self.false_alarm_cost * alarms + self.miss_cost * misses
                objective = -cost / (n_inliers + n_outliers)
            best = np.argmax(objective)
        self.results_["objective"] = objective
        self.offset_ = float(thresholds[best])
        self.best_score_ = float(objective[best])

    def _class_models(self) -> list[Any]:
        return [getattr(self, "detector_", self.detector)]

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return scores_of(self.detector_, data)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = needs_labels(self.detector)
        return tags


def _fraction_accepted(
    scores: npt.NDArray[np.float64], thresholds: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the fraction of sorted `scores` that reaches each threshold."""
    return (len(scores) - np.searchsorted(scores, thresholds)) / len(scores)
