"""Checks of sets of data by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["check_scores_of_sets", "check_sets"]


def check_sets(sets: Any, name: str, *, at_least: int = 1) -> None:
    """Raise unless `sets`, the argument `name`, is a dict with at least `at_least` entries."""
    if not isinstance(sets, Mapping):
        raise TypeError(
            f"{name} is of type {type(sets).__name__}; expected a dict of sets by name, "
            '{"test": X} for instance'
        )
    if not sets:
        raise ValueError(f"{name} is empty; expected at least one set, by its name")
    if len(sets) < at_least:
        raise ValueError(
            f"{name} has {len(sets)} set, {next(iter(sets))!r}; expected in-distribution data "
            "first, and at least one other set, by their names"
        )


def check_scores_of_sets(scores: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float64]]:
    """Return the scores of each set as float64; raise if there are none, or NaN."""
    return {name: _check_scores(values, name) for name, values in scores.items()}


def _check_scores(scores: Any, name: str) -> npt.NDArray[np.float64]:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(
            f"scores[{name!r}] has shape {scores.shape}; expected (n_samples,), at least one score"
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"scores[{name!r}] has {np.isnan(scores).sum()} NaN among {len(scores)}; leave them out"
        )
    return scores
