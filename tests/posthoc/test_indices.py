"""Approximate indices, and thresholds that leave a training row itself out."""

import pickle
import sys

import numpy as np
import pytest
from sklearn.base import clone

import skood

KINDS = ["faiss", "hnsw"]
MODULES = {"faiss": "faiss", "hnsw": "hnswlib"}


def needs(kind):
    if kind is not None:
        pytest.importorskip(MODULES[kind])


def rows(n, seed=0, d=12):
    """Near a curved surface of three dimensions."""
    rng = np.random.default_rng(seed)
    surface = rng.normal(size=(n, 3)) @ np.random.default_rng(1).normal(size=(3, d))
    return np.tanh(surface) + 0.05 * rng.normal(size=(n, d))


@pytest.fixture(scope="module")
def head():
    rng = np.random.default_rng(2)
    return rng.normal(size=(4, 12)), rng.normal(size=4)


def fitted(cls, X, head, **kwargs):
    detector = cls(random_state=0, **kwargs)
    if cls is skood.NNGuide:
        return detector.fit_outputs(features=X, head=head)
    return detector.fit(X)


def scored(detector, X):
    if isinstance(detector, skood.NNGuide):
        return detector.score_outputs(features=X)
    return detector.score_samples(X)


@pytest.mark.parametrize("cls", [skood.KNN, skood.NNGuide])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kwargs", [{}, {"bank_fraction": 0.5}])
def test_most_neighbours_are_found_and_their_values_are_exact(cls, kind, kwargs, head):
    needs(kind)
    X, queries = rows(3000), rows(100, seed=5)
    exact = fitted(cls, X, head, n_neighbors=10, **kwargs)
    found = fitted(cls, X, head, n_neighbors=10, index=kind, **kwargs)
    expected, scores = scored(exact, queries), scored(found, queries)
    same = np.isclose(scores, expected, rtol=1e-12)
    assert same.mean() > (0.8 if cls is skood.KNN else 0.7)
    assert np.abs(scores - expected).mean() < 0.02 * expected.std()
    if cls is skood.KNN:
        assert (scores <= expected * (1 - 1e-12)).all()
    alone = [scored(found, query[None])[0] for query in queries[:20]]
    # The logits of one row are rounded in another way.
    np.testing.assert_allclose(alone, scores[:20], rtol=0 if cls is skood.KNN else 1e-13)
    again = fitted(cls, X, head, n_neighbors=10, index=kind, **kwargs)
    np.testing.assert_array_equal(scored(again, queries), scores)
    assert again.offset_ == found.offset_


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 30, 200])
def test_small_banks(kind, n):
    """All rows are found where all are needed, or the search is exact."""
    needs(kind)
    X = rows(n)
    detector = skood.KNN(n_neighbors=n, index=kind).fit(X)
    expected = skood.KNN(n_neighbors=n).fit(X).score_samples(X)
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_files(kind, tmp_path):
    needs(kind)
    X, queries = rows(1000), rows(50, seed=5)
    detector = skood.KNN(index=kind, random_state=0).fit(X)
    other = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(other.score_samples(queries), detector.score_samples(queries))
    assert clone(detector).fit(X).offset_ == detector.offset_
    with pytest.raises(ValueError, match=r"KNN\._index .*does not store; store the detector with"):
        skood.save(detector, tmp_path / "knn.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_package_is_named(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULES[kind], None)
    with pytest.raises(ImportError, match=f'index="{kind}" needs {MODULES[kind]}: pip install'):
        skood.KNN(index=kind).fit(rows(60))


def test_an_unknown_index():
    with pytest.raises(ValueError, match="The 'index' parameter of KNN must be"):
        skood.KNN(index="annoy").fit(rows(60))


@pytest.mark.parametrize("cls", [skood.KNN, skood.NNGuide])
@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("bank_fraction", [1.0, 0.3])
def test_rate_of_false_alarms(cls, kind, bank_fraction, head):
    """Training rows that find themselves would be rejected too rarely, and new rows too often."""
    needs(kind)
    rates = []
    for seed in range(16):
        X, new = rows(600, seed), rows(1500, 100 + seed)
        kwargs = {"n_neighbors": 3, "index": kind, "bank_fraction": bank_fraction}
        detector = fitted(cls, X, head, **kwargs)
        rates.append(np.mean(scored(detector, new) < detector.offset_))
    error = np.std(rates) / np.sqrt(len(rates))
    assert abs(np.mean(rates) - 0.05) < 3 * error + 2e-3


@pytest.mark.parametrize("cls", [skood.KNN, skood.NNGuide])
@pytest.mark.parametrize("bank_fraction", [1.0, 0.5])
def test_threshold_by_a_loop(cls, bank_fraction, head):
    """Also with duplicates, among which a row may not find itself."""
    X = rows(600)
    X[:40] = X[0]
    detector = fitted(cls, X, head, n_neighbors=4, bank_fraction=bank_fraction)
    members = np.arange(600) if bank_fraction == 1 else detector.bank_indices_
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    energy = skood.functional.energy(X @ head[0].T + head[1])
    scores = []
    for row in range(600):
        others = members[members != row]
        if cls is skood.KNN:
            scores.append(-np.sort(np.linalg.norm(X[others] - X[row], axis=1))[3])
        else:
            products = np.sort(energy[others] * (unit[others] @ unit[row]))[-4:]
            scores.append(energy[row] * products.mean())
    expected = np.quantile(scores, 0.05, method="weibull")
    np.testing.assert_allclose(detector.offset_, expected, rtol=1e-6)


def test_few_rows_find_themselves():
    """As scikit-learn expects, exactly `contamination` of them is rejected."""
    X = rows(499)
    detector = skood.KNN(n_neighbors=4, contamination=0.1).fit(X)
    scores = detector.score_samples(X)
    np.testing.assert_allclose(detector.offset_, np.quantile(scores, 0.1), rtol=1e-6)
