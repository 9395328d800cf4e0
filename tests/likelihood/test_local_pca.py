"""The dimension of data, on manifolds whose dimension is known."""

import numpy as np
import pytest

from skood._data.checked_data import CheckedData
from skood.datasets import make_linear_embedding, make_sphere
from skood.likelihood._local_pca import count_components, local_pca_dimension


def dimension(X, **settings):
    return local_pca_dimension(CheckedData.of(X), rng=np.random.default_rng(0), **settings)


def klein_bottle(n_rows):
    """Points on a Klein bottle in four dimensions: a closed surface, of dimension 2."""
    theta, phi = 2 * np.pi * np.random.default_rng(0).random((2, n_rows))
    from_center, height = 2 + np.cos(theta), np.sin(theta)
    angles = np.stack([np.cos(phi), np.sin(phi), np.cos(phi / 2), np.sin(phi / 2)])
    return (np.stack([from_center, from_center, height, height]) * angles).T


def lollipop(n_rows):
    """Points on a disc, two thirds of them, and on a stick; and the dimension at each point."""
    rng = np.random.default_rng(0)
    angle, depth = 2 * np.pi * rng.random(n_rows), np.sqrt(rng.random(n_rows))
    points = depth[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    on_stick = np.arange(n_rows) < n_rows / 3
    points[on_stick] = np.stack([-1 - depth, 0 * depth], axis=1)[on_stick]
    return points, np.where(on_stick, 1, 2)


def test_counts_variances_above_a_part_of_the_largest():
    # Columns are orthogonal, so that their variances are those along the principal axes.
    signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]])
    rows = 7.0 + signs * np.sqrt([1.0, 0.06, 0.04])
    assert count_components(rows, 0.05) == 2
    assert count_components(rows, 0.03) == 3
    assert count_components(100 * rows, 0.05) == 2


def test_counts_the_same_with_more_values_than_rows():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 40)) * np.logspace(0, -3, 40)
    variances = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    for alpha in (0.05, 0.001):
        assert count_components(rows, alpha) == (variances > alpha * variances[0]).sum()
    # The products of 200 000 values with each other would not fit in memory.
    assert count_components(rng.normal(size=(3, 200_000)), 0.05) == 2


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_equal_rows_have_no_components(alpha):
    # 0.1 is not the mean of five times 0.1 in floating point.
    for value in (0.0, 0.1, 1e8 + 0.1):
        assert count_components(np.full((5, 3), value), alpha) == 0


@pytest.mark.parametrize("n_rows", [1000, 5000])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_finds_a_sphere_in_neighbourhoods(n_rows, noise):
    X, _ = make_sphere(n_rows, 2, 10, noise=noise, random_state=0)
    assert dimension(X) == pytest.approx(2, rel=0.05)
    assert count_components(X, 0.001) > 2


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (klein_bottle(5000), 2),
        (make_sphere(1000, 2, 100, random_state=0)[0], 2),
        (make_sphere(5000, 10, 50, random_state=0)[0], 10),
        (make_linear_embedding(1000, 5, 20, random_state=0)[0], 5),
    ],
    ids=["Klein bottle", "sphere in many dimensions", "10-sphere", "linear"],
)
def test_finds_the_dimension_of_a_manifold(X, expected):
    assert dimension(X) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("dimension_of_plane", [1, 3, 20, 60])
def test_neighbourhoods_grow_with_the_dimension(dimension_of_plane):
    X, _ = make_linear_embedding(1000, dimension_of_plane, 100, random_state=0)
    assert dimension(X) == pytest.approx(dimension_of_plane, rel=0.02)


def test_is_the_mean_over_parts_of_different_dimension():
    X, of_row = lollipop(3000)
    assert dimension(X) == pytest.approx(np.mean(of_row), abs=0.05)


def test_units_of_a_feature_do_not_matter():
    X, _ = make_sphere(1000, 2, 3, random_state=0)
    units = np.array([1, 1e-6, 1e6])
    assert dimension(X * units + 3 * units) == pytest.approx(dimension(X), rel=0.01)


def test_counts_components_of_all_images():
    X, _ = make_linear_embedding(500, 12, 64, random_state=0)
    images = X.reshape(-1, 1, 8, 8)
    assert dimension(images) == 12
    assert dimension(images, max_items=10) == 9
    sphere, _ = make_sphere(2000, 2, 16, random_state=0)
    assert dimension(sphere.reshape(-1, 1, 4, 4)) == 3
    pixels = (255 * (sphere - sphere.min()) / np.ptp(sphere)).astype(np.uint8)
    assert dimension(pixels.reshape(-1, 1, 4, 4)) == dimension(pixels.reshape(-1, 1, 4, 4) / 255)


@pytest.mark.parametrize("shape", [(1,), (4,), (1, 2, 2)])
def test_equal_items_have_dimension_0(shape):
    assert dimension(np.full((50, *shape), 0.1)) == 0
    assert dimension(np.full((1, *shape), 0.1)) == 0


def test_few_rows_constant_features_and_repeated_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    assert dimension(X[:, :1]) == 1
    assert dimension(X[:3]) == pytest.approx(2, abs=0.5)
    assert dimension(np.column_stack((X, np.full(300, 0.1)))) == dimension(X)
    # Half of the rows are one and the same.
    assert dimension(np.concatenate((X, np.repeat(X[:1], 300, 0)))) == pytest.approx(2, rel=0.05)


def test_leaves_out_missing_rows():
    X = np.random.default_rng(0).normal(size=(300, 4))
    X[::7, 1] = np.nan
    assert dimension(X) == pytest.approx(4, rel=0.05)
    images = X[:, None, None]
    assert dimension(images) == 4


def test_depends_on_the_seed_alone():
    X = np.random.default_rng(0).normal(size=(600, 4)) * [1, 0.5, 0.1, 0.02]
    X[:, 1:] += X[:, :1] ** 2
    data = CheckedData.of(X)
    found = [
        local_pca_dimension(data, rng=np.random.default_rng(seed), max_items=200)
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]
