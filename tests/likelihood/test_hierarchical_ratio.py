"""HierarchicalRatio: what its score is, where it separates, and what it does not take."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import KernelDensity

from skood import VAE, HierarchicalRatio, HierarchicalVAE


def tiny_vae(**kwargs):
    settings = {"n_latents": (3, 2, 1), "hidden_features": (8,), "max_steps": 20}
    return HierarchicalVAE(**{**settings, "n_importance_samples": 8, "random_state": 0, **kwargs})


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(60, 4))


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("bound", ["importance", "elbo"])
def test_is_the_difference_of_the_bounds(X, k, bound):
    vae = tiny_vae(bound=bound)
    detector = HierarchicalRatio(vae, k=k, n_importance_samples=16).fit(X)
    alone = vae.fit(X)
    expected = alone.score_above(X, k, 16) - alone.score_above(X, 0, 16)
    np.testing.assert_array_equal(detector.score_samples(X), expected)
    assert (detector.predict(X) == 1).mean() == pytest.approx(0.95, abs=0.01)
    frozen = HierarchicalRatio(FrozenEstimator(alone), k=k, n_importance_samples=16).fit(X)
    assert frozen.density_.estimator is alone
    np.testing.assert_array_equal(frozen.score_samples(X), expected)


def test_draws_are_those_of_the_density_by_default(X):
    vae = tiny_vae().fit(X)
    expected = vae.score_above(X, 2) - vae.score_samples(X)
    found = HierarchicalRatio(FrozenEstimator(vae)).fit(X).score_samples(X)
    np.testing.assert_array_equal(found, expected)


def test_nothing_is_lost_where_lower_latents_are_not_used(X):
    """The bounds are equal where q(z_1 | z_2, x) = p(z_1 | z_2)."""
    vae = tiny_vae(n_latents=(2, 1), hidden_features=()).fit(X)
    posterior, prior = vae.module_.posteriors[0][0], vae.module_.priors[0][0]
    posterior.weight.data.zero_()
    posterior.weight.data[:, 4:] = prior.weight.data
    posterior.bias.data.copy_(prior.bias.data)
    detector = HierarchicalRatio(FrozenEstimator(vae), k=1).fit(X)
    np.testing.assert_allclose(detector.score_samples(X), 0, atol=1e-5)


def test_items_far_away_score_low():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 1)) * [1, 1, -1, 0.5, 2] + 0.1 * rng.normal(size=(300, 5))
    far = X[:50] + 1.5 * rng.normal(size=(50, 5))
    vae = tiny_vae(max_steps=300, learning_rate=1e-2, n_warmup_steps=20)
    detector = HierarchicalRatio(vae, k=1, n_importance_samples=64).fit(X)
    assert (detector.predict(far) == -1).mean() > 0.8


@pytest.mark.parametrize("density", [KernelDensity(), VAE()])
def test_needs_layers_of_latents(X, density):
    with pytest.raises(ValueError, match="no layers of latents; HierarchicalRatio needs a Hier"):
        HierarchicalRatio(density).fit(X)


def test_k_leaves_a_layer(X):
    with pytest.raises(ValueError, match="k=3, but the density has 3 layers .*at most 2"):
        HierarchicalRatio(tiny_vae(), k=3).fit(X)
