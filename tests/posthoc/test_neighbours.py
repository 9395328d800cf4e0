"""The search for neighbours, against sorting everything."""

import numpy as np
import pytest
import torch

import skood
from skood.posthoc._neighbours import largest_products


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
