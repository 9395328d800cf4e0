"""Threshold-free and operating-point measures of an OOD score; the ID class is positive."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

__all__ = ["aupr_in", "aupr_out", "auroc", "detection_error", "fpr_at_tpr"]


def _id_mask_and_ranks(
    y_true: ArrayLike, y_score: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Validate the pair and reduce it to what a ranking measure depends on.

    Parameters
    ----------
    y_true : array-like of int, shape (n,)
        Labels >= 0 for ID rows, -1 for OOD rows.
    y_score : array-like of float, shape (n,)
        Higher is more in-distribution; -inf and +inf are allowed.

    Returns
    -------
    is_id : ndarray of bool, shape (n,)
        True for ID rows.
    ranks : ndarray of int, shape (n,)
        Dense ranks of the scores from 0 up; equal scores share a rank.

    Raises
    ------
    ValueError
        If the arrays are not a pair of non-empty vectors of one length, the labels are not
        integers >= -1 with both ID and OOD rows, or the scores are not numbers or hold NaN.
    """
    labels, scores = np.asarray(y_true), np.asarray(y_score)
    if labels.ndim != 1:
        raise ValueError(
            f"y_true has shape {labels.shape}, expected (n,): one label a row. "
            "Pass y_true.ravel() if it is a single column or row."
        )
    if scores.ndim != 1:
        raise ValueError(
            f"y_score has shape {scores.shape}, expected (n,): one score a row, higher = more "
            "in-distribution. Pass detector.score_samples(X), or reduce class scores to one "
            "number a row first."
        )
    if len(labels) != len(scores):
        raise ValueError(
            f"y_true has {len(labels)} rows and y_score has {len(scores)}, expected the same "
            "number. Score the very rows that the labels describe."
        )
    if len(labels) == 0:
        raise ValueError(
            "y_true and y_score are empty, expected at least one ID and one OOD row. "
            "Concatenate the two sets before calling a metric."
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"y_true has dtype {labels.dtype}, expected integers: -1 for OOD, a class label >= 0 "
            "or +1 for ID. Build it with np.where(is_ood, -1, 1), or cast labels with astype(int)."
        )
    if labels.min() < -1:
        raise ValueError(
            f"y_true holds the label {labels.min()}, expected -1 for OOD and labels >= 0 for ID. "
            "Relabel every OOD row as -1."
        )
    is_id = labels >= 0
    if is_id.all():
        raise ValueError(
            f"y_true has no OOD row: its labels run from {labels.min()} to {labels.max()}, and 0 "
            "is an ID label too. Expected at least one -1; mark OOD rows with "
            "np.where(is_ood, -1, y_true)."
        )
    if not is_id.any():
        raise ValueError(
            f"y_true has no ID row: all {len(labels)} labels are -1. Expected at least one label "
            ">= 0; append scores and labels of in-distribution test rows."
        )
    if scores.dtype.kind not in "biuf":
        raise ValueError(
            f"y_score has dtype {scores.dtype}, expected real numbers. "
            "Convert it with np.asarray(y_score, dtype=float)."
        )
    is_nan = np.isnan(scores)
    if is_nan.any():
        raise ValueError(
            f"y_score is NaN in {is_nan.sum()} of {len(scores)} rows (first at row "
            f"{is_nan.argmax()}), expected numbers, -inf or +inf. Find out where the NaN comes "
            "from; a row that is impossible under the model scores -inf."
        )
    # scikit-learn rejects infinite scores; ranks keep the order and the ties, which is all that
    # its curves use.
    return is_id, np.unique(scores, return_inverse=True)[1]


def auroc(y_true: ArrayLike, y_score: ArrayLike) -> float:
    r"""Area under the ROC curve with the in-distribution class as positive.

    Parameters
    ----------
    y_true : array-like of int, shape (n,)
        Class labels >= 0 (0 included), or +1, for in-distribution rows; -1 for
        out-of-distribution rows.
    y_score : array-like of float, shape (n,)
        Scores, higher = more in-distribution. -inf and +inf are legitimate.

    Returns
    -------
    float
        Area in [0, 1]: 1 if every ID row scores above every OOD row, 0.5 for a score that says
        nothing, 0 if the order is inverted.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 with both ID and
        OOD rows, or ``y_score`` holds NaN.

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
    is_id, ranks = _id_mask_and_ranks(y_true, y_score)
    return float(roc_auc_score(is_id, ranks))


def aupr_in(y_true: ArrayLike, y_score: ArrayLike) -> float:
    r"""Average precision with the in-distribution class as positive.

    Parameters
    ----------
    y_true : array-like of int, shape (n,)
        Class labels >= 0 (0 included), or +1, for in-distribution rows; -1 for
        out-of-distribution rows.
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
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 with both ID and
        OOD rows, or ``y_score`` holds NaN.

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
    is_id, ranks = _id_mask_and_ranks(y_true, y_score)
    return float(average_precision_score(is_id, ranks))


def aupr_out(y_true: ArrayLike, y_score: ArrayLike) -> float:
    r"""Average precision with the out-of-distribution class as positive.

    Parameters
    ----------
    y_true : array-like of int, shape (n,)
        Class labels >= 0 (0 included), or +1, for in-distribution rows; -1 for
        out-of-distribution rows.
    y_score : array-like of float, shape (n,)
        Scores, higher = more in-distribution, as for every metric here: the sign is turned
        inside. -inf and +inf are legitimate.

    Returns
    -------
    float
        Average precision in (0, 1]. A constant score gives the share of OOD rows, so values
        compare only between test sets of the same composition.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 with both ID and
        OOD rows, or ``y_score`` holds NaN.

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
    is_id, ranks = _id_mask_and_ranks(y_true, y_score)
    return float(average_precision_score(~is_id, -ranks))


def fpr_at_tpr(y_true: ArrayLike, y_score: ArrayLike, *, tpr: float = 0.95) -> float:
    r"""Share of OOD rows accepted when at least a share ``tpr`` of the ID rows is accepted.

    Parameters
    ----------
    y_true : array-like of int, shape (n,)
        Class labels >= 0 (0 included), or +1, for in-distribution rows; -1 for
        out-of-distribution rows.
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
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 with both ID and
        OOD rows, ``y_score`` holds NaN, or ``tpr`` lies outside (0, 1].

    See Also
    --------
    detection_error : Error at the best threshold instead of at a given one.

    Notes
    -----
    ID is positive, and a row is accepted as ID if s >= t, so rows with equal scores are accepted
    together. The smallest attainable rate is returned, without interpolation:

    .. math::
        P(s_\mathrm{ood} \ge t^*), \qquad
        t^* = \max \{ t : P(s_\mathrm{id} \ge t) \ge \mathrm{tpr} \}

    where t runs over the observed scores. OpenOOD and pytorch-ood take OOD as the positive class,
    which is another number; swap +1 and -1 in ``y_true`` and negate the scores to obtain it.

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
    if not 0 < tpr <= 1:
        raise ValueError(
            f"tpr is {tpr!r}, expected a rate in (0, 1]. Pass a fraction: 0.95 means 95 %."
        )
    is_id, ranks = _id_mask_and_ranks(y_true, y_score)
    fpr_curve, tpr_curve, _ = roc_curve(is_id, ranks, drop_intermediate=False)
    # A level such as 1 - 0.7 is 4e-17 above 3/10 and must still be met by 3 of 10 rows; the
    # slack is far below the 1 / n between two attainable rates.
    return float(fpr_curve[np.argmax(tpr_curve >= tpr * (1 - 1e-12))])


def detection_error(y_true: ArrayLike, y_score: ArrayLike) -> float:
    r"""Smallest error of any threshold when ID and OOD rows are equally likely.

    Parameters
    ----------
    y_true : array-like of int, shape (n,)
        Class labels >= 0 (0 included), or +1, for in-distribution rows; -1 for
        out-of-distribution rows.
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
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 with both ID and
        OOD rows, or ``y_score`` holds NaN.

    See Also
    --------
    fpr_at_tpr : Error on OOD rows at a threshold set by the ID rows.

    Notes
    -----
    ID is positive, and t runs over the observed scores and one value below them all, so rows with
    equal scores fall on one side together:

    .. math::
        \min_t \tfrac{1}{2} \left[ P(s_\mathrm{id} \le t) + P(s_\mathrm{ood} > t) \right]

    The two classes weigh the same whatever their sizes. Lee et al. [1]_ report one minus this as
    detection accuracy. Liang et al. [2]_ evaluate the bracket at a 95 % true-positive rate
    instead of minimising it, which cannot be smaller.

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
    is_id, ranks = _id_mask_and_ranks(y_true, y_score)
    fpr_curve, tpr_curve, _ = roc_curve(is_id, ranks, drop_intermediate=False)
    return float(0.5 * np.min(1 - tpr_curve + fpr_curve))
