"""Base of the detectors with conformal p-values."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln
from scipy.stats import false_discovery_control
from sklearn.utils.validation import check_is_fitted

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import FRACTION, StrOptions, estimator, parameter
from skood.calibration._base import CalibratedDetector
from skood.calibration._drift import DriftTest, drift_of

__all__ = [
    "PValueDetector",
    "conformal_p_values",
    "count_up_to",
    "n_rejected_ranks",
    "p_value_levels",
    "smooth_p_values",
    "threshold_at",
    "warn_if_too_few",
]


@estimator
class PValueDetector(CalibratedDetector):
    """Base of the detectors with conformal p-values, which decide at level `alpha`.

    A subclass implements ``_p_values``, ``_reference`` and ``_comparable`` in addition to the
    methods that :class:`CalibratedDetector` requires, such that ``score >= offset_`` if and only
    if ``p > alpha``.

    Parameters
    ----------
    calibration_fraction : float, default=0.3
        Fraction of the in-distribution rows that is held out for calibration.
    calibration : {"marginal", "training-conditional"}, default="marginal"
        "marginal" bounds the rate of false alarms on average over calibration sets.
        "training-conditional" bounds the rate that this fitted detector has, with probability
        ``1 - delta``; it needs more calibration rows and detects less, see Notes.
    delta : float, default=0.1
        Probability that the bound of ``calibration="training-conditional"`` fails.
    """

    calibration_fraction: float = parameter(FRACTION, default=0.3, kw_only=True)
    calibration: str = parameter(
        StrOptions({"marginal", "training-conditional"}), default="marginal", kw_only=True
    )
    delta: float = parameter(FRACTION, default=0.1, kw_only=True)

    @property
    def _failure_rate(self) -> float | None:
        """Probability that the bound of this detector fails; None for a marginal bound."""
        return self.delta if self.calibration == "training-conditional" else None

    @abstractmethod
    def _p_values(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Return the p-values of checked data."""

    @abstractmethod
    def _reference(self) -> npt.NDArray[np.float64]:
        """Return the ascending calibration scores of all rows, from one fitted function.

        Raises
        ------
        ValueError
            If the scores come from several detectors.
        """

    @abstractmethod
    def _comparable(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Score rows by the function that gave the reference."""

    def _p_values_to_select(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Return p-values that control the false discovery rate."""
        return self._p_values(data)

    def p_values(self, X: Any) -> npt.NDArray[np.float64]:
        """Test each row or image for coming from the distribution of the inliers.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            In (0, 1]; small = out-of-distribution.
        """
        check_is_fitted(self)
        data = self._check(X)
        with self._shows_progress("scoring"):
            return self._p_values(data)

    def select(self, X: Any, fdr: float = 0.1) -> npt.NDArray[np.bool_]:
        r"""Declare rows of X out-of-distribution, at most `fdr` of them wrongly in expectation.

        The procedure of Benjamini and Hochberg sorts the p-values of all rows of X,
        :math:`p_{(1)} \le \dots \le p_{(m)}`, and declares the rows up to the largest k with
        :math:`p_{(k)} \le k \, \mathrm{fdr} / m`.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        fdr : float, default=0.1
            Bound on the false discovery rate, the expected fraction of in-distribution rows among
            the declared ones, in (0, 1).

        Returns
        -------
        ndarray of shape (n_samples,), bool
            True = declared out-of-distribution.
        """
        if not 0 < fdr < 1:
            raise ValueError(f"fdr={fdr!r}; expected a rate between 0 and 1, such as 0.1")
        check_is_fitted(self)
        data = self._check(X)
        with self._shows_progress("scoring"):
            p_values = self._p_values_to_select(data)
        adjusted = false_discovery_control(p_values, method="bh")
        # Fractions of n + 1 often equal the bound; rounding errors must not decide then.
        return adjusted <= fdr * (1 + 1e-12)

    def drift_test(
        self,
        X: Any,
        *,
        alternative: str = "ood",
        confidence: float = 0.95,
        n_resamples: int = 9999,
        random_state: int = 0,
    ) -> DriftTest:
        r"""Test whether a batch comes from the in-distribution, and estimate its OOD fraction.

        The p-value is exact for any number of rows: if the rows of X and the calibration rows are
        exchangeable, :math:`P(p \le \alpha) \le \alpha`. It may be used once for each batch of new
        rows; :class:`DriftMonitor` tests a stream continuously.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            The batch: one row or more, different from the calibration rows.
        alternative : {"ood", "any"}, default="ood"
            "ood" detects scores that are too low; "any" also detects scores that are too high, such
            as the scores that a density gives blank images.
        confidence : float, default=0.95
            Level of the interval of the OOD fraction, in (0, 1).
        n_resamples : int, default=9999
            Draws from the null distribution. The p-value is at least 1 / (n_resamples + 1).
        random_state : int, default=0
            Seed of the draws.

        Returns
        -------
        DriftTest
            With ``p_value``, ``ood_fraction``, ``low``, ``high``, ``n_rows`` and
            ``n_calibration``.

        Raises
        ------
        ValueError
            For ``method="cross"``, whose calibration scores come from different detectors, and for
            arguments out of range.

        Notes
        -----
        The number of rows of X with a conformal p-value up to r / (n + 1) has a beta-binomial
        distribution with the parameters r and n + 1 - r under the hypothesis. The statistic is the
        smallest of its tail probabilities over ten ranks r between 1 and (n + 1) / 2, so that few
        extreme rows are detected as well as many slightly low ones. The p-value is the rank of the
        statistic among values for Dirichlet-multinomial counts, the joint distribution of the
        counts.

        ``low`` is the smallest fraction that explains the counts: it holds for OOD rows of any
        kind, with probability (1 + confidence) / 2. ``ood_fraction`` and ``high`` compare the
        number of rows above the median of the calibration scores with the number expected; they
        assume that no OOD row has a score above this median, and are too small otherwise. OOD rows
        that score like in-distribution rows cannot be counted.

        References
        ----------
        .. [1] R. H. Berk, D. H. Jones, "Goodness-of-fit test statistics that dominate the
           Kolmogorov statistics", Zeitschrift für Wahrscheinlichkeitstheorie 47, 1979.
        .. [2] J. D. Storey, "A direct approach to false discovery rates", Journal of the Royal
           Statistical Society B 64, 2002.

        Examples
        --------
        >>> import numpy as np
        >>> from skood import KNN, ConformalDetector
        >>> rng = np.random.default_rng(0)
        >>> detector = ConformalDetector(KNN(), random_state=0).fit(rng.normal(size=(600, 3)))
        >>> detector.drift_test(rng.normal(size=(50, 3))).p_value > 0.05
        True
        >>> batch = np.concatenate([rng.normal(size=(40, 3)), rng.normal(5, 1, size=(10, 3))])
        >>> detector.drift_test(batch).p_value
        0.0001
        >>> f"{detector.drift_test(batch).low:.2f}"
        '0.14'
        """
        check_is_fitted(self)
        calibration = self._reference()
        data = self._check(X)
        with self._shows_progress("scoring"):
            scores = self._comparable(data)
        return drift_of(
            calibration,
            scores,
            alternative=alternative,
            confidence=confidence,
            n_resamples=n_resamples,
            random_state=random_state,
        )


def count_up_to(
    calibration: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Count the sorted `calibration` scores that are at most each of `scores`."""
    return np.searchsorted(calibration, scores, side="right")


def p_value_levels(n_calibration: int, delta: float | None = None) -> npt.NDArray[np.float64]:
    r"""Return the p-value of a score with each rank among n calibration scores.

    Parameters
    ----------
    n_calibration : int
        Number of calibration scores, n.
    delta : float or None
        None returns r / (n + 1). A probability returns the bounds of Bates et al. (2023, section
        3.2, with k = n / 2), below which all order statistics of n uniform values lie with
        probability 1 - delta: with m = n + 1 - r,

        .. math:: 1 - \delta^{1 / k} \Big( \frac{m (m - 1) \cdots (m - k + 1)}
            {n (n - 1) \cdots (n - k + 1)} \Big)^{1 / k}

    Returns
    -------
    ndarray of shape (n_calibration + 1,)
        For the ranks r = 1, ..., n + 1; ascending, the last is 1.
    """
    return _level_of(np.arange(n_calibration + 1), n_calibration, delta)


def _level_of(
    n_outscored: npt.NDArray[np.int64], n_calibration: int, delta: float | None
) -> npt.NDArray[np.float64]:
    """Return the p-value of scores that reach these numbers of calibration scores."""
    if delta is None:
        return (1 + n_outscored) / (n_calibration + 1)
    k = max(1, n_calibration // 2)
    m = n_calibration - n_outscored
    largest = gammaln(n_calibration + 1) - gammaln(n_calibration - k + 1)
    log_ratios = gammaln(m + 1) - gammaln(np.maximum(m - k, 0) + 1) - largest
    return np.where(m < k, 1.0, -np.expm1((math.log(delta) + log_ratios) / k))


def conformal_p_values(
    calibration: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    delta: float | None = None,
) -> npt.NDArray[np.float64]:
    """P-values of `scores` among sorted `calibration` scores; `delta` as in p_value_levels."""
    return _level_of(count_up_to(calibration, scores), len(calibration), delta)


def n_rejected_ranks(n_calibration: int, alpha: float, delta: float | None = None) -> int:
    """Count the ranks whose p-values are at most `alpha`."""
    return int(np.searchsorted(p_value_levels(n_calibration, delta), alpha, side="right"))


def threshold_at(
    calibration: npt.NDArray[np.float64], alpha: float, delta: float | None = None
) -> float:
    """Return the smallest score with a p-value above `alpha`; -inf if all p-values are."""
    n_rejected = n_rejected_ranks(len(calibration), alpha, delta)
    return float(calibration[n_rejected - 1]) if n_rejected else -math.inf


def smooth_p_values(
    calibration: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return continuous p-values; without ties, they are within 1 / (n + 1) of the exact ones.

    Ranks are interpolated between the calibration scores. Outside their range, ranks approach 0 or
    n + 1 with the inverse of the distance, so that outliers below all calibration scores differ.
    """
    values, n_equal = np.unique(calibration, return_counts=True)
    middle_ranks = np.cumsum(n_equal) - (n_equal - 1) / 2
    low, high = np.percentile(calibration, [25, 75])
    scale = high - low or 1.0
    with np.errstate(over="ignore"):
        below = 1 + np.maximum(values[0] - scores, 0) / scale
        above = 1 + np.maximum(scores - values[-1], 0) / scale
    n_ranks = len(calibration) + 1
    ranks = np.interp(scores, values, middle_ranks) / below
    return np.where(above > 1, n_ranks - (n_ranks - ranks) / above, ranks) / n_ranks


def n_needed(alpha: float, delta: float | None = None) -> int:
    """Return the number of calibration rows from which on a p-value can be as small as `alpha`."""
    if delta is None:
        return math.ceil(1 / alpha - 1 - 1e-9)
    return 2 * math.ceil(math.log(delta) / math.log1p(-alpha) - 1e-9)


def warn_if_too_few(
    n_calibration: int,
    alpha: float,
    n_items: int | None,
    offset: float,
    delta: float | None = None,
) -> None:
    """Warn if no p-value can be as small as `alpha`.

    Parameters
    ----------
    n_calibration : int
    alpha : float
    n_items : int or None
        Number of in-distribution items that the calibration rows are held out of, if any.
    offset : float
        The resulting threshold.
    delta : float or None
        As in :func:`p_value_levels`.
    """
    if n_rejected_ranks(n_calibration, alpha, delta) == 0:
        needed = n_needed(alpha, delta)
        source = ""
        if n_items is not None:
            source = (
                f", held out of {math.ceil(needed * n_items / n_calibration)} in-distribution "
                f"rows, but X has {n_items}"
            )
        smallest = p_value_levels(n_calibration, delta)[0]
        warnings.warn(
            f"{n_calibration} calibration rows are too few for alpha={alpha}: no p-value is below "
            f"{_as_text(smallest, n_calibration, delta)}, so every row is accepted (offset_ is "
            f"{offset:g}); {needed} are needed{source}. Give more data, hold out more of them, or "
            "take a larger alpha",
            stacklevel=2,
        )


def _as_text(level: float, n_calibration: int, delta: float | None) -> str:
    return f"1 / {n_calibration + 1}" if delta is None else f"{level:.3g}"
