"""Cosines with class means, compared with a loop over rows."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.neighbors import NearestNeighbors

import skood
from skood import CosinePrototypes
from skood.functional import cosine_prototypes


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 40)
    return rng.normal(size=(120, 5)) + 3 * rng.normal(size=(3, 5))[y], y


def cosine(a, b):
    return sum(a * b) / (sum(a * a) ** 0.5 * sum(b * b) ** 0.5)


@pytest.mark.parametrize("normalize", [False, True])
def test_largest_cosine_with_a_class_mean(rows, normalize):
    X, y = rows
    detector = CosinePrototypes(normalize=normalize, threshold_fraction=0.0).fit(X, y)
    units = X / np.linalg.norm(X, axis=1)[:, None]
    means = [(units if normalize else X)[y == k].mean(0) for k in range(3)]
    expected = [max(cosine(x, mean) for mean in means) for x in X]
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-12)
    np.testing.assert_allclose(detector.score_samples(7.5 * X), expected, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(detector.prototypes_, axis=1), 1)
    np.testing.assert_allclose(
        cosine_prototypes(X, np.array(means)), expected, rtol=1e-12
    )  # fmt: skip


def test_without_labels(rows):
    X, _ = rows
    detector = CosinePrototypes(threshold_fraction=0.0).fit(X)
    expected = [cosine(x, X.mean(0)) for x in X]
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-12)


def test_vectors_of_length_0(rows):
    X, y = rows
    assert CosinePrototypes().fit(X, y).score_samples(np.zeros((1, 5))) == 0
    np.testing.assert_array_equal(
        CosinePrototypes().fit(np.vstack([X, -X])).prototypes_.shape, (1, 5)
    )


def test_direction(rows):
    X, y = rows
    detector = CosinePrototypes().fit(X, y)
    assert detector.score_samples(X).mean() > detector.score_samples(-X).mean() + 0.1


def test_parts_of_the_data_equal_the_whole(rows):
    X, y = rows
    whole = CosinePrototypes(threshold_fraction=0.0).fit(X, y)
    parts = CosinePrototypes(threshold_fraction=0.0)
    for part in np.array_split(np.random.default_rng(0).permutation(len(X)), 5):
        parts.partial_fit(X[part], y[part])
    np.testing.assert_allclose(parts.score_samples(X), whole.score_samples(X), rtol=1e-12)


def test_explanation(rows):
    X, y = rows
    detector = CosinePrototypes().fit(X, y)
    found = detector.explain(X)
    scores = detector.score_samples(X)
    np.testing.assert_allclose(found.feature_contributions.sum(1), scores, rtol=1e-10)
    x, prototype = X[3], detector.prototypes_[found.classes[3]]
    np.testing.assert_allclose(
        found.feature_contributions[3], x * prototype / np.linalg.norm(x), rtol=1e-10
    )


def test_features_of_a_network(rows):
    X, y = rows
    network = skood.MLP((8,), max_epochs=2, random_state=0)
    detector = clone(CosinePrototypes(network)).fit(X, y)
    assert detector.normalizes_
    Z = detector.features_.transform(X).astype(np.float64)
    expected = cosine_prototypes(Z, detector.prototypes_)
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-6)


def test_nearest_training_row_by_cosine(rows):
    """The cosine score of Zhou et al. has the order of one neighbour on vectors of length 1."""
    X, _ = rows
    new = np.random.default_rng(1).normal(size=(30, 5))
    knn = skood.KNN(n_neighbors=1, normalize=True, threshold_fraction=0.0).fit(X)
    distance, _ = NearestNeighbors(n_neighbors=1, metric="cosine").fit(X).kneighbors(new)
    assert (np.argsort(knn.score_samples(new)) == np.argsort(-distance[:, 0])).all()
