"""The dimension of data, on manifolds whose dimension is known."""

import numpy as np
import pytest

from skood._checked_data import CheckedData
from skood.datasets import make_klein_bottle, make_linear_embedding, make_sphere
from skood.likelihood._local_pca import count_components, local_pca_dimension


def dimension(X, **settings):
    return local_pca_dimension(CheckedData.of(X), rng=np.random.default_rng(0), **settings)


def test_counts_variances_above_a_part_of_the_largest():
    # Columns are orthogonal, so that their variances are those along the principal axes.
    signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]])
    rows = 7.0 + signs * np.sqrt([1.0, 0.06, 0.04])
    assert count_components(rows, 0.05) == 2
    assert count_components(rows, 0.03) == 3
    assert count_components(100 * rows, 0.05) == 2
    assert count_components(np.full((5, 3), 0.25), 0.05) == 0


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (make_sphere(5000, 2, 10, random_state=0)[0], 2),
        (make_sphere(5000, 2, 10, noise=0.01, random_state=0)[0], 2),
        (make_linear_embedding(2000, 5, 20, random_state=0)[0], 5),
        (make_klein_bottle(5000, 6, random_state=0)[0], 2),
    ],
    ids=["sphere", "noisy sphere", "linear", "Klein bottle"],
)
def test_finds_the_dimension_of_a_manifold_in_neighbourhoods(X, expected):
    assert dimension(X) == pytest.approx(expected, rel=0.1)


def test_counts_components_of_all_rows_of_larger_items():
    X, _ = make_linear_embedding(500, 12, 64, random_state=0)
    assert dimension(X) == 12
    assert dimension(X.reshape(-1, 1, 8, 8)) == 12
    assert dimension(X, max_items=10) == 9


def test_units_of_a_feature_do_not_matter_in_neighbourhoods():
    X, _ = make_sphere(2000, 2, 3, random_state=0)
    assert dimension(X * [1, 1e-3, 1e3]) == pytest.approx(dimension(X), rel=0.02)


def test_is_the_same_with_the_same_seed_and_takes_few_and_missing_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    assert dimension(X, max_items=200) == dimension(X, max_items=200)
    assert 0 < dimension(X[:3]) <= 2
    assert dimension(np.zeros((50, 4))) == 0
    X[::7, 1] = np.nan
    assert dimension(X) == pytest.approx(4, rel=0.1)
