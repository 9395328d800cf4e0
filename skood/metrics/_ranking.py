"""Threshold-free and operating-point measures of an OOD score; the ID class is positive."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skood.metrics._counts import RankCounts, count_rows

__all__ = [
    "area_above",
    "aupr_in",
    "aupr_out",
    "auroc",
    "average_precision",
    "detection_error",
    "fpr_at",
    "fpr_at_tpr",
    "smallest_error",
]


def area_above(positive: NDArray[np.intp], ood: NDArray[np.intp]) -> float:
    """Sum P(s > s_ood) + P(s = s_ood) / 2 over rows, counted at each score from the largest down.

    The sums are integers, so that their order has no effect.
    """
    n_ood = int(ood.sum())
    # Twice the number of OOD rows below each score, plus the number of OOD rows at the score.
    twice_outscored = 2 * (n_ood - np.cumsum(ood)) + ood
    return int(positive @ twice_outscored) / (2 * n_ood)


def average_precision(positive: NDArray[np.intp], negative: NDArray[np.intp]) -> float:
    """Sum precision over the steps of recall, for counts in the order of acceptance."""
    precision = np.cumsum(positive) / np.cumsum(positive + negative)
    return float(positive @ precision / positive.sum())


def fpr_at(counts: RankCounts, tpr: float) -> float:
    """Evaluate :func:`fpr_at_tpr` on counts."""
    if not 0 < tpr <= 1:
        raise ValueError(
            f"tpr is {tpr!r}, expected a rate in (0, 1]. Pass a fraction: 0.95 means 95 %."
        )
    # 3 of 10 rows must meet a level such as 1 - 0.7, although it is 4e-17 above 3/10; the slack is
    # far below the distance 1 / n of attainable rates.
    needed = tpr * counts.id.sum() * (1 - 1e-12)
    threshold = np.searchsorted(np.cumsum(counts.id), needed)
    return float(counts.ood[: threshold + 1].sum() / counts.ood.sum())


def smallest_error(counts: RankCounts) -> float:
    """Evaluate :func:`detection_error` on counts."""
    n_id, n_ood = int(counts.id.sum()), int(counts.ood.sum())
    errors = n_ood * (n_id - np.cumsum(counts.id)) + n_id * np.cumsum(counts.ood)
    return min(0.5, int(errors.min()) / (2 * n_id * n_ood))


def auroc(y_true: ArrayLike, y_score: ArrayLike) -> float:
    r"""Area under the ROC curve with the in-distribution class as positive.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows.
    y_score : array-like of float, shape (n,)
        Scores, higher = more in-distribution. -inf and +inf are legitimate.

    Returns
    -------
    float
        Area in [0, 1]: 1 if every ID row scores above every OOD row, 0.5 for an uninformative
        score, 0 if the order is inverted.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, or ``y_score`` holds NaN.

    See Also
    --------
    aupr_in : Sensitive to the share of ID rows.
    fpr_at_tpr : One point of the same curve.

    Notes
    -----
    The probability that a random ID row scores above a random OOD row; a tie counts one half:

    .. math:: P(s_\mathrm{id} > s_\mathrm{ood}) + \tfrac{1}{2} P(s_\mathrm{id} = s_\mathrm{ood})

    Making OOD the positive class and negating the scores gives the same number.

    References
    ----------
    .. [1] J. A. Hanley and B. J. McNeil, "The meaning and use of the area under a receiver
       operating characteristic (ROC) curve", Radiology 143(1), 1982.
    .. [2] D. Hendrycks and K. Gimpel, "A baseline for detecting misclassified and
       out-of-distribution examples in neural networks", ICLR 2017.

    Examples
    --------
    >>> from skood.metrics import auroc
    >>> auroc([0, 2, -1, -1], [0.9, 0.4, 0.4, float("-inf")])
    0.875
    """
    counts = count_rows(y_true, y_score)
    return area_above(counts.id, counts.ood) / int(counts.id.sum())


def aupr_in(y_true: ArrayLike, y_score: ArrayLike) -> float:
    r"""Average precision with the in-distribution class as positive.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows.
    y_score : array-like of float, shape (n,)
        Scores, higher = more in-distribution. -inf and +inf are legitimate.

    Returns
    -------
    float
        Average precision in (0, 1]. A constant score gives the share of ID rows, so values
        compare only between test sets of the same composition.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, or ``y_score`` holds NaN.

    See Also
    --------
    aupr_out : The same with OOD as the positive class.

    Notes
    -----
    With precision :math:`P_k` and recall :math:`R_k` of "accept as ID if s >= t" at the k-th
    largest distinct score, and :math:`R_0 = 0`:

    .. math:: \mathrm{AP} = \sum_k (R_k - R_{k-1}) P_k

    Rows with equal scores enter together. This step sum differs from the trapezoidal area under
    the same points, which joins them by straight lines that precision does not follow [1]_;
    OpenOOD and pytorch-ood report the trapezoidal area.

    References
    ----------
    .. [1] J. Davis and M. Goadrich, "The relationship between precision-recall and ROC curves",
       ICML 2006.
    .. [2] D. Hendrycks and K. Gimpel, "A baseline for detecting misclassified and
       out-of-distribution examples in neural networks", ICLR 2017.

    Examples
    --------
    >>> from skood.metrics import aupr_in
    >>> aupr_in([1, 1, -1, -1], [4.0, 2.0, 3.0, 2.0])
    0.75
    """
    counts = count_rows(y_true, y_score)
    return average_precision(counts.id, counts.ood)


def aupr_out(y_true: ArrayLike, y_score: ArrayLike) -> float:
    r"""Average precision with the out-of-distribution class as positive.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows.
    y_score : array-like of float, shape (n,)
        Scores, higher = more in-distribution, as for every metric here; they are negated
        internally. -inf and +inf are legitimate.

    Returns
    -------
    float
        Average precision in (0, 1]. A constant score gives the share of OOD rows, so values
        compare only between test sets of the same composition.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, or ``y_score`` holds NaN.

    See Also
    --------
    aupr_in : The same with ID as the positive class.

    Notes
    -----
    With precision :math:`P_k` and recall :math:`R_k` of "flag as OOD if s <= t" at the k-th
    smallest distinct score, and :math:`R_0 = 0`:

    .. math:: \mathrm{AP} = \sum_k (R_k - R_{k-1}) P_k

    Rows with equal scores enter together. As for :func:`aupr_in`, this is the step sum and not
    the trapezoidal area.

    References
    ----------
    .. [1] J. Davis and M. Goadrich, "The relationship between precision-recall and ROC curves",
       ICML 2006.
    .. [2] D. Hendrycks and K. Gimpel, "A baseline for detecting misclassified and
       out-of-distribution examples in neural networks", ICLR 2017.

    Examples
    --------
    >>> from skood.metrics import aupr_out
    >>> aupr_out([1, 1, -1, -1], [4.0, 2.0, 1.0, 3.0])
    0.8333333333333333
    """
    counts = count_rows(y_true, y_score)
    return average_precision(counts.ood[::-1], counts.id[::-1])


def fpr_at_tpr(y_true: ArrayLike, y_score: ArrayLike, *, tpr: float = 0.95) -> float:
    r"""Fraction of OOD rows accepted if at least a fraction ``tpr`` of the ID rows is accepted.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows.
    y_score : array-like of float, shape (n,)
        Scores, higher = more in-distribution. -inf and +inf are legitimate.
    tpr : float, default=0.95
        Required true-positive rate in (0, 1].

    Returns
    -------
    float
        False-positive rate in [0, 1]; 0 is best.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, ``y_score`` holds NaN, or ``tpr`` lies outside (0, 1].

    See Also
    --------
    detection_error : Error at the best threshold instead of at a given one.

    Notes
    -----
    ID is positive, and a row is accepted as ID if s >= t, so rows with equal scores are accepted
    together. The result is the smallest attainable rate, without interpolation:

    .. math::
        P(s_\mathrm{ood} \ge t^*), \qquad
        t^* = \max \{ t : P(s_\mathrm{id} \ge t) \ge \mathrm{tpr} \}

    where t runs over the observed scores. OpenOOD and pytorch-ood take OOD as the positive class,
    which gives a different value; swap +1 and -1 in ``y_true`` and negate the scores to obtain it.

    References
    ----------
    .. [1] S. Liang, Y. Li and R. Srikant, "Enhancing the reliability of out-of-distribution image
       detection in neural networks", ICLR 2018.

    Examples
    --------
    >>> from skood.metrics import fpr_at_tpr
    >>> y_true, y_score = [1, 1, 1, 1, -1, -1], [5.0, 4.0, 3.0, 1.0, 2.0, 0.0]
    >>> fpr_at_tpr(y_true, y_score)
    0.5
    >>> fpr_at_tpr(y_true, y_score, tpr=0.75)
    0.0
    """
    return fpr_at(count_rows(y_true, y_score), tpr)


def detection_error(y_true: ArrayLike, y_score: ArrayLike) -> float:
    r"""Smallest error of any threshold when ID and OOD rows are equally likely.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows.
    y_score : array-like of float, shape (n,)
        Scores, higher = more in-distribution. -inf and +inf are legitimate.

    Returns
    -------
    float
        Error in [0, 0.5]: 0 if one threshold separates the classes, 0.5 if none does better than
        accepting all rows or none.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, or ``y_score`` holds NaN.

    See Also
    --------
    fpr_at_tpr : Error on OOD rows at a threshold chosen on the ID rows.

    Notes
    -----
    ID is positive, and t runs over the observed scores and a value below them all, so rows with
    equal scores are on the same side of a threshold:

    .. math::
        \min_t \tfrac{1}{2} \left[ P(s_\mathrm{id} \le t) + P(s_\mathrm{ood} > t) \right]

    The two classes have equal weights whatever their sizes. Lee et al. [1]_ report the detection
    accuracy, one minus this error. Liang et al. [2]_ evaluate the bracket at a 95 % true-positive
    rate instead of minimising it, so their value is at least as large.

    References
    ----------
    .. [1] K. Lee, H. Lee, K. Lee and J. Shin, "Training confidence-calibrated classifiers for
       detecting out-of-distribution samples", ICLR 2018.
    .. [2] S. Liang, Y. Li and R. Srikant, "Enhancing the reliability of out-of-distribution image
       detection in neural networks", ICLR 2018.

    Examples
    --------
    >>> from skood.metrics import detection_error
    >>> detection_error([1, 1, 1, 1, -1, -1], [5.0, 4.0, 3.0, 1.0, 2.0, 0.0])
    0.125
    """
    return smallest_error(count_rows(y_true, y_score))
