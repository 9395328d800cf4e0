"""Summary of the rounds of a benchmark."""

from __future__ import annotations

from statistics import median

__all__ = ["summary"]


def summary(rounds: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the median, minimum and maximum of each measurement over the rounds."""
    columns = {key: [measured[key] for measured in rounds] for key in rounds[0]}
    return {k: {"median": median(v), "min": min(v), "max": max(v)} for k, v in columns.items()}
