import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from skood.datasets import make_linear_embedding, make_sphere
from skood.datasets._manifolds import _frame

# A function, its own parameters, and the smallest ambient dimension.
MANIFOLDS = [
    (make_sphere, {"dimension": 1}, 2),
    (make_sphere, {"dimension": 3, "radius": 2.0}, 4),
    (make_linear_embedding, {"dimension": 3, "scale": 2.0}, 3),
]
every_manifold = pytest.mark.parametrize(
    ("make", "params", "n_values"),
    MANIFOLDS,
    ids=[f"{make.__name__}-{params}" for make, params, _ in MANIFOLDS],
)
every_function = pytest.mark.parametrize("make", [make_sphere, make_linear_embedding])


def norms(X):
    return np.linalg.norm(X, axis=1)


def distances(X):
    return norms(X[:-1] - X[1:])


def local_dimensions(X, rows, n_neighbors):
    """Principal components near each row that have more than a tenth of the largest variance."""
    _, neighbors = NearestNeighbors(n_neighbors=n_neighbors).fit(X).kneighbors(X[rows])
    near = X[neighbors] - X[neighbors].mean(axis=1, keepdims=True)
    variances = np.linalg.svd(near, compute_uv=False) ** 2
    return np.sum(variances > 0.1 * variances[:, :1], axis=1)


@every_manifold
@pytest.mark.parametrize("extra", [0, 7])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_shapes_and_types(make, params, n_values, extra, noise):
    ambient_dimension = n_values + extra
    X, dimension = make(
        50, ambient_dimension=ambient_dimension, noise=noise, random_state=0, **params
    )
    assert X.shape == (50, ambient_dimension)
    assert X.dtype == np.float64
    assert np.isfinite(X).all()
    assert dimension.shape == (50,)
    assert dimension.dtype == np.int64
    assert len(np.unique(X, axis=0)) == 50


@every_function
def test_defaults(make):
    X, dimension = make(random_state=0)
    assert X.shape == (100, 3)
    assert (dimension == 2).all()


@every_manifold
def test_frames_keep_all_distances(make, params, n_values):
    plain, dimension = make(60, ambient_dimension=n_values, random_state=0, **params)
    X, same_dimension = make(60, ambient_dimension=n_values + 20, random_state=0, **params)
    np.testing.assert_array_equal(dimension, same_dimension)
    np.testing.assert_allclose(distances(X), distances(plain), rtol=1e-10)
    np.testing.assert_allclose(norms(X), norms(plain), rtol=1e-10)
    assert np.linalg.matrix_rank(X) == n_values


@every_manifold
def test_local_principal_components_find_the_dimension(make, params, n_values):
    X, dimension = make(4000, ambient_dimension=n_values + 5, random_state=0, **params)
    rows = np.random.default_rng(0).permutation(4000)[:300]
    found = local_dimensions(X, rows, n_neighbors=30)
    # Neighbourhoods of the outermost points may be off.
    assert np.mean(found == dimension[rows]) > 0.95


def test_frames_are_uniform():
    axes = np.stack([_frame(np.random.default_rng(seed), 5, 2)[:, 0] for seed in range(2000)])
    for column in axes.T:
        # The square of a coordinate of a uniform unit vector is Beta-distributed.
        assert stats.kstest(column**2, stats.beta(0.5, 2).cdf).pvalue > 0.001
        assert np.mean(column > 0) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(2000))


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_sphere(dimension):
    n, radius = 20_000, 3.0
    X, _ = make_sphere(n, dimension, radius=radius, random_state=0)
    np.testing.assert_allclose(norms(X), radius)
    n_values = dimension + 1
    variance = radius**2 / n_values
    np.testing.assert_allclose(X.mean(0), 0, atol=5 * math.sqrt(variance / n))
    np.testing.assert_allclose(X.T @ X / n, variance * np.eye(n_values), atol=6 * variance / n**0.5)
    for column in X.T:
        squares = (column / radius) ** 2
        assert stats.kstest(squares, stats.beta(0.5, dimension / 2).cdf).pvalue > 0.001


def test_linear_embedding_is_gaussian():
    n, scale, noise = 20_000, 2.0, 0.1
    X, dimension = make_linear_embedding(n, 3, 6, scale=scale, noise=noise, random_state=0)
    assert (dimension == 3).all()
    variances, axes = np.linalg.eigh(np.cov(X.T))
    expected = [noise**2] * 3 + [scale**2 + noise**2] * 3
    np.testing.assert_allclose(variances, expected, rtol=0.05)
    for column in (X @ axes)[:, 3:].T:
        assert stats.kstest(column / column.std(), "norm").pvalue > 0.001


def test_linear_embedding_may_fill_its_space():
    X, dimension = make_linear_embedding(100, 3, 3, random_state=0)
    assert np.linalg.matrix_rank(X) == 3
    assert (dimension == 3).all()


@every_manifold
@pytest.mark.parametrize("extra", [0, 5])
def test_noise_is_added_to_the_same_points(make, params, n_values, extra):
    n, ambient_dimension = 3000, n_values + extra
    clean, dimension = make(n, ambient_dimension=ambient_dimension, random_state=0, **params)
    noisy, same_dimension = make(
        n, ambient_dimension=ambient_dimension, noise=0.25, random_state=0, **params
    )
    np.testing.assert_array_equal(dimension, same_dimension)
    noise = (noisy - clean) / 0.25
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.001
    error = 6 / math.sqrt(n)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(ambient_dimension), atol=1.5 * error)


@every_function
def test_seeds(make):
    def samples(random_state):
        return make(30, ambient_dimension=6, noise=0.1, random_state=random_state)

    first, dimension = samples(0)
    for again in (0, np.random.RandomState(0)):
        X, same_dimension = samples(again)
        np.testing.assert_array_equal(X, first)
        np.testing.assert_array_equal(same_dimension, dimension)
    assert (samples(1)[0] != first).all()
    assert (samples(None)[0] != samples(None)[0]).all()


@every_function
def test_global_generators_are_left_alone(make):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    of_torch = torch.get_rng_state()
    make(9, noise=0.1)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(of_torch, torch.get_rng_state())


@every_function
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_samples": 0}, "n_samples=0; expected an integer of at least 1"),
        ({"n_samples": 2.5}, "n_samples=2.5; expected an integer"),
        ({"ambient_dimension": 1}, "ambient_dimension=1; expected an integer of at least [23], "),
        ({"ambient_dimension": 9.0}, "ambient_dimension=9.0; expected an integer"),
        ({"noise": -0.1}, "noise=-0.1; expected a standard deviation of at least 0"),
        ({"noise": np.nan}, "noise=nan; expected a standard deviation"),
        ({"noise": "0"}, "noise='0'; expected a standard deviation"),
        ({"random_state": "seed"}, "'seed' cannot be used to seed"),
    ],
)
def test_errors(make, params, message):
    with pytest.raises(ValueError, match=message):
        make(**params)


@pytest.mark.parametrize(
    ("make", "params", "message"),
    [
        (make_sphere, {"dimension": 0}, "dimension=0; expected an integer of at least 1"),
        (make_sphere, {"dimension": 2.0}, "dimension=2.0; expected an integer of at least 1"),
        (make_sphere, {"radius": 0}, "radius=0; expected a finite number above 0"),
        (make_sphere, {"radius": np.inf}, "radius=inf; expected a finite number above 0"),
        (
            make_sphere,
            {"dimension": 3, "ambient_dimension": 3},
            "ambient_dimension=3; expected an integer of at least 4, the smallest that this",
        ),
        (make_linear_embedding, {"dimension": True}, "dimension=True; expected an integer"),
        (make_linear_embedding, {"scale": -1.0}, "scale=-1.0; expected a finite number above 0"),
    ],
)
def test_errors_of_single_manifolds(make, params, message):
    with pytest.raises(ValueError, match=message):
        make(**params)
