"""The user's data, and their division into disjoint parts."""

from __future__ import annotations

import math
import numbers
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator

from skood._data.checked_data import CheckedData
from skood._data.unread_data import unread_frame
from skood._data.validation import share_as_it_came
from skood._torch.seeding import Stream, numpy_rng
from skood.posthoc._models import split_multilabel, with_handles

__all__ = ["Rows", "check_numbers", "halves", "opened", "split_rows"]

# With fewer rows or outliers, an AUROC does not tell detectors apart.
FEWEST = 20
# Fraction of X for the ranking, and for the calibration.
_FRACTION = 0.2
# The rate of false alarms of a threshold on so many rows has a standard deviation of 0.3 % at 5 %.
_MOST_CALIBRATION = 5000


@dataclass(frozen=True)
class Rows:
    """Disjoint parts of the in-distribution data, and the labels of the training rows."""

    training: CheckedData
    labels: npt.NDArray | None
    ranking: CheckedData
    calibration: CheckedData


def check_numbers(alpha: float, max_rows: int, n_resamples: int, confidence: float) -> None:
    """Raise a ValueError for numbers out of range."""
    for name, value in (("alpha", alpha), ("confidence", confidence)):
        if not isinstance(value, numbers.Real) or not 0 < value < 1:
            raise ValueError(f"{name}={value!r}; expected a fraction between 0 and 1")
    for name, value, fewest in (("max_rows", max_rows, FEWEST), ("n_resamples", n_resamples, 1)):
        if not isinstance(value, numbers.Integral) or value < fewest:
            raise ValueError(f"{name}={value!r}; expected an integer of at least {fewest}")


def opened(
    model: Any, X: Any, y: Any, outliers: Any
) -> tuple[CheckedData, npt.NDArray | None, CheckedData | None]:
    """Return the in-distribution data, their labels and the known outliers."""
    data = share_as_it_came(X)
    if y is None and data.has_labels:
        y = data.labels
    trained = with_handles(model)
    trained = trained.estimator if isinstance(trained, FrozenEstimator) else trained
    inliers, labels, known = split_multilabel(trained, data, y)
    if outliers is not None:
        if known is not None:
            raise ValueError(
                f"{len(known)} rows of X have y == -1, and outliers are given too; give all known "
                "outliers in one way"
            )
        known = share_as_it_came(outliers)
        check_same_items("outliers", known, data)
    if known is not None and len(known) < 2 * FEWEST:
        raise ValueError(
            f"{len(known)} outliers are too few: one half ranks the detectors, the other half "
            f"measures the chosen one, and each needs {FEWEST}. Give at least {2 * FEWEST}, or none"
        )
    if model is None and not data.has_fields and len(data.item_shape) == 1:
        _check_numbers(data)
        _warn_of_probabilities(data)
    return inliers, labels, known


def check_same_items(name: str, data: CheckedData, expected: CheckedData) -> None:
    """Raise a ValueError if items have another shape than the items of X."""
    same = data.item_shape == expected.item_shape or data.has_fields or expected.has_fields
    if not same:
        raise ValueError(
            f"{name} has {data.description}, but X has {expected.description}; expected items of "
            "the same shape"
        )


def split_rows(
    data: CheckedData,
    labels: npt.NDArray | None,
    held_out: CheckedData | None,
    *,
    alpha: float,
    max_rows: int,
    seed: int,
) -> Rows:
    """Divide the rows at random, so that calibration rows are exchangeable with new rows."""
    pool = data if held_out is None else held_out
    part = _FRACTION if held_out is None else 0.5
    order = numpy_rng(seed, Stream.RECOMMENDATION_ROWS).permutation(len(pool))
    n_ranking = n_calibration = int(part * len(pool))
    n_ranking, n_calibration = min(n_ranking, max_rows), min(n_calibration, _MOST_CALIBRATION)
    fewest = max(FEWEST, math.ceil(1 / alpha) - 1)
    if min(n_ranking, n_calibration) < fewest:
        name = "X has" if held_out is None else "X_held_out has"
        raise ValueError(
            f"{name} {len(pool)} in-distribution rows, of which {n_ranking} would rank the "
            f"detectors and {n_calibration} would calibrate the chosen one; alpha={alpha} needs "
            f"{fewest} for each. Give at least {math.ceil(fewest / part)} rows, or a larger alpha"
            + (", or other in-distribution rows as X_held_out" if held_out is None else "")
        )
    ranking, calibration, rest = np.split(order, [n_ranking, n_ranking + n_calibration])
    ranking, calibration, rest = map(np.sort, (ranking, calibration, rest))
    if held_out is not None:
        check_same_items("X_held_out", held_out, data)
        return Rows(data, labels, pool.subset(ranking), pool.subset(calibration))
    kept = None if labels is None else labels[rest]
    return Rows(data.subset(rest), kept, pool.subset(ranking), pool.subset(calibration))


def halves(
    known: CheckedData | None, max_rows: int, seed: int
) -> tuple[CheckedData | None, CheckedData | None]:
    """Return the outliers that rank the detectors, and those that measure the chosen detector."""
    if known is None:
        return None, None
    order = numpy_rng(seed, Stream.RECOMMENDATION_OUTLIERS).permutation(len(known))
    half = len(known) // 2
    first, second = (np.sort(part[:max_rows]) for part in (order[:half], order[half:]))
    return known.subset(first), known.subset(second)


def _check_numbers(data: CheckedData) -> None:
    try:
        data.check_read()
    except ValueError as error:
        if unread_frame(data) is None:
            raise
        raise ValueError(
            f"{error}. In recommend, the encoder is the model: recommend(encoder, X) puts it in "
            "front of every detector; it is a ColumnTransformer, a Pipeline or another transformer"
        ) from None


def _warn_of_probabilities(data: CheckedData) -> None:
    rows = data.take(np.arange(min(len(data), 1000)))
    if rows.shape[1] > 1 and rows.min() >= 0 and np.abs(rows.sum(1) - 1).max() < 1e-3:
        warnings.warn(
            "the rows of X are not negative and sum to 1, as class probabilities do, and are "
            "compared as rows of a table. To compare scores of probabilities, give the classifier "
            "as model, and its inputs as X",
            stacklevel=4,
        )
