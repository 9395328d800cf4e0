"""Differences of scores after parts of items are replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from skood._data.chunks import row_slices
from skood.explanation import Attribution

__all__ = ["occluded_columns", "occlusions"]

_Array = npt.NDArray[np.float64]
# Values of items that are scored in one call.
_VALUES = 2**23


def occlusions(
    scores_of: Callable[[npt.NDArray], _Array],
    items: npt.NDArray,
    baselines: list[_Array],
    scores: _Array,
    patch_size: int,
) -> _Array:
    """Return how much the score falls if each part is replaced, on average over the baselines.

    Parameters
    ----------
    scores_of : callable
        Scores items.
    items : ndarray of shape (n, d) or (n, C, H, W)
    baselines : list of ndarray of shape (1 or n, ...)
    scores : ndarray of shape (n,)
    patch_size : int
        Side of the patches of images.

    Returns
    -------
    ndarray of shape (n, d) or (n, H, W)
    """
    n, shape = len(items), items.shape[1:]
    parts = list(_parts(shape, patch_size))
    together = max(1, _VALUES // max(1, items.size * len(baselines)))
    values = np.empty((n, *shape[-2:]) if len(shape) == 3 else (n, *shape))
    for some in row_slices(len(parts), together):
        group = parts[some]
        replaced = np.tile(items, (len(group), len(baselines), *[1] * items.ndim))
        for g, part in enumerate(group):
            for m, baseline in enumerate(baselines):
                new = np.broadcast_to(baseline, items.shape)[(slice(None), *part)]
                if items.dtype.kind in "iu":
                    new = np.rint(new)
                replaced[g, m][(slice(None), *part)] = new
        found = scores_of(replaced.reshape(-1, *shape)).reshape(len(group), len(baselines), n)
        falls = _falls(scores, found).mean(1)
        for part, fall in zip(group, falls, strict=True):
            where = (slice(None), *(part[1:] if len(shape) == 3 else part))
            values[where] = fall.reshape(n, *[1] * (values.ndim - 1))
    return values


def _parts(shape: tuple[int, ...], size: int) -> Iterator[tuple[slice, ...]]:
    """Yield the columns of rows, or the patches of images with all channels."""
    if len(shape) == 1:
        for i in range(shape[0]):
            yield (slice(i, i + 1),)
        return
    _, height, width = shape
    for rows in row_slices(height, size):
        for columns in row_slices(width, size):
            yield (slice(None), rows, columns)


def _falls(scores: _Array, replaced: _Array) -> _Array:
    """Return differences of scores; 0 where both are -inf."""
    with np.errstate(invalid="ignore"):
        return np.where(replaced == scores, 0.0, scores - replaced)


def occluded_columns(estimator: Any, X: Any, baseline: Any) -> Attribution:
    """Return the occlusion of the columns of a pandas frame, which may hold anything."""
    scores = np.asarray(estimator.score_samples(X), np.float64)
    n, m = len(X), len(baseline)
    frame = X.iloc[np.repeat(np.arange(n), m)].reset_index(drop=True)
    baseline = baseline.infer_objects()
    # The median of whole numbers may lie between them.
    kinds = {name: X[name].dtype for name in X.columns if X[name].dtype.kind not in "iu"}
    baseline = baseline.astype(kinds)
    others = baseline.iloc[np.tile(np.arange(m), n)].reset_index(drop=True)
    values = np.empty(X.shape)
    for i, name in enumerate(X.columns):
        replaced = frame.copy()
        replaced[name] = others[name]
        found = np.asarray(estimator.score_samples(replaced), np.float64).reshape(n, m)
        values[:, i] = _falls(scores[:, None], found).mean(1)
    of_baselines = np.full(n, np.mean(estimator.score_samples(baseline)))
    names = tuple(map(str, X.columns))
    return Attribution(scores, values, "occlusion", names, of_baselines)
