"""Detectors on inner layers against derivations from their formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, logsumexp, softmax
from torch import nn

from skood._torch.seeding import Stream, draw_seed, numpy_rng
from skood.classifiers import _layers
from skood.posthoc._gram import Gram
from skood.posthoc._layer_mahalanobis import LayerMahalanobis
from skood.posthoc._nac import NAC
from skood.posthoc._rankfeat import RankFeat

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    ).double()
    with torch.no_grad():
        # Centred and steep, so that every class is predicted.
        centre = network[:7](torch.randn(99, 2, 6, 6).double()).mean(0)
        network[7].weight.mul_(30)
        network[7].bias.copy_(-network[7].weight @ centre)
    return network


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(60, 2, 6, 6))


@pytest.fixture(scope="module")
def X_new():
    return 1.5 * np.random.default_rng(1).normal(size=(20, 2, 6, 6))


@pytest.fixture(scope="module")
def y():
    return np.random.default_rng(2).integers(0, 3, size=60)


@pytest.fixture
def small_chunks(monkeypatch):
    """Training data and scores that come in several parts."""
    monkeypatch.setattr(_layers, "_CHUNK", 7)


def run(network, X, stop, start=0):
    with torch.no_grad():
        return network[start:stop](torch.tensor(X)).numpy()


def without_rank_one(maps):
    flat = maps.reshape(*maps.shape[:2], -1)
    u, s, vt = np.linalg.svd(flat, full_matrices=False)
    first = s[:, :1, None] * u[:, :, :1] @ vt[:, :1]
    return (flat - first).reshape(maps.shape)


def test_rankfeat_reference():
    reference = np.load(DATA / "posthoc.npz")
    maps, weight = reference["fmap_test"], torch.tensor(reference["W_fmap"])
    head = nn.Linear(12, 7, dtype=torch.float64)
    head.load_state_dict({"weight": weight, "bias": torch.tensor(reference["b_fmap"])})
    network = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    scores = RankFeat(network).fit(maps).score_samples(maps)
    np.testing.assert_allclose(scores, reference["score__rankfeat"], rtol=1e-8)


def test_rankfeat(network, X, X_new):
    logits = [
        run(network, without_rank_one(run(network, X_new, 2)), None, start=2),
        run(network, without_rank_one(run(network, X_new, 5)), None, start=5),
    ]
    last = RankFeat(network).fit(X)
    assert last.layers_ == ("4",)
    np.testing.assert_allclose(last.score_samples(X_new), logsumexp(logits[1], 1), rtol=1e-9)
    both = RankFeat(network, ("1", "4"), temperature=2.0).fit(X)
    np.testing.assert_allclose(
        both.score_samples(X_new), 2 * logsumexp(np.mean(logits, 0) / 2, 1), rtol=1e-9
    )


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("weights", [None, [0.5, 2.0]])
def test_layer_mahalanobis(network, X, X_new, y, weights):
    expected = np.zeros(len(X_new))
    for stop, weight in zip((2, 5), weights or (1, 1), strict=True):
        z, z_new = (run(network, data, stop).mean((2, 3)) for data in (X, X_new))
        means = np.stack([z[y == k].mean(0) for k in range(3)])
        centred = z - means[y]
        precision = np.linalg.inv(centred.T @ centred / len(z))
        difference = z_new[:, None] - means
        distance = np.einsum("nki,ij,nkj->nk", difference, precision, difference)
        expected -= weight * distance.min(1)
    detector = LayerMahalanobis(network, weights=weights).fit(X, y)
    assert detector.layers_ == ("1", "4")
    np.testing.assert_allclose(detector.score_samples(X_new), expected, rtol=1e-9)
    np.testing.assert_allclose(detector.means_[1], means, rtol=1e-9)


def test_layer_mahalanobis_without_labels_has_one_class(network, X, X_new):
    np.testing.assert_array_equal(
        LayerMahalanobis(network).fit(X).score_samples(X_new),
        LayerMahalanobis(network).fit(X, np.ones(60)).score_samples(X_new),
    )


def gram_vectors(maps, powers):
    """Shape (n, n_powers * n_channels), by the matrices that the library does not make."""
    vectors = []
    for p in powers:
        power = maps.reshape(*maps.shape[:2], -1) ** p
        rows = (power @ power.transpose(0, 2, 1)).sum(2)
        vectors.append(np.sign(rows) * np.abs(rows) ** (1 / p))
    return np.concatenate(vectors, 1)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("powers", [(1, 2, 3, 4, 5), (10,)])
def test_gram(network, X, X_new, powers):
    order = numpy_rng(draw_seed(0), Stream.GRAM_VALIDATION_ROWS).permutation(60)
    held_out, training = order[:12], order[12:]
    logits, logits_new = run(network, X, None), run(network, X_new, None)
    predicted, predicted_new = logits.argmax(1), logits_new.argmax(1)
    # The case of a class that nothing is assigned to has its own test.
    assert len(np.unique(predicted[training])) == 3

    def deviations(g, classes, confidence, low, high):
        below = np.maximum(low[classes] - g, 0) / (np.abs(low[classes]) + 1e-6)
        above = np.maximum(g - high[classes], 0) / (np.abs(high[classes]) + 1e-6)
        return (below + above).sum(1) / confidence

    expected = np.zeros(len(X_new))
    for stop in (2, 5):
        g, g_new = (gram_vectors(run(network, data, stop), powers) for data in (X, X_new))
        of_class = [g[training][predicted[training] == k] for k in range(3)]
        low, high = (np.stack([f(part, 0) for part in of_class]) for f in (np.min, np.max))
        confidence = softmax(logits[held_out], 1).max(1)
        normal = deviations(g[held_out], predicted[held_out], confidence, low, high).mean()
        confidence = softmax(logits_new, 1).max(1)
        expected -= deviations(g_new, predicted_new, confidence, low, high) / (normal + 1e-7)
    detector = Gram(network, powers=powers, validation_fraction=0.2, random_state=0).fit(X)
    assert detector.layers_ == ("1", "4")
    np.testing.assert_allclose(detector.score_samples(X_new), expected, rtol=1e-9)
    np.testing.assert_array_equal(detector.score_samples(X[training]), 0)


def influence(network, X, stop):
    """Sum of a channel times the derivative of KL(u || p) along a shift of all its pixels."""

    def divergence(maps):
        logits = run(network, maps, None, start=stop)
        return -(logits - logsumexp(logits, 1, keepdims=True)).mean(1)

    maps, step = run(network, X, stop), 1e-5
    slopes = []
    for channel in range(maps.shape[1]):
        shift = np.zeros((1, maps.shape[1], 1, 1))
        shift[:, channel] = step
        slopes.append((divergence(maps + shift) - divergence(maps - shift)) / (2 * step))
    return maps.sum((2, 3)) * np.stack(slopes, 1)


def authors_edges(n_thresholds):
    left = np.log(np.linspace(1, np.sqrt(1000), n_thresholds // 2)) / np.log(1000)
    return np.concatenate([left[:-1], (1 - left)[::-1]])


@pytest.mark.usefixtures("small_chunks")
def test_nac(network, X, X_new):
    expected = []
    settings = {"n_bins": (48, 10), "steepness": (3.0, 20.0), "min_count": (5, 8)}
    for layer, stop in enumerate((2, 5)):
        n_bins, steepness, full = (values[layer] for values in settings.values())
        states, new = (expit(steepness * influence(network, d, stop)) for d in (X, X_new))
        inner = authors_edges(n_bins + 2)[1:-1]
        covered = np.zeros(len(X_new))
        for neuron in range(states.shape[1]):
            counts = np.bincount(np.digitize(states[:, neuron], inner), minlength=n_bins)
            covered += np.minimum(counts / full, 1)[np.digitize(new[:, neuron], inner)]
        expected.append(covered / states.shape[1])
    detector = NAC(network, ("1", "4"), **settings).fit(X)
    np.testing.assert_allclose(detector.score_samples(X_new), np.mean(expected, 0), rtol=1e-9)


def test_nac_steepness_matches_the_network(network, X):
    size = [np.abs(influence(network, X, stop)).mean() for stop in (2, 5)]
    detector = NAC(network, ("1", "4")).fit(X)
    np.testing.assert_allclose(detector.steepness_, 1 / np.array(size), rtol=1e-6)


def test_nac_reads_penultimate_features(network, X, X_new):
    """A map in front of the pooling has the same states, but for the number of its pixels."""
    features = NAC(network, steepness=9.0, min_count=5).fit(X)
    maps = NAC(network, "4", steepness=9.0 / 9, min_count=5).fit(X)
    assert features.layers_ == ()
    np.testing.assert_array_equal(features.counts_, maps.counts_)
    np.testing.assert_allclose(features.score_samples(X_new), maps.score_samples(X_new))


def test_nac_counts_some_rows(network, X):
    counts = NAC(network, n_samples=20, random_state=0).fit(X).counts_[0]
    np.testing.assert_array_equal(counts.sum(1), 20)
    other = NAC(network, n_samples=20, random_state=1).fit(X).counts_[0]
    assert not np.array_equal(counts, other)
