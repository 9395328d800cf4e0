"""AUROC of detectors on the same rows, with paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skood._torch.seeding import Stream, numpy_rng

__all__ = ["Comparison", "areas", "resampled_areas", "set_areas", "summary"]

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Scores of ID rows and of outliers under every detector.

    Parameters
    ----------
    criterion : str
        What the outliers are: "classes", "synthetic" or "outliers".
    name : str
        Name of the set of outliers.
    inlier_group : int
        Comparisons of one group have the same ID rows, which are resampled together.
    inliers, outliers : dict of str to ndarray
        Scores by the name of the detector.
    """

    criterion: str
    name: str
    inlier_group: int
    inliers: dict[str, Scores]
    outliers: dict[str, Scores]


def areas(comparisons: Sequence[Comparison], names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the AUROC of each detector in each comparison, (n_detectors, n_comparisons)."""
    return np.array(
        [[_wins(c.inliers[name], c.outliers[name]).mean() for c in comparisons] for name in names]
    )


def set_areas(comparisons: Sequence[Comparison], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the AUROC of every detector on every set, as rows of a table."""
    return [
        {"detector": name, "criterion": c.criterion, "set": c.name, "auroc": float(area)}
        for name, row in zip(names, areas(comparisons, names), strict=True)
        for c, area in zip(comparisons, row, strict=True)
    ]


def summary(
    comparisons: Sequence[Comparison],
    names: Sequence[str],
    *,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Return a row for each detector, in the order of the AUROC.

    The AUROC of a criterion is the mean over its sets, and the AUROC of a detector the mean over
    the criteria.
    """
    resampled = resampled_areas(comparisons, names, n_resamples, seed)
    criteria = list(dict.fromkeys(c.criterion for c in comparisons))
    columns = [[c.criterion == name for c in comparisons] for name in criteria]

    def means(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the mean over the criteria, and the mean of each criterion."""
        each = np.stack([table[..., column].mean(-1) for column in columns], axis=-1)
        return np.concatenate([each.mean(-1, keepdims=True), each], axis=-1)

    values, spread = means(areas(comparisons, names)), means(resampled)
    tail = (1 - confidence) / 2
    low, high = np.quantile(spread, [tail, 1 - tail], axis=0)
    is_first = spread[..., 0] == spread[..., 0].max(1, keepdims=True)
    first = (is_first / is_first.sum(1, keepdims=True)).mean(0)
    rows = []
    for rank, i in enumerate(np.argsort(-values[:, 0], kind="stable"), 1):
        row: dict[str, Any] = {"detector": names[i], "rank": rank}
        for j, key in enumerate(["auroc", *criteria]):
            row |= {
                key: float(values[i, j]),
                f"{key}_low": float(low[i, j]),
                f"{key}_high": float(high[i, j]),
            }
        rows.append(row | {"first": float(first[i])})
    return rows


def resampled_areas(
    comparisons: Sequence[Comparison], names: Sequence[str], n_resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Return the AUROC on resampled rows, shape (n_resamples, n_detectors, n_comparisons).

    ID rows and outliers are resampled separately. All detectors get the same resamples, so that
    differences between detectors vary as little as they do on new rows.
    """
    result = np.empty((n_resamples, len(names), len(comparisons)))
    for j, comparison in enumerate(comparisons):
        n_in, n_out = (
            len(next(iter(scores.values()))) for scores in (comparison.inliers, comparison.outliers)
        )
        rng = numpy_rng(seed, Stream.RECOMMENDATION_RESAMPLES, 0, comparison.inlier_group)
        weights_in = _counts(rng, n_resamples, n_in)
        rng = numpy_rng(seed, Stream.RECOMMENDATION_RESAMPLES, 1, j)
        weights_out = _counts(rng, n_resamples, n_out)
        for i, name in enumerate(names):
            wins = _wins(comparison.inliers[name], comparison.outliers[name])
            won = np.einsum("bj,bj->b", weights_in @ wins, weights_out, dtype=np.float64)
            result[:, i, j] = won / (n_in * n_out)
    return result


def _wins(inliers: Scores, outliers: Scores) -> npt.NDArray[np.float32]:
    """Return 1 where an ID row has the higher score, 1/2 where both are equal, and 0 elsewhere."""
    difference = np.sign(np.subtract.outer(inliers, outliers), dtype=np.float64)
    return ((difference + 1) / 2).astype(np.float32)


def _counts(rng: np.random.Generator, n_resamples: int, n_rows: int) -> npt.NDArray[np.float32]:
    """Return how often each row is drawn, shape (n_resamples, n_rows)."""
    drawn = rng.multinomial(n_rows, np.full(n_rows, 1 / n_rows), size=n_resamples)
    return drawn.astype(np.float32)
