"""Best use that any two thresholds could make of two scores, as an oracle finds it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from skood.metrics._counts import rank_pairs

__all__ = ["dual_threshold_auroc"]


def dual_threshold_auroc(y_true: ArrayLike, pairs: ArrayLike) -> float:
    r"""Area under the best curve of two thresholds on two scores: an oracle.

    A row is accepted if its first score is at least :math:`\psi_1` and its second at least
    :math:`\psi_2`. For each false-positive rate, the largest true-positive rate of all pairs of
    thresholds is taken [1]_:

    .. math:: \int_0^1 \max_{\psi:\, \mathrm{FPR}(\psi) \le t} \mathrm{TPR}(\psi) \,dt

    The thresholds are chosen on the very OOD rows that the area is measured on, a pair for each
    rate, so no detector reaches it: a bound, of use for comparison with published figures of this
    kind alone. The figure of a detector is :func:`auroc` of its score.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows.
    pairs : array-like of float, shape (n, 2)
        Two scores, both higher = more in-distribution, such as those of
        :meth:`skood.likelihood.LocalIntrinsicDimension.score_pairs`.

    Returns
    -------
    float
        Area in [0, 1]; without ties at least the :func:`auroc` of either score. Scores that know
        nothing get more than 0.5: 0.52 on average with 1 000 rows of each kind, more with fewer.

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, or ``pairs`` holds NaN.

    See Also
    --------
    auroc : Of one score.

    Notes
    -----
    The area is that under the steps through attained points, so that rows tied in both scores are
    accepted together, where :func:`auroc` counts one half. Takes time that grows with the number
    of OOD rows times that of all rows.

    References
    ----------
    .. [1] H. Kamkari et al., "A Geometric Explanation of the Likelihood OOD Detection Paradox",
       ICML 2024.

    Examples
    --------
    >>> from skood.metrics import auroc, dual_threshold_auroc
    >>> y_true = [1, 1, -1, -1]
    >>> pairs = [[3.0, 3.0], [2.0, 2.0], [4.0, 1.0], [1.0, 4.0]]
    >>> dual_threshold_auroc(y_true, pairs)
    1.0
    >>> [auroc(y_true, column) for column in zip(*pairs)]
    [0.5, 0.5]
    """
    is_id, ranks = rank_pairs(y_true, pairs)
    order = np.argsort(-ranks[:, 1], kind="stable")
    first, second, is_id = ranks[order, 0], ranks[order, 1], is_id[order]
    # Most ID rows that are accepted beside each number of OOD rows.
    most = np.zeros(np.count_nonzero(~is_id) + 1, np.intp)
    # A threshold that lets in more ID rows and no other OOD row is always better.
    for threshold in np.unique(np.append(first[~is_id] + 1, 0)):
        accepted = first >= threshold
        n_id = np.cumsum(is_id[accepted])
        n_ood = np.arange(1, len(n_id) + 1) - n_id
        # Rows tied in the second score are accepted together.
        last = np.flatnonzero(np.diff(second[accepted], append=-1))
        # Both counts rise, so that the last value written is the largest of each number.
        here = np.zeros_like(most)
        here[n_ood[last]] = n_id[last]
        np.maximum(most, here, out=most)
    steps = np.maximum.accumulate(most)[:-1]
    return int(steps.sum()) / (len(steps) * int(is_id.sum()))
