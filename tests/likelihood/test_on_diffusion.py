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


def psi_and_sigma(t, sde="vp"):
    """Return the factor of an item in x_t, and the standard deviation of the noise."""
    if sde == "ve":
        return 1.0, 0.001 * 50000.0**t
    b = 0.1 * t + 19.9 * t**2 / 2
    return np.exp(-b / 2), np.sqrt(-np.expm1(-b))


def noise_in(x_t, t, sde="vp"):
    """Return the noise that is expected in noisy items of a standard normal distribution."""
    psi, sigma = psi_and_sigma(t, sde)
    return sigma / (psi**2 + sigma**2) * x_t


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal([5, -3, 0], [1, 10, 0.1], size=(80, 3))


def untrained(rows, **kwargs):
    """Return a model for which standardised rows have a standard normal distribution."""
    model = Diffusion(max_steps=1, learning_rate=1e-12, precision="fp32", random_state=0, **kwargs)
    return FrozenEstimator(model.fit(rows))


@pytest.fixture(scope="module")
def standard_normal(rows):
    return untrained(rows)


@pytest.fixture(scope="module", params=["vp", "ve"])
def sde_and_model(request, rows):
    return request.param, untrained(rows, sde=request.param)


@pytest.fixture(scope="module")
def standardised(rows):
    return (rows - rows.mean(0)) / rows.std(0)


def test_score_norm(sde_and_model, rows, standardised):
    sde, model = sde_and_model
    for t in (0.01, 0.3):
        scores = ScoreNorm(model, t=t).fit(rows).score_samples(rows)
        noise = noise_in(psi_and_sigma(t, sde)[0] * standardised, t, sde)
        # Sigma times the score function is minus the noise.
        np.testing.assert_allclose(scores, -np.linalg.norm(noise, axis=1), rtol=1e-4)


@pytest.mark.parametrize("n_draws", [8, 9])
def test_cclr(sde_and_model, rows, standardised, n_draws):
    sde, model = sde_and_model
    detector = CCLR(model, time_fraction=0.3, n_draws=n_draws).fit(rows)
    points = normal_points(n_draws, 4).numpy().astype(float)

    def loss(last):
        losses = []
        for place, *noise in points:
            t = 1e-5 + (last - 1e-5) * ndtr(place) ** 2
            psi, sigma = psi_and_sigma(t, sde)
            x_t = psi * standardised + sigma * np.array(noise)
            score, target = -noise_in(x_t, t, sde) / sigma, -np.array(noise) / sigma
            losses.append(2 * ndtr(place) * (t + 0.5) * np.abs(score - target).mean(1))
        return np.mean(losses, 0)

    found = detector.score_samples(rows)
    np.testing.assert_allclose(found, loss(0.3) - loss(1), rtol=1e-4, atol=1e-4)


def test_cclr_estimates_a_mean_over_uniform_times(sde_and_model, rows, standardised):
    """Against an integral over times, with the mean over the noise in closed form."""
    sde, model = sde_and_model
    detector = CCLR(model, time_fraction=0.4, n_draws=256).fit(rows)

    def loss(last):
        places = (np.arange(4000) + 0.5) / 4000
        t = (1e-5 + (last - 1e-5) * places**2)[:, None, None]
        psi, sigma = psi_and_sigma(t, sde)
        # The error of the noise is normal; this is the mean of its absolute value.
        shrinkage = sigma / (psi**2 + sigma**2)
        mean, std = shrinkage * psi * standardised, 1 - shrinkage * sigma
        size = std * np.sqrt(2 / np.pi) * np.exp(-(mean**2) / (2 * std**2))
        size += mean * (1 - 2 * ndtr(-mean / std))
        density = 2 * places[:, None, None]
        return (density * (t + 0.5) / sigma * size).mean((0, 2))

    expected = loss(0.4) - loss(1.0)
    np.testing.assert_allclose(detector.score_samples(rows), expected, rtol=0.05, atol=0.02)


def test_fraction_of_the_time_that_is_not_modelled(rows):
    with pytest.raises(ValueError, match=r"t=0.1; expected a time from t_min=0.2"):
        CCLR(untrained(rows, t_min=0.2), time_fraction=0.1).fit(rows)


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


def test_reconstruction_by_the_sde(standard_normal, rows, standardised):
    settings = {"times": (0.4,), "n_calibration": None, "random_state": 3}
    detector = DiffusionReconstruction(standard_normal, n_steps=2, solver="sde", **settings)
    detector.fit(rows)
    generator = torch_rng(torch.device("cpu"), draw_seed(3), Stream.ADDED_NOISE, 0)
    noise, *draws = (torch.randn(3, generator=generator).double().numpy() for _ in range(3))
    low, high = (np.log(s / p) for p, s in map(psi_and_sigma, (1e-5, 0.4)))
    s = np.exp([high, (low + high) / 2, low])
    y = standardised + s[0] * noise
    for draw, before, after in zip(draws, s, s[1:], strict=False):
        item = y / (1 + before**2)
        # The normal distribution of y at the smaller noise, given the item and y at the larger one.
        mean = item + (after / before) ** 2 * (y - item)
        y = mean + after * np.sqrt(1 - (after / before) ** 2) * draw
    distances = ((y / (1 + s[2] ** 2) - standardised) ** 2).mean(1)
    np.testing.assert_allclose(detector.mean_distances_, [distances.mean()], rtol=1e-3)
    expected = -(distances - distances.mean()) / distances.std()
    np.testing.assert_allclose(detector.score_samples(rows), expected, atol=1e-3)
    other = DiffusionReconstruction(standard_normal, n_steps=2, solver="ode", **settings)
    assert np.abs(other.fit(rows).score_samples(rows) - expected).max() > 0.1


def test_several_distances(standard_normal, rows):
    settings = {"times": 3, "n_steps": 0, "random_state": 0}

    def largest(x, y):
        return (x - y).abs().amax(1)

    one, other = (
        DiffusionReconstruction(standard_normal, distance=d, **settings).fit(rows)
        for d in ("mse", [largest])
    )
    both = DiffusionReconstruction(standard_normal, distance=("mse", largest), **settings).fit(rows)
    assert one.mean_distances_.shape == (3,)
    assert other.mean_distances_.shape == (3, 1)
    assert both.std_distances_.shape == (3, 2)
    mean = (one.score_samples(rows) + other.score_samples(rows)) / 2
    np.testing.assert_allclose(both.score_samples(rows), mean, atol=1e-6)
    settings["times"] = (1 / 3, 2 / 3, 1.0)
    same = DiffusionReconstruction(standard_normal, **settings).fit(rows)
    np.testing.assert_array_equal(same.score_samples(rows), one.score_samples(rows))


@pytest.mark.parametrize(
    ("fraction", "n_calibration", "n_learned"),
    # 120 of 1 200 rows are held out for the threshold.
    [(0.1, 1000, 972), (0.1, None, 972), (0.5, 60, 1020), (0.0, 1000, 1080), (0.01, 1000, 1080)],
)
def test_statistics_of_held_out_rows(monkeypatch, fraction, n_calibration, n_learned):
    X = np.random.default_rng(0).normal(size=(1200, 3))
    learned = []
    original = DiffusionReconstruction._fit_density

    def fit_density(self, data, y, seed):
        learned.append(data.take(np.arange(len(data))))
        return original(self, data, y, seed)

    monkeypatch.setattr(DiffusionReconstruction, "_fit_density", fit_density)
    settings = {"held_out_fraction": fraction, "n_calibration": n_calibration, "random_state": 0}
    model = Diffusion(max_steps=1, hidden_features=8)
    detector = DiffusionReconstruction(model, n_steps=0, times=(0.2,), **settings).fit(X)
    assert len(learned[0]) == n_learned
    held_out = len(X) - 120 - n_learned
    if held_out:
        # Mean 0 and standard deviation 1 on the rows that neither fit nor threshold has seen.
        frozen = DiffusionReconstruction(
            FrozenEstimator(detector.density_), n_steps=0, times=(0.2,)
        )
        threshold = detector._split_for_threshold(len(X), None)[1]
        new = ~(X[:, None] == learned[0]).all(2).any(1)
        new[threshold] = False
        assert new.sum() == held_out
        frozen.set_params(random_state=0).fit(X[new])
        np.testing.assert_allclose(detector.mean_distances_, frozen.mean_distances_, rtol=1e-5)
        np.testing.assert_allclose(detector.std_distances_, frozen.std_distances_, rtol=1e-5)


def test_reconstructions_of_images_are_clipped():
    images = np.random.default_rng(0).integers(2, size=(20, 6, 6)).astype(np.float32)
    model = FrozenEstimator(Diffusion((8,), 1, max_steps=2, random_state=0).fit(images))

    def largest(x, y):
        assert x.abs().max() == 1
        return y.abs().flatten(1).amax(1)

    settings = {"times": (0.05,), "n_steps": 0, "distance": largest, "random_state": 0}
    detector = DiffusionReconstruction(model, **settings).fit(images)
    assert detector.mean_distances_ == 1


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
    plain = DiffusionReconstruction(model, distance="mse", **settings).fit(images)
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
    for distance in ((), ("mse", "l1"), ["mse", 3]):
        with pytest.raises(
            ValueError, match=r"expected at least one of \('mse', 'ssim', 'lpips'\)"
        ):
            DiffusionReconstruction(standard_normal, distance=distance).fit(rows)
    with pytest.raises(ValueError, match="distance='ssim' compares images, but X has rows of 3"):
        DiffusionReconstruction(standard_normal, distance=("mse", "ssim")).fit(rows)

    def of_values(x, y):
        return x - y

    with pytest.raises(ValueError, match=r"returned the shape \((\d+), 3\) for \1 items"):
        DiffusionReconstruction(standard_normal, distance=of_values).fit(rows)
