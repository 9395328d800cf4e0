"""Summary of what several rounds of a benchmark measured."""

from __future__ import annotations

from statistics import median

__all__ = ["summary"]


def summary(rounds: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median, minimum and maximum of each measured number over the rounds."""
    columns = {key: [measured[key] for measured in rounds] for key in rounds[0]}
    return {k: {"median": median(v), "min": min(v), "max": max(v)} for k, v in columns.items()}
