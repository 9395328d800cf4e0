"""The table of a recommendation, and its winner."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from skood._optional import import_optional
from skood._table import aligned, html_table

__all__ = ["TITLES", "Recommendation"]

# Names of the criteria in text.
TITLES = {
    "outliers": "real outliers",
    "classes": "left-out classes",
    "synthetic": "synthetic outliers",
}
# The column of names.
_LEFT = {1}


@dataclass(frozen=True, eq=False, repr=False)
class Recommendation:
    """A table of detectors, and one of them fitted and calibrated, as :func:`recommend` makes it.

    It is printed as a table, and shown as one in a notebook.

    Parameters
    ----------
    detector_ : ConformalDetector
        The chosen detector, fitted, with its threshold set on rows that nothing else has used.
    choice_ : str
        Name of the chosen detector.
    reason_ : str
        Why it was chosen.
    rows : list of dict
        A dict for each detector, those that were compared first, in their order: "detector";
        "rank", 1 for the highest AUROC, or None; "chosen"; "auroc" with "auroc_low" and
        "auroc_high", the mean over the criteria and its bootstrap interval; the same for every
        criterion ("outliers", "classes", "synthetic"); "first", the fraction of resamples in which
        the detector has the highest AUROC; "ms_per_item", the time of scoring one item in a batch,
        with the forward pass; and "excluded", the reason why it was not compared, or None.
    by_set : list of dict
        The AUROC of every detector ("detector", "auroc") on every set ("criterion", "set").
    criteria : dict of str to str
        For each criterion "used", or the reason why it is not.
    outliers_auroc_ : dict or None
        "auroc", "low" and "high" of the chosen detector on outliers that the choice has not seen,
        if real outliers were given.
    n_rows : dict of str to int
        Number of "training", "ranking" and "calibration" rows.
    warnings : dict of str to list of str
        Warnings of the detectors that were compared, by name.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import recommend
    >>> X, y = load_iris(return_X_y=True)
    >>> found = recommend(None, X, y, random_state=0)
    >>> found.detector_.predict([[5.0, 3.4, 1.5, 0.2], [9.0, 9.0, 9.0, 9.0]])
    array([ 1, -1])
    """

    detector_: Any
    choice_: str
    reason_: str
    rows: list[dict[str, Any]]
    by_set: list[dict[str, Any]]
    criteria: dict[str, str]
    outliers_auroc_: dict[str, float] | None
    n_rows: dict[str, int]
    warnings: dict[str, list[str]]

    def to_frame(self) -> Any:
        """Return the table as a pandas DataFrame.

        Returns
        -------
        DataFrame
            A row for each detector, with the keys of `rows` as columns.

        Raises
        ------
        ImportError
            When pandas is not installed.
        """
        return import_optional("pandas", "to_frame", "pandas").DataFrame(self.rows)

    def __repr__(self) -> str:
        lines = aligned(self._cells(), _LEFT)
        return "\n".join([f"Recommendation: {self.choice_}", *lines, *self._notes()])

    def _repr_html_(self) -> str:
        cells = self._cells()
        chosen = [i for i, row in enumerate(self._compared()) if row["chosen"]]
        bold = {(i, column) for i in chosen for column in range(len(cells[0]))}
        notes = "".join(f"<li>{escape(note)}</li>" for note in self._notes())
        return (
            f"<p>Recommendation: <b>{escape(self.choice_)}</b></p>\n"
            f"{html_table(cells, _LEFT, bold)}\n<ul>{notes}</ul>"
        )

    def _compared(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["excluded"] is None]

    def _cells(self) -> list[list[str]]:
        """Return the titles and the cells of the detectors that were compared."""
        compared = self._compared()
        criteria = [name for name in TITLES if name in compared[0]]
        columns = ["auroc", *criteria] if len(criteria) > 1 else criteria
        titles = ["AUROC" if name == "auroc" else f"AUROC, {TITLES[name]}" for name in columns]
        cells = [["rank", "detector", *titles, "first", "ms/item", ""]]
        for row in compared:
            cells.append(
                [
                    str(row["rank"]),
                    row["detector"],
                    *(
                        f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
                        for name in columns
                    ),
                    f"{100 * row['first']:.0f} %",
                    f"{row['ms_per_item']:.3g}",
                    "chosen" if row["chosen"] else "",
                ]
            )
        return cells

    def _notes(self) -> list[str]:
        counts = ", ".join(f"{number} {name}" for name, number in self.n_rows.items())
        notes = [f"{self.choice_}: {self.reason_}", f"rows: {counts}"]
        if self.outliers_auroc_ is not None:
            found = self.outliers_auroc_
            notes.append(
                f"AUROC of {self.choice_} on outliers that the choice has not seen: "
                f"{found['auroc']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
            )
        for name, state in self.criteria.items():
            if state != "used":
                notes.append(f"without {TITLES[name]}: {state}")
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if row["excluded"] is not None:
                reasons.setdefault(row["excluded"], []).append(row["detector"])
        for reason, names in reasons.items():
            notes.append(f"not compared: {', '.join(names)} ({reason})")
        return notes
