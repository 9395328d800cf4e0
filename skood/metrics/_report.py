"""All measures of a score in one table, similar to scikit-learn's classification report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skood.metrics._bootstrap import Seed, percentile_bounds
from skood.metrics._counts import RankCounts, count_ranks, rank_rows
from skood.metrics._open_set import ccr_at
from skood.metrics._ranking import area_above, average_precision, fpr_at, smallest_error

__all__ = ["ood_report"]


class _Column(NamedTuple):
    key: str
    title: str
    positive: str
    measure: Callable[[RankCounts], float]


def ood_report(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    y_pred: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    tpr: float = 0.95,
    fpr: float = 0.01,
    digits: int = 3,
    output_dict: bool = False,
    confidence: float | None = None,
    n_resamples: int = 1000,
    random_state: Seed = None,
) -> str | dict[str, Any]:
    r"""Report the main measures of a score, for each OOD set and on average.

    Parameters
    ----------
    y_true : array-like of int or str, shape (n,)
        Class labels >= 0 (0 included), +1 or strings for in-distribution rows; -1 (among
        strings "-1") for out-of-distribution rows.
    y_score : array-like of float, shape (n,)
        Scores, higher = more in-distribution. -inf and +inf are legitimate.
    y_pred : array-like of int or str, shape (n,), default=None
        Classes predicted without rejection, in the labels of ``y_true``. Adds the accuracy on
        the ID rows, the correct-classification rate (CCR) and the OSCR.
    groups : array-like of str or int, shape (n,), default=None
        Name of the OOD set of each row; the entries of ID rows are ignored. Each set is measured
        against all ID rows.
    tpr : float, default=0.95
        Fraction of ID rows accepted at the threshold of the FPR.
    fpr : float, default=0.01
        Largest fraction of OOD rows accepted at the threshold of the CCR.
    digits : int, default=3
        Decimals of the text.
    output_dict : bool, default=False
        Return numbers instead of text.
    confidence : float, default=None
        Level of bootstrap intervals in (0, 1), such as 0.95; None computes none.
    n_resamples : int, default=1000
        Resamples for the intervals.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the resamples. None takes entropy from the operating system.

    Returns
    -------
    str or dict
        A table with a row for each OOD set, in the order of first occurrence, and a line with the
        positive class of each measure. Without ``groups`` the only set is called "OOD"; with
        ``groups`` there is a row "mean", in which every set has the same weight.

        The dict holds "n_id", "accuracy" where predictions are given, "sets" with a dict for
        each set, and "mean" where groups are given. The dict of a set holds "auroc", "aupr_in",
        "aupr_out", "fpr_at_tpr", "detection_error", with predictions "ccr_at_fpr" and "oscr",
        "n_ood", and where ``confidence`` is given "intervals" with ``(low, high)`` for each
        measure. "mean" holds the same except "n_ood".

    Raises
    ------
    ValueError
        If the shapes or lengths do not fit, ``y_true`` is not of integers >= -1 or strings with
        both ID and OOD rows, ``y_pred`` is of another type or holds -1, ``y_score`` holds NaN,
        an OOD row has no group, or a rate, ``confidence`` or ``n_resamples`` is out of range.

    See Also
    --------
    auroc, aupr_in, aupr_out, fpr_at_tpr, detection_error, ccr_at_fpr, oscr : Each measure.
    bootstrap_interval : The interval of one measure.

    Notes
    -----
    Intervals are percentile bootstrap intervals [1]_ over the test rows. ID rows and the rows of
    each OOD set are drawn separately; one draw serves the whole table, so that the interval of
    the mean accounts for the ID rows that all sets share. Memory is linear in n.

    References
    ----------
    .. [1] B. Efron and R. J. Tibshirani, "An introduction to the bootstrap", Chapman & Hall,
       1993, section 13.3.

    Examples
    --------
    >>> from skood.metrics import ood_report
    >>> y_true = [0, 1, 1, 0, -1, -1, -1, -1]
    >>> y_score = [0.9, 0.8, 0.7, 0.4, 0.6, 0.5, 0.2, 0.1]
    >>> groups = ["", "", "", "", "near", "near", "far", "far"]
    >>> print(ood_report(y_true, y_score, groups=groups))
                    AUROC  AUPR-in  AUPR-out  FPR@95%TPR  detection error  OOD rows
    positive class     ID       ID       OOD          ID           either
    <BLANKLINE>
    near            0.750    0.917     0.583       1.000            0.125         2
    far             1.000    1.000     1.000       0.000            0.000         2
    <BLANKLINE>
    mean            0.875    0.958     0.792       0.500            0.062
    <BLANKLINE>
    4 ID rows. A row is accepted as ID if its score is at least the threshold.
    >>> ood_report(y_true, y_score, output_dict=True)["sets"]["OOD"]["auroc"]
    0.875
    """
    is_id, is_correct, ranks = rank_rows(y_true, y_score, y_pred)
    sets = {"OOD": np.flatnonzero(~is_id)} if groups is None else _sets(groups, is_id)
    columns = _columns(tpr, fpr, with_classes=y_pred is not None)
    strata = [np.flatnonzero(is_id), *sets.values()]
    bounds = np.cumsum([len(rows) for rows in strata])[:-1]

    def table(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Measure every set on drawn rows, and append the mean of the sets."""
        id_rows, *drawn_sets = np.split(rows, bounds)
        id_ranks, correct_ranks = ranks[id_rows], ranks[id_rows[is_correct[id_rows]]]
        values = np.empty((len(drawn_sets) + 1, len(columns)))
        for row, drawn in zip(values, drawn_sets, strict=False):
            counts = count_ranks(id_ranks, ranks[drawn], correct_ranks)
            row[:] = [column.measure(counts) for column in columns]
        values[-1] = values[:-1].mean(axis=0)
        return values

    values = table(np.concatenate(strata))
    intervals = None
    if confidence is not None:
        intervals = percentile_bounds(
            table,
            strata,
            n_resamples=n_resamples,
            confidence=confidence,
            random_state=random_state,
        )

    def measured(row: int) -> dict[str, Any]:
        keys = [column.key for column in columns]
        result: dict[str, Any] = dict(zip(keys, values[row].tolist(), strict=True))
        if intervals is not None:
            low, high = intervals[:, row].tolist()
            result["intervals"] = dict(zip(keys, zip(low, high, strict=True), strict=True))
        return result

    report: dict[str, Any] = {"n_id": int(is_id.sum())}
    if y_pred is not None:
        report["accuracy"] = int(is_correct.sum()) / report["n_id"]
    report["sets"] = {
        name: measured(row) | {"n_ood": len(rows)} for row, (name, rows) in enumerate(sets.items())
    }
    if groups is not None:
        report["mean"] = measured(-1)
    if output_dict:
        return report
    text = _text(report, columns, digits)
    if confidence is not None:
        text += (
            f"\nIn brackets: {100 * confidence:g} % bootstrap intervals, {n_resamples} resamples."
        )
    return text


def _columns(tpr: float, fpr: float, *, with_classes: bool) -> list[_Column]:
    columns = [
        _Column("auroc", "AUROC", "ID", lambda c: area_above(c.id, c.ood) / int(c.id.sum())),
        _Column("aupr_in", "AUPR-in", "ID", lambda c: average_precision(c.id, c.ood)),
        _Column(
            "aupr_out", "AUPR-out", "OOD", lambda c: average_precision(c.ood[::-1], c.id[::-1])
        ),
        _Column("fpr_at_tpr", f"FPR@{100 * tpr:g}%TPR", "ID", lambda c: fpr_at(c, tpr)),
        _Column("detection_error", "detection error", "either", smallest_error),
    ]
    if with_classes:
        columns += [
            _Column("ccr_at_fpr", f"CCR@{100 * fpr:g}%FPR", "ID", lambda c: ccr_at(c, fpr)),
            _Column("oscr", "OSCR", "ID", lambda c: area_above(c.correct, c.ood) / int(c.id.sum())),
        ]
    return columns


def _sets(groups: ArrayLike, is_id: NDArray[np.bool_]) -> dict[str, NDArray[np.intp]]:
    """Return the rows of each OOD set by its name, in the order of first occurrence."""
    names = np.asarray(groups)
    if names.shape != is_id.shape:
        raise ValueError(
            f"groups has shape {names.shape} and y_true {is_id.shape}, expected the same: the "
            "name of an OOD set for each row. Give ID rows any name; it is not used."
        )
    rows = np.flatnonzero(~is_id)
    codes: dict[str, int] = {}
    of_row = np.empty(len(rows), dtype=np.intp)
    for position, name in enumerate(names[rows].tolist()):
        if not isinstance(name, str | int | np.integer):
            raise ValueError(
                f"groups is {name!r} at row {rows[position]}, an OOD row in y_true; expected "
                "the name of its OOD set, a string or an integer. Name the set of every OOD row."
            )
        of_row[position] = codes.setdefault(str(name), len(codes))
    by_set = rows[np.argsort(of_row, kind="stable")]
    return dict(zip(codes, np.split(by_set, np.cumsum(np.bincount(of_row))[:-1]), strict=True))


def _text(report: dict[str, Any], columns: list[_Column], digits: int) -> str:
    def cells(name: str, measured: dict[str, Any]) -> list[str]:
        line = [name]
        for column in columns:
            cell = f"{measured[column.key]:.{digits}f}"
            if "intervals" in measured:
                low, high = measured["intervals"][column.key]
                cell += f" [{low:.{digits}f}, {high:.{digits}f}]"
            line.append(cell)
        return [*line, str(measured.get("n_ood", ""))]

    lines = [
        ["", *(column.title for column in columns), "OOD rows"],
        ["positive class", *(column.positive for column in columns), ""],
        [],
        *(cells(name, measured) for name, measured in report["sets"].items()),
    ]
    if "mean" in report:
        lines += [[], cells("mean", report["mean"])]
    widths = [max(map(len, column)) for column in zip(*filter(None, lines), strict=True)]
    aligned = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=False))
        ).rstrip()
        for line in lines
    ]
    accuracy = ""
    if "accuracy" in report:
        accuracy = f", classified with accuracy {report['accuracy']:.{digits}f}"
    footer = (
        f"{report['n_id']} ID rows{accuracy}. A row is accepted as ID if its score is at least the "
        "threshold."
    )
    return "\n".join([*aligned, "", footer])
