"""Scores and predicted classes of one detector on all sets."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skood._data.checked_data import CheckedData
from skood._models import as_input, rows_through, threshold_of
from skood._open_set import class_proba_of, excludes_classes, knows_classes

__all__ = ["Outcome", "Scored", "Sets", "score"]


class Sets(NamedTuple):
    """The data of an evaluation, or what belongs to it: ID rows, shifted ID rows and OOD rows."""

    inside: Any
    shifted: Mapping[str, Any]
    outside: Mapping[str, Any]


class Scored(NamedTuple):
    """A set through a detector.

    Attributes
    ----------
    scores : ndarray of shape (n,)
    predicted : ndarray of shape (n,) or None
        Classes predicted without rejection; None if the detector predicts none.
    seconds : float
        Time of scoring.
    """

    scores: npt.NDArray[np.float64]
    predicted: npt.NDArray | None
    seconds: float


class Outcome(NamedTuple):
    """All sets through a detector.

    Attributes
    ----------
    sets : Sets of Scored
    offset : float or None
        Threshold of the detector; None without one.
    """

    sets: Sets
    offset: float | None


def score(detector: Any, data: Sets, *, needs_classes: Sets) -> Outcome:
    """Score all sets, and classify those that `needs_classes` marks as True."""

    def scored(rows: CheckedData, classify: bool) -> Scored:
        start = perf_counter()
        scores = np.asarray(detector.score_samples(as_input(detector, rows)), dtype=np.float64)
        seconds = perf_counter() - start
        return Scored(scores, classes_of(detector, rows) if classify else None, seconds)

    inside = scored(data.inside, needs_classes.inside)
    shifted, outside = (
        {name: scored(rows, marks[name]) for name, rows in sets.items()}
        for sets, marks in (
            (data.shifted, needs_classes.shifted),
            (data.outside, needs_classes.outside),
        )
    )
    return Outcome(Sets(inside, shifted, outside), threshold_of(detector))


def classes_of(detector: Any, data: CheckedData) -> npt.NDArray | None:
    """Predict classes by a detector or its classifier, without rejecting rows."""
    if not excludes_classes(detector):
        return None
    if knows_classes(detector):
        return np.asarray(detector.classes_)[class_proba_of(detector, data).argmax(1)]
    classifier = getattr(detector, "classifier_", None)
    return None if classifier is None else rows_through(classifier, "predict", data)
