"""Confidence intervals of metrics by resampling rows."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skood.metrics._counts import id_mask, read_labels

__all__ = [
    "ConfidenceInterval",
    "bootstrap_interval",
    "check_level",
    "draws_of",
    "percentile_bounds",
]

Seed = int | np.random.RandomState | np.random.Generator | None


class ConfidenceInterval(NamedTuple):
    """Bounds of a confidence interval.

    Attributes
    ----------
    low : float
    high : float
    """

    low: float
    high: float


def bootstrap_interval(
    metric: Callable[..., float],
    y_true: ArrayLike,
    *arrays: ArrayLike,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    random_state: Seed = None,
    **metric_params: Any,
) -> ConfidenceInterval:
    r"""Percentile bootstrap interval of a metric, resampling ID and OOD rows separately.

    Parameters
    ----------
    metric : callable
        Any metric of this module, called as ``metric(y_true, *arrays, **metric_params)`` on
        resampled arrays with the numbers of ID and OOD rows of the data. The metric defines
        which class is positive.
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows.
    *arrays : array-like of shape (n, ...)
        The metric's other arrays, in its order: ``y_score``, or ``y_pred`` and ``y_score``.
    n_resamples : int, default=1000
        Number of resamples. The bounds are quantiles over the resamples.
    confidence : float, default=0.95
        Nominal coverage in (0, 1).
    random_state : int, RandomState, Generator or None, default=None
        None takes entropy from the operating system; numpy's global generator is neither read
        nor advanced.
    **metric_params : dict
        Keyword arguments of the metric, such as ``tpr=0.8``.

    Returns
    -------
    ConfidenceInterval
        Named tuple ``(low, high)`` of floats.

    Raises
    ------
    ValueError
        If ``y_true`` is not of integers >= -1 or strings with both ID and OOD rows, an array has
        another number of rows, ``n_resamples`` is not a positive integer or ``confidence`` lies
        outside (0, 1). Errors of the metric are passed on.

    Notes
    -----
    In each of B resamples, :math:`n_\mathrm{id}` ID rows and :math:`n_\mathrm{ood}` OOD rows are
    drawn with replacement, so that the fraction of ID rows, which average precision depends on, is
    the same as in the data. With :math:`\hat\theta^*_{(q)}` the q-quantile of the metric over the
    resamples and :math:`\alpha = 1 - \mathrm{confidence}`:

    .. math:: \big[ \hat\theta^*_{(\alpha / 2)}, \; \hat\theta^*_{(1 - \alpha / 2)} \big]

    The interval measures the variation due to the sampling of the test rows, assumed independent;
    it does not cover the variation between training runs. If one threshold separates the classes,
    every resample gives the same value and the interval has zero width.
    Memory is linear in n + B.

    References
    ----------
    .. [1] B. Efron and R. J. Tibshirani, "An introduction to the bootstrap", Chapman & Hall,
       1993, section 13.3.
    .. [2] P. Bertail, S. Clémençon and N. Vayatis, "On bootstrapping the ROC curve",
       NeurIPS 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.metrics import auroc, bootstrap_interval
    >>> rng = np.random.default_rng(0)
    >>> y_true = np.repeat([1, -1], 200)
    >>> y_score = rng.normal(size=400) + (y_true == 1)
    >>> low, high = bootstrap_interval(auroc, y_true, y_score, random_state=0)
    >>> low < auroc(y_true, y_score) < high
    True
    """
    labels = read_labels(y_true)
    is_id = id_mask(labels)
    columns = [labels, *map(np.asarray, arrays)]
    for position, column in enumerate(columns):
        if column.shape[:1] != labels.shape:
            raise ValueError(
                f"y_true has {len(labels)} rows and array {position} after it has shape "
                f"{column.shape}, expected the same number of rows. Pass arrays that describe the "
                "same rows as the labels."
            )
    low, high = percentile_bounds(
        lambda rows: metric(*(column[rows] for column in columns), **metric_params),
        [np.flatnonzero(is_id), np.flatnonzero(~is_id)],
        n_resamples=n_resamples,
        confidence=confidence,
        random_state=random_state,
    )
    return ConfidenceInterval(float(low), float(high))


def percentile_bounds(
    statistic: Callable[[NDArray[np.intp]], ArrayLike],
    strata: Sequence[NDArray[np.intp]],
    *,
    n_resamples: int,
    confidence: float,
    random_state: Seed,
) -> NDArray[np.float64]:
    """Bootstrap a statistic of rows.

    Parameters
    ----------
    statistic : callable
        Takes the indices of the drawn rows, one stratum after the other, and returns an array of
        fixed shape.
    strata : list of ndarray of int
        Row indices; the number of rows drawn from each stratum is its size.
    n_resamples : int
    confidence : float
    random_state : int, RandomState, Generator or None

    Returns
    -------
    ndarray of shape (2, ...)
        Lower and upper bounds of what `statistic` returns.
    """
    check_level(confidence)
    values: list[Any] = [
        statistic(np.concatenate(drawn))
        for drawn in draws_of(strata, n_resamples=n_resamples, random_state=random_state)
    ]
    tail = (1 - confidence) / 2
    return np.quantile(values, [tail, 1 - tail], axis=0)


def check_level(confidence: float) -> None:
    """Raise unless `confidence` is a level in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence is {confidence!r}, expected a level in (0, 1). Pass a fraction: 0.95 "
            "means 95 %."
        )


def draws_of(
    strata: Sequence[NDArray[np.intp]], *, n_resamples: int, random_state: Seed
) -> Iterator[list[NDArray[np.intp]]]:
    """Yield resamples with replacement; each stratum keeps its size."""
    if not isinstance(n_resamples, numbers.Integral) or n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples!r}, expected a positive integer.")
    if isinstance(random_state, np.random.RandomState):
        random_state = int(random_state.randint(2**31 - 1))
    rng = np.random.default_rng(random_state)
    for _ in range(n_resamples):
        yield [rows[rng.integers(len(rows), size=len(rows))] for rows in strata]
