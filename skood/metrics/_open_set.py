"""Measures of classification with rejection of OOD rows; the ID class is positive."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import f1_score

from skood.metrics._counts import RankCounts, count_rows, id_mask, read_labels, read_predictions
from skood.metrics._ranking import area_above

__all__ = ["ccr_at", "ccr_at_fpr", "open_set_f1", "oscr"]


def ccr_at(counts: RankCounts, fpr: float) -> float:
    """Evaluate :func:`ccr_at_fpr` on counts."""
    if not 0 <= fpr <= 1:
        raise ValueError(
            f"fpr is {fpr!r}, expected a rate in [0, 1]. Pass a fraction: 0.01 means 1 %."
        )
    # 29 of 100 rows must meet a level such as 0.29, although 0.29 * 100 is 4e-15 below 29; the
    # slack is far below the distance 1 / n of attainable rates.
    allowed = fpr * counts.ood.sum() * (1 + 1e-12)
    n_thresholds = np.searchsorted(np.cumsum(counts.ood), allowed, side="right")
    return float(counts.correct[:n_thresholds].sum() / counts.id.sum())


def ccr_at_fpr(
    y_true: ArrayLike, y_pred: ArrayLike, y_score: ArrayLike, *, fpr: float = 0.01
) -> float:
    r"""Fraction of ID rows accepted and classified correctly when few OOD rows are accepted.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows.
    y_pred : array-like of int or str, shape (n,)
        Classes predicted without rejection, in the labels of ``y_true``; predictions for OOD rows
        are not used.
    y_score : array-like of float, shape (n,)
        Scores, higher = more in-distribution. -inf and +inf are legitimate.
    fpr : float, default=0.01
        Largest fraction of OOD rows that may be accepted, in [0, 1].

    Returns
    -------
    float
        Correct-classification rate, from 0 to the classifier's accuracy on the ID rows, which it
        reaches at ``fpr=1``.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, ``y_pred`` is of another type or holds -1, ``y_score`` holds NaN,
        or ``fpr`` lies outside [0, 1].

    See Also
    --------
    oscr : Area under this rate over all ``fpr``.
    fpr_at_tpr : Without classes, at a given rate of accepted ID rows.

    Notes
    -----
    ID is positive, and a row is accepted as ID if s >= t, so rows with equal scores are accepted
    together. All ID rows are in the denominator, and t runs over the observed scores:

    .. math::
        \max \Big( \{0\} \cup \big\{
        P_\mathrm{id}(s \ge t \text{ and } \hat y = y) :
        P_\mathrm{ood}(s \ge t) \le \mathrm{fpr} \big\} \Big)

    where 0 stands for accepting nothing. OpenOOD accepts s > t with t the
    :math:`\lceil \mathrm{fpr} \, n_\mathrm{ood} \rceil`-th largest OOD score. Where
    :math:`\mathrm{fpr} \, n_\mathrm{ood}` is an integer, that accepts one OOD row fewer than is
    allowed, and its rate can be lower.

    References
    ----------
    .. [1] A. R. Dhamija, M. Günther and T. E. Boult, "Reducing network agnostophobia",
       NeurIPS 2018.

    Examples
    --------
    >>> from skood.metrics import ccr_at_fpr
    >>> y_true, y_pred = [0, 1, 2, 2, -1, -1], [0, 1, 2, 0, 1, 1]
    >>> y_score = [0.9, 0.8, 0.3, 0.7, 0.5, 0.2]
    >>> ccr_at_fpr(y_true, y_pred, y_score)
    0.5
    >>> ccr_at_fpr(y_true, y_pred, y_score, fpr=0.5)
    0.75
    """
    return ccr_at(count_rows(y_true, y_score, y_pred), fpr)


def oscr(y_true: ArrayLike, y_pred: ArrayLike, y_score: ArrayLike) -> float:
    r"""Area under the open-set classification rate curve with the ID class as positive.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows.
    y_pred : array-like of int or str, shape (n,)
        Classes predicted without rejection, in the labels of ``y_true``; predictions for OOD rows
        are not used.
    y_score : array-like of float, shape (n,)
        Scores, higher = more in-distribution. -inf and +inf are legitimate.

    Returns
    -------
    float
        Area from 0 to the classifier's accuracy on the ID rows, which it reaches if every
        correctly classified row scores above every OOD row. It is at most :func:`auroc`, and
        equal to it if every ID row is classified correctly.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, ``y_pred`` is of another type or holds -1, or ``y_score`` holds
        NaN.

    See Also
    --------
    ccr_at_fpr : One point of the curve.
    auroc : The area for a classifier without errors.

    Notes
    -----
    The trapezoidal area under the correct-classification rate (CCR, all ID rows in the
    denominator) against the false-positive rate, with the point (0, 0) for accepting nothing.
    It equals the probability that a random ID row is classified correctly and scores above a
    random OOD row; a tie counts one half:

    .. math::
        \int_0^1 \mathrm{CCR} \; d\,\mathrm{FPR}
        = \frac{1}{n_\mathrm{id} n_\mathrm{ood}} \sum_{i \,:\, \hat y_i = y_i} \sum_j
        [s_i > s_j] + \tfrac{1}{2} [s_i = s_j]

    Wang et al. [2]_ introduce the right-hand side, without ties, as OpenAUC. Dinari and Freifeld
    [3]_ call the area CAUROC; their code divides it by the classifier's accuracy, so that errors
    of the classifier do not count.

    References
    ----------
    .. [1] A. R. Dhamija, M. Günther and T. E. Boult, "Reducing network agnostophobia",
       NeurIPS 2018.
    .. [2] Z. Wang, Q. Xu, Z. Yang, Y. He, X. Cao and Q. Huang, "OpenAUC: Towards AUC-oriented
       open-set recognition", NeurIPS 2022.
    .. [3] O. Dinari and O. Freifeld, "Variational- and metric-based deep latent space for
       out-of-distribution detection", UAI 2022.

    Examples
    --------
    >>> from skood.metrics import oscr
    >>> oscr([0, 1, 2, 2, -1, -1], [0, 1, 2, 0, 1, 1], [0.9, 0.8, 0.3, 0.7, 0.5, 0.2])
    0.625
    """
    counts = count_rows(y_true, y_score, y_pred)
    return area_above(counts.correct, counts.ood) / int(counts.id.sum())


def open_set_f1(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    r"""Macro-averaged F1 over the ID classes and the unknown class -1, each positive in turn.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows, the unknown class.
    y_pred : array-like of int or str, shape (n,)
        Predicted labels, -1 (among strings "-1") where a row is rejected as unknown:
        ``np.where(detector.predict(X) == 1, classifier.predict(X), -1)``.

    Returns
    -------
    float
        Mean of the F1 of all classes in [0, 1], each with the same weight whatever its size.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, or ``y_pred`` is of another type.

    See Also
    --------
    oscr : Independent of a threshold.

    Notes
    -----
    Over the classes c that occur in ``y_true`` or ``y_pred``, -1 among them:

    .. math::
        \frac{1}{K + 1} \sum_c \frac{2\, \mathrm{TP}_c}
        {2\, \mathrm{TP}_c + \mathrm{FP}_c + \mathrm{FN}_c}

    A class with predictions but without rows counts as 0; a class with neither is left out. This
    is the mean of the classes' F1, not the F1 of the mean precision and the mean recall that some
    works report.

    References
    ----------
    .. [1] R. Yoshihashi, W. Shao, R. Kawakami, S. You, M. Iida and T. Naemura,
       "Classification-reconstruction learning for open-set recognition", CVPR 2019.
    .. [2] O. Dinari and O. Freifeld, "Variational- and metric-based deep latent space for
       out-of-distribution detection", UAI 2022.

    Examples
    --------
    >>> from skood.metrics import open_set_f1
    >>> open_set_f1([0, 0, 1, 1, -1, -1], [0, 0, 1, -1, -1, 1])
    0.6666666666666666
    """
    labels = read_labels(y_true)
    id_mask(labels)
    predicted = read_predictions(y_pred, labels)
    # Every averaged class has a row or a prediction, so no F1 is 0/0: zero_division has no effect.
    return float(f1_score(labels, predicted, average="macro", zero_division=0.0))
