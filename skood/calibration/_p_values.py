"""Base of the detectors with conformal p-values."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import false_discovery_control
from sklearn.utils.validation import check_is_fitted

from skood._checked_data import CheckedData
from skood._parameters import FRACTION, estimator, parameter
from skood.calibration._base import CalibratedDetector

__all__ = [
    "PValueDetector",
    "conformal_p_values",
    "count_up_to",
    "n_rejected_ranks",
    "smooth_p_values",
    "threshold_at",
    "warn_if_too_few",
]


@estimator
class PValueDetector(CalibratedDetector):
    """Base of the detectors with conformal p-values, which decide at level `alpha`.

    A subclass implements ``_p_values`` in addition to the methods that :class:`CalibratedDetector`
    requires, such that ``score >= offset_`` if and only if ``p > alpha``.

    Parameters
    ----------
    calibration_fraction : float, default=0.3
        Fraction of the in-distribution rows that is held out for calibration.
    """

    calibration_fraction: float = parameter(FRACTION, default=0.3, kw_only=True)

    @abstractmethod
    def _p_values(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Return the p-values of checked data."""

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


def count_up_to(
    calibration: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Count the sorted `calibration` scores that are at most each of `scores`."""
    return np.searchsorted(calibration, scores, side="right")


def conformal_p_values(
    calibration: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """P-values of `scores` among sorted `calibration` scores."""
    return (1 + count_up_to(calibration, scores)) / (len(calibration) + 1)


def n_rejected_ranks(n_calibration: int, alpha: float) -> int:
    """Count the p-values 1 / (n + 1), 2 / (n + 1), ... that are at most `alpha`."""
    levels = np.arange(1, n_calibration + 2) / (n_calibration + 1)
    return int(np.searchsorted(levels, alpha, side="right"))


def threshold_at(calibration: npt.NDArray[np.float64], alpha: float) -> float:
    """Return the smallest score with a p-value above `alpha`; -inf if all p-values are."""
    n_rejected = n_rejected_ranks(len(calibration), alpha)
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


def warn_if_too_few(n_calibration: int, alpha: float, n_items: int | None, offset: float) -> None:
    """Warn if no p-value can be as small as `alpha`.

    Parameters
    ----------
    n_calibration : int
    alpha : float
    n_items : int or None
        Number of in-distribution items that the calibration rows are held out of, if any.
    offset : float
        The resulting threshold.
    """
    if n_rejected_ranks(n_calibration, alpha) == 0:
        needed = math.ceil(1 / alpha - 1 - 1e-9)
        source = ""
        if n_items is not None:
            source = (
                f", held out of {math.ceil(needed * n_items / n_calibration)} in-distribution "
                f"rows, but X has {n_items}"
            )
        warnings.warn(
            f"{n_calibration} calibration rows are too few for alpha={alpha}: no p-value is below "
            f"1 / {n_calibration + 1}, so every row is accepted (offset_ is {offset:g}); {needed} "
            f"are needed{source}. Give more data, hold out more of them, or take a larger alpha",
            stacklevel=2,
        )
