"""Samples on manifolds whose dimension is known, to test estimates of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skood.datasets._checks import check_n_samples, is_count, is_finite
from skood.datasets._random import generator

__all__ = ["make_klein_bottle", "make_linear_embedding", "make_lollipop", "make_sphere"]

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

    where the d + 1 columns of Q are a random orthonormal frame of the D dimensions around.

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
        d for each of them; noise does not count.

    Raises
    ------
    ValueError
        For a parameter out of range.

    See Also
    --------
    make_linear_embedding, make_klein_bottle : Other manifolds of one dimension.
    make_lollipop : One whose dimension varies.
    sphere_noise : Outliers on a sphere around all the data.

    Notes
    -----
    Every call draws another frame. Rows on the same manifold, to train and to test on, come from
    one call.

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

    where the d columns of Q are a random orthonormal frame of the D dimensions around.

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
        d for each of them; noise does not count.

    Raises
    ------
    ValueError
        For a parameter out of range.

    See Also
    --------
    make_sphere, make_klein_bottle : Curved manifolds of one dimension.
    make_lollipop : One whose dimension varies.

    Notes
    -----
    With noise, the points have the density of :math:`\mathcal N(0, s^2 Q Q^T + \sigma^2 I_D)`.
    Every call draws another frame. Rows on the same manifold, to train and to test on, come from
    one call.

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


def make_lollipop(
    n_samples: int = 100,
    dimension: int = 2,
    ambient_dimension: int | None = None,
    *,
    radius: float = 1.0,
    stick_length: float = 1.0,
    stick_fraction: float = 1 / 3,
    noise: float = 0.0,
    random_state: int | np.random.RandomState | None = None,
) -> Samples:
    r"""Draw points from a ball of dimension d and a stick, whose dimension is 1.

    The ball :math:`\lVert x \rVert_2 \le r` and the stick, which continues it along the negative
    first axis, :math:`-r - l \le x_1 \le -r`, are both filled uniformly, as in Kamkari et al.
    [1]_. (There, a single point, of dimension 0, is a third part.) A random orthonormal frame puts
    them into the D dimensions around.

    Parameters
    ----------
    n_samples : int, default=100
        Number of points, in random order.
    dimension : int, default=2
        d, at least 2: that of the ball, a disc by default.
    ambient_dimension : int or None, default=None
        D, at least d. None: d.
    radius : float, default=1.0
        r > 0, of the ball.
    stick_length : float, default=1.0
        l > 0.
    stick_fraction : float, default=1/3
        Part of the points that are on the stick, in [0, 1], rounded to a whole number of them.
    noise : float, default=0.0
        Standard deviation of Gaussian noise in all D dimensions.
    random_state : int, RandomState instance or None, default=None
        Seed. None takes entropy from the system.

    Returns
    -------
    X : ndarray of shape (n_samples, ambient_dimension), float64
        The points.
    dimension : ndarray of shape (n_samples,), int64
        d in the ball and 1 on the stick; noise does not count.

    Raises
    ------
    ValueError
        For a parameter out of range.

    See Also
    --------
    make_sphere, make_linear_embedding, make_klein_bottle : Manifolds of one dimension.

    Notes
    -----
    Every call draws another frame. Rows on the same manifold, to train and to test on, come from
    one call.

    References
    ----------
    .. [1] H. Kamkari, B. L. Ross, J. C. Cresswell, A. L. Caterini, R. G. Krishnan and
       G. Loaiza-Ganem, "A Geometric Explanation of the Likelihood OOD Detection Paradox",
       ICML 2024. arXiv:2403.18910; code: layer6ai-labs/dgm_ood_detection.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.datasets import make_lollipop
    >>> X, dimension = make_lollipop(600, 2, 10, random_state=0)
    >>> np.bincount(dimension)
    array([  0, 200, 400])
    """
    n_samples = check_n_samples(n_samples)
    _check_count("dimension", dimension, 2)
    _check_positive("radius", radius)
    _check_positive("stick_length", stick_length)
    if not is_finite(stick_fraction) or not 0 <= stick_fraction <= 1:
        raise ValueError(f"stick_fraction={stick_fraction!r}; expected a number in [0, 1]")
    rng = generator(random_state)
    on_stick = rng.permutation(n_samples) < round(stick_fraction * n_samples)
    # The volume inside a radius grows with its power d.
    depth = rng.random((n_samples, 1)) ** (1 / dimension)
    points = radius * depth * _directions(rng, n_samples, dimension)
    points[on_stick] = 0
    points[on_stick, 0] = -radius - stick_length * rng.random(on_stick.sum())
    local_dimension = np.where(on_stick, 1, dimension)
    return _in_ambient_space(rng, points, local_dimension, ambient_dimension, noise)


def make_klein_bottle(
    n_samples: int = 100,
    ambient_dimension: int | None = None,
    *,
    radius: float = 2.0,
    tube_radius: float = 1.0,
    noise: float = 0.0,
    random_state: int | np.random.RandomState | None = None,
) -> Samples:
    r"""Draw points uniformly from a Klein bottle, a closed surface that needs four dimensions.

    The tube of radius r is turned by half while its axis goes once around a circle of radius R
    [1]_:

    .. math::

        x = \big( (R + r \cos\theta) \cos\varphi, \; (R + r \cos\theta) \sin\varphi, \;
        r \sin\theta \cos\tfrac{\varphi}{2}, \; r \sin\theta \sin\tfrac{\varphi}{2} \big).

    The two derivatives are orthogonal, and the element of area is

    .. math::

        r \sqrt{(R + r \cos\theta)^2 + \tfrac{r^2}{4} \sin^2\theta} \; d\theta \, d\varphi.

    Points are uniform by area. A random orthonormal frame puts them into more dimensions.

    Parameters
    ----------
    n_samples : int, default=100
        Number of points.
    ambient_dimension : int or None, default=None
        D, at least 4. None: 4, without a frame.
    radius : float, default=2.0
        R, above r.
    tube_radius : float, default=1.0
        r > 0.
    noise : float, default=0.0
        Standard deviation of Gaussian noise in all D dimensions.
    random_state : int, RandomState instance or None, default=None
        Seed. None takes entropy from the system.

    Returns
    -------
    X : ndarray of shape (n_samples, ambient_dimension), float64
        The points.
    dimension : ndarray of shape (n_samples,), int64
        2 for each of them; noise does not count.

    Raises
    ------
    ValueError
        For a parameter out of range.

    See Also
    --------
    make_sphere, make_linear_embedding : Other manifolds of one dimension.
    make_lollipop : One whose dimension varies.

    Notes
    -----
    Every call draws another frame. Rows on the same manifold, to train and to test on, come from
    one call.

    References
    ----------
    .. [1] M. P. do Carmo, "Riemannian Geometry", Birkhäuser, 1992, chapter 0, exercises.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.datasets import make_klein_bottle
    >>> X, dimension = make_klein_bottle(500, random_state=0)
    >>> X.shape, dimension[0].item()
    ((500, 4), 2)
    >>> from_axis = np.hypot(X[:, 0], X[:, 1]) - 2
    >>> np.allclose(from_axis**2 + X[:, 2] ** 2 + X[:, 3] ** 2, 1)
    True
    """
    n_samples = check_n_samples(n_samples)
    _check_positive("tube_radius", tube_radius)
    if not is_finite(radius) or radius <= tube_radius:
        raise ValueError(
            f"radius={radius!r}; expected a finite number above tube_radius={tube_radius!r}, or "
            "the surface would meet itself"
        )
    rng = generator(random_state)
    theta = _tube_angles(rng, n_samples, radius, tube_radius)
    phi = 2 * np.pi * rng.random(n_samples)
    from_center = radius + tube_radius * np.cos(theta)
    height = tube_radius * np.sin(theta)
    points = np.stack(
        [
            from_center * np.cos(phi),
            from_center * np.sin(phi),
            height * np.cos(phi / 2),
            height * np.sin(phi / 2),
        ],
        axis=1,
    )
    return _in_ambient_space(rng, points, 2, ambient_dimension, noise)


def _tube_angles(
    rng: np.random.Generator, n_samples: int, radius: float, tube_radius: float
) -> npt.NDArray[np.float64]:
    """Draw angles theta in proportion to the area of the Klein bottle, by rejection."""
    accepted = np.empty(0)
    while len(accepted) < n_samples:
        theta = 2 * np.pi * rng.random(2 * n_samples)
        area = np.hypot(radius + tube_radius * np.cos(theta), tube_radius / 2 * np.sin(theta))
        is_below = rng.random(2 * n_samples) * (radius + tube_radius) < area
        accepted = np.append(accepted, theta[is_below])
    return accepted[:n_samples]


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
    """Put points into a space of more dimensions, add noise and state their dimension."""
    n_samples, n_values = points.shape
    if ambient_dimension is None:
        ambient_dimension = n_values
    if not is_count(ambient_dimension) or ambient_dimension < n_values:
        raise ValueError(
            f"ambient_dimension={ambient_dimension!r}; expected an integer of at least {n_values}, "
            "the dimensions that this manifold takes up by itself"
        )
    if not is_finite(noise) or noise < 0:
        raise ValueError(f"noise={noise!r}; expected a standard deviation of at least 0")
    if ambient_dimension > n_values:
        points = points @ _frame(rng, ambient_dimension, n_values).T
    if noise > 0:
        points = points + noise * rng.standard_normal(points.shape)
    return points, np.full(n_samples, dimension, dtype=np.int64)


def _frame(rng: np.random.Generator, n_rows: int, n_columns: int) -> npt.NDArray[np.float64]:
    """Draw orthonormal columns, uniform among all such frames."""
    frame, upper = np.linalg.qr(rng.standard_normal((n_rows, n_columns)))
    # The signs that the decomposition chose would make the distribution uneven.
    return frame * np.sign(np.diag(upper))


def _check_count(name: str, value: Any, smallest: int) -> None:
    if not is_count(value) or value < smallest:
        raise ValueError(f"{name}={value!r}; expected an integer of at least {smallest}")


def _check_positive(name: str, value: Any) -> None:
    if not is_finite(value) or value <= 0:
        raise ValueError(f"{name}={value!r}; expected a finite number above 0")
