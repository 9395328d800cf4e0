"""All detectors on all sets: metrics, bootstrap intervals and paired tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from skood.evaluation._cells import Cell, Metric
from skood.evaluation._scoring import Outcome, Sets
from skood.metrics._bootstrap import draws_of
from skood.metrics._paired import PairedTest, normal_test, resampled_test

__all__ = ["FULL", "Study"]

# Placements averaged over seeds: of ID rows, averaged over the sets, and of the rows of each set.
Placements = tuple[npt.NDArray[np.float64], list[npt.NDArray[np.float64]]]
# What follows the name of a metric that counts shifted ID rows as ID.
FULL = "_full_spectrum"


class Study:
    """Outcomes of detectors, and what is computed from them.

    Parameters
    ----------
    outcomes : dict of str to list of Outcome
        For each detector, one outcome for each seed.
    labels : Sets
        Class labels of ID rows and of shifted sets; None where they are not given.
    metrics : dict of str to Metric
    groups : dict of str to list of str
        Names of OOD sets, whose metrics are averaged.
    n_resamples : int
    seed : int
        Seed of the resamples, which all detectors share.
    """

    def __init__(
        self,
        outcomes: Mapping[str, Sequence[Outcome]],
        labels: Sets,
        metrics: Mapping[str, Metric],
        groups: Mapping[str, Sequence[str]],
        n_resamples: int,
        seed: int,
    ) -> None:
        self.outcomes = {name: list(found) for name, found in outcomes.items()}
        self._labels = labels
        self.metrics = dict(metrics)
        self.groups = {name: list(sets) for name, sets in groups.items()}
        self._n_resamples, self._seed = n_resamples, seed
        first = next(iter(self.outcomes.values()))[0].sets
        self.ood_sets = list(first.outside)
        self._id_sizes = [
            len(first.inside.scores),
            *(len(s.scores) for s in first.shifted.values()),
        ]
        self._ood_sizes = [len(s.scores) for s in first.outside.values()]
        self.has_shifted = bool(first.shifted)

    @property
    def names(self) -> list[str]:
        """Names of the metrics, including the full-spectrum metrics."""
        suffixes = ["", FULL] if self.has_shifted else [""]
        return [name + suffix for name in self.metrics for suffix in suffixes]

    @property
    def columns(self) -> list[str]:
        """OOD sets and groups."""
        return [*self.ood_sets, *self.groups]

    def check_measured(self) -> None:
        """Raise for a metric of open-set classification that no detector has."""
        for name, metric in self.metrics.items():
            place = self.names.index(name)
            if metric.needs_classes and all(
                np.isnan(values[..., place]).all() for values in self.points.values()
            ):
                raise ValueError(
                    f"no detector has the metric {name!r}: expected a detector that predicts "
                    "classes, with predict_proba and classes_ or a classifier inside"
                    + (", and a threshold" if name == "f1" else "")
                )

    @cached_property
    def points(self) -> dict[str, npt.NDArray[np.float64]]:
        """Metrics by detector, of shape (n_seeds, n_columns, n_names)."""
        return {
            name: np.stack([self._measure(cells) for cells in self._cells_of(name)])
            for name in self.outcomes
        }

    def means(self, column: str, name: str) -> dict[str, float]:
        """Return a metric of an OOD set or a group, of the detectors that have it."""
        at = self.columns.index(column), self.names.index(name)
        values = {
            of: float(points[(slice(None), *at)].mean()) for of, points in self.points.items()
        }
        return {of: value for of, value in values.items() if not np.isnan(value)}

    @cached_property
    def resampled(self) -> dict[str, npt.NDArray[np.float64]]:
        """Means over the seeds on resampled rows, of shape (n_resamples, n_columns, n_names)."""
        return {name: self._resample(name) for name in self.outcomes}

    def _resample(self, name: str) -> npt.NDArray[np.float64]:
        strata = [np.arange(size) for size in [*self._id_sizes, *self._ood_sizes]]
        n_id_sets = len(self._id_sizes)
        starts = np.cumsum([0, *self._id_sizes[:-1]])
        cells = self._cells_of(name)
        values = []
        # The seed gives the same draws for every detector.
        for drawn in draws_of(strata, n_resamples=self._n_resamples, random_state=self._seed):
            of_id = [rows + start for rows, start in zip(drawn, starts, strict=False)]
            # Without and with the rows of the shifted sets, which follow the ID rows.
            id_rows = of_id[0], np.concatenate(of_id)
            of_seeds = [self._measure(of_seed, id_rows, drawn[n_id_sets:]) for of_seed in cells]
            values.append(np.mean(of_seeds, axis=0))
        return np.stack(values)

    def interval(self, detector: str, confidence: float) -> npt.NDArray[np.float64]:
        """Return bounds of shape (2, n_columns, n_names)."""
        tail = (1 - confidence) / 2
        return np.quantile(self.resampled[detector], [tail, 1 - tail], axis=0)

    def tests(
        self, pairs: Sequence[tuple[str, str]], column: str, name: str, confidence: float
    ) -> list[PairedTest]:
        """Test the difference of a metric between two detectors of each pair, on a set or a group.

        DeLong's test for areas, and a paired bootstrap for other metrics. The metric is averaged
        over the seeds.
        """
        metric = self.metrics[name.removesuffix(FULL)]
        if metric.is_area:
            full = name.endswith(FULL)
            found = {
                of: self._placements(of, column, metric, full=full)
                for of in {of for pair in pairs for of in pair}
            }
            return [_area_test(found[one], found[two], confidence) for one, two in pairs]
        at = self.columns.index(column), self.names.index(name)
        points = {of: float(values.mean(0)[at]) for of, values in self.points.items()}
        drawn = {of: values[(slice(None), *at)] for of, values in self.resampled.items()}
        return [
            resampled_test(points[one] - points[two], drawn[one] - drawn[two], confidence)
            for one, two in pairs
        ]

    def _cells_of(self, name: str) -> list[list[list[Cell]]]:
        """Return the cells of a detector by seed, spectrum and OOD set."""
        return [
            [
                [_cell(outcome, ood_set, self._labels, full=full) for ood_set in self.ood_sets]
                for full in ([False, True] if self.has_shifted else [False])
            ]
            for outcome in self.outcomes[name]
        ]

    def _placements(self, name: str, column: str, metric: Metric, *, full: bool) -> Placements:
        found = [
            [
                _cell(outcome, ood_set, self._labels, full=full).placements(metric)
                for outcome in self.outcomes[name]
            ]
            for ood_set in self.groups.get(column, [column])
        ]
        of_id = np.mean([[pair[0] for pair in of_set] for of_set in found], axis=(0, 1))
        return of_id, [np.mean([pair[1] for pair in of_set], axis=0) for of_set in found]

    def _measure(
        self,
        cells: Sequence[Sequence[Cell]],
        id_rows: Sequence[Any] = (slice(None), slice(None)),
        ood_rows: Sequence[Any] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Return the metrics of one outcome, of shape (n_columns, n_names)."""
        rows = [slice(None)] * len(self.ood_sets) if ood_rows is None else ood_rows
        metrics = list(self.metrics.values())
        of_sets = np.stack(
            [
                [cell.measure(metrics, of_id, rows[i]) for i, cell in enumerate(of_spectrum)]
                for of_spectrum, of_id in zip(cells, id_rows, strict=False)
            ],
            axis=-1,
        ).reshape(len(self.ood_sets), -1)
        places = {name: i for i, name in enumerate(self.ood_sets)}
        means = [of_sets[[places[name] for name in sets]].mean(0) for sets in self.groups.values()]
        return np.concatenate([of_sets, np.reshape(means, (len(means), of_sets.shape[1]))])


def _area_test(first: Placements, second: Placements, confidence: float) -> PairedTest:
    parts = [one - two for one, two in zip(first[1], second[1], strict=True)]
    return normal_test(first[0] - second[0], parts, confidence)


def _cell(outcome: Outcome, ood_set: str, labels: Sets, *, full: bool) -> Cell:
    """Make the cell of an OOD set, with shifted rows among the ID rows in the full spectrum."""
    sets = outcome.sets
    parts = [sets.inside, *(sets.shifted.values() if full else ())]
    given = [labels.inside, *(labels.shifted.values() if full else ())]
    predicted = [part.predicted for part in parts]
    outside = sets.outside[ood_set]
    inside = np.concatenate([part.scores for part in parts])
    if any(of_part is None for of_part in (*given, *predicted)):
        return Cell(inside, outside.scores)
    # Without predictions on the OOD set, the F1 is not measured.
    without = outside.predicted is None
    return Cell(
        inside,
        outside.scores,
        np.concatenate(given),
        (np.concatenate(predicted), predicted[0][:0] if without else outside.predicted),
        None if without else outcome.offset,
    )
