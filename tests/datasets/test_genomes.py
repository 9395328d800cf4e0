"""Synthetic genomes, against their formula."""

import numpy as np
import pytest

from skood.datasets import gc_content, make_genomes


def frequencies(X, order):
    """Count the bases after each context, as probabilities."""
    counts = np.zeros((4**order, 4))
    for x in X:
        codes = ["ACGT".index(letter) for letter in x]
        for t in range(order, len(codes)):
            context = 0
            for code in codes[t - order : t]:
                context = 4 * context + code
            counts[context, codes[t]] += 1
    return counts


def test_form():
    X, y = make_genomes(50, 3, random_state=0)
    assert X.shape == y.shape == (50,)
    assert set(map(len, X)) == {250}
    assert set("".join(X)) == set("ACGT")
    assert set(y) == {0, 1, 2}
    again, _ = make_genomes(50, 3, random_state=0)
    np.testing.assert_array_equal(X, again)
    assert (X != make_genomes(50, 3, random_state=1)[0]).any()


def test_lengths():
    X, _ = make_genomes(300, 2, (5, 9), random_state=0)
    assert set(map(len, X)) == {5, 6, 7, 8, 9}


def test_composition_without_order():
    """With strength 0, bases are independent, and G and C have the class's frequency."""
    X, y = make_genomes(400, 4, strength=0, gc_range=(0.2, 0.8), random_state=0)
    for k in range(4):
        counts = frequencies(X[y == k], 1)
        probs = counts / counts.sum(1, keepdims=True)
        error = 4.5 * np.sqrt(0.25 / counts.sum(1, keepdims=True))
        assert np.all(np.abs(probs - probs.mean(0)) < error)
        # A and T are equally frequent, and C and G.
        assert np.abs(probs.mean(0) - probs.mean(0)[::-1]).max() < 0.02
        gc = gc_content(X[y == k])
        assert 0.2 < gc.mean() < 0.8
        assert gc.std() == pytest.approx(np.sqrt(gc.mean() * (1 - gc.mean()) / 250), rel=0.3)


def test_a_chain_has_its_order():
    """Bases depend on the base before, and given it not on the base before that."""
    X, _ = make_genomes(800, 1, orders=[1], strength=0.8, random_state=0)
    first = frequencies(X, 1)
    probs = first / first.sum(1, keepdims=True)
    assert np.ptp(probs, 0).max() > 0.2
    second = frequencies(X, 2)
    given = second / second.sum(1, keepdims=True)
    error = 4.5 * np.sqrt(0.25 / second.sum(1, keepdims=True))
    # Context = 4 * (two before) + (one before).
    assert np.all(np.abs(given - probs[np.arange(16) % 4]) < error)


def test_strength_is_the_spread_of_the_log_odds():
    X, _ = make_genomes(2000, 1, orders=[4], gc_range=(0.5, 0.5), strength=0.6, random_state=0)
    counts = frequencies(X, 4)
    log_probs = np.log(counts / counts.sum(1, keepdims=True))
    centred = log_probs - log_probs.mean(1, keepdims=True)
    assert centred.std() * np.sqrt(4 / 3) == pytest.approx(0.6, rel=0.1)


def test_gc_content():
    np.testing.assert_allclose(gc_content(["GGAT", "acgt", "A"]), [0.5, 0.5, 0])
    with pytest.raises(ValueError, match="row 1 of X is empty"):
        gc_content(["A", ""])


@pytest.mark.parametrize(
    "parameters",
    [
        {"n_samples": 0},
        {"n_classes": 0},
        {"length": 0},
        {"length": (5, 3)},
        {"length": (5, 6, 7)},
        {"orders": []},
        {"orders": [9]},
        {"orders": [1.5]},
        {"gc_range": (0, 0.5)},
        {"gc_range": (0.6, 0.5)},
        {"gc_range": 0.5},
        {"strength": -1},
        {"strength": np.nan},
    ],
    ids=str,
)
def test_bad_parameters(parameters):
    (name,) = parameters
    with pytest.raises(ValueError, match=f"{name}="):
        make_genomes(**parameters)
