"""Figures of a table together with published figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from skood._table import Table

__all__ = ["beside"]

# The positive class of our metrics whose value depends on it.
_POSITIVE = {"aupr_in": "id", "aupr_out": "ood", "fpr95": "id", "fpr80": "id"}


def beside(
    table: Sequence[Mapping[str, Any]],
    classes: Mapping[str, str],
    published: Sequence[Mapping[str, Any]],
    *,
    id_set: str | None,
    methods: str | Sequence[str],
    sets: Mapping[str, str],
    network: str | None,
) -> Table:
    """Return the rows of a table, each set followed by the published figures of the set.

    `classes` are the names of the detectors' classes, by the names of the detectors.
    """
    theirs = _of_id_set(published, id_set)
    theirs = _of_methods(theirs, methods, set(classes.values()))
    metrics = _shared_metrics(table, theirs)
    known = {_plain(row["ood_set"]): row["ood_set"] for row in theirs}
    rows: list[dict[str, Any]] = []
    for column in dict.fromkeys(row["ood_set"] for row in table):
        name = known.get(_plain(sets.get(column, column)))
        of_set = [row for row in theirs if row["ood_set"] == name and row["metric"] in metrics]
        if not of_set:
            continue
        rows += [_ours(row, metrics, network) for row in table if row["ood_set"] == column]
        rows += _theirs(of_set, column)
    if not rows:
        raise ValueError(
            f"no set is in both tables: {list(dict.fromkeys(row['ood_set'] for row in table))} "
            f"here and {list(known.values())} in the published figures; name them in sets, by the "
            'name here: sets={"my svhn": "SVHN"}. Groups are compared by name as well'
        )
    return Table(rows)


def _of_id_set(
    published: Sequence[Mapping[str, Any]], id_set: str | None
) -> list[Mapping[str, Any]]:
    known = {_plain(row["id_set"]): row["id_set"] for row in published}
    if id_set is None and len(known) == 1:
        return list(published)
    chosen = None if id_set is None else known.get(_plain(id_set))
    if chosen is None:
        raise ValueError(f"id_set={id_set!r}; expected one of {list(known.values())}")
    return [row for row in published if row["id_set"] == chosen]


def _of_methods(
    rows: Sequence[Mapping[str, Any]], methods: str | Sequence[str], classes: set[str]
) -> list[Mapping[str, Any]]:
    if methods == "all":
        return list(rows)
    if methods == "same":
        found = [row for row in rows if row["skood_class"] in classes]
        expected = f"methods of the classes {sorted(classes)}"
    else:
        chosen = [methods] if isinstance(methods, str) else list(methods)
        found = [row for row in rows if row["method"] in chosen]
        expected = f"methods among {chosen}"
    if not found:
        raise ValueError(
            f"no published figure is of {expected}; the published methods are "
            f"{list(dict.fromkeys(row['method'] for row in rows))}. Give methods='all' for all"
        )
    return found


def _shared_metrics(
    table: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[str]:
    ours = dict.fromkeys(name for row in table for name in row)
    like = {
        row["metric"]
        for row in rows
        if row["positive"] == "either" or row["positive"] == _POSITIVE.get(row["metric"], "either")
    }
    shared = [name for name in ours if name in like]
    if not shared:
        raise ValueError(
            f"no metric is in both tables with the same positive class: {list(ours)} here and "
            f"{list(dict.fromkeys((row['metric'], row['positive']) for row in rows))} in the "
            "published figures"
        )
    return shared


def _ours(row: Mapping[str, Any], metrics: Sequence[str], network: str | None) -> dict[str, Any]:
    parts = [name + part for name in metrics for part in ("", "_low", "_high", "_std")]
    return {
        "ood_set": row["ood_set"],
        "method": row["detector"],
        "from": "this table",
        "network": network,
        "accuracy": row.get("id_accuracy"),
    } | {name: row[name] for name in parts if name in row}


def _theirs(rows: Sequence[Mapping[str, Any]], column: str) -> list[dict[str, Any]]:
    """Return a row for each method and network, with its metrics."""
    found: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        key = row["method"], row["network"], row["note"]
        line = found.setdefault(
            key,
            {
                "ood_set": column,
                "method": row["method"],
                "from": row["source"],
                "network": row["network"],
                "accuracy": row["accuracy"],
            },
        )
        line[row["metric"]] = row["value"]
        if row["std"] is not None:
            line[f"{row['metric']}_std"] = row["std"]
    return list(found.values())


def _plain(name: Any) -> str:
    return re.sub(r"[\s_-]", "", str(name)).casefold()
