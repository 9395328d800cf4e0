"""The search for neighbours, against sorting everything."""

import numpy as np
import pytest
import torch

import skood
from skood.posthoc._largest_products import largest_products


@pytest.mark.parametrize("n_bank", [5, 63, 64, 1000, 1300])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("with_ties", [False, True])
def test_largest_products(n_bank, k, with_offset, with_ties):
    rng = np.random.default_rng(0)
    queries, bank = rng.normal(size=(530, 4)), rng.normal(size=(n_bank, 4))
    offset = rng.normal(size=n_bank)
    if with_ties:
        queries, bank, offset = queries.round(), bank.round(), offset.round()
    products = queries @ bank.T + (offset if with_offset else 0)
    values, rows = largest_products(
        queries, torch.from_numpy(bank), k, torch.from_numpy(offset) if with_offset else None
    )
    np.testing.assert_allclose(np.sort(values), np.sort(products)[:, -k:], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(products, rows, 1), values, atol=1e-12)
    assert all(len(set(row)) == k for row in rows)


def test_a_row_is_found_in_any_company():
    rng = np.random.default_rng(0)
    bank = torch.from_numpy(rng.normal(size=(2000, 8)).astype(np.float32))
    queries = rng.normal(size=(700, 8)).astype(np.float32)
    together, _ = largest_products(queries, bank, 4)
    for i in (0, 511, 512, 699):
        alone, _ = largest_products(queries[i : i + 1], bank, 4)
        np.testing.assert_allclose(np.sort(alone[0]), np.sort(together[i]), rtol=1e-6)


def test_queries_of_a_full_chunk_do_not_depend_on_their_order():
    rng = np.random.default_rng(0)
    bank = torch.from_numpy(rng.normal(size=(2000, 7)).astype(np.float32))
    queries = rng.normal(size=(384, 7)).astype(np.float32)
    order = rng.permutation(len(queries))
    values, _ = largest_products(queries, bank, 4)
    permuted, _ = largest_products(queries[order], bank, 4)
    np.testing.assert_array_equal(np.sort(permuted), np.sort(values)[order])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_knn_is_exact(normalize, dtype):
    """Distances far smaller than float32 products could tell apart."""
    rng = np.random.default_rng(0)
    X = (100 + rng.normal(size=(1500, 6))).astype(dtype)
    queries = (100 + rng.normal(size=(40, 6))).astype(dtype)
    detector = skood.KNN(n_neighbors=7, normalize=normalize).fit(X)

    def prepared(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if normalize else rows

    bank = prepared(X).astype(np.float64)
    distances = np.linalg.norm(prepared(queries.astype(np.float64))[:, None] - bank, axis=2)
    expected = -np.sort(distances, axis=1)[:, 6]
    tolerance = 1e-9 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(detector.score_samples(queries), expected, rtol=tolerance)


def drawn(kind, rng, n=4000):
    """Rows whose single-precision products rank neighbours wrongly, or hardly at all."""
    if kind == "far from 0":
        return 1e6 + 10 * rng.normal(size=(n, 4))
    if kind == "two far clusters":
        return rng.choice([-1e4, 1e4], size=(n, 1)) + 1e-2 * rng.normal(size=(n, 8))
    if kind == "duplicates":
        return np.repeat(rng.normal(size=(20, 8)), n // 20, axis=0)
    if kind == "ties":
        return rng.integers(0, 3, size=(n, 5)).astype(float)
    if kind == "a constant":
        return np.ones((n, 3))
    if kind == "below the normal numbers":
        return 1e-25 * rng.normal(size=(n, 6))
    if kind == "large":
        return 1e13 * rng.normal(size=(n, 6))
    if kind == "lengths of all sizes":
        return rng.normal(size=(n, 6)) * 10.0 ** rng.integers(-8, 8, size=(n, 1))
    assert kind == "columns of all sizes"
    return rng.normal(size=(n, 6)) * np.array([1e6, 1, 1, 1e-3, 1, 1])


KINDS = (
    *("far from 0", "two far clusters", "duplicates", "ties", "a constant", "large"),
    *("below the normal numbers", "lengths of all sizes", "columns of all sizes"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8])
@pytest.mark.parametrize("normalize", [False, True])
def test_distances_are_those_of_all_pairs_in_float64(kind, dtype, normalize, monkeypatch):
    monkeypatch.setattr("skood._thresholds.THRESHOLD_ROWS", 50)
    X = drawn(kind, np.random.default_rng(0))
    if dtype in (np.float16, np.uint8):
        X = X / np.abs(X).max() * 100 + 100
    X = X.astype(dtype)
    near = X[::500] + 1e-3 * np.abs(X[:1].astype(np.float64))
    queries = np.concatenate([X[::400], near.astype(dtype)])
    if dtype in (np.float32, np.float64):
        queries = np.concatenate([queries, 100 * X[::1000], -X[:2]])

    def prepared(rows):
        rows = rows.astype(np.float64)
        return skood.functional.unit_length(rows) if normalize else rows

    pairs = prepared(queries)[:, None] - prepared(X)
    distances = np.sort(np.sqrt(np.square(pairs).sum(2)), axis=1)
    for k in (1, 50, 1000):
        detector = skood.KNN(n_neighbors=k, normalize=normalize, random_state=0).fit(X)
        scores = detector.score_samples(queries)
        np.testing.assert_allclose(scores, -distances[:, k - 1], rtol=1e-12)
        alone = [detector.score_samples(query[None])[0] for query in queries[::5]]
        np.testing.assert_array_equal(alone, scores[::5])
        np.testing.assert_array_equal(detector.score_samples(queries[:9]), scores[:9])


def test_queries_that_overflow_in_the_precision_of_the_bank():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 4)).astype(np.float32)
    queries = 1e60 * rng.normal(size=(3, 4))
    scores = skood.KNN(n_neighbors=3).fit(X).score_samples(queries)
    np.testing.assert_allclose(scores, -np.linalg.norm(queries, axis=1), rtol=1e-6)


@pytest.mark.parametrize("k", [1, 20])
def test_guidance_is_the_mean_of_the_largest_products(k):
    """Neighbours whose products agree in single precision, and energies of both signs."""
    rng = np.random.default_rng(0)
    features = 1000 + rng.normal(size=(1200, 5)).astype(np.float32)
    logits = rng.normal(size=(1200, 3))
    detector = skood.NNGuide(n_neighbors=k).fit_outputs(logits, features=features)
    unit = skood.functional.unit_length(features.astype(np.float64))
    energy = skood.functional.energy(logits)
    products = np.sort((unit[:, None] * (unit * energy[:, None])).sum(2), axis=1)
    expected = energy * products[:, -k:].mean(1)
    scores = detector.score_outputs(logits, features=features)
    np.testing.assert_allclose(scores, expected, rtol=1e-13)
    alone = detector.score_outputs(logits[:1], features=features[:1])
    np.testing.assert_array_equal(alone, scores[:1])


@pytest.mark.parametrize("n_queries", [1, 8, 9, 200])
def test_parts_of_a_large_bank_are_merged(n_queries, monkeypatch):
    monkeypatch.setattr("skood.posthoc._largest_products._PART", 300)
    monkeypatch.setattr("skood.posthoc._largest_products._PART_FOR_FEW", 500)
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(2345, 3))
    # Later parts have the larger products.
    bank[:, 0] += np.arange(2345) / 500
    queries = rng.normal(size=(n_queries, 3))
    for k in (1, 7, 400):
        values, rows = largest_products(queries, torch.from_numpy(bank), k)
        products = queries @ bank.T
        np.testing.assert_allclose(np.sort(values), np.sort(products)[:, -k:], rtol=1e-12)
        np.testing.assert_allclose(np.take_along_axis(products, rows, 1), values, atol=1e-12)
        assert all(len(set(row)) == k for row in rows)
