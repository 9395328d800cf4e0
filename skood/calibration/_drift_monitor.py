"""Continuous test of a stream against the in-distribution."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags, get_tags
from sklearn.utils.validation import check_is_fitted

from skood._estimator.docs_link import DocumentationLinkMixin
from skood._estimator.parameters import FRACTION, IsDetector, estimator, fit_context, parameter
from skood.calibration._conformal import ConformalDetector
from skood.calibration._p_values import PValueDetector

__all__ = ["DriftMonitor"]

# Exponents of the bets: the smaller, the more is won from the lowest ranks alone.
_EXPONENTS = np.array([0.25, 0.5, 0.75])


@estimator
class DriftMonitor(DocumentationLinkMixin, BaseEstimator):
    r"""Monitor that raises an alarm when a stream no longer comes from the in-distribution.

    Rows arrive one after the other, or in batches of any size. The monitor tests after every row,
    and the probability that it ever raises a false alarm is at most `alpha`: as long as the
    calibration rows and the rows of the stream are exchangeable, in a stream of any length. The
    evidence is an e-value E, and the alarm is raised as soon as :math:`E \ge 1 / \alpha`.

    Parameters
    ----------
    detector : estimator
        Anything with ``fit`` and ``score_samples``, higher = more in-distribution; `fit` fits it
        and holds calibration rows out, as :class:`ConformalDetector` does. A fitted
        ConformalDetector or EnsembleDetector in :class:`sklearn.frozen.FrozenEstimator` is used
        with its calibration rows: `partial_fit` can be called at once, and `fit` learns nothing
        from its rows.
    alpha : float, default=0.01
        Largest probability of a false alarm in the whole stream, in (0, 1).
    random_state : int, RandomState instance or None, default=None
        Seed of the split of the calibration rows, and of the detector.

    Attributes
    ----------
    detector_ : ConformalDetector or EnsembleDetector
        The fitted detector; its ``p_values`` and ``predict`` answer for single rows.
    log_e_value_ : float
        Logarithm of the e-value after the last row, in nats.
    log_e_values_ : ndarray of shape (n_seen,)
        The same after every row.
    p_value_ : float
        Anytime-valid p-value: the inverse of the largest e-value so far, at most 1.
    alarm_ : bool
        Whether an alarm was raised; it remains until `fit` or `reset`.
    alarm_row_ : int or None
        Index in the stream of the row that raised the alarm; the first row has index 0.
    change_row_ : int or None
        Index at which the change began, by estimate: the start of the rise of the evidence. None
        without evidence.
    n_seen_ : int
        Number of rows seen since the start of the stream.

    See Also
    --------
    ConformalDetector.drift_test : One test of one batch, with the fraction of OOD rows.

    Notes
    -----
    Let :math:`r_t` be the rank of the score of row t among the :math:`N_t` scores of the
    calibration rows and of all rows of the stream up to t, with the largest rank among ties.
    Without a change, the ranks are independent and uniform. A bet with the exponent e multiplies
    its capital by

    .. math:: f_e(r_t) = \frac{N_t \, r_t^{e - 1}}{\sum_{k=1}^{N_t} k^{e - 1}},

    whose mean is 1, and at most 1 with ties. E is the mean capital of bets with the exponents
    1/4, 1/2 and 3/4 [1]_ that start before row s = 1, 2, ... with the weights
    :math:`1 / (s (s + 1))`; the capital of bets that start later counts as 1. Such a mean is a test
    supermartingale, and the bound is Ville's inequality. E never falls below
    :math:`1 / (t + 1)`: a change at row t needs about :math:`2 \log t` nats more evidence than a
    change at the first row.

    The bound holds on average over calibration sets. The stream is compared with itself as well:
    OOD rows that have been seen make later ones look less extreme. After an alarm, find the
    reason, and start anew by `reset`. Slow periodic changes that belong to the in-distribution
    (day and night) violate exchangeability, and raise alarms. Memory grows by 16 bytes per row,
    and the time of a call in proportion to the number of rows seen.

    References
    ----------
    .. [1] V. Fedorova, A. Gammerman, I. Nouretdinov, V. Vovk, "Plug-in Martingales for Testing
       Exchangeability On-Line", ICML 2012.
    .. [2] V. Vovk, I. Petej, I. Nouretdinov, E. Ahlberg, L. Carlsson, A. Gammerman, "Retrain or
       not Retrain: Conformal Test Martingales for Change-Point Detection", COPA 2021.
    .. [3] V. Vovk, R. Wang, "E-values: Calibration, Combination and Applications", Annals of
       Statistics 49, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from skood import KNN, DriftMonitor
    >>> rng = np.random.default_rng(0)
    >>> monitor = DriftMonitor(KNN(), random_state=0).fit(rng.normal(size=(1000, 3)))
    >>> for _ in range(20):
    ...     monitor = monitor.partial_fit(rng.normal(size=(50, 3)))
    >>> monitor.alarm_
    False
    >>> monitor = monitor.partial_fit(rng.normal(1.5, 1, size=(50, 3)))
    >>> monitor.alarm_
    True
    """

    detector: Any = parameter(IsDetector())
    alpha: float = parameter(FRACTION, default=0.01)
    random_state: Any = parameter("random_state", default=None, kw_only=True)

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, X_calibration: Any = None) -> DriftMonitor:
        """Fit and calibrate the detector on in-distribution rows, and start a stream.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            In-distribution rows.
        y : array-like of shape (n_samples,), default=None
            Labels, for detectors that need them.
        X_calibration : array-like, Tensor or Dataset of shape (n_calibration, ...), default=None
            In-distribution rows that no model in the detector was trained on, to calibrate with;
            None holds out some rows of X.

        Returns
        -------
        self
        """
        if hasattr(self, "detector_"):
            delattr(self, "detector_")
        if not self._holds_calibrated():
            detector = self.detector
            if not isinstance(detector, PValueDetector):
                detector = ConformalDetector(detector, random_state=self.random_state)
            self.detector_ = clone(detector).fit(X, y, X_calibration)
        return self.reset()

    def reset(self) -> DriftMonitor:
        """Start a new stream with the same detector and calibration rows.

        Returns
        -------
        self
        """
        if not hasattr(self, "detector_"):
            inner = self._frozen()
            check_is_fitted(inner)
            self.detector_ = inner
        self._scores = self.detector_._reference()
        n_ranks = np.arange(1.0, len(self._scores) + 1)
        self._sums = (n_ranks[:, None] ** (_EXPONENTS - 1)).sum(0)
        # The capital of a bet relative to its start, and the sum over starts of weight / capital.
        self._log_growth = np.zeros(len(_EXPONENTS))
        self._log_starts = np.full(len(_EXPONENTS), -np.inf)
        self._lowest, self._row_after_lowest = 0.0, 0
        self.log_e_values_ = np.empty(0)
        self.alarm_row_: int | None = None
        self.change_row_: int | None = None
        return self

    def partial_fit(self, X: Any, y: Any = None) -> DriftMonitor:
        """Observe the next rows of the stream, in their order.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        y : Ignored

        Returns
        -------
        self

        Raises
        ------
        NotFittedError
            Before `fit`, unless `detector` is a calibrated detector in ``FrozenEstimator``. The
            first rows of the stream are never taken as in-distribution.
        """
        if not hasattr(self, "detector_"):
            self.reset()
        data = self.detector_._check(X)
        with self.detector_._shows_progress("scoring"):
            scores = self.detector_._comparable(data)
        ranks = _ranks_in_order(self._scores, scores)
        self._bet(ranks)
        scores = np.sort(scores)
        self._scores = np.insert(self._scores, np.searchsorted(self._scores, scores), scores)
        return self

    def _frozen(self) -> PValueDetector:
        """Return the calibrated detector in a ``FrozenEstimator``."""
        if not self._holds_calibrated():
            raise NotFittedError(
                "DriftMonitor has no calibration rows yet; call fit(X) with in-distribution rows "
                "first, or give a fitted ConformalDetector as "
                "DriftMonitor(FrozenEstimator(detector))"
            )
        return self.detector.estimator

    def _holds_calibrated(self) -> bool:
        """Whether `detector` is a calibrated detector in a ``FrozenEstimator``."""
        return isinstance(self.detector, FrozenEstimator) and isinstance(
            self.detector.estimator, PValueDetector
        )

    def _bet(self, ranks: npt.NDArray[np.integer]) -> None:
        """Update the capital of all bets by the ranks of new rows."""
        n_seen, n_rows = self.n_seen_, len(ranks)
        rows = np.arange(n_seen + 1.0, n_seen + n_rows + 1)
        n_compared = np.arange(1.0, n_rows + 1) + len(self._scores)
        sums = self._sums + np.cumsum(n_compared[:, None] ** (_EXPONENTS - 1), axis=0)
        bets = np.log(n_compared)[:, None] - np.log(sums)
        bets += (_EXPONENTS - 1) * np.log(ranks)[:, None]
        growth = np.concatenate([self._log_growth[None], self._log_growth + np.cumsum(bets, 0)])
        log_weights = -np.log(rows * (rows + 1)) - math.log(len(_EXPONENTS))
        starts = np.concatenate([self._log_starts[None], log_weights[:, None] - growth[:-1]])
        starts = np.logaddexp.accumulate(starts, axis=0)
        capital = np.logaddexp.reduce(growth[1:] + starts[1:], axis=1)
        log_e = np.logaddexp(capital, -np.log(rows + 1))
        self._note_change(growth[1:, 1], log_e)
        self._sums, self._log_growth, self._log_starts = sums[-1], growth[-1], starts[-1]
        self.log_e_values_ = np.concatenate([self.log_e_values_, log_e])

    def _note_change(self, growth: npt.NDArray[np.float64], log_e: npt.NDArray[np.float64]) -> None:
        """Update the row of the alarm, and the last row at which the growth was lowest."""
        if self.alarm_:
            return
        above = np.flatnonzero(log_e >= -math.log(self.alpha))
        n_rows = int(above[0]) + 1 if len(above) else len(log_e)
        lowest = np.minimum.accumulate(np.append(self._lowest, growth[:n_rows]))[1:]
        at_lowest = np.flatnonzero(growth[:n_rows] <= lowest)
        if len(at_lowest):
            self._row_after_lowest = self.n_seen_ + int(at_lowest[-1]) + 1
        self._lowest = float(lowest[-1])
        if len(above):
            self.alarm_row_ = self.n_seen_ + n_rows - 1
        self.change_row_ = self._row_after_lowest if log_e[n_rows - 1] > 0 else None

    @property
    def n_seen_(self) -> int:
        """Number of rows seen since the start of the stream."""
        return len(self._fitted("log_e_values_"))

    @property
    def log_e_value_(self) -> float:
        """Logarithm of the e-value after the last row, in nats."""
        values = self._fitted("log_e_values_")
        return float(values[-1]) if len(values) else 0.0

    @property
    def p_value_(self) -> float:
        """Anytime-valid p-value: the inverse of the largest e-value so far, at most 1."""
        return math.exp(-self._fitted("log_e_values_").max(initial=0.0))

    @property
    def alarm_(self) -> bool:
        """Whether an alarm was raised since the start of the stream."""
        return self._fitted("alarm_row_") is not None

    def _fitted(self, name: str) -> Any:
        if name not in vars(self):
            raise AttributeError(f"{type(self).__name__} has not been fitted")
        return vars(self)[name]

    @property
    def n_features_in_(self) -> int:
        """Number of columns, of data that are rows."""
        return self._fitted("detector_").n_features_in_

    @property
    def feature_names_in_(self) -> npt.NDArray:
        """Names of the columns, of data that are a frame."""
        return self._fitted("detector_").feature_names_in_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.detector)
        tags.input_tags, tags.target_tags = inner.input_tags, inner.target_tags
        return tags


def _ranks_in_order(
    earlier: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> npt.NDArray[np.integer]:
    """Return the largest rank of each score among earlier scores, those before it, and itself."""
    before: list[float] = []
    ranks = 1 + np.searchsorted(earlier, scores, side="right")
    for row, score in enumerate(scores.tolist()):
        position = bisect_right(before, score)
        ranks[row] += position
        before.insert(position, score)
    return ranks
