"""Curves of classification with rejection, over all thresholds of a score."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skood.metrics._counts import count_rows, rank_rows, read_labels, read_predictions

__all__ = ["ccr_curve", "macro_f1", "open_set_f1_curve"]


def ccr_curve(
    y_true: ArrayLike, y_pred: ArrayLike, y_score: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    r"""Correct-classification rate of ID rows and false-positive rate at every threshold.

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
    fpr : ndarray of float64, shape (n_thresholds,)
        Fraction of OOD rows accepted, from 0 up to 1.
    ccr : ndarray of float64, shape (n_thresholds,)
        Fraction of ID rows accepted and classified correctly, from 0 up to the accuracy.
    thresholds : ndarray of float64, shape (n_thresholds,)
        A row is accepted if its score is at least the threshold. The first is +inf and stands for
        accepting nothing; the others are the distinct scores, from the largest down.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, ``y_pred`` is of another type or holds -1, or ``y_score`` holds
        NaN.

    See Also
    --------
    oscr : The area under this curve.
    ccr_at_fpr : One point of this curve.

    Notes
    -----
    .. math::
        \mathrm{CCR}(t) = P_\mathrm{id}(s \ge t \text{ and } \hat y = y), \qquad
        \mathrm{FPR}(t) = P_\mathrm{ood}(s \ge t)

    References
    ----------
    .. [1] A. R. Dhamija, M. Günther and T. E. Boult, "Reducing network agnostophobia",
       NeurIPS 2018.

    Examples
    --------
    >>> from skood.metrics import ccr_curve
    >>> fpr, ccr, _ = ccr_curve([0, 1, 1, -1, -1], [0, 1, 0, 0, 0], [0.9, 0.7, 0.6, 0.8, 0.1])
    >>> fpr.tolist(), ccr.round(2).tolist()
    ([0.0, 0.0, 0.5, 0.5, 0.5, 1.0], [0.0, 0.33, 0.33, 0.67, 0.67, 0.67])
    """
    counts = count_rows(y_true, y_score, y_pred)
    fpr = np.append(0, np.cumsum(counts.ood)) / counts.ood.sum()
    ccr = np.append(0, np.cumsum(counts.correct)) / counts.id.sum()
    return fpr, ccr, _thresholds(y_score)


def open_set_f1_curve(
    y_true: ArrayLike, y_pred: ArrayLike, y_score: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Macro-averaged F1 over the ID classes and the unknown class, at every threshold.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows, the unknown class.
    y_pred : array-like of int or str, shape (n,)
        Classes predicted without rejection, in the labels of ``y_true``, for OOD rows as well.
    y_score : array-like of float, shape (n,)
        Scores, higher = more in-distribution. -inf and +inf are legitimate.

    Returns
    -------
    f1 : ndarray of float64, shape (n_thresholds,)
        :func:`open_set_f1` if the rows below the threshold are rejected.
    thresholds : ndarray of float64, shape (n_thresholds,)
        A row is accepted if its score is at least the threshold. The first is +inf and stands for
        accepting nothing; the others are the distinct scores, from the largest down.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, ``y_pred`` is of another type or holds -1, or ``y_score`` holds
        NaN.

    See Also
    --------
    open_set_f1 : The value for given rejections.

    Notes
    -----
    The largest value of the curve is chosen with the test rows: it is not the F1 of a detector. A
    detector has the F1 at the threshold that it learned without these rows.

    References
    ----------
    .. [1] O. Dinari and O. Freifeld, "Variational- and metric-based deep latent space for
       out-of-distribution detection", UAI 2022.

    Examples
    --------
    >>> from skood.metrics import open_set_f1_curve
    >>> f1, thresholds = open_set_f1_curve([0, 1, -1], [0, 1, 1], [0.9, 0.8, 0.1])
    >>> f1.round(2).tolist(), thresholds.tolist()
    ([0.17, 0.56, 1.0, 0.56], [inf, 0.9, 0.8, 0.1])
    """
    labels = read_labels(y_true)
    is_id, _, ranks = rank_rows(y_true, y_score, y_pred)
    predicted = read_predictions(y_pred, labels)
    n_ranks = ranks.max() + 1

    def accepted(rows: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Count the rows that are accepted at each threshold."""
        return np.append(0, np.cumsum(np.bincount(ranks[rows], minlength=n_ranks)[::-1]))

    everything = accepted(np.ones(len(labels), dtype=bool))
    # The unknown class: rows below the threshold are predicted, and OOD rows among them correctly.
    n_ood = np.count_nonzero(~is_id)
    total = 2 * (n_ood - accepted(~is_id)) / (n_ood + len(labels) - everything)
    n_classes = np.ones(n_ranks + 1)
    for label in np.unique(np.concatenate([labels[is_id], predicted])).tolist():
        of_class, n_true = accepted(predicted == label), np.count_nonzero(is_id & (labels == label))
        found = accepted(is_id & (predicted == label) & (labels == label))
        n_classes += (n_true + of_class) > 0
        total = total + 2 * found / np.maximum(n_true + of_class, 1)
    return total / n_classes, _thresholds(y_score)


def macro_f1(true: NDArray[np.intp], predicted: NDArray[np.intp], n_classes: int) -> float:
    """Evaluate :func:`open_set_f1` on class indices; the unknown class has an index too."""
    rows_of = true, predicted, true[true == predicted]
    n_true, n_predicted, found = (np.bincount(rows, minlength=n_classes) for rows in rows_of)
    occurs = n_true + n_predicted
    return float(np.mean(2 * found[occurs > 0] / occurs[occurs > 0]))


def _thresholds(y_score: ArrayLike) -> NDArray[np.float64]:
    return np.append(np.inf, np.unique(np.asarray(y_score, dtype=np.float64))[::-1])
