"""The table of detectors by OOD sets, and the questions that it answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skood._estimator.internal import internal
from skood._table import Rows, Table
from skood.datasets import load_published
from skood.evaluation._comparison import best_of, differences, pairs_of
from skood.evaluation._published import beside
from skood.evaluation._study import FULL, Study

__all__ = ["Evaluation"]


class Evaluation(Rows):
    """Rows of a table as dicts, as :func:`skood.evaluate` returns them.

    The table is printed as aligned text, and as HTML in a notebook. If :func:`skood.evaluate` was
    given `confidence`, the best figure of a set is bold in HTML and in LaTeX, but only if
    :meth:`best` supports it.

    Parameters
    ----------
    rows : iterable of dict, default=()
        The rows.

    Attributes
    ----------
    scores : dict of str to dict of str to ndarray
        Scores by detector and set, higher = more in-distribution: "id" first, then the OOD sets, as
        :meth:`skood.inspection.RocCurvesDisplay.from_predictions` takes them. Shape (n_samples,),
        or (n_seeds, n_samples) with `seeds`.
    shifted_scores : dict of str to dict of str to ndarray
        Scores of the shifted ID sets by detector and set.
    confidence : float or None
        Level of the intervals; None without intervals.

    See Also
    --------
    skood.inspection.EvaluationDisplay : Draws the table as a heat map.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import KNN, Mahalanobis, evaluate
    >>> X, y = load_iris(return_X_y=True)
    >>> sets = {"versicolor": X[y == 1], "virginica": X[y == 2]}
    >>> table = evaluate([KNN(n_neighbors=5), Mahalanobis()], X[:50:2], sets, X_train=X[1:50:2])
    >>> print(table.wide("auroc"))
    detector     versicolor  virginica
    KNN               1.000      1.000
    Mahalanobis       1.000      1.000
    >>> table.compare("KNN", "Mahalanobis")[0]["p_value"]
    1.0
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        super().__init__(rows)
        self.confidence: float | None = None
        self._study: Study | None = None
        self._classes: dict[str, str] = {}

    @classmethod
    @internal
    def of(
        cls,
        rows: Iterable[Mapping[str, Any]],
        study: Study,
        classes: Mapping[str, str],
        confidence: float | None,
    ) -> Evaluation:
        """Make the table of a study, with the names of the detectors' classes."""
        table = cls(rows)
        table._study, table._classes, table.confidence = study, dict(classes), confidence
        return table

    @property
    def scores(self) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        """Scores by detector and set, "id" first."""
        return {
            name: {"id": _stacked([o.sets.inside.scores for o in of_seeds])}
            | {
                ood_set: _stacked([o.sets.outside[ood_set].scores for o in of_seeds])
                for ood_set in of_seeds[0].sets.outside
            }
            for name, of_seeds in self._measured.outcomes.items()
        }

    @property
    def shifted_scores(self) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        """Scores of the shifted ID sets by detector and set."""
        return {
            name: {
                shifted: _stacked([o.sets.shifted[shifted].scores for o in of_seeds])
                for shifted in of_seeds[0].sets.shifted
            }
            for name, of_seeds in self._measured.outcomes.items()
        }

    def wide(self, metric: str = "auroc") -> Table:
        """Return one metric with a row for each detector and a column for each set and group.

        Parameters
        ----------
        metric : str, default="auroc"
            A column of the table. With shifted ID sets, "auroc_full_spectrum" and others.

        Returns
        -------
        Table
            List of dicts with "detector" and the sets; ``to_latex()`` and ``to_frame()`` convert
            it. Bounds and deviations have columns of their own, such as "far_low".

        Raises
        ------
        ValueError
            When the table has no column `metric`.
        """
        self._check(metric)
        rows: dict[str, dict[str, Any]] = {}
        for row in self:
            line = rows.setdefault(row["detector"], {"detector": row["detector"]})
            for part in ("", "_low", "_high", "_std"):
                if metric + part in row:
                    line[row["ood_set"] + part] = row[metric + part]
        names = list(rows)
        bold = [(names.index(name), column) for name, column in self._supported(metric)]
        return Table(rows.values(), bold)

    def best(self, metric: str = "auroc") -> Table:
        r"""Return the best detector of every set and group, and whether the data support it.

        Parameters
        ----------
        metric : str, default="auroc"
            A column of the table, of the metrics given to :func:`skood.evaluate`.

        Returns
        -------
        Table
            For every set and group "ood_set", "detector", the value of the metric, the "runner_up",
            "p_value" and "supported".

        Raises
        ------
        ValueError
            When `metric` was not measured by :func:`skood.evaluate` or is a function, of which it
            is unknown whether greater values are better.

        Notes
        -----
        The best of K detectors is compared with each of the others by the tests of :meth:`compare`;
        "p_value" is K - 1 times the largest of these p-values, and at most 1. "supported" is
        whether it is at most 1 - `confidence`, or 0.05 without `confidence`. A detector that is not
        the best in the population is supported with a probability of at most half this level, by
        the union bound over the K - 1 detectors that could be chosen wrongly.
        """
        return Table(best_of(self._tested(metric), metric, self._level))

    def compare(
        self, detector: str | None = None, other: str | None = None, metric: str = "auroc"
    ) -> Table:
        """Test whether detectors differ, on the same rows.

        Parameters
        ----------
        detector : str, default=None
            Name of a detector. None compares all pairs.
        other : str, default=None
            Name of the detector to compare with. None compares `detector` with all others.
        metric : str, default="auroc"
            A column of the table, of the metrics given to :func:`skood.evaluate`.

        Returns
        -------
        Table
            For every pair, set and group "detector", "other", "ood_set", "difference" (of the first
            minus the second detector) with "difference_low" and "difference_high", "p_value", and
            "p_adjusted", which is adjusted for the number of pairs (Holm 1979). Sets are not
            adjusted for.

        Raises
        ------
        ValueError
            When a name is unknown, a detector has no value of `metric`, there is only one detector,
            or the table was not made by :func:`skood.evaluate`.

        Notes
        -----
        The AUROC and the OSCR are tested as in :func:`~skood.metrics.delong_test`, other metrics as
        in :func:`~skood.metrics.bootstrap_test`. In a group, the metric is averaged over the sets.
        With `seeds`, it is averaged over the seeds: the test concerns the fitted detectors, and
        does not cover the variation between training runs.
        """
        study = self._tested(metric)
        pairs = pairs_of(study, detector, other, metric)
        return Table(differences(study, pairs, metric, self._level))

    def with_published(
        self,
        published: str | Sequence[Mapping[str, Any]],
        *,
        id_set: str | None = None,
        methods: str | Sequence[str] = "same",
        sets: Mapping[str, str] | None = None,
        network: str | None = None,
    ) -> Table:
        """Return the table with published figures of the same sets and metrics.

        Parameters
        ----------
        published : str or list of dict
            A name of :func:`skood.datasets.load_published`, or rows as that function returns them.
        id_set : str, default=None
            In-distribution set of the published figures. None takes the only one.
        methods : {"same", "all"} or sequence of str, default="same"
            Published methods: the methods of this table, all, or some by name.
        sets : dict of str to str, default=None
            Published name of an OOD set or group, by the name in this table. Other names are
            compared without regard to case, spaces and hyphens.
        network : str, default=None
            Architecture of the networks in this table, which is shown with their figures.

        Returns
        -------
        Table
            For every set and method "ood_set", "method", "from" ("this table" or the source),
            "network", "accuracy" on the ID rows and the metrics.

        Raises
        ------
        ValueError
            When `id_set` is missing or unknown, or no set, no metric or no method is in both
            tables.

        Notes
        -----
        Compare figures of the same network and of similar accuracy: the same score differs by
        several points of AUROC between networks. A published metric is shown only if its positive
        class is the same as here, or has no effect.
        """
        rows = load_published(published) if isinstance(published, str) else published
        return beside(
            self,
            self._classes,
            rows,
            id_set=id_set,
            methods=methods,
            sets=sets or {},
            network=network,
        )

    def to_latex(self, metric: str = "auroc", *, digits: int = 3) -> str:
        """Return the wide form of a metric as a LaTeX ``tabular``, for the package booktabs.

        Parameters
        ----------
        metric : str, default="auroc"
            A column of the table.
        digits : int, default=3
            Decimals of the figures.

        Returns
        -------
        str
            Detectors in rows, sets and groups in columns.

        Raises
        ------
        ValueError
            When the table has no column `metric`.
        """
        return self.wide(metric).to_latex(digits=digits)

    @property
    def _level(self) -> float:
        return 0.95 if self.confidence is None else self.confidence

    @property
    def _measured(self) -> Study:
        if self._study is None:
            raise ValueError(
                "this table has no scores; expected a table as skood.evaluate returns it. Rows "
                "that were read from a file can be printed, but not tested"
            )
        return self._study

    def _check(self, metric: str) -> None:
        if not any(metric in row for row in self):
            known = sorted({name for row in self for name in row} - {"detector", "ood_set"})
            raise ValueError(f"no row of the table has metric={metric!r}; its columns are {known}")

    def _tested(self, metric: str) -> Study:
        study = self._measured
        if metric not in study.names:
            raise ValueError(f"metric={metric!r} was not measured; expected one of {study.names}")
        if not study.means(study.columns[0], metric):
            raise ValueError(
                f"no detector has metric={metric!r}; it needs the labels of all ID rows and of all "
                "shifted sets"
            )
        return study

    def _supported(self, metric: str) -> list[tuple[str, str]]:
        """Return the detector and the set of each figure that is bold."""
        if self._study is None or self.confidence is None:
            return []
        measured = self._study.metrics.get(metric.removesuffix(FULL))
        if measured is None or measured.function is not None:
            return []
        found = self.best(metric)
        return [(row["detector"], row["ood_set"]) for row in found if row["supported"]]

    def _bold(self) -> Collection[tuple[int, str]]:
        names = [] if self._study is None else self._study.names
        return [
            (i, metric)
            for metric in names
            for pair in (self._supported(metric) if any(metric in row for row in self) else ())
            for i, row in enumerate(self)
            if (row["detector"], row["ood_set"]) == pair
        ]


def _stacked(arrays: Sequence[npt.NDArray]) -> npt.NDArray[np.float64]:
    return arrays[0] if len(arrays) == 1 else np.stack(arrays)
