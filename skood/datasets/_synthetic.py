"""Outliers made from in-distribution data, for validation without other outliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from skood.datasets._mixed_columns import MixedColumns
from skood.datasets._random import generator

__all__ = ["synthetic_outliers"]

# Number of patches along each side of an image.
_PATCHES = 4


def synthetic_outliers(
    X: Any,
    kind: str | Sequence[str] = "all",
    n_samples: int | None = None,
    random_state: int | np.random.RandomState | None = None,
    *,
    strength: float = 1.0,
) -> Any:
    r"""Make validation outliers from in-distribution rows or images.

    Parameters
    ----------
    X : array-like, DataFrame, Tensor or Dataset of shape (n, ...)
        Rows (n, d) or images (n, H, W), (n, C, H, W) or (n, H, W, C). Columns of a frame may have
        categories, texts, dates and missing values.
    kind : str or sequence of str, default="all"
        Kinds of outliers. Several kinds get equal numbers of outliers, in random order; "all" takes
        all kinds that apply to X. With :math:`s` the `strength`, for rows and images:

        - "mixup": :math:`(1 - s/2) x + s/2 \, x'` with another item :math:`x'` of X;
        - "mutation": each value is replaced with probability :math:`s/2`, in images by a uniform
          draw from the range of values, in rows by a value of the same column;
        - "noise": :math:`(1 - s) x + s u` with uniform noise :math:`u` over the range of values;
        - "permutation": a fraction :math:`s` of the columns (or subpixels) is permuted
          independently across items: every column keeps its distribution, but becomes independent
          of the others.

        In columns of a frame that are not numbers, "mixup" takes the value of :math:`x'` with
        probability :math:`s/2`, and "noise" draws one of the column's values with probability
        :math:`s`.

        For images only:

        - "blur": a Gaussian blur with a standard deviation of :math:`s/8` of the shorter side;
        - "far_crop": a corner with :math:`1 - 3s/4` of the height and width is magnified to the
          full size;
        - "inversion": :math:`(1 - s) x + s (a + b - x)` in a range of values from a to b;
        - "patch_shuffle": a fraction :math:`s` of 4 x 4 patches, at least two, is permuted. Pixels
          at the right and lower edge that do not fill a patch are unchanged.
    n_samples : int, default=None
        Number of outliers. None makes one outlier from each item, in order; otherwise items are
        drawn, each of them once before any is drawn again.
    random_state : int, RandomState instance or None, default=None
        Seed. None takes entropy from the system.
    strength : float, default=1.0
        Distance of the outliers from X, in (0, 1].

    Returns
    -------
    ndarray of shape (n_samples, ...), or DataFrame of shape (n_samples, d)
        With the dtype, item shape and channel order of X, and in its range of values: 0 to 255
        for uint8, 0 to 1 for images of floats within it, otherwise from the smallest to the
        largest value of X (for rows, of each column). Images of a Dataset are returned as
        (n, C, H, W). A frame whose columns are not all finite numbers gives a frame, with the same
        columns and dtypes; other frames give an array.

    Raises
    ------
    ValueError
        For a kind that is unknown or does not apply to X, `strength` or `n_samples` out of range,
        and invalid data.

    See Also
    --------
    skood.model_selection.OODSplit : Splits ID rows and outliers for a search.

    Notes
    -----
    The hyperparameters that such outliers select depend on their kind. Use several kinds, and
    `OODSplit` with the kind as ``groups``, to see whether one choice suits all kinds. For training
    instead of validation, mutation is used in [1]_ (for background models), patch permutation in
    [2]_ and mixup in [3]_.

    References
    ----------
    .. [1] J. Ren et al., "Likelihood Ratios for Out-of-Distribution Detection", NeurIPS 2019.
    .. [2] D. Hendrycks, M. Mazeika and T. Dietterich, "Deep Anomaly Detection with Outlier
       Exposure", ICLR 2019.
    .. [3] H. Zhang, M. Cisse, Y. N. Dauphin and D. Lopez-Paz, "mixup: Beyond Empirical Risk
       Minimization", ICLR 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from skood.datasets import synthetic_outliers
    >>> X = load_digits().images
    >>> outliers = synthetic_outliers(X, ["patch_shuffle", "blur"], n_samples=500, random_state=0)
    >>> outliers.shape
    (500, 8, 8)
    >>> X = np.concatenate([X, outliers])
    >>> y = np.append(load_digits().target, np.full(500, -1))
    """
    columns = MixedColumns.of(X)
    if columns is None:
        pool, channels_last, squeeze = _as_array(X)
    else:
        pool, channels_last, squeeze = columns.rows, False, False
    kinds = _check_kinds(kind, pool)
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength!r}; expected a number in (0, 1]")
    if n_samples is not None and (not isinstance(n_samples, (int, np.integer)) or n_samples < 1):
        raise ValueError(f"n_samples={n_samples!r}; expected an integer of at least 1, or None")

    rng = generator(random_state)
    sample = np.arange(len(pool))
    if n_samples is not None:
        passes = -(-n_samples // len(pool))
        sample = np.concatenate([rng.permutation(len(pool)) for _ in range(passes)])[:n_samples]
    low, high = _value_range(pool)
    kind_of = np.zeros(len(sample), dtype=np.intp)
    if len(kinds) > 1:
        kind_of = rng.permutation(np.arange(len(sample)) % len(kinds))
    places_of = [(name, np.flatnonzero(kind_of == k)) for k, name in enumerate(kinds)]
    made_by = [(name, places) for name, places in places_of if len(places)]

    def make(name: str, rows: npt.NDArray[np.intp]) -> npt.NDArray:
        return _KINDS[name](_Task(pool, rows, low, high, strength, rng))

    if columns is not None:
        return columns.outliers(made_by, sample, strength, rng, make)
    outliers = np.empty((len(sample), *pool.shape[1:]), dtype=pool.dtype)
    for name, places in made_by:
        outliers[places] = _cast(make(name, sample[places]), pool.dtype, low, high)
    if squeeze:
        return outliers[:, 0]
    return np.ascontiguousarray(np.moveaxis(outliers, 1, 3)) if channels_last else outliers


class _Task(NamedTuple):
    """Items to make outliers from; images are (C, H, W)."""

    pool: npt.NDArray
    sample: npt.NDArray[np.intp]
    low: npt.NDArray
    high: npt.NDArray
    strength: float
    rng: np.random.Generator

    @property
    def items(self) -> npt.NDArray:
        return self.pool[self.sample]

    @property
    def numbers(self) -> npt.NDArray:
        """Items as floats for arithmetic, in which uint8 would overflow."""
        return self.items.astype(self.precision)

    @property
    def precision(self) -> np.dtype[Any]:
        return np.result_type(self.pool.dtype, np.float32)

    def noise(self) -> npt.NDArray:
        shape = len(self.sample), *self.pool.shape[1:]
        return self.low + (self.high - self.low) * self.rng.random(shape, dtype=self.precision)


def _noise(task: _Task) -> npt.NDArray:
    return (1 - task.strength) * task.numbers + task.strength * task.noise()


def _mixup(task: _Task) -> npt.NDArray:
    n = len(task.pool)
    others = (task.sample + task.rng.integers(1, n, size=len(task.sample))) % n
    weight = task.strength / 2
    return (1 - weight) * task.numbers + weight * task.pool[others].astype(task.precision)


def _mutation(task: _Task) -> npt.NDArray:
    items = task.items
    if items.ndim == 2:
        donors = task.rng.integers(len(task.pool), size=items.shape)
        values = task.pool[donors, np.arange(items.shape[1])]
    else:
        values = task.noise()
    return np.where(task.rng.random(items.shape) < task.strength / 2, values, items)


def _permutation(task: _Task) -> npt.NDArray:
    items = task.items
    flat = items.reshape(len(items), -1)
    n_columns = max(1, round(task.strength * flat.shape[1]))
    columns = np.sort(task.rng.choice(flat.shape[1], n_columns, replace=False))
    # Values come from all of X even for few samples: a single item cannot exchange values.
    donors = flat if len(items) >= len(task.pool) else task.pool.reshape(len(task.pool), -1)
    flat[:, columns] = task.rng.permuted(donors[:, columns], axis=0)[: len(flat)]
    return flat.reshape(items.shape)


def _blur(task: _Task) -> npt.NDArray:
    height, width = task.pool.shape[2:]
    sigma = task.strength * min(height, width) / 8
    return gaussian_filter(task.numbers, (0, 0, sigma, sigma), mode="reflect")


def _far_crop(task: _Task) -> npt.NDArray:
    height, width = task.pool.shape[2:]
    part = 1 - 0.75 * task.strength
    corner = task.rng.integers(2, size=(2, len(task.sample)))
    rows, columns = (
        np.arange(size) * crop // size + at[:, None] * (size - crop)
        for size, crop, at in (
            (height, max(1, round(part * height)), corner[0]),
            (width, max(1, round(part * width)), corner[1]),
        )
    )
    # Advanced indexing with several arrays puts images first and channels last.
    crops = task.pool[task.sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return np.moveaxis(crops, 3, 1)


def _inversion(task: _Task) -> npt.NDArray:
    numbers = task.numbers
    return numbers + task.strength * (task.low + task.high - 2 * numbers)


def _patch_shuffle(task: _Task) -> npt.NDArray:
    images = task.items
    n, n_channels, height, width = images.shape
    down, across = min(_PATCHES, height), min(_PATCHES, width)
    tall, wide = height // down, width // across
    covered = np.s_[:, :, : down * tall, : across * wide]
    patches = images[covered].reshape(n, n_channels, down, tall, across, wide)
    patches = patches.transpose(0, 2, 4, 1, 3, 5).reshape(n, down * across, -1)
    order = np.tile(np.arange(down * across), (n, 1))
    n_moved = max(2, round(task.strength * down * across))
    moved = task.rng.permuted(order, axis=1)[:, :n_moved]
    # A cyclic permutation, so that no patch stays in its place.
    np.put_along_axis(order, moved, np.roll(moved, 1, axis=1), axis=1)
    patches = np.take_along_axis(patches, order[:, :, None], axis=1)
    patches = patches.reshape(n, down, across, n_channels, tall, wide).transpose(0, 3, 1, 4, 2, 5)
    images[covered] = patches.reshape(n, n_channels, down * tall, across * wide)
    return images


_FOR_ALL: dict[str, Callable[[_Task], npt.NDArray]] = {
    "mixup": _mixup,
    "mutation": _mutation,
    "noise": _noise,
    "permutation": _permutation,
}
_FOR_IMAGES: dict[str, Callable[[_Task], npt.NDArray]] = {
    "blur": _blur,
    "far_crop": _far_crop,
    "inversion": _inversion,
    "patch_shuffle": _patch_shuffle,
}
_KINDS = {**_FOR_ALL, **_FOR_IMAGES}


def _as_array(X: Any) -> tuple[npt.NDArray, bool, bool]:
    """Return rows or (n, C, H, W) images, and whether X had channels last or no channels."""
    # This imports torch, which importing this module shall not.
    from skood._data.validation import share_forward_pass

    data = share_forward_pass(X)
    data.check_rows_or_images("synthetic_outliers")
    pool = data.take(np.arange(len(data)))
    given = np.shape(X) if hasattr(X, "shape") or isinstance(X, (list, tuple)) else pool.shape
    return pool, len(given) == 4 and pool.shape[1:] != given[1:], len(given) == 3


def _check_kinds(kind: str | Sequence[str], pool: npt.NDArray) -> list[str]:
    allowed = _KINDS if pool.ndim == 4 else _FOR_ALL
    if isinstance(kind, str):
        kinds = list(allowed) if kind == "all" else [kind]
    else:
        kinds = list(kind)
    unknown = [name for name in kinds if name not in _KINDS]
    if unknown or not kinds:
        raise ValueError(
            f"kind={kind!r} names {', '.join(map(repr, unknown)) or 'nothing'}; expected 'all', or "
            f"one or several of {', '.join(_KINDS)}"
        )
    needing_images = [name for name in kinds if name not in allowed]
    if needing_images:
        raise ValueError(
            f"{', '.join(needing_images)} can only be made from images, but X has rows of "
            f"{pool.shape[1]} values; expected shape (n, H, W), (n, C, H, W) or (n, H, W, C), or "
            f"for rows {', '.join(_FOR_ALL)}"
        )
    needing_others = [name for name in ("mixup", "permutation") if name in kinds]
    if len(pool) < 2 and needing_others:
        raise ValueError(
            f"{', '.join(needing_others)} combine different items, but X has {len(pool)}; give "
            "at least 2"
        )
    if "patch_shuffle" in kinds and pool.shape[2] * pool.shape[3] < 2:
        raise ValueError("patch_shuffle needs images of at least 2 pixels, but X has 1 x 1")
    return kinds


def _value_range(pool: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray]:
    """Return the smallest and the largest value; for rows, of each column."""
    if pool.dtype == np.uint8:
        return np.array(0, np.float32), np.array(255, np.float32)
    precision = np.result_type(pool.dtype, np.float32)
    if pool.ndim == 2:
        return pool.min(0).astype(precision), pool.max(0).astype(precision)
    low, high = np.array(pool.min(), precision), np.array(pool.max(), precision)
    if pool.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = np.zeros_like(low), np.ones_like(high)
    return low, high


def _cast(
    values: npt.NDArray, dtype: npt.DTypeLike, low: npt.NDArray, high: npt.NDArray
) -> npt.NDArray:
    """Convert to the dtype of X, and clip values that rounding moved outside the range."""
    if values.dtype.kind in "biu":
        return values  # They are copied and need no rounding.
    if np.dtype(dtype).kind in "biu":
        values = np.rint(values)
    return np.clip(values, low, high).astype(dtype)
