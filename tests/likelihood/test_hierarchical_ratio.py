"""HierarchicalRatio: its score, its separation of data, and the models that it refuses."""

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import KernelDensity

from skood import VAE, HierarchicalRatio, HierarchicalVAE
from skood.metrics import auroc


def tiny_vae(**kwargs):
    settings = {"n_latents": (3, 2, 1), "hidden_features": (8,), "max_steps": 20}
    return HierarchicalVAE(**{**settings, "n_importance_samples": 8, "random_state": 0, **kwargs})


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(60, 4))


# Of 20 steps of training.
@pytest.mark.filterwarnings("ignore:the encoder of the density has failed")
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("bound", ["importance", "elbo"])
@pytest.mark.parametrize("lower", ["mode", "sample"])
def test_is_the_difference_of_the_bounds(X, k, bound, lower):
    vae = tiny_vae(bound=bound)
    settings = {"k": k, "n_importance_samples": 16, "lower_latents": lower}
    detector = HierarchicalRatio(vae, **settings).fit(X)
    alone = vae.fit(X)
    upper = alone.score_above(X, k, 16, lower_latents=lower)
    expected = -np.abs(alone.score_above(X, 0, 16) - upper)
    np.testing.assert_array_equal(detector.score_samples(X), expected)
    assert (detector.predict(X) == 1).mean() == pytest.approx(0.95, abs=0.01)
    frozen = HierarchicalRatio(FrozenEstimator(alone), **settings).fit(X)
    assert frozen.density_.estimator is alone
    np.testing.assert_array_equal(frozen.score_samples(X), expected)


def test_draws_are_those_of_the_density_by_default(X):
    vae = tiny_vae().fit(X)
    expected = -np.abs(vae.score_above(X, 1) - vae.score_samples(X))
    found = HierarchicalRatio(FrozenEstimator(vae)).fit(X).score_samples(X)
    np.testing.assert_array_equal(found, expected)


def test_nothing_is_lost_where_lower_latents_are_not_used(X):
    """The bounds are equal where q(z_1 | z_2, x) = p(z_1 | z_2)."""
    vae = tiny_vae(n_latents=(2, 1), hidden_features=()).fit(X)
    posterior, prior = vae.module_.posteriors[0][0], vae.module_.priors[0][0]
    posterior.weight.data.zero_()
    posterior.weight.data[:, 4:] = prior.weight.data
    posterior.bias.data.copy_(prior.bias.data)
    detector = HierarchicalRatio(FrozenEstimator(vae), lower_latents="sample").fit(X)
    np.testing.assert_allclose(detector.score_samples(X), 0, atol=1e-5)


@pytest.mark.parametrize("lower", ["mode", "sample"])
def test_is_the_gain_from_the_lower_posterior(lower):
    """For x_0 = z_2 + s e and x_1 = w z_1 + s e, of independent latents, with the exact q."""
    X = np.random.default_rng(0).normal(size=(60, 2))
    vae = tiny_vae(n_latents=(1, 1), hidden_features=(), bound="elbo").fit(X)
    module, w, s = vae.module_, 0.9, 0.4
    top, bottom = 1 / (1 + s**2), w / (w**2 + s**2)
    variance = s**2 / (w**2 + s**2)
    weights = {
        module.decoder[0]: ([[0, 1], [w, 0]], [0, 0]),
        module.priors[0][0]: ([[0], [0]], [0, 0]),
        module.encoder[0]: ([[top, 0], [0, 0]], [0, np.log(s**2 * top)]),
        module.posteriors[0][0]: ([[0, bottom, 0], [0, 0, 0]], [0, np.log(variance)]),
    }
    for layer, (weight, bias) in weights.items():
        layer.weight.data.copy_(torch.tensor(weight))
        layer.bias.data.copy_(torch.tensor(bias))
    module.raw_scale.data.fill_(np.log(np.expm1(s - 1e-3)) / 10)
    detector = HierarchicalRatio(
        FrozenEstimator(vae), n_importance_samples=256, lower_latents=lower
    ).fit(X)
    x = (X[:, 1] - vae.mean_[1]) / vae.scale_[1]
    mean = bottom * x
    if lower == "sample":
        expected = 0.5 * ((1 + mean**2) / variance - 1 + np.log(variance))
    else:
        # The mean of log p(x_1 | z_1) over q, its divergence, and log p(x_1 | z_1 = 0).
        inferred = -0.5 * ((x - w * mean) ** 2 + w**2 * variance) / s**2
        expected = inferred - 0.5 * (mean**2 + variance - 1 - np.log(variance)) + 0.5 * (x / s) ** 2
    np.testing.assert_allclose(detector.score_samples(X), -abs(expected), rtol=0.03, atol=0.05)
    # What the top layer explains is no reason to reject; what only the lower one does, is.
    assert detector.predict([[6.0, 0.0], [0.0, 6.0]]).tolist() == [1, -1]


class Bounds:
    """Bounds that are known: of an item (full, upper)."""

    _reads_checked_data = True

    def fit(self, X, y=None):
        raise AssertionError("is fitted already")

    def score_samples(self, X):
        return self.score_above(X, 0)

    def score_above(self, X, k, n_importance_samples=None, *, lower_latents="mode"):
        return np.asarray(X.rows(), dtype=float)[:, min(k, 1)]


def test_a_failed_encoder_is_out_of_distribution():
    """The score depends on the size of the log-ratio, and not on its sign."""
    full = -10 - np.arange(100) / 100
    training = np.stack((full, full - np.linspace(0, 3, 100)), 1)
    detector = HierarchicalRatio(FrozenEstimator(Bounds()), k=1).fit(training)
    items = np.array([[-10.0, -11.0], [-10.0, -410.0], [-410.0, -10.0], [-10.0, -9.5]])
    np.testing.assert_allclose(detector.score_samples(items), [-1, -400, -400, -0.5])
    assert detector.predict(items).tolist() == [1, -1, -1, 1]


def test_rows_far_from_the_training_data_are_rejected():
    """There the encoder fails, and the prior often has the larger bound."""
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(3, 6))
    X = centers[rng.integers(3, size=500)] + 0.5 * rng.normal(size=(500, 6))
    far = rng.uniform(-15, 15, size=(200, 6))
    vae = HierarchicalVAE((4, 2, 1), hidden_features=(32,), max_steps=300, random_state=0).fit(X)
    detector = HierarchicalRatio(FrozenEstimator(vae), k=1, n_importance_samples=16).fit(X)
    log_ratio = vae.score_above(far, 0, 16) - vae.score_above(far, 1, 16)
    assert (log_ratio < -5).mean() > 0.1
    assert (detector.predict(far) == -1).mean() > 0.85
    labels, scores = np.repeat([1, -1], [500, 200]), detector.score_samples(np.r_[X, far])
    assert auroc(labels, scores) > 0.95


def test_warns_where_the_encoder_fails_at_training_items():
    full = np.zeros(100)
    upper = np.where(np.arange(100) < 11, 3.0, -20.0)
    message = r"failed at 11% of 100 .* k=1 lowest .*log-ratio 20 nats.*n_free_nats_steps"
    with pytest.warns(UserWarning, match=message):
        HierarchicalRatio(FrozenEstimator(Bounds())).fit(np.stack((full, upper), 1))
    # A few items, or the error of few draws, are no failure.
    upper[8:11] = 0.9
    HierarchicalRatio(FrozenEstimator(Bounds())).fit(np.stack((full, upper), 1))


@pytest.mark.parametrize("density", [KernelDensity(), VAE()])
def test_needs_layers_of_latents(X, density):
    with pytest.raises(ValueError, match="no layers of latents; HierarchicalRatio needs a Hier"):
        HierarchicalRatio(density).fit(X)


def test_k_leaves_a_layer(X):
    with pytest.raises(ValueError, match=r"k=3, but the density has 3 layers .*at most 2"):
        HierarchicalRatio(tiny_vae(), k=3).fit(X)


def test_layers_that_are_no_tuple_are_refused_by_the_density(X):
    with pytest.raises(ValueError, match="n_latents"):
        HierarchicalRatio(HierarchicalVAE(n_latents=8)).fit(X)
