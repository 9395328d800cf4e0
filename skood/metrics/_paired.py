"""Tests of the difference between two scores of the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skood.metrics._bootstrap import Seed, check_level, draws_of
from skood.metrics._counts import rank_rows

__all__ = [
    "PairedTest",
    "bootstrap_test",
    "delong_test",
    "holm",
    "normal_test",
    "placements",
    "resampled_test",
]


class PairedTest(NamedTuple):
    """Difference of a metric between two scores of the same rows.

    Attributes
    ----------
    difference : float
        Metric of the first score minus metric of the second score.
    low, high : float
        Bounds of a confidence interval of the difference.
    p_value : float
        Two-sided p-value of the hypothesis that the difference is 0 in the population.
    """

    difference: float
    low: float
    high: float
    p_value: float


def delong_test(
    y_true: ArrayLike, y_score: ArrayLike, other_score: ArrayLike, *, confidence: float = 0.95
) -> PairedTest:
    r"""Test whether two scores of the same rows have the same AUROC (DeLong et al. 1988).

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows.
    y_score : array-like of float, shape (n,)
        Scores, higher = more in-distribution. -inf and +inf are legitimate.
    other_score : array-like of float, shape (n,)
        Scores of the same rows by another detector.
    confidence : float, default=0.95
        Nominal coverage of the interval, in (0, 1).

    Returns
    -------
    PairedTest
        Named tuple ``(difference, low, high, p_value)`` of floats. The p-value is 1 if the two
        scores order the rows equally well without exception, and NaN if the variance of a
        difference other than 0 cannot be estimated: with one ID or one OOD row, or if all rows
        have the same difference.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, a score is NaN or ``confidence`` lies outside (0, 1).

    See Also
    --------
    bootstrap_test : The same for any metric.
    auroc : The metric.

    Notes
    -----
    The placement of an ID row is the fraction of OOD rows below it, the placement of an OOD row the
    fraction of ID rows above it; a tie counts one half. With :math:`d_i` and :math:`e_j` the
    differences between the placements of the two scores, the AUROCs differ by
    :math:`\bar d = \bar e`, and

    .. math::
        z = \frac{\bar d}{\sqrt{s_d^2 / n_\mathrm{id} + s_e^2 / n_\mathrm{ood}}}

    is compared with the standard normal distribution. :math:`s_d^2` and :math:`s_e^2` are the
    sample variances. The rows are assumed independent. The test is approximate; it compares two
    fitted detectors and does not cover the variation between training runs.

    References
    ----------
    .. [1] E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, "Comparing the areas under two or
       more correlated receiver operating characteristic curves: a nonparametric approach",
       Biometrics 44(3), 1988.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.metrics import delong_test
    >>> rng = np.random.default_rng(0)
    >>> y_true = np.repeat([1, -1], 200)
    >>> good = rng.normal(size=400) + 2 * (y_true == 1)
    >>> noisy = good + 2 * rng.normal(size=400)
    >>> test = delong_test(y_true, good, noisy)
    >>> bool(test.p_value < 0.001 and 0 < test.low < test.difference < test.high)
    True
    """
    check_level(confidence)
    id_part, ood_part = (
        first - second
        for first, second in zip(
            _placements_of(y_true, y_score), _placements_of(y_true, other_score), strict=True
        )
    )
    return normal_test(id_part, [ood_part], confidence)


def bootstrap_test(
    metric: Callable[..., float],
    y_true: ArrayLike,
    y_score: ArrayLike,
    other_score: ArrayLike,
    *,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    random_state: Seed = None,
    **metric_params: Any,
) -> PairedTest:
    r"""Test whether two scores of the same rows have the same metric, by a paired bootstrap.

    Parameters
    ----------
    metric : callable
        Any metric of a score, called as ``metric(y_true, y_score, **metric_params)``.
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows.
    y_score : array-like of float, shape (n,)
        Scores, higher = more in-distribution. -inf and +inf are legitimate.
    other_score : array-like of float, shape (n,)
        Scores of the same rows by another detector.
    n_resamples : int, default=1000
        Number of resamples. The smallest p-value is 2 / (n_resamples + 1).
    confidence : float, default=0.95
        Nominal coverage of the interval, in (0, 1).
    random_state : int, RandomState, Generator or None, default=None
        None takes entropy from the operating system; numpy's global generator is neither read
        nor advanced.
    **metric_params : dict
        Keyword arguments of the metric, such as ``tpr=0.8``.

    Returns
    -------
    PairedTest
        Named tuple ``(difference, low, high, p_value)`` of floats.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, a score is NaN, ``n_resamples`` is not a positive integer or
        ``confidence`` lies outside (0, 1). Errors of the metric are passed on.

    See Also
    --------
    delong_test : Faster, for the AUROC.
    bootstrap_interval : The interval of one metric.

    Notes
    -----
    Every resample draws ID rows and OOD rows with replacement, and measures both scores on the same
    rows. The interval has the percentiles of the B differences :math:`\delta^*_b` as bounds. The
    p-value is twice the smaller tail at 0:

    .. math::
        p = \min \Big( 1, \; 2 \, \frac{1 + \min(\#\{\delta^*_b \le 0\},
        \#\{\delta^*_b \ge 0\})}{B + 1} \Big)

    The rows are assumed independent. The test compares two fitted detectors and does not cover the
    variation between training runs.

    References
    ----------
    .. [1] B. Efron and R. J. Tibshirani, "An introduction to the bootstrap", Chapman & Hall,
       1993, chapter 16.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.metrics import bootstrap_test, fpr_at_tpr
    >>> rng = np.random.default_rng(0)
    >>> y_true = np.repeat([1, -1], 200)
    >>> good = rng.normal(size=400) + 2 * (y_true == 1)
    >>> noisy = good + 2 * rng.normal(size=400)
    >>> test = bootstrap_test(fpr_at_tpr, y_true, good, noisy, random_state=0)
    >>> bool(test.difference < 0 and test.p_value < 0.01)
    True
    """
    is_id, _, _ = rank_rows(y_true, y_score)
    rank_rows(y_true, other_score)
    labels, first, second = map(np.asarray, (y_true, y_score, other_score))

    def difference(rows: NDArray[np.intp]) -> float:
        one, two = (metric(labels[rows], s[rows], **metric_params) for s in (first, second))
        return one - two

    strata = [np.flatnonzero(is_id), np.flatnonzero(~is_id)]
    differences = [
        difference(np.concatenate(drawn))
        for drawn in draws_of(strata, n_resamples=n_resamples, random_state=random_state)
    ]
    return resampled_test(difference(np.arange(len(labels))), np.array(differences), confidence)


def placements(
    id_scores: NDArray, ood_scores: NDArray, weights: NDArray | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the placements of ID and of OOD rows; the mean of each is the AUROC.

    With `weights` of the ID rows, 1 if the class is predicted correctly and else 0, the mean is the
    OSCR.
    """
    of_id = _below(id_scores, ood_scores, np.ones(len(ood_scores))) / len(ood_scores)
    if weights is None:
        weights = np.ones(len(id_scores))
    weights = np.asarray(weights, dtype=np.float64)
    of_ood = (weights.sum() - _below(ood_scores, id_scores, weights)) / len(id_scores)
    return of_id * weights, of_ood


def normal_test(
    id_part: NDArray[np.float64], ood_parts: Sequence[NDArray[np.float64]], confidence: float
) -> PairedTest:
    """Test differences of placements; those of several OOD sets are averaged, sets weighted alike.

    `id_part` holds the mean over the sets for each ID row.
    """
    difference = float(id_part.mean())
    parts = [id_part, *(part / len(ood_parts) for part in ood_parts)]
    if np.all([(part == 0).all() for part in parts]):
        return PairedTest(0.0, 0.0, 0.0, 1.0)
    if min(map(len, parts)) < 2:
        return PairedTest(difference, math.nan, math.nan, math.nan)
    error = math.sqrt(sum(part.var(ddof=1) / len(part) for part in parts))
    # Equal differences of all rows have a variance that consists of rounding errors.
    if error < 1e-12:
        return PairedTest(difference, math.nan, math.nan, math.nan)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * error
    p_value = math.erfc(abs(difference) / error / math.sqrt(2))
    return PairedTest(difference, difference - half, difference + half, p_value)


def resampled_test(
    difference: float, resampled: NDArray[np.float64], confidence: float
) -> PairedTest:
    """Return the percentile interval and the two-sided p-value; NaN if a difference is NaN."""
    check_level(confidence)
    if np.isnan(difference) or np.isnan(resampled).any():
        return PairedTest(float(difference), math.nan, math.nan, math.nan)
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail]).tolist()
    smaller = min(np.count_nonzero(resampled <= 0), np.count_nonzero(resampled >= 0))
    p_value = min(1.0, 2 * (1 + smaller) / (len(resampled) + 1))
    return PairedTest(float(difference), low, high, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979); a NaN counts as a hypothesis and stays NaN."""
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    factors = np.arange(len(given), 0, -1)
    adjusted = np.empty_like(given)
    # NaN is sorted last, so that it does not enter the maxima of other p-values.
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * factors))
    return adjusted.tolist()


def _placements_of(
    y_true: ArrayLike, y_score: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    is_id, _, ranks = rank_rows(y_true, y_score)
    return placements(ranks[is_id], ranks[~is_id])


def _below(scores: NDArray, others: NDArray, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum the weights of `others` below each score; a tie counts one half."""
    order = np.argsort(others, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(weights[order])])
    positions = (np.searchsorted(others[order], scores, side=side) for side in ("left", "right"))
    left, right = (sums[position] for position in positions)
    return (left + right) / 2
