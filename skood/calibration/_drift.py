"""A test of a batch against calibration scores, and bounds of its OOD fraction."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, gammaln

from skood._table import html_table
from skood._torch.seeding import Stream, numpy_rng

__all__ = ["DriftTest", "drift_of"]

# Ranks at which rows of a batch are counted.
_N_RANKS = 10
# Resamples that are drawn at a time.
_CHUNK = 1000

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer]


@dataclass(frozen=True)
class DriftTest:
    """Answer of ``drift_test``: whether a batch comes from the in-distribution.

    Parameters
    ----------
    p_value : float
        P-value of the hypothesis that all rows come from the in-distribution.
    ood_fraction : float
        Estimated fraction of OOD rows, if no OOD row scores above the median of in-distribution
        rows.
    low : float
        Lower end of the interval of the fraction of OOD rows, which holds for OOD rows of any kind.
    high : float
        Upper end of the interval, under the assumption of `ood_fraction`.
    confidence : float
        Level of the interval.
    n_rows : int
        Number of rows of the batch.
    n_calibration : int
        Number of calibration rows that the batch was compared with.

    Examples
    --------
    >>> import numpy as np
    >>> from skood import KNN, ConformalDetector
    >>> rng = np.random.default_rng(0)
    >>> detector = ConformalDetector(KNN(), random_state=0).fit(rng.normal(size=(600, 3)))
    >>> result = detector.drift_test(rng.normal(4, 1, size=(20, 3)))
    >>> result.p_value, result.n_rows
    (0.0001, 20)
    """

    p_value: float
    ood_fraction: float
    low: float
    high: float
    confidence: float
    n_rows: int
    n_calibration: int

    def __str__(self) -> str:
        return (
            f"{self.n_rows} rows compared with {self.n_calibration} calibration rows: p = "
            f"{self.p_value:.4g}; OOD fraction {self.ood_fraction:.2f}, between {self.low:.2f} and "
            f"{self.high:.2f} at confidence {self.confidence:g}"
        )

    def _repr_html_(self) -> str:
        cells = {
            "rows": f"{self.n_rows}",
            "calibration rows": f"{self.n_calibration}",
            "p-value": f"{self.p_value:.4g}",
            "OOD fraction": f"{self.ood_fraction:.2f}",
            f"interval at confidence {self.confidence:g}": f"[{self.low:.2f}, {self.high:.2f}]",
        }
        return html_table([list(cells), list(cells.values())], left=())


def drift_of(
    calibration: Floats,
    scores: Floats,
    *,
    alternative: str = "ood",
    confidence: float = 0.95,
    n_resamples: int = 9999,
    random_state: int = 0,
) -> DriftTest:
    """Compare the scores of a batch with calibration scores.

    Parameters
    ----------
    calibration : ndarray of shape (n_calibration,)
        Ascending scores.
    scores : ndarray of shape (n_rows,)
    alternative, confidence, n_resamples, random_state
        As in :meth:`PValueDetector.drift_test`.

    Returns
    -------
    DriftTest

    Raises
    ------
    ValueError
    """
    if alternative not in ("ood", "any"):
        raise ValueError(f'alternative={alternative!r}; expected "ood" or "any"')
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r}; expected a level between 0 and 1, as 0.95")
    if not isinstance(n_resamples, numbers.Integral) or n_resamples < 1:
        raise ValueError(f"n_resamples={n_resamples!r}; expected a positive integer")
    n, m = len(calibration), len(scores)
    ranks = _ranks(n)
    tails = [_upper_tail(m, n, rank) for rank in ranks]
    # Ties count as calibration scores on the side of the null hypothesis.
    low = _counts(1 + np.searchsorted(calibration, scores, side="right"), ranks)
    counts = [low]
    if alternative == "any":
        counts.append(_counts(1 + n - np.searchsorted(calibration, scores, side="left"), ranks))
    observed = min(_smallest_tail(tails, c[None])[0] for c in counts)
    rng = numpy_rng(random_state, Stream.DRIFT)
    n_extreme = 0
    for start in range(0, n_resamples, _CHUNK):
        size = min(_CHUNK, n_resamples - start)
        drawn = _null_counts(rng, m, n, ranks, alternative == "any", size)
        smallest = np.min([_smallest_tail(tails, c) for c in drawn], axis=0)
        # Equal counts must give equal tails, whatever the rounding.
        n_extreme += int((smallest <= observed * (1 + 1e-9)).sum())
    lowest, estimate, highest = _ood_fraction(m, n, ranks, low, (1 - confidence) / 2)
    return DriftTest(
        p_value=(1 + n_extreme) / (n_resamples + 1),
        ood_fraction=estimate,
        low=lowest,
        high=highest,
        confidence=confidence,
        n_rows=m,
        n_calibration=n,
    )


def _ranks(n_calibration: int) -> Counts:
    """Return ranks from 1 to the median, equally spaced on a logarithmic scale."""
    return np.unique(np.geomspace(1, (n_calibration + 1) / 2, _N_RANKS).astype(int))


def _counts(ranks_of_rows: Counts, ranks: Counts) -> Counts:
    """Count the rows up to each of `ranks`."""
    return np.searchsorted(np.sort(ranks_of_rows), ranks, side="right")


def _upper_tail(n_rows: int, n_calibration: int, rank: int) -> Floats:
    """Return P(C >= c) for c = 0, ..., n_rows, where C rows of a batch have up to this rank."""
    a, b = rank, n_calibration + 1 - rank
    c = np.arange(n_rows + 1)
    log_choose = gammaln(n_rows + 1) - gammaln(c + 1) - gammaln(n_rows - c + 1)
    probabilities = np.exp(log_choose + betaln(c + a, n_rows - c + b) - betaln(a, b))
    return np.minimum(np.cumsum(probabilities[::-1])[::-1], 1)


def _smallest_tail(tails: list[Floats], counts: Counts) -> Floats:
    """Return the smallest tail probability of each row of `counts`, (n_draws, n_ranks)."""
    return np.min([tail[column] for tail, column in zip(tails, counts.T, strict=True)], axis=0)


def _null_counts(
    rng: np.random.Generator,
    n_rows: int,
    n_calibration: int,
    ranks: Counts,
    both_sides: bool,
    size: int,
) -> list[Counts]:
    """Draw the counts of exchangeable rows up to each rank, from below and perhaps from above."""
    edges = np.unique(np.concatenate([[0], ranks, n_calibration + 1 - ranks, [n_calibration + 1]]))
    mass = rng.dirichlet(np.diff(edges), size=size)
    below = np.zeros((size, len(edges)), dtype=np.int64)
    below[:, 1:] = np.cumsum(rng.multinomial(n_rows, mass), axis=1)
    counts: list[Counts] = [below[:, np.searchsorted(edges, ranks)]]
    if both_sides:
        counts.append(n_rows - below[:, np.searchsorted(edges, n_calibration + 1 - ranks)])
    return counts


def _ood_fraction(
    n_rows: int, n_calibration: int, ranks: Counts, counts: Counts, tail: float
) -> tuple[float, float, float]:
    """Return a lower bound of the fraction of OOD rows, an estimate and an upper bound."""
    # For every number of inliers, the largest number of them that is plausible up to a rank.
    lowest = max(
        _fewest_outliers(n_rows, n_calibration, rank, count, tail / len(ranks))
        for rank, count in zip(ranks.tolist(), counts.tolist(), strict=True)
    )
    rank, above = int(ranks[-1]), n_rows - int(counts[-1])
    share_above = (n_calibration + 1 - rank) / (n_calibration + 1)
    estimate = 1 - above / n_rows / share_above
    fewest = _fewest_inliers(n_rows, n_calibration, rank, above, tail)
    low, high = lowest / n_rows, max(1 - fewest / n_rows, lowest / n_rows)
    return low, float(np.clip(estimate, low, high)), high


def _fewest_outliers(n_rows: int, n_calibration: int, rank: int, count: int, level: float) -> int:
    """Return the fewest OOD rows with which `count` rows up to `rank` are plausible.

    With one inlier fewer, one row fewer has to be explained, so that the probability grows and
    bisection finds its first value above `level`.
    """

    def is_plausible(n_outliers: int) -> bool:
        tail = _upper_tail(n_rows - n_outliers, n_calibration, rank)
        return bool(tail[count - n_outliers] > level)

    return _first(is_plausible, 0, count)


def _fewest_inliers(n_rows: int, n_calibration: int, rank: int, above: int, level: float) -> int:
    """Return the fewest inliers of which `above` have more than `rank` plausibly."""

    def is_plausible(n_inliers: int) -> bool:
        tail = _upper_tail(n_inliers, n_calibration, n_calibration + 1 - rank)
        return bool(tail[above] > level)

    return _first(is_plausible, above, n_rows)


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the first integer from `low` to `high` for which a monotone condition holds."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
