"""Detectors on a denoiser: each against its formula, for a model that is known exactly."""

import sys
import types

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import KernelDensity

from skood import CCLR, Diffusion, DiffusionReconstruction, ScoreNorm
from skood._torch.seeding import Stream, draw_seed, torch_rng
from skood.density._evidence import normal_points


def psi_and_sigma(t):
    b = 0.1 * t + 19.9 * t**2 / 2
    return np.exp(-b / 2), np.sqrt(-np.expm1(-b))


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal([5, -3, 0], [1, 10, 0.1], size=(80, 3))


@pytest.fixture(scope="module")
def standard_normal(rows):
    """An untrained model: standardised rows have a standard normal distribution.

    It predicts the noise sigma x_t.
    """
    model = Diffusion(max_steps=1, learning_rate=1e-12, precision="fp32", random_state=0)
    return FrozenEstimator(model.fit(rows))


@pytest.fixture(scope="module")
def standardised(rows):
    return (rows - rows.mean(0)) / rows.std(0)


def test_score_norm(standard_normal, rows, standardised):
    for t in (0.01, 0.3):
        psi, sigma = psi_and_sigma(t)
        scores = ScoreNorm(standard_normal, t=t).fit(rows).score_samples(rows)
        expected = -sigma * psi * np.linalg.norm(standardised, axis=1)
        np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_cclr(standard_normal, rows, standardised):
    detector = CCLR(standard_normal, time_fraction=0.3, n_draws=8).fit(rows)
    points = normal_points(8, 4).numpy().astype(float)

    def loss(last):
        losses = []
        for place, *noise in points:
            t = last * ndtr(place)
            psi, sigma = psi_and_sigma(t)
            error = sigma * (psi * standardised + sigma * np.array(noise)) - noise
            losses.append((t + 0.5) * np.abs(error).mean(1))
        return np.mean(losses, 0)

    np.testing.assert_allclose(detector.score_samples(rows), loss(0.3) - loss(1), atol=1e-5)


def noise_of(detector, k):
    """Return the noise that is added to every item at the k-th time, (3,)."""
    seed = draw_seed(detector.random_state)
    generator = torch_rng(torch.device("cpu"), seed, Stream.ADDED_NOISE, k)
    return torch.randn(3, generator=generator).double().numpy()


@pytest.mark.parametrize("n_steps", [0, 6])
def test_reconstruction(standard_normal, rows, standardised, n_steps):
    settings = {"times": (0.1, 0.4), "n_calibration": None, "random_state": 3}
    detector = DiffusionReconstruction(standard_normal, n_steps=n_steps, **settings).fit(rows)
    distances = []
    for k, t in enumerate((0.1, 0.4)):
        psi, sigma = psi_and_sigma(t)
        noisy = psi * standardised + sigma * noise_of(detector, k)
        # The mean given the noisy item; the ODE keeps its place among standard normal values.
        restored = psi * noisy if n_steps == 0 else noisy
        distances.append(((restored - standardised) ** 2).mean(1))
    distances = np.stack(distances, 1)
    np.testing.assert_allclose(detector.mean_distances_, distances.mean(0), rtol=0.02)
    np.testing.assert_allclose(detector.std_distances_, distances.std(0), rtol=0.02)
    expected = -((distances - distances.mean(0)) / distances.std(0)).mean(1)
    np.testing.assert_allclose(detector.score_samples(rows), expected, atol=0.05)
    assert detector.score_samples(rows).mean() == pytest.approx(0, abs=1e-6)


def test_distances(monkeypatch, standard_normal, rows):
    settings = {"times": (0.2,), "random_state": 0}
    squares = DiffusionReconstruction(standard_normal, **settings).fit(rows)

    def root(x, y):
        return (x - y).square().mean(1)

    own = DiffusionReconstruction(standard_normal, distance=root, **settings).fit(rows)
    np.testing.assert_allclose(own.score_samples(rows), squares.score_samples(rows), atol=1e-5)
    with pytest.raises(ValueError, match="distance='lpips' compares images, but X has rows of 3"):
        DiffusionReconstruction(standard_normal, distance="lpips").fit(rows)
    images = np.random.default_rng(0).random((20, 3, 6, 6)).astype(np.float32)
    model = FrozenEstimator(Diffusion((8,), 1, max_steps=2, random_state=0).fit(images))
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match="pip install lpips"):
        DiffusionReconstruction(model, distance="lpips").fit(images)

    class LPIPS(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            assert net == "alex"

        def forward(self, x, y):
            assert x.shape == y.shape
            assert x.min() >= -1
            return (x - y).square().mean((1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=LPIPS))
    settings |= {"n_steps": 1}
    perceptual = DiffusionReconstruction(model, distance="lpips", **settings).fit(images)
    plain = DiffusionReconstruction(model, **settings).fit(images)
    found, expected = perceptual.score_samples(images), plain.score_samples(images)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("cls", [CCLR, DiffusionReconstruction, ScoreNorm])
def test_scores_belong_to_rows(standard_normal, rows, cls):
    detector = cls(standard_normal, random_state=0).fit(rows)
    scores = detector.score_samples(rows)
    np.testing.assert_array_equal(detector.score_samples(rows[::-1])[::-1], scores)
    parts = [detector.score_samples(rows[i : i + 11]) for i in range(0, 80, 11)]
    np.testing.assert_array_equal(np.concatenate(parts), scores)
    assert (scores < detector.offset_).mean() == pytest.approx(0.05, abs=0.02)
    with pytest.raises(ValueError, match=f"{cls.__name__} needs a Diffusion"):
        cls(KernelDensity()).fit(rows)


def test_what_is_refused(standard_normal, rows):
    for times in ((), (0.5, 1.5), (0.0,)):
        with pytest.raises(ValueError, match="expected at least one, above 0 and at most 1"):
            DiffusionReconstruction(standard_normal, times=times).fit(rows)
