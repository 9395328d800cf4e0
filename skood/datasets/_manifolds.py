"""Samples on manifolds of known dimension, to test estimates of the dimension."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skood.datasets._checks import check_n_samples, is_count, is_finite
from skood.datasets._random import generator

__all__ = ["make_linear_embedding", "make_sphere"]

Samples = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


def make_sphere(
    n_samples: int = 100,
    dimension: int = 2,
    ambient_dimension: int | None = None,
    *,
    radius: float = 1.0,
    noise: float = 0.0,
    random_state: int | np.random.RandomState | None = None,
) -> Samples:
    r"""Draw points uniformly from a sphere of dimension d.

    .. math::

        x = Q \, \frac{r g}{\lVert g \rVert_2} + \varepsilon, \qquad
        g \sim \mathcal N(0, I_{d+1}), \quad \varepsilon \sim \mathcal N(0, \sigma^2 I_D),

    where the d + 1 columns of Q are random orthonormal vectors in D dimensions.

    Parameters
    ----------
    n_samples : int, default=100
        Number of points.
    dimension : int, default=2
        d: 1 for a circle, 2 for the surface of a ball.
    ambient_dimension : int or None, default=None
        D, at least d + 1. None: d + 1, with Q the identity.
    radius : float, default=1.0
        r > 0.
    noise : float, default=0.0
        Standard deviation :math:`\sigma` of Gaussian noise in all D dimensions.
    random_state : int, RandomState instance or None, default=None
        Seed. None takes entropy from the system.

    Returns
    -------
    X : ndarray of shape (n_samples, ambient_dimension), float64
        The points.
    dimension : ndarray of shape (n_samples,), int64
        d for each point; noise is not counted.

    Raises
    ------
    ValueError
        For a parameter out of range.

    See Also
    --------
    make_linear_embedding : Points on a linear subspace.
    sphere_noise : Outliers on a sphere around all the data.

    Notes
    -----
    Every call draws another Q, so draw training and test rows on the same manifold in one call.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.datasets import make_sphere
    >>> X, dimension = make_sphere(500, 3, 10, radius=2, random_state=0)
    >>> X.shape, dimension[0].item()
    ((500, 10), 3)
    >>> np.allclose(np.linalg.norm(X, axis=1), 2)
    True
    """
    n_samples = check_n_samples(n_samples)
    _check_count("dimension", dimension, 1)
    _check_positive("radius", radius)
    rng = generator(random_state)
    points = radius * _directions(rng, n_samples, dimension + 1)
    return _in_ambient_space(rng, points, dimension, ambient_dimension, noise)


def make_linear_embedding(
    n_samples: int = 100,
    dimension: int = 2,
    ambient_dimension: int | None = None,
    *,
    scale: float = 1.0,
    noise: float = 0.0,
    random_state: int | np.random.RandomState | None = None,
) -> Samples:
    r"""Draw points from a Gaussian on a random linear subspace of dimension d.

    .. math::

        x = s \, Q g + \varepsilon, \qquad
        g \sim \mathcal N(0, I_d), \quad \varepsilon \sim \mathcal N(0, \sigma^2 I_D),

    where the d columns of Q are random orthonormal vectors in D dimensions.

    Parameters
    ----------
    n_samples : int, default=100
        Number of points.
    dimension : int, default=2
        Dimension d of the subspace.
    ambient_dimension : int or None, default=None
        D, at least d. None: d + 1.
    scale : float, default=1.0
        Standard deviation s > 0 in each direction of the subspace.
    noise : float, default=0.0
        Standard deviation :math:`\sigma` of Gaussian noise in all D dimensions.
    random_state : int, RandomState instance or None, default=None
        Seed. None takes entropy from the system.

    Returns
    -------
    X : ndarray of shape (n_samples, ambient_dimension), float64
        The points.
    dimension : ndarray of shape (n_samples,), int64
        d for each point; noise is not counted.

    Raises
    ------
    ValueError
        For a parameter out of range.

    See Also
    --------
    make_sphere : Points on a curved manifold.

    Notes
    -----
    With noise, the points have the density of :math:`\mathcal N(0, s^2 Q Q^T + \sigma^2 I_D)`.
    Every call draws another Q, so draw training and test rows on the same manifold in one call.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.datasets import make_linear_embedding
    >>> X, dimension = make_linear_embedding(500, 3, 10, random_state=0)
    >>> X.shape, np.linalg.matrix_rank(X).item()
    ((500, 10), 3)
    """
    n_samples = check_n_samples(n_samples)
    _check_count("dimension", dimension, 1)
    _check_positive("scale", scale)
    rng = generator(random_state)
    points = scale * rng.standard_normal((n_samples, dimension))
    if ambient_dimension is None:
        ambient_dimension = dimension + 1
    return _in_ambient_space(rng, points, dimension, ambient_dimension, noise)


def _directions(rng: np.random.Generator, n_samples: int, n_values: int) -> npt.NDArray[np.float64]:
    """Draw unit vectors uniformly."""
    directions = rng.standard_normal((n_samples, n_values))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _in_ambient_space(
    rng: np.random.Generator,
    points: npt.NDArray[np.float64],
    dimension: int | npt.NDArray[np.integer],
    ambient_dimension: int | None,
    noise: float,
) -> Samples:
    """Embed points in more dimensions, add noise, and return the dimension of each point."""
    n_samples, n_values = points.shape
    if ambient_dimension is None:
        ambient_dimension = n_values
    if not is_count(ambient_dimension) or ambient_dimension < n_values:
        raise ValueError(
            f"ambient_dimension={ambient_dimension!r}; expected an integer of at least {n_values}, "
            "the smallest that this manifold fits into"
        )
    if not is_finite(noise) or noise < 0:
        raise ValueError(f"noise={noise!r}; expected a standard deviation of at least 0")
    if ambient_dimension > n_values:
        points = points @ _frame(rng, ambient_dimension, n_values).T
    if noise > 0:
        points = points + noise * rng.standard_normal(points.shape)
    return points, np.full(n_samples, dimension, dtype=np.int64)


def _frame(rng: np.random.Generator, n_rows: int, n_columns: int) -> npt.NDArray[np.float64]:
    """Draw a matrix with orthonormal columns, uniformly."""
    frame, upper = np.linalg.qr(rng.standard_normal((n_rows, n_columns)))
    # The signs chosen by the decomposition would make the distribution uneven.
    return frame * np.sign(np.diag(upper))


def _check_count(name: str, value: Any, smallest: int) -> None:
    if not is_count(value) or value < smallest:
        raise ValueError(f"{name}={value!r}; expected an integer of at least {smallest}")


def _check_positive(name: str, value: Any) -> None:
    if not is_finite(value) or value <= 0:
        raise ValueError(f"{name}={value!r}; expected a finite number above 0")
