"""Diffusion as an estimator: training, likelihood in nats, samples."""

import pickle

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.frozen import FrozenEstimator
from torch.utils.data import TensorDataset

from skood import LocalIntrinsicDimension
from skood.density import Diffusion


def make_diffusion(**kwargs):
    settings = {
        "n_filters": (8, 16),
        "n_blocks": 1,
        "hidden_features": 32,
        "n_steps": 3,
        "max_steps": 4,
        "batch_size": 64,
        "learning_rate": 5e-3,
        "precision": "fp32",
        "random_state": 0,
    }
    return Diffusion(**{**settings, **kwargs})


def with_parameters(model, **parameters):
    """Return a copy of a fitted model; these do not enter training."""
    return pickle.loads(pickle.dumps(model)).set_params(**parameters)


@pytest.fixture(scope="module")
def gaussian():
    """A normal distribution away from the origin, on scales of its own."""
    factor = np.array([[2.0, 0.0], [30.0, 20.0]])
    return multivariate_normal([3.0, -100.0], factor @ factor.T)


@pytest.fixture(scope="module")
def of_gaussian(gaussian):
    X = gaussian.rvs(2000, random_state=0)
    settings = {"hidden_features": 64, "n_blocks": 2, "ema_decay": 0.99}
    return make_diffusion(**settings, n_steps=20, max_steps=900).fit(X)


def test_learns_a_density_in_nats_and_units_of_x(gaussian, of_gaussian):
    X = gaussian.rvs(400, random_state=1)
    scores, expected = of_gaussian.score_samples(X), gaussian.logpdf(X)
    assert scores.mean() == pytest.approx(expected.mean(), abs=0.1)
    assert np.corrcoef(scores, expected)[0, 1] > 0.97
    # The loss is a bound on minus the log-density.
    assert 0 < of_gaussian.history_["validation_loss"][-1] + scores.mean() < 0.5


def test_density_integrates_to_one(gaussian, of_gaussian):
    width = 5 * np.sqrt(np.diag(gaussian.cov))
    places = (np.arange(40) + 0.5) / 40 * 2 - 1
    grid = gaussian.mean + width * np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)
    mass = np.exp(of_gaussian.score_samples(grid)).sum() * np.prod(2 * width / 40)
    assert mass == pytest.approx(1, abs=0.1)


def test_untrained_model_is_the_standard_normal_distribution():
    X = np.random.default_rng(0).normal([5, -3, 0], [1, 10, 0.1], size=(200, 3))
    model = make_diffusion(learning_rate=1e-12, n_steps=40).fit(X)
    expected = multivariate_normal(X.mean(0), np.diag(X.var(0))).logpdf(X)
    np.testing.assert_allclose(model.score_samples(X), expected, atol=0.01)
    Z = (X - X.mean(0)) / X.std(0)
    psi_squared = np.exp(-(0.1 * 0.3 + 19.9 * 0.3**2 / 2))
    np.testing.assert_allclose(model.score_function(X, 0.3), -np.sqrt(psi_squared) * Z, atol=1e-5)


@pytest.mark.parametrize("t", [0.1, 0.4])
def test_score_function_of_a_normal_distribution(gaussian, of_gaussian, t):
    X = gaussian.rvs(200, random_state=2)
    Z = (X - of_gaussian.mean_) / of_gaussian.scale_
    shrunk = np.exp(-(0.1 * t + 19.9 * t**2 / 2))
    correlation = gaussian.cov / np.sqrt(np.outer(*2 * [np.diag(gaussian.cov)]))
    noisy = shrunk * correlation + (1 - shrunk) * np.eye(2)
    expected = -np.sqrt(shrunk) * Z @ np.linalg.inv(noisy)
    found = of_gaussian.score_function(X, t)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95
    assert (found * expected).sum() / (expected**2).sum() == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("t", [0, 1e-6, 1.01, -0.1, np.nan])
def test_times_that_are_not_modelled(gaussian, of_gaussian, t):
    X = gaussian.rvs(5, random_state=2)
    with pytest.raises(ValueError, match=rf"t={t}; expected a time from t_min=1e-05.*, to 1"):
        of_gaussian.score_function(X, t)
    for last in (of_gaussian.t_min, 1.0):
        assert np.isfinite(of_gaussian.score_function(X, last)).all()


def test_samples_are_like_the_data(gaussian, of_gaussian):
    drawn = of_gaussian.sample(2000, random_state=0)
    assert (drawn.shape, drawn.dtype) == ((2000, 2), np.float64)
    np.testing.assert_allclose(drawn.mean(0), gaussian.mean, atol=0.15 * np.sqrt(900))
    np.testing.assert_allclose(drawn.std(0), np.sqrt(np.diag(gaussian.cov)), rtol=0.15)
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(30 / np.sqrt(1300), abs=0.1)
    np.testing.assert_array_equal(of_gaussian.sample(2000, random_state=0), drawn)
    assert (of_gaussian.sample(3, random_state=1) != of_gaussian.sample(3, random_state=2)).all()


class ExactNoise(torch.nn.Module):
    """The noise in items of a normal distribution of standardised rows."""

    mean = torch.tensor([0.2, -0.1])
    covariance = torch.tensor([[0.8, 0.5], [0.5, 1.1]])

    def forward(self, x, log_ratio):
        squared = torch.sigmoid(-2 * log_ratio)
        noisy = squared * self.covariance.to(x) + (1 - squared) * torch.eye(2).to(x)
        apart = x - squared.sqrt() * self.mean.to(x)
        return (1 - squared).sqrt() * torch.linalg.solve(noisy, apart.mT).mT


@pytest.fixture(params=["vp", "ve"])
def exact(request, gaussian):
    model = make_diffusion(sde=request.param, n_steps=60).fit(gaussian.rvs(300, random_state=0))
    model.module_ = ExactNoise()
    return model


def noise_at(model, t):
    """Return the factor of items, and the standard deviation of the noise, at time t."""
    if model.sde == "ve":
        return 1.0, 0.001 * 50000.0**t
    squared = np.exp(-(0.1 * t + 19.9 * t**2 / 2))
    return np.sqrt(squared), np.sqrt(1 - squared)


@pytest.mark.parametrize("t_score", [None, 0.01, 0.3])
def test_log_density_of_both_sdes_in_nats(exact, gaussian, t_score):
    exact.set_params(t_score=t_score)
    psi, sigma = noise_at(exact, t_score or 1e-5)
    blurred = ExactNoise.covariance.numpy() + (sigma / psi) ** 2 * np.eye(2)
    X = gaussian.rvs(50, random_state=1)
    Z = (X - exact.mean_) / exact.scale_
    expected = multivariate_normal(ExactNoise.mean.numpy(), blurred).logpdf(Z)
    expected -= np.log(exact.scale_).sum()
    np.testing.assert_allclose(exact.score_samples(X), expected, atol=0.02)


@pytest.mark.parametrize("t", [0.05, 0.4])
def test_score_function_and_dimension_of_both_sdes(exact, gaussian, t):
    psi, sigma = noise_at(exact, t)
    X = gaussian.rvs(50, random_state=1)
    Z = (X - exact.mean_) / exact.scale_
    precision = np.linalg.inv(
        psi**2 * ExactNoise.covariance.double().numpy() + sigma**2 * np.eye(2)
    )
    score = -psi * (Z - ExactNoise.mean.numpy()) @ precision
    np.testing.assert_allclose(exact.score_function(X, t), score, rtol=1e-4, atol=1e-4)
    dimension = 2 + sigma**2 * ((score**2).sum(1) - np.trace(precision))
    settings = {"scale": float(np.log(sigma / psi)), "n_calibration": 50, "random_state": 0}
    detector = LocalIntrinsicDimension(FrozenEstimator(exact), **settings).fit(X)
    pairs = detector.score_pairs(X)
    np.testing.assert_allclose(pairs[:, 1], dimension, atol=1e-3)
    np.testing.assert_allclose(pairs[:, 0], exact.score_samples(X), atol=1e-6)


def test_samples_of_both_sdes(exact):
    drawn = (exact.sample(4000, random_state=0) - exact.mean_) / exact.scale_
    np.testing.assert_allclose(drawn.mean(0), ExactNoise.mean, atol=0.06)
    np.testing.assert_allclose(np.cov(drawn.T), ExactNoise.covariance, atol=0.08)


@pytest.mark.parametrize("weighting", ["likelihood", "uniform"])
def test_training_with_exploding_variance(gaussian, weighting):
    X = gaussian.rvs(500, random_state=0)
    few, more = (
        make_diffusion(sde="ve", weighting=weighting, max_steps=n, ema_decay=0.9).fit(X)
        for n in (2, 200)
    )
    assert more.noise_range_ == pytest.approx((np.log(0.001), np.log(50)), abs=1e-3)
    assert more.score(X) > few.score(X)
    # The scores of the data are high, and the loss is a bound on them.
    assert more.score(X) > gaussian.logpdf(X).mean() - 1.5
    if weighting == "likelihood":
        assert more.history_["validation_loss"][-1] > -more.score(X)


def test_range_of_noise_moves_a_model():
    X = np.random.default_rng(0).normal(size=(100, 2))
    losses = [
        make_diffusion(sde="ve", **settings).fit(X).history_["loss"][-1]
        for settings in ({}, {"sigma_min": 0.01}, {"sigma_max": 10.0})
    ]
    assert len({*losses}) == 3


def test_noise_that_training_did_not_include(exact, gaussian):
    X = gaussian.rvs(5, random_state=1)
    with pytest.raises(ValueError, match=r"t_score=1e-06; expected a time from t_min=1e-05"):
        exact.set_params(t_score=1e-6).score_samples(X)
    with pytest.raises(ValueError, match=r"t_score=1e-06; expected a time from t_min=1e-05"):
        make_diffusion(t_score=1e-6).fit(X)
    changed = {"t_min": 1e-7} if exact.sde == "vp" else {"sigma_min": 1e-4}
    exact.set_params(t_score=None, **changed)
    for use in (exact.score_samples, lambda X: exact.score_function(X, 0.5), exact.sample):
        with pytest.raises(ValueError, match=r"trained on log-ratios of noise from -6\.9"):
            use(X if use != exact.sample else 3)
    # Less of the noise is modelled, too.
    exact.set_params(t_min=1e-3, sigma_min=0.01)
    assert np.isfinite(exact.score_samples(X)).all()


@pytest.fixture(scope="module")
def of_images(digits):
    settings = {"n_levels": 17, "value_range": (0, 16), "max_steps": 120, "n_steps": 4}
    return make_diffusion(**settings, ema_decay=0.95).fit(digits[:1000])


def test_learns_images(of_images, digits):
    scores = of_images.score_samples(digits[1000:1064])
    untrained = make_diffusion(n_levels=17, value_range=(0, 16)).fit(digits[:1000])
    # Of 17 levels, uniform pixels take log2(17) = 4.1 bits.
    assert 1 < -scores.mean() / np.log(2) / 64 < 3.5
    assert scores.mean() > untrained.score(digits[1000:1064]) + 20
    noise = np.random.default_rng(0).integers(17, size=(32, 8, 8))
    assert of_images.score_samples(noise).max() < np.percentile(scores, 5)


def test_samples_of_images(of_images, digits):
    drawn = with_parameters(of_images, n_steps=25).sample(200, random_state=0)
    assert (drawn.shape, drawn.dtype) == ((200, 1, 8, 8), np.float64)
    assert set(np.unique(drawn)) <= set(range(17))
    assert np.corrcoef(drawn.mean((0, 1)).ravel(), digits.mean(0).ravel())[0, 1] > 0.9


def test_scores_are_the_same_in_any_batch_and_call(of_images, digits):
    X = digits[1000:1064]
    scores = of_images.score_samples(X)
    assert (scores.dtype, scores.shape) == (np.float64, (64,))
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(of_images.score_samples(X[order]), scores[order])
    parts = [of_images.score_samples(X[i : i + 15]) for i in range(0, 64, 15)]
    np.testing.assert_allclose(np.concatenate(parts), scores, rtol=1e-6)


def test_probes_are_close_to_the_exact_trace(of_images, digits):
    X = digits[1000:1032]
    exact, one, four = (
        with_parameters(of_images, n_probes=n, n_steps=2).score_samples(X) for n in ("exact", 1, 4)
    )
    assert abs(four - exact).mean() < abs(one - exact).mean()
    assert np.corrcoef(four, exact)[0, 1] > 0.95


@pytest.mark.parametrize("shape", [(3,), (1, 8, 8), (3, 18, 20), (1, 5, 7)], ids=str)
def test_every_weight_is_trained(shape):
    X = np.random.default_rng(0).random((64, *shape)).astype(np.float32)
    # A network begins as 0, and what is before its last layer learns from the second step on.
    few, more = (
        make_diffusion(max_steps=n, ema_decay=0.0, validation_fraction=0.0).fit(X) for n in (4, 12)
    )
    before = few.module_.state_dict()
    for name, weight in more.module_.state_dict().items():
        assert (weight != before[name]).any(), name
        assert weight.isfinite().all()
    assert np.isfinite(more.score_samples(X[:5])).all()
    assert more.sample(2, random_state=0).shape == (2, *shape)


def test_average_of_weights():
    X = np.random.default_rng(0).normal(size=(64, 3))
    settings = {"validation_fraction": 0.0, "lr_schedule": "constant"}
    # With a decay of 0 the average is the last of the weights.
    first, second, third = (
        make_diffusion(**settings, ema_decay=0.0, max_steps=n).fit(X).module_.state_dict()
        for n in (1, 2, 3)
    )
    averaged = make_diffusion(**settings, ema_decay=0.15, max_steps=3).fit(X)
    for name, found in averaged.module_.state_dict().items():
        # An update keeps (1 + n) / (10 + n) of the average, and 0.15 at most.
        expected = 0.15 * (0.15 * first[name] + 0.85 * second[name]) + 0.85 * third[name]
        torch.testing.assert_close(found, expected, msg=name)


@pytest.mark.parametrize("step", [0, 4])
def test_interrupted_training_resumes_to_the_same_weights(monkeypatch, tmp_path, step):
    X = np.random.default_rng(0).random((40, 6, 6))
    settings = {"mutation_rate": 0.3, "max_steps": 9, "batch_size": 9, "dropout": 0.1}
    expected = make_diffusion(**settings).fit(X)
    model = make_diffusion(**settings, checkpoint_dir=tmp_path)
    original, calls = Diffusion._mutate, iter(range(100))

    def interrupt(self, *args):
        if next(calls) == step:
            raise KeyboardInterrupt
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Diffusion, "_mutate", interrupt)
        with pytest.warns(UserWarning, match=f"was interrupted after {step} of"):
            model.fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    model.fit(X)
    for name, weights in expected.module_.state_dict().items():
        assert torch.equal(model.module_.state_dict()[name], weights), name
    assert model.history_ == expected.history_


def test_weighting():
    """Uniform times are mostly noisier than what a bound weighs."""
    X = np.random.default_rng(0).normal(size=(256, 2))
    likelihood, uniform = (make_diffusion(weighting=w).fit(X) for w in ("likelihood", "uniform"))
    # For a standard normal distribution the error falls with the noise.
    assert uniform.history_["loss"][-1] < likelihood.history_["loss"][-1] - 1


def test_forms_of_the_same_images():
    images = np.random.default_rng(0).integers(256, size=(24, 6, 4), dtype=np.uint8)
    of_images = make_diffusion().fit(images)
    scores = of_images.score_samples(images)
    for X in (
        images[:, None],
        images[..., None],
        images / 255,
        TensorDataset(torch.from_numpy(images)[:, None], torch.arange(len(images))),
    ):
        np.testing.assert_array_equal(make_diffusion().fit(X).score_samples(X), scores)
    flat = images.reshape(24, -1)
    model = make_diffusion(image_shape=(1, 6, 4)).fit(flat)
    np.testing.assert_array_equal(model.score_samples(flat), scores)
    gradients = of_images.score_function(images, 0.1)
    np.testing.assert_array_equal(model.score_function(flat, 0.1), gradients)
    assert model.sample(2).shape == (2, 24)
    assert model.sample(2).dtype == np.uint8


def test_probabilities_of_levels_sum_to_one():
    """The density in the middle of a bin times its volume is close to the integral over it."""
    X = np.random.default_rng(0).normal(15, 4, size=(2000, 1, 1, 1)).round().clip(0, 31)
    settings = {"n_levels": 32, "value_range": (0, 31), "n_filters": (8,), "n_steps": 10}
    model = make_diffusion(**settings, max_steps=300).fit(X)
    scores = model.score_samples(np.arange(32.0).reshape(-1, 1, 1, 1))
    assert np.exp(scores).sum() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "X", "message"),
    [
        ({}, np.full((9, 4, 4), np.nan), "contains NaN"),
        ({}, np.full((9, 4, 4), 7.0), "value_range"),
        ({"patch_size": 3}, np.zeros((9, 4, 4)), "patch_size=3 does not divide the height"),
        ({"t_min": 1.5}, np.zeros((9, 4)), "'t_min' parameter of Diffusion must be a float"),
        ({"n_probes": "all"}, np.zeros((9, 4)), "'n_probes' parameter of Diffusion must be"),
        ({"sde": "ve", "sigma_min": 60.0}, np.zeros((9, 4)), "60.0 is not below sigma_max=50.0"),
    ],
)
def test_what_fit_refuses(settings, X, message):
    with pytest.raises(ValueError) as raised:
        make_diffusion(**settings).fit(X)
    assert message in str(raised.value)
