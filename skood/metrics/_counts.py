"""Input of the metrics: checked labels and scores, and row counts at each distinct score."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skood._data.labels import check_ood_labels, is_outlier
from skood._data.masks import without_mask

__all__ = [
    "RankCounts",
    "count_ranks",
    "count_rows",
    "id_mask",
    "rank_pairs",
    "rank_rows",
    "read_labels",
    "read_predictions",
]


class RankCounts(NamedTuple):
    """Row counts at each distinct score, from the largest down, which determine all metrics.

    Attributes
    ----------
    id : ndarray of int, shape (n_scores,)
        In-distribution rows.
    ood : ndarray of int, shape (n_scores,)
        Out-of-distribution rows. At every score, `id` or `ood` is positive.
    correct : ndarray of int, shape (n_scores,)
        ID rows whose class is predicted correctly; all ID rows without predictions.
    """

    id: NDArray[np.intp]
    ood: NDArray[np.intp]
    correct: NDArray[np.intp]


def count_ranks(
    id_ranks: NDArray[np.intp], ood_ranks: NDArray[np.intp], correct_ranks: NDArray[np.intp]
) -> RankCounts:
    """Count the rows of each kind at each rank that an ID or an OOD row has."""
    n_ranks = 1 + max(id_ranks.max(), ood_ranks.max())
    counts = np.stack(
        [np.bincount(ranks, minlength=n_ranks) for ranks in (id_ranks, ood_ranks, correct_ranks)]
    )
    observed = counts[:2].any(axis=0)
    return RankCounts(*counts[:, observed][:, ::-1])


def count_rows(
    y_true: ArrayLike, y_score: ArrayLike, y_pred: ArrayLike | None = None
) -> RankCounts:
    """Check the arrays as :func:`rank_rows` does, and count."""
    is_id, is_correct, ranks = rank_rows(y_true, y_score, y_pred)
    return count_ranks(ranks[is_id], ranks[~is_id], ranks[is_correct])


def rank_rows(
    y_true: ArrayLike, y_score: ArrayLike, y_pred: ArrayLike | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.intp]]:
    """Check the arrays and reduce each row to its kind and rank.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels for ID rows, -1 or "-1" for OOD rows.
    y_score : array-like of float, shape (n,)
        Higher is more in-distribution; -inf and +inf are allowed.
    y_pred : array-like of int or str, shape (n,), default=None
        Predicted classes.

    Returns
    -------
    is_id : ndarray of bool, shape (n,)
        True for ID rows.
    is_correct : ndarray of bool, shape (n,)
        True for ID rows whose class is predicted correctly; `is_id` without predictions.
    ranks : ndarray of int, shape (n,)
        Dense ranks of the scores from 0 up; equal scores share a rank.

    Raises
    ------
    ValueError
        If the arrays are not non-empty vectors of one length, the labels are not integers >= -1
        or strings with both ID and OOD rows, the scores are not numbers or hold NaN, or the
        predictions are not classes.
    """
    labels = read_labels(y_true)
    is_id = id_mask(labels)
    ranks = _rank(y_score, len(labels))
    if y_pred is None:
        return is_id, is_id, ranks
    predicted = read_predictions(y_pred, labels)
    n_rejected = int(is_outlier(predicted).sum())
    if n_rejected:
        raise ValueError(
            f"y_pred is -1 in {n_rejected} of {len(predicted)} rows, expected a class in each: "
            "y_score decides which rows are rejected. Pass classifier.predict(X); open_set_f1 "
            "takes predictions that reject."
        )
    return is_id, is_id & (predicted == labels), ranks


def read_labels(y: ArrayLike, name: str = "y_true") -> NDArray:
    """Return labels as a non-empty vector of whole numbers >= -1 or of strings.

    Booleans are refused: neither of them is -1, and True could mean ID as well as OOD.

    Raises
    ------
    ValueError
        If the labels are of any other type.
    """
    shape = np.shape(y)
    if len(shape) != 1:
        raise ValueError(
            f"{name} has shape {shape}, expected (n,): one label a row. "
            f"Pass {name}.ravel() if it is a single column or row."
        )
    labels = check_ood_labels(y, name)
    if len(labels) == 0:
        raise ValueError(
            f"{name} is empty, expected a label for each row, ID and OOD. Concatenate the two "
            "sets before calling a metric."
        )
    if labels.dtype.kind == "b":
        raise ValueError(
            f"{name} has dtype bool, expected integers: -1 for OOD, a class label >= 0 or +1 for "
            "ID; or strings, '-1' for OOD. Build it with np.where(is_ood, -1, 1)."
        )
    return labels


def id_mask(labels: NDArray) -> NDArray[np.bool_]:
    """Return the mask of ID rows, from labels returned by :func:`read_labels`.

    Raises
    ------
    ValueError
        If there is no ID row or no OOD row.
    """
    is_id = ~is_outlier(labels)
    if is_id.all():
        found = (
            f"none of its {len(labels)} labels is '-1'. "
            if _are_strings(labels)
            else f"its labels run from {labels.min()} to {labels.max()}, and 0 is an ID label too. "
        )
        raise ValueError(
            f"y_true has no OOD row: {found}Expected at least one -1; mark OOD rows with "
            "np.where(is_ood, -1, y_true)."
        )
    if not is_id.any():
        raise ValueError(
            f"y_true has no ID row: all {len(labels)} labels are -1. Expected at least one label "
            ">= 0; append scores and labels of in-distribution test rows."
        )
    return is_id


def read_predictions(y_pred: ArrayLike, labels: NDArray) -> NDArray:
    """Return predicted labels that can be compared with the true ones.

    Raises
    ------
    ValueError
        If the values are not labels, or differ from the true ones in number or type.
    """
    predicted = read_labels(y_pred, "y_pred")
    if len(predicted) != len(labels):
        raise ValueError(
            f"y_true has {len(labels)} rows and y_pred has {len(predicted)}, expected the same "
            "number. Predict for the same rows as the labels, OOD rows too."
        )
    if _are_strings(predicted) != _are_strings(labels):
        raise ValueError(
            f"y_true has dtype {labels.dtype} and y_pred {predicted.dtype}, expected both to be "
            "integers or both to be strings. Give both in the labels that the classifier was "
            "fitted to."
        )
    return predicted


def _are_strings(labels: NDArray) -> bool:
    return labels.dtype.kind in "OU"


def rank_pairs(y_true: ArrayLike, pairs: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Check labels and pairs of scores and reduce each row to its kind and two ranks.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels for ID rows, -1 or "-1" for OOD rows.
    pairs : array-like of float, shape (n, 2)
        Higher is more in-distribution in both columns; -inf and +inf are allowed.

    Returns
    -------
    is_id : ndarray of bool, shape (n,)
        True for ID rows.
    ranks : ndarray of int, shape (n, 2)
        Dense ranks from 0 up within each column; equal scores share a rank.

    Raises
    ------
    ValueError
        As in :func:`rank_rows`, and if `pairs` does not have two columns.
    """
    labels = read_labels(y_true)
    is_id = id_mask(labels)
    scores = np.asarray(without_mask(pairs, "pairs"))
    if scores.ndim != 2 or scores.shape[1] != 2:
        raise ValueError(
            f"pairs has shape {scores.shape}, expected (n, 2): two scores a row, both higher = "
            "more in-distribution. Pass detector.score_pairs(X), or join two scores with "
            "np.column_stack."
        )
    _check_scores(scores, len(labels), "pairs")
    return is_id, np.stack([_dense_ranks(column) for column in scores.T], axis=1)


def _rank(y_score: ArrayLike, n_labels: int) -> NDArray[np.intp]:
    """Check scores and return their dense ranks: a metric uses only order and ties."""
    scores = np.asarray(without_mask(y_score, "y_score"))
    if scores.ndim != 1:
        raise ValueError(
            f"y_score has shape {scores.shape}, expected (n,): one score a row, higher = more "
            "in-distribution. Pass detector.score_samples(X), or reduce class scores to one "
            "number a row first."
        )
    _check_scores(scores, n_labels, "y_score")
    return _dense_ranks(scores)


def _check_scores(scores: NDArray, n_labels: int, name: str) -> None:
    if len(scores) != n_labels:
        raise ValueError(
            f"y_true has {n_labels} rows and {name} has {len(scores)}, expected the same "
            "number. Score the same rows as the labels."
        )
    if scores.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} has dtype {scores.dtype}, expected real numbers. "
            f"Convert it with np.asarray({name}, dtype=float)."
        )
    has_nan = np.isnan(scores).reshape(len(scores), -1).any(axis=1)
    if has_nan.any():
        raise ValueError(
            f"{name} is NaN in {has_nan.sum()} of {len(scores)} rows (first at row "
            f"{has_nan.argmax()}), expected numbers, -inf or +inf. Find the cause of the "
            "NaN; the score of a row that is impossible under the model is -inf."
        )


def _dense_ranks(scores: NDArray) -> NDArray[np.intp]:
    return np.unique(scores, return_inverse=True)[1]
