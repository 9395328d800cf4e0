"""The published figure of merit of pairs of scores: an oracle that uses the test labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skood.metrics._counts import rank_pairs

__all__ = ["dual_threshold_auroc"]


def dual_threshold_auroc(y_true: ArrayLike, pairs: ArrayLike) -> float:
    r"""Area under the best curve of two thresholds: an oracle, chosen on test data.

    A row is accepted as in-distribution if both of its scores reach their thresholds: the
    log-density and the local intrinsic dimension (LID) in Kamkari et al. [1]_.

    .. warning::
        This is an oracle and not the AUROC of a detector. The labels of the evaluated rows choose
        the curve among :math:`n^2` pairs of thresholds, anew for each OOD set, and no single score
        orders rows in this way. Two random scores reach 0.52 on 1000 ID and 1000 OOD rows, not 0.5.
        State this wherever you compare it with the :func:`auroc` of a detector.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows.
    pairs : array-like of float, shape (n, 2)
        Two scores a row, both higher = more in-distribution, such as the output of `score_pairs` of
        :class:`~skood.likelihood.LocalIntrinsicDimension`. -inf and +inf are legitimate.

    Returns
    -------
    float
        Area in [0, 1]: 1 if one pair of thresholds separates the classes.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, or ``pairs`` holds NaN.

    See Also
    --------
    auroc : The area for a single score, which is no oracle.

    Notes
    -----
    Every pair of thresholds corresponds to a point

    .. math::
        \mathrm{FPR}(\psi) = P(s^\mathrm{ood}_1 \ge \psi_1, s^\mathrm{ood}_2 \ge \psi_2), \qquad
        \mathrm{TPR}(\psi) = P(s^\mathrm{id}_1 \ge \psi_1, s^\mathrm{id}_2 \ge \psi_2).

    As in the authors' script (``notebooks/roc_analysis.py``), the points are ordered by FPR, then
    TPR. From (0, 0) on, the curve joins each point whose TPR is not below the TPR of the previous
    point on the curve; its area is computed by the trapezoidal rule. Without ties, the curve is a
    step function, the largest TPR within each FPR, and its area is at least the AUROC of either
    score. Ties are crossed on the diagonal, so that a score paired with a constant, or with itself,
    has its :func:`auroc`.

    The points are not stored: one score is swept and counts over all thresholds of the other are
    updated, in O(n) memory and O(n m) time, where m is the smaller number of distinct values.

    References
    ----------
    .. [1] H. Kamkari, B. L. Ross, J. C. Cresswell, A. L. Caterini, R. G. Krishnan and
       G. Loaiza-Ganem, "A Geometric Explanation of the Likelihood OOD Detection Paradox",
       ICML 2024. arXiv:2403.18910; code: layer6ai-labs/dgm_ood_detection.

    Examples
    --------
    OOD rows have a high log-density or a high LID, but never both:

    >>> from skood.metrics import auroc, dual_threshold_auroc
    >>> y_true = [1, 1, 1, -1, -1]
    >>> pairs = [[5.0, 6.0], [6.0, 5.0], [4.0, 7.0], [9.0, 1.0], [1.0, 9.0]]
    >>> dual_threshold_auroc(y_true, pairs)
    1.0
    >>> [auroc(y_true, score) for score in zip(*pairs)]
    [0.5, 0.5]
    """
    is_id, ranks = rank_pairs(y_true, pairs)
    # Python loops over the thresholds of the first column, which has fewer.
    ranks = ranks[:, np.argsort(ranks.max(axis=0))]
    n_id, n_ood = int(is_id.sum()), int((~is_id).sum())

    # most[k]: the largest number of accepted ID rows at thresholds that accept exactly k OOD rows.
    most = np.full(n_ood + 1, -1, dtype=np.intp)
    most[0] = 0
    for n_false, n_true in _accepted(is_id, ranks):
        # Counts grow along the thresholds, so the last of equal indices has the largest count.
        most[n_false] = np.maximum(most.take(n_false), n_true)
    leaving = np.maximum.accumulate(most)

    # The curve enters a column of points at the lowest point that is not below the curve so far.
    reached = np.concatenate([[0], leaving[:-1]])
    entering = np.full(n_ood + 1, n_id + 1, dtype=np.intp)
    entering[0] = 0
    for n_false, n_true in _accepted(is_id, ranks):
        joined = np.flatnonzero(n_true >= reached.take(n_false))[::-1]
        columns = n_false[joined]
        entering[columns] = np.minimum(entering[columns], n_true[joined])

    on_curve = np.flatnonzero(entering <= n_id)
    heights = leaving[on_curve[:-1]] + entering[on_curve[1:]]
    return int(np.diff(on_curve) @ heights) / (2 * n_id * n_ood)


def _accepted(
    is_id: NDArray[np.bool_], ranks: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Count the accepted rows for each first threshold, from the largest down.

    Yields
    ------
    n_false, n_true : ndarray of int
        Numbers of accepted OOD and ID rows by the second threshold, from the largest down, from
        the first count on that this step changed. The next step changes the arrays.
    """
    first, second = (ranks.max(axis=0) - ranks).T
    n_false, n_true = np.zeros((2, second.max() + 1), dtype=np.intp)
    # Among rows with the same first score, the one that changes most counts comes last.
    order = np.lexsort((-second, first))
    is_last = np.diff(first[order], append=-1) != 0
    for start, row_is_id, last in zip(
        second[order].tolist(), is_id[order].tolist(), is_last.tolist(), strict=True
    ):
        counts = n_true if row_is_id else n_false
        counts[start:] += 1
        if last:
            yield n_false[start:], n_true[start:]
