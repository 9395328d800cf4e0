"""Choice of the rows that set the threshold of a detector."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from skood._torch.seeding import Stream, numpy_rng

__all__ = ["FEWEST_HELD_OUT", "THRESHOLD_ROWS", "held_out_rows", "threshold_rows"]

# Largest number of rows that set the threshold: the standard error of a 5 % rate is then 0.3 %.
THRESHOLD_ROWS = 5000

# Smallest number of rows held out for the threshold: the standard error of a 5 % rate is then 3 %.
FEWEST_HELD_OUT = 50


def threshold_rows(rows: npt.NDArray[np.integer] | int, seed: int) -> npt.NDArray[np.integer]:
    """Return the sorted rows that set a threshold: all of them, or a random few thousand.

    `rows` are indices, or the number n of the rows 0, ..., n - 1.
    """
    if (rows if isinstance(rows, int) else len(rows)) > THRESHOLD_ROWS:
        rng = numpy_rng(seed, Stream.THRESHOLD_ROWS)
        rows = rng.choice(rows, THRESHOLD_ROWS, replace=False)
    return np.arange(rows) if isinstance(rows, int) else np.sort(rows)


def held_out_rows(
    n_items: int, labels: npt.NDArray | None, fraction: float
) -> npt.NDArray[np.intp]:
    """Return the rows to hold out for the threshold; none if they would be fewer than 50.

    The same fraction of every class is drawn, and never all rows of a class. The draw depends on
    `n_items`, `labels` and `fraction` alone.
    """
    n_rows = min(int(fraction * n_items), THRESHOLD_ROWS)
    if n_rows >= FEWEST_HELD_OUT:
        rng = numpy_rng(0, Stream.HELD_OUT_ROWS)
        if labels is None:
            # What `_stratified` draws for one class, with less memory.
            return rng.permutation(n_items)[: min(n_rows, n_items - 1)].copy()
        rows = _stratified(labels, n_rows, rng)
        if len(rows) >= FEWEST_HELD_OUT:
            return rows
    return np.arange(0)


def _stratified(labels: npt.NDArray, n_rows: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Draw `n_rows` rows, the same fraction of every class, and never all rows of a class."""
    _, class_indices, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = rng.permutation(len(labels))
    order = order[np.argsort(class_indices[order], kind="stable")]
    # Position of each row in the random order of its class.
    position = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    of_rows = np.repeat(sizes, sizes)
    # The offset makes the rounding random, so that rows of small classes are drawn, too.
    quantile = (position + np.repeat(rng.random(len(sizes)), sizes)) / of_rows
    candidates = position < of_rows - 1
    return order[candidates][np.argsort(quantile[candidates])[:n_rows]]
