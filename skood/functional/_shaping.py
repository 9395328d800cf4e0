"""Shaping of features and logits before their energy is computed."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "ash",
    "lts",
    "react",
    "scale",
    "vra",
]

_Array = npt.NDArray[np.float64]


def react(features: _Array, threshold: float) -> _Array:
    r"""Clip large activations, :math:`\min(z, c)`.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    threshold : float
        The clipping value c.

    Returns
    -------
    ndarray of shape (n, d)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import energy, react
    >>> weight, bias = np.eye(2), np.zeros(2)
    >>> energy(react(np.array([[9.0, 1.0]]), 1.0) @ weight.T + bias).round(3)
    array([1.693])
    """
    return np.minimum(features, threshold)


def vra(
    features: _Array,
    low: float | _Array,
    high: float | _Array,
    suppress: Literal["zero", "clip"] | str = "zero",
) -> _Array:
    r"""Clip large activations at `high`, and set those below `low` to 0 or to `low`.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    low, high : float or ndarray of shape (d,)
    suppress : {"zero", "clip"}, default="zero"

    Returns
    -------
    ndarray of shape (n, d)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import vra
    >>> vra(np.array([[0.1, 0.6, 9.0]]), 0.5, 1.0)
    array([[0. , 0.6, 1. ]])
    """
    shaped = np.clip(features, low, high)
    if suppress == "zero":
        shaped[features < low] = 0.0
    return shaped


def ash(
    features: _Array, percentile: float = 65.0, variant: Literal["s", "b", "p"] | str = "s"
) -> _Array:
    r"""Set all but the largest activations of each row to 0.

    Of d activations the :math:`k = d - round(q d)` largest are kept, q being the percentile.
    They stay as they are ("p"), are set to :math:`\sum z / k` ("b"), or are multiplied by
    :math:`\exp(\sum z / \sum z_{kept})` ("s").

    Parameters
    ----------
    features : ndarray of shape (n, d)
        Assumed to be non-negative, as after a ReLU.
    percentile : float, default=65.0
    variant : {"s", "b", "p"}, default="s"

    Returns
    -------
    ndarray of shape (n, d)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import ash
    >>> ash(np.array([[1.0, 2.0, 3.0]]), variant="b")
    array([[0., 0., 6.]])
    """
    n_kept = number_kept(features.shape[1], percentile)
    kept = np.argpartition(-features, n_kept - 1, axis=1)[:, :n_kept]
    values = np.take_along_axis(features, kept, 1)
    total = features.sum(1, keepdims=True)
    if variant == "b":
        values = np.broadcast_to(total / n_kept, values.shape)
    elif variant == "s":
        values = values * np.exp(ratio(total, values.sum(1, keepdims=True)))
    shaped = np.zeros_like(features)
    np.put_along_axis(shaped, kept, values, 1)
    return shaped


def scale(features: _Array, percentile: float = 85.0) -> _Array:
    r"""Scale the activations of each row, :math:`e^r z` with :math:`r = \sum z / \sum z_{top}`.

    The top are the :math:`d - round(q d)` largest of d activations, q being the percentile.

    Parameters
    ----------
    features : ndarray of shape (n, d)
        Assumed to be non-negative, as after a ReLU.
    percentile : float, default=85.0

    Returns
    -------
    ndarray of shape (n, d)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import scale
    >>> scale(np.array([[0.0, 0.0, 3.0]])).round(3)
    array([[0.   , 0.   , 8.155]])
    """
    return np.exp(_ratio_to_top(features, percentile))[:, None] * features


def lts(features: _Array, logits: _Array, top_fraction: float = 0.05) -> _Array:
    r"""Scale the logits of each row, :math:`r^2 f` with :math:`r = \sum z^+ / \sum z^+_{top}`.

    The top are the :math:`\max(1, d - round((1 - p) d))` largest of d activations, p being the
    fraction.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    logits : ndarray of shape (n, n_classes)
    top_fraction : float, default=0.05

    Returns
    -------
    ndarray of shape (n, n_classes)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import lts
    >>> lts(np.array([[1.0, 2.0]]), np.array([[4.0, 0.0]]))
    array([[9., 0.]])
    """
    r = _ratio_to_top(np.maximum(features, 0.0), 100 * (1 - top_fraction))
    return (r**2)[:, None] * logits


def number_kept(n_features: int, percentile: float) -> int:
    """Activations above the percentile, at least one; halves are rounded to even."""
    return max(1, n_features - round(n_features * percentile / 100))


def ratio(total: _Array, some: _Array) -> _Array:
    """Return total / some, and 1 where all activations are zero."""
    return np.divide(total, some, out=np.ones_like(total), where=some != 0)


def _ratio_to_top(features: _Array, percentile: float) -> _Array:
    """Sum of each row divided by the sum of its activations above the percentile."""
    n_top = number_kept(features.shape[1], percentile)
    top = np.partition(features, -n_top, axis=1)[:, -n_top:].sum(1)
    return ratio(features.sum(1), top)
