"""Results of several seeds in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["added", "check_same", "spread"]


def check_same(path: Path, about: dict[str, Any]) -> None:
    """Raise a ValueError if `path` has results of other settings than `about`."""
    if not path.exists():
        return
    stored = json.loads(path.read_text())
    differing = [key for key, value in about.items() if stored.get(key) != value]
    if differing:
        raise ValueError(
            f"{path} has results of another {' and '.join(differing)}; move the file away, or give "
            "another --out"
        )


def added(path: Path, about: dict[str, Any], seed: int, new: dict[str, Any]) -> dict[str, Any]:
    """Return the results stored in `path` with the results of a seed added.

    Parameters
    ----------
    path : Path
    about : dict
        Settings, the same for all seeds.
    seed : int
    new : dict
        Results of the seed: "methods", and facts of the run. Methods that are stored and not new
        are kept.

    Returns
    -------
    dict
        `about`; "runs", the results of each seed; and "methods", their means over the seeds.
    """
    check_same(path, about)
    runs = json.loads(path.read_text())["runs"] if path.exists() else {}
    before = runs.get(str(seed), {"methods": {}})["methods"]
    runs[str(seed)] = {**new, "methods": {**before, **new["methods"]}}
    runs = dict(sorted(runs.items(), key=lambda run: int(run[0])))
    names = dict.fromkeys(name for run in runs.values() for name in run["methods"])
    means = {
        name: _mean([run["methods"][name] for run in runs.values() if name in run["methods"]])
        for name in names
    }
    return {**about, "methods": means, "runs": runs}


def _mean(methods: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over seeds, without the history of each training."""
    parts = [{k: v for k, v in method.items() if k != "history"} for method in methods]
    return {"n_seeds": len(parts), **_averaged(parts)}


def _averaged(values: list[Any]) -> Any:
    """Return the mean of numbers, of lists of numbers, or of each entry of dicts."""
    if isinstance(values[0], dict):
        return {key: _averaged([value[key] for value in values]) for key in values[0]}
    return np.mean(values, 0).tolist()


def spread(values: list[float], digits: int) -> str:
    """Format the mean of several seeds with their standard deviation, or a single value."""
    deviation = f" ({np.std(values, ddof=1):.{digits}f})" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"
