"""Metrics of one detector on one OOD set, on all rows or on drawn rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skood.metrics._counts import RankCounts, count_ranks, rank_rows
from skood.metrics._open_set import ccr_at
from skood.metrics._open_set_curves import macro_f1
from skood.metrics._paired import placements
from skood.metrics._ranking import area_above, average_precision, fpr_at, smallest_error

__all__ = ["Cell", "Metric", "metrics_of"]

Row = slice | npt.NDArray[np.intp]
EVERY_ROW = slice(None)


class Metric(NamedTuple):
    """A metric of a table.

    Attributes
    ----------
    counts : callable or None
        A function of :class:`RankCounts`.
    function : callable or None
        A function of `y_true`, +1 or -1, and `y_score`. If both are None, the metric is the F1.
    needs_classes : bool
        Whether the metric needs the labels of ID rows and the detector's classes.
    is_area : bool
        Whether the metric is a mean of placements, for which DeLong's test holds.
    is_falling : bool
        Whether smaller values are better.
    """

    counts: Callable[[RankCounts], float] | None = None
    function: Callable[..., float] | None = None
    needs_classes: bool = False
    is_area: bool = False
    is_falling: bool = False


def _auroc(counts: RankCounts) -> float:
    return area_above(counts.id, counts.ood) / int(counts.id.sum())


def _oscr(counts: RankCounts) -> float:
    return area_above(counts.correct, counts.ood) / int(counts.id.sum())


def _aupr_in(counts: RankCounts) -> float:
    return average_precision(counts.id, counts.ood)


def _aupr_out(counts: RankCounts) -> float:
    return average_precision(counts.ood[::-1], counts.id[::-1])


_METRICS = {
    "auroc": Metric(_auroc, is_area=True),
    "fpr95": Metric(partial(fpr_at, tpr=0.95), is_falling=True),
    "fpr80": Metric(partial(fpr_at, tpr=0.8), is_falling=True),
    "aupr_in": Metric(_aupr_in),
    "aupr_out": Metric(_aupr_out),
    "detection_error": Metric(smallest_error, is_falling=True),
    "oscr": Metric(_oscr, needs_classes=True, is_area=True),
    "ccr": Metric(partial(ccr_at, fpr=0.01), needs_classes=True),
    "f1": Metric(needs_classes=True),
}


def metrics_of(metrics: Sequence[str] | Mapping[str, Callable[..., float]]) -> dict[str, Metric]:
    """Return the metrics by name.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if isinstance(metrics, Mapping):
        return {name: Metric(function=function) for name, function in metrics.items()}
    if isinstance(metrics, str):
        raise ValueError(f"metrics={metrics!r}; expected a list of names, such as [{metrics!r}]")
    unknown = [name for name in metrics if name not in _METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {unknown}; known: {', '.join(_METRICS)}")
    return {name: _METRICS[name] for name in metrics}


class Cell:
    """ID rows and rows of an OOD set as one detector scores them.

    Parameters
    ----------
    inside, outside : ndarray of shape (n_id,) and (n_ood,)
        Scores.
    labels : ndarray of shape (n_id,), default=None
        Classes of the ID rows.
    predicted : (ndarray of shape (n_id,), ndarray of shape (n_ood,)), default=None
        Classes that the detector predicts without rejection.
    offset : float, default=None
        The detector's threshold.
    """

    def __init__(
        self,
        inside: npt.NDArray,
        outside: npt.NDArray,
        labels: npt.NDArray | None = None,
        predicted: tuple[npt.NDArray, npt.NDArray] | None = None,
        offset: float | None = None,
    ) -> None:
        self._inside, self._outside = inside, outside
        truth = np.repeat([1, -1], [len(inside), len(outside)])
        _, _, ranks = rank_rows(truth, np.concatenate([inside, outside]))
        self._id_ranks, self._ood_ranks = ranks[: len(inside)], ranks[len(inside) :]
        self._has_classes = labels is not None and predicted is not None
        self._correct = np.ones(len(inside), dtype=bool)
        self._n_classes = 0
        if labels is None or predicted is None:
            return
        self._correct = predicted[0] == labels
        if offset is None:
            return
        codes = np.unique(np.concatenate([labels, *predicted]), return_inverse=True)[1]
        unknown = codes.max() + 1
        self._n_classes = unknown + 1
        n_id = len(inside)
        self._true = codes[:n_id]
        self._decided = [
            np.where(scores >= offset, of_set, unknown)
            for scores, of_set in (
                (inside, codes[n_id : 2 * n_id]),
                (outside, codes[2 * n_id :]),
            )
        ]

    def has(self, metric: Metric) -> bool:
        """Whether the metric can be computed."""
        is_f1 = metric.counts is None and metric.function is None
        if is_f1:
            return self._n_classes > 0
        return self._has_classes or not metric.needs_classes

    def measure(
        self,
        metrics: Sequence[Metric],
        id_rows: Row = EVERY_ROW,
        ood_rows: Row = EVERY_ROW,
    ) -> list[float]:
        """Return each metric on drawn rows; NaN where the metric cannot be computed."""
        id_ranks = self._id_ranks[id_rows]
        counts = count_ranks(id_ranks, self._ood_ranks[ood_rows], id_ranks[self._correct[id_rows]])
        values = []
        for metric in metrics:
            if not self.has(metric):
                values.append(np.nan)
            elif metric.counts is not None:
                values.append(metric.counts(counts))
            elif metric.function is not None:
                drawn = self._inside[id_rows], self._outside[ood_rows]
                truth = np.repeat([1, -1], [len(scores) for scores in drawn])
                values.append(float(metric.function(truth, np.concatenate(drawn))))
            else:
                values.append(self._f1(id_rows, ood_rows))
        return values

    def placements(self, metric: Metric) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the placements of ID and OOD rows, whose means are the metric, an area."""
        weights = self._correct if metric.needs_classes else None
        return placements(self._id_ranks, self._ood_ranks, weights)

    def _f1(self, id_rows: Row, ood_rows: Row) -> float:
        decided = [
            of_set[rows] for of_set, rows in zip(self._decided, (id_rows, ood_rows), strict=True)
        ]
        true = np.concatenate([self._true[id_rows], np.full(len(decided[1]), self._n_classes - 1)])
        return macro_f1(true, np.concatenate(decided), self._n_classes)
