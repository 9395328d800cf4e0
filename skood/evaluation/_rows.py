"""Rows of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skood.evaluation._scoring import Outcome, Scored, Sets
from skood.evaluation._study import Study

__all__ = ["rows_of"]


def rows_of(
    name: str, study: Study, labels: Sets, confidence: float | None
) -> list[dict[str, Any]]:
    """Return the rows of one detector: OOD sets, then groups."""
    outcomes = study.outcomes[name]
    points = study.points[name]
    bounds = None if confidence is None else study.interval(name, confidence)
    common, accuracy = _of_id_rows(outcomes, labels)
    rows = []
    for place, column in enumerate(study.columns):
        row: dict[str, Any] = {"detector": name, "ood_set": column}
        for k, metric in enumerate(study.names):
            values = points[:, place, k]
            if np.isnan(values).any():
                continue
            row[metric] = float(values.mean())
            if len(values) > 1:
                row[f"{metric}_std"] = float(values.std(ddof=1))
            if bounds is not None:
                low, high = bounds[:, place, k].tolist()
                row |= {f"{metric}_low": low, f"{metric}_high": high}
        sets = study.groups.get(column, [column])
        found = [[outcome.sets.outside[ood_set] for outcome in outcomes] for ood_set in sets]
        row |= _accepted(outcomes, found)
        row |= common | accuracy
        row["n_ood"] = sum(len(of_set[0].scores) for of_set in found)
        row["seconds"] = float(np.sum([np.mean([s.seconds for s in of_set]) for of_set in found]))
        if column in study.groups:
            row["n_sets"] = len(sets)
        if len(outcomes) > 1:
            row["n_seeds"] = len(outcomes)
        rows.append(row)
    return rows


def _accepted(outcomes: Sequence[Outcome], found: Sequence[Sequence[Scored]]) -> dict[str, float]:
    """Return the accepted fractions of ID rows, shifted sets, and OOD sets on average."""
    if any(outcome.offset is None for outcome in outcomes):
        return {}
    fractions = {"id_accepted": [(o.sets.inside, o.offset) for o in outcomes]}
    shifted = {
        f"{name}_accepted": [(o.sets.shifted[name], o.offset) for o in outcomes]
        for name in outcomes[0].sets.shifted
    }
    outside = [
        (scored, outcome.offset)
        for of_set in found
        for scored, outcome in zip(of_set, outcomes, strict=True)
    ]
    return {
        key: float(np.mean([np.mean(scored.scores >= offset) for scored, offset in pairs]))
        for key, pairs in (fractions | {"ood_accepted": outside} | shifted).items()
    }


def _of_id_rows(outcomes: Sequence[Outcome], labels: Sets) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the number of ID rows, and the accuracies on ID rows and shifted sets."""
    sets = [outcome.sets for outcome in outcomes]
    accuracy = _accuracy("id_accuracy", [s.inside for s in sets], labels.inside)
    for name, of_set in labels.shifted.items():
        accuracy |= _accuracy(f"{name}_accuracy", [s.shifted[name] for s in sets], of_set)
    return {"n_id": len(sets[0].inside.scores)}, accuracy


def _accuracy(key: str, found: Sequence[Scored], labels: Any) -> dict[str, float]:
    if labels is None or any(scored.predicted is None for scored in found):
        return {}
    values = [float(np.mean(scored.predicted == labels)) for scored in found]
    result = {key: float(np.mean(values))}
    if len(values) > 1:
        result[f"{key}_std"] = float(np.std(values, ddof=1))
    return result
