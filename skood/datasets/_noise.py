"""Noise that does not depend on the data: the far outliers of the literature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from skood.datasets._checks import check_n_samples, is_count, is_finite
from skood.datasets._random import generator

__all__ = ["gaussian_noise", "sphere_noise", "uniform_noise"]

# Number of values drawn at a time, in float64 for every dtype of the result.
_CHUNK = 2**20


def gaussian_noise(
    n_samples: int,
    shape: int | tuple[int, ...],
    *,
    mean: float = 0.5,
    scale: float = 1.0,
    value_range: tuple[float, float] | None = None,
    dtype: npt.DTypeLike = np.float32,
    random_state: int | np.random.RandomState | None = None,
) -> npt.NDArray:
    r"""Make images or rows of clipped Gaussian noise.

    Values are drawn independently. With `value_range` from a to b,

    .. math::

        x = a + (b - a) \, \min(\max(z, 0), 1), \qquad z \sim \mathcal N(\mu, \sigma^2).

    The defaults follow Liang et al. [1]_, clip(N(0.5, 1), 0, 1). With them
    :math:`\Phi(-1/2) = 30.9\,\%` of the values are black, and 30.9 % are white.

    Parameters
    ----------
    n_samples : int
        Number of images or rows.
    shape : int or tuple of int
        Shape of an item: (H, W), (C, H, W) or (H, W, C) of an image, d or (d,) of a row.
    mean : float, default=0.5
        :math:`\mu`, where black is 0 and white is 1.
    scale : float, default=1.0
        :math:`\sigma > 0`, where black is 0 and white is 1.
    value_range : (float, float), default=None
        Values of black and white. None: 0..255 for uint8, 0..1 for floats.
    dtype : dtype, default=numpy.float32
        Float or integer. It only rounds the result: the draws do not depend on it.
    random_state : int, RandomState instance or None, default=None
        Seed. None takes entropy from the system.

    Returns
    -------
    ndarray of shape (n_samples, \*shape)
        Of `dtype`, with values in `value_range`; integers are rounded to the nearest.

    Raises
    ------
    TypeError
        If `dtype` is no dtype of numpy.
    ValueError
        For any other parameter out of range, a `dtype` that is neither float nor integer, integers
        other than uint8 without `value_range`, and a `value_range` that is empty or that `dtype`
        cannot hold.

    See Also
    --------
    uniform_noise : Noise in which all values are equally frequent.
    sphere_noise : Noise outside the range of pixels.
    synthetic_outliers : Outliers made from the data, which lie closer to them.

    References
    ----------
    .. [1] S. Liang, Y. Li and R. Srikant, "Enhancing the Reliability of Out-of-distribution Image
       Detection in Neural Networks", ICLR 2018. arXiv:1706.02690

    Examples
    --------
    >>> from skood.datasets import gaussian_noise
    >>> noise = gaussian_noise(100, (3, 32, 32), random_state=0)
    >>> noise.shape, noise.min().item(), noise.max().item()
    ((100, 3, 32, 32), 0.0, 1.0)
    >>> gaussian_noise(100, (32, 32, 3), dtype="uint8", random_state=0).max().item()
    255
    """
    for name, value in (("mean", mean), ("scale", scale)):
        if not is_finite(value):
            raise ValueError(f"{name}={value!r}; expected a finite number")
    if scale <= 0:
        raise ValueError(f"scale={scale!r}; expected a standard deviation above 0")
    return _noise(
        lambda rng, size: rng.normal(mean, scale, size),
        n_samples,
        shape,
        value_range,
        dtype,
        random_state,
    )


def uniform_noise(
    n_samples: int,
    shape: int | tuple[int, ...],
    *,
    value_range: tuple[float, float] | None = None,
    dtype: npt.DTypeLike = np.float32,
    random_state: int | np.random.RandomState | None = None,
) -> npt.NDArray:
    r"""Make images or rows of uniform noise.

    Values are drawn independently, uniform in `value_range`, as in Liang et al. [1]_.

    Parameters
    ----------
    n_samples : int
        Number of images or rows.
    shape : int or tuple of int
        Shape of an item: (H, W), (C, H, W) or (H, W, C) of an image, d or (d,) of a row.
    value_range : (float, float), default=None
        Values of black and white. None: 0..255 for uint8, 0..1 for floats.
    dtype : dtype, default=numpy.float32
        Float or integer. It only rounds the result: the draws do not depend on it.
    random_state : int, RandomState instance or None, default=None
        Seed. None takes entropy from the system.

    Returns
    -------
    ndarray of shape (n_samples, \*shape)
        Of `dtype`, with values in `value_range`; integers are rounded to the nearest, so that the
        first and the last integer are half as frequent as the others.

    Raises
    ------
    TypeError
        If `dtype` is no dtype of numpy.
    ValueError
        For any other parameter out of range, a `dtype` that is neither float nor integer, integers
        other than uint8 without `value_range`, and a `value_range` that is empty or that `dtype`
        cannot hold.

    See Also
    --------
    gaussian_noise : Noise in which most values are black or white.
    sphere_noise : Noise outside the range of pixels.
    synthetic_outliers : Outliers made from the data, which lie closer to them.

    References
    ----------
    .. [1] S. Liang, Y. Li and R. Srikant, "Enhancing the Reliability of Out-of-distribution Image
       Detection in Neural Networks", ICLR 2018. arXiv:1706.02690

    Examples
    --------
    >>> from skood.datasets import uniform_noise
    >>> uniform_noise(100, (28, 28), random_state=0).shape
    (100, 28, 28)
    >>> digits = uniform_noise(1000, (8, 8), value_range=(0, 16), random_state=0)
    >>> round(digits.mean().item(), 1)
    8.0
    """
    return _noise(
        lambda rng, size: rng.random(size), n_samples, shape, value_range, dtype, random_state
    )


def sphere_noise(
    X: Any,
    n_samples: int = 2000,
    *,
    margin: float = 2.0,
    random_state: int | np.random.RandomState | None = None,
) -> npt.NDArray:
    r"""Draw points from a sphere around all the data.

    The center of the sphere is the origin, and its radius is the largest Euclidean norm among the
    items of X plus `margin`: "sphere-OOD" [1]_. With all D values of an item as one vector,

    .. math::

        x = \left(\max_i \lVert x_i \rVert_2 + m\right) \frac{g}{\lVert g \rVert_2},
        \qquad g \sim \mathcal N(0, I_D),

    which is uniform on the sphere [2]_. Values are not clipped.

    Parameters
    ----------
    X : array-like, Tensor or Dataset of shape (n, ...)
        In-distribution rows (n, d) or images (n, H, W), (n, C, H, W) or (n, H, W, C). Only uint8
        is rescaled, by 1 / 255.
    n_samples : int, default=2000
        Number of points.
    margin : float, default=2.0
        m > 0, in the units of X; for uint8, white is 1.
    random_state : int, RandomState instance or None, default=None
        Seed. None takes entropy from the system.

    Returns
    -------
    ndarray of shape (n_samples, ...)
        With the item shape and channel order of X; float64 if X is float64, otherwise float32.
        Images of a Dataset, or of data from `share_forward_pass`, have the shape (n, C, H, W).

    Raises
    ------
    ValueError
        For a `margin` or `n_samples` out of range, and invalid data.

    See Also
    --------
    gaussian_noise, uniform_noise : Noise inside the range of pixels.
    synthetic_outliers : Outliers made from the data, which lie closer to them.

    Notes
    -----
    About half of the values are negative, so the points are not images: they lie outside [0, 1],
    and an estimator that checks the range of pixels rejects them. Fit the estimator with
    ``value_range="minmax"``, which accepts any value. If X is uint8, fit it on ``X / 255``, since
    the points are on the scale where white is 1.

    References
    ----------
    .. [1] S. Vernekar, A. Gaurav, V. Abdelzad, T. Denouden, R. Salay and K. Czarnecki,
       "Out-of-distribution Detection in Classifiers via Generation", 2019. arXiv:1910.04241
    .. [2] M. E. Muller, "A Note on a Method for Generating Points Uniformly on n-Dimensional
       Spheres", Communications of the ACM 2(4), 1959.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from skood.datasets import sphere_noise
    >>> X = load_digits().images / 16
    >>> points = sphere_noise(X, 500, random_state=0)
    >>> points.shape
    (500, 8, 8)
    >>> norms = [np.linalg.norm(a.reshape(len(a), -1), axis=1) for a in (X, points)]
    >>> (norms[1] - norms[0].max()).round(6).min().item()
    2.0
    """
    # This imports torch, which the other functions do not need.
    from skood._data.validation import share_forward_pass

    n_samples = check_n_samples(n_samples)
    if not is_finite(margin) or margin <= 0:
        raise ValueError(
            f"margin={margin!r}; expected a finite number above 0, by which the radius of the "
            "sphere exceeds the largest norm in X"
        )
    data = share_forward_pass(X)
    data.check_rows_or_images("sphere_noise")
    n_values = math.prod(data.item_shape)
    n_at_once = max(1, _CHUNK // n_values)
    largest = max(
        float(np.linalg.norm(items.reshape(len(items), -1).astype(np.float64), axis=1).max())
        for items in data.chunks(n_at_once)
    )
    radius = margin + (largest / 255 if data.dtype == np.uint8 else largest)

    rng = generator(random_state)
    dtype = np.float64 if data.dtype == np.float64 else np.float32
    points = np.empty((n_samples, n_values), dtype=dtype)
    for start in range(0, n_samples, n_at_once):
        part = points[start : start + n_at_once]
        directions = rng.standard_normal(part.shape)
        directions *= radius / np.linalg.norm(directions, axis=1, keepdims=True)
        part[...] = directions
    # The values are exchangeable, so the channel axis need not be moved.
    has_shape = hasattr(X, "shape") or isinstance(X, (list, tuple))
    return points.reshape(n_samples, *(np.shape(X)[1:] if has_shape else data.item_shape))


def _noise(
    draw: Callable[[np.random.Generator, int], npt.NDArray[np.float64]],
    n_samples: int,
    shape: int | tuple[int, ...],
    value_range: tuple[float, float] | None,
    dtype: npt.DTypeLike,
    random_state: int | np.random.RandomState | None,
) -> npt.NDArray:
    """Convert values of `draw`, where black is 0 and white is 1, to a range and a dtype."""
    n_samples = check_n_samples(n_samples)
    shape = _check_shape(shape)
    dtype = _check_dtype(dtype)
    low, high = _check_value_range(value_range, dtype)
    rng = generator(random_state)
    noise = np.empty((n_samples, *shape), dtype=dtype)
    flat = noise.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        values = draw(rng, part.size)
        values *= high - low
        values += low
        np.clip(values, low, high, out=values)
        part[...] = values if dtype.kind == "f" else np.rint(values, out=values)
    return noise


def _check_shape(shape: Any) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if not 1 <= len(sizes) <= 3 or not all(map(is_count, sizes)):
        raise ValueError(
            f"shape={shape!r}; expected the shape of one item, without n_samples: (H, W), "
            "(C, H, W) or (H, W, C) of an image, (d,) of a row, all numbers at least 1"
        )
    return tuple(map(int, sizes))


def _check_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        checked = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(
            f"dtype={dtype!r} is no dtype of numpy; expected a float or integer dtype, such as "
            "numpy.float32 or 'uint8'"
        ) from error
    if checked.kind not in "fiu":
        raise ValueError(
            f"dtype={dtype!r} is neither float nor integer; expected one, such as numpy.float32 or "
            "'uint8'"
        )
    return checked


def _check_value_range(value_range: Any, dtype: np.dtype[Any]) -> tuple[float, float]:
    if value_range is None:
        if dtype != np.uint8 and dtype.kind != "f":
            raise ValueError(
                f"dtype {dtype} has no default range: give value_range=(low, high), the values of "
                "black and white (the default is 0..255 for uint8, 0..1 for floats)"
            )
        return (0.0, 255.0) if dtype == np.uint8 else (0.0, 1.0)
    is_pair = isinstance(value_range, (tuple, list, np.ndarray)) and len(value_range) == 2
    if not is_pair or not all(map(is_finite, value_range)) or not value_range[0] < value_range[1]:
        raise ValueError(
            f"value_range={value_range!r}; expected (low, high) with low < high, both finite, or "
            "None for 0..255 (uint8) and 0..1 (floats)"
        )
    low, high = map(float, value_range)
    smallest: float
    largest: float
    if dtype.kind == "f":
        # numpy would compare in `dtype`, where the ends of the range may overflow.
        smallest, largest = float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    else:
        smallest, largest = np.iinfo(dtype).min, np.iinfo(dtype).max
    if low < smallest or high > largest:
        raise ValueError(
            f"value_range={value_range!r}, but dtype {dtype} holds values from {smallest} to "
            f"{largest}; give another range, or a wider dtype"
        )
    if dtype.kind != "f" and not (low.is_integer() and high.is_integer()):
        raise ValueError(
            f"value_range={value_range!r} ends between two values of dtype {dtype}; expected whole "
            "numbers, or a float dtype"
        )
    return low, high
