"""LikelihoodRegret: how much an item's evidence lower bound gains by an encoding of its own."""

import copy

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import KernelDensity

from skood import VAE, LikelihoodRegret
from skood.density._evidence import lower_bound, normal_points

SETTINGS = {"n_points": 16, "n_draws": 2, "n_steps": 30}


@pytest.fixture(scope="module")
def rows():
    """Rows of one factor with noise, standardised: (200, 3)."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 1)) * [1.0, -0.8, 0.5] + 0.3 * rng.normal(size=(200, 3))
    return (X - X.mean(0)) / X.std(0)


@pytest.fixture(scope="module")
def linear(rows):
    """A VAE with p(x | z) = N(W z + b, S), whose encoder is the exact posterior of z."""
    vae = VAE(1, hidden_features=(), likelihood="gaussian", max_epochs=40, learning_rate=0.01)
    vae.set_params(random_state=0).fit(rows)
    network = vae.module_
    with torch.no_grad():
        W, b = network.decoder[0].weight.double(), network.decoder[0].bias.double()
        precision = network.scale().double() ** -2
        variance = 1 / (1 + (W[:, 0] ** 2 * precision).sum())
        pull = variance * W[:, 0] * precision
        network.encoder[0].weight.copy_(torch.stack((pull, torch.zeros(3).double())))
        network.encoder[0].bias.copy_(torch.stack((-(pull * b).sum(), variance.log())))
    return vae


@pytest.fixture(scope="module")
def of_digits(digits):
    vae = VAE(3, n_filters=(4,), n_levels=17, value_range=(0, 16), max_steps=60, random_state=0)
    return vae.fit(digits[:300])


@pytest.mark.parametrize("optimize", ["latents", "encoder"])
def test_no_regret_at_the_optimum(linear, rows, optimize):
    detector = LikelihoodRegret(FrozenEstimator(linear), optimize=optimize, **SETTINGS)
    scores = detector.fit(rows).score_samples(rows)
    assert scores.max() <= 0
    assert scores.min() > -0.01
    # The bound is tight there: it is the log-density itself.
    worse = copy.deepcopy(linear)
    with torch.no_grad():
        worse.module_.encoder[0].bias[0] += 0.5
    scores = LikelihoodRegret(FrozenEstimator(worse), optimize="latents", **SETTINGS)
    scores = scores.fit(rows).score_samples(rows)
    # A mean that is off by d costs d^2 / 2 of its precision.
    variance = linear.module_.encoder[0].bias[1].exp().item()
    np.testing.assert_allclose(scores, -(0.5**2) / 2 / variance, rtol=0.1)


@pytest.mark.parametrize("optimize", ["latents", "encoder"])
def test_is_what_items_one_by_one_give(of_digits, digits, optimize):
    X = digits[300:304]
    settings = {"n_points": 8, "n_draws": 2, "n_steps": 5, "learning_rate": 0.01}
    detector = LikelihoodRegret(FrozenEstimator(of_digits), optimize=optimize, **settings)
    scores = detector.fit(digits[:50]).score_samples(X)
    points = normal_points(8 + 5 * 2, 3)
    expected = []
    for image in X:
        network = copy.deepcopy(of_digits.module_)
        x = torch.from_numpy(image / 16).float()[None, None]

        def bound(posterior, points, network=network, x=x):
            return lower_bound(
                lambda z: of_digits._log_likelihood(network, x, network.decode(z, None)),
                *posterior,
                points,
                importance_weighted=False,
            )

        encoder = [*network.convolutions.parameters(), *network.encoder.parameters()]
        latents = [p.detach().requires_grad_() for p in network.encode(x, None)]
        before = bound(latents, normal_points(8, 3)).item()
        optimizer = torch.optim.Adam(latents if optimize == "latents" else encoder, lr=0.01)
        for drawn in points[8:].view(5, 2, 3):
            optimizer.zero_grad()
            posterior = latents if optimize == "latents" else network.encode(x, None)
            (-bound(posterior, drawn).sum()).backward()
            optimizer.step()
        posterior = latents if optimize == "latents" else network.encode(x, None)
        expected.append(before - max(before, bound(posterior, normal_points(8, 3)).item()))
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    assert min(scores) < -0.01


def test_scores_belong_to_items_and_the_model_is_left_alone(of_digits, digits):
    weights = copy.deepcopy(of_digits.module_.state_dict())
    of_digits.module_.zero_grad()
    detector = LikelihoodRegret(FrozenEstimator(of_digits), **SETTINGS).fit(digits[:50])
    X = digits[300:340]
    scores = detector.score_samples(X)
    assert (scores.dtype, scores.shape) == (np.float64, (40,))
    np.testing.assert_array_equal(detector.score_samples(X[::-1])[::-1], scores)
    parts = [detector.score_samples(X[i : i + 9]) for i in range(0, 40, 9)]
    np.testing.assert_array_equal(np.concatenate(parts), scores)
    for name, weight in of_digits.module_.state_dict().items():
        assert torch.equal(weight, weights[name])
    assert all(p.grad is None for p in of_digits.module_.parameters())


def test_more_regret_for_what_the_encoder_has_not_seen(of_digits, digits):
    detector = LikelihoodRegret(FrozenEstimator(of_digits), **SETTINGS).fit(digits[:200])
    new = np.rot90(digits[300:360], axes=(1, 2))
    assert np.median(detector.score_samples(new)) < np.median(detector.score_samples(digits[300:]))


def test_errors(rows):
    with pytest.raises(ValueError, match="expected a VAE that is not conditional"):
        LikelihoodRegret(KernelDensity()).fit(rows)
    with pytest.raises(ValueError, match="expected a VAE that is not conditional"):
        LikelihoodRegret(VAE(1, conditional=True, max_epochs=1)).fit(rows, np.arange(200) % 2)
