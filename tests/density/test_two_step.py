"""TwoStep: the density of latents, and how the decoder stretches them."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.decomposition import PCA, KernelPCA
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from torch import nn

from skood import VAE, Autoencoder, LogLikelihood, NeuralSplineFlow, TwoStep
from skood.datasets import model_samples


@pytest.fixture(scope="module")
def plane():
    """Rows of two dimensions in five, on scales of their own; and their factors, (2, 5)."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(2, 5)) * [1, 20, 0.1, 3, 1]
    return rng.normal(size=(400, 2)) @ factors + [5, 0, -1, 100, 2], factors


@pytest.mark.parametrize("whiten", [False, True])
def test_density_on_a_plane(plane, whiten):
    """It is the normal density in orthonormal coordinates of the plane, whatever the latents."""
    X, _ = plane
    two_step = TwoStep(PCA(2, whiten=whiten), GaussianMixture(1, reg_covar=0, random_state=0))
    scores = two_step.fit(X).score_samples(X)
    coordinates = (X - X.mean(0)) @ PCA(2).fit(X).components_.T
    expected = multivariate_normal(np.zeros(2), np.cov(coordinates.T, bias=True))
    np.testing.assert_allclose(scores, expected.logpdf(coordinates), rtol=1e-6)
    assert two_step.score(X) == pytest.approx(scores.mean())


def test_linear_autoencoder_has_the_density_of_the_plane(plane):
    """Its latents are any linear function of the coordinates."""
    X, _ = plane
    autoencoder = Autoencoder(
        2,
        hidden_features=(),
        max_steps=1500,
        max_epochs=500,
        learning_rate=0.02,
        precision="fp32",
        random_state=0,
    )
    two_step = TwoStep(autoencoder, GaussianMixture(1, reg_covar=0, random_state=0)).fit(X)
    coordinates = (X - X.mean(0)) @ PCA(2).fit(X).components_.T
    expected = multivariate_normal(np.zeros(2), np.cov(coordinates.T, bias=True))
    np.testing.assert_allclose(two_step.score_samples(X), expected.logpdf(coordinates), atol=0.02)


@pytest.mark.parametrize("cls", [Autoencoder, VAE])
def test_jacobian_of_a_network(digits, cls):
    settings = {"n_latent": 2, "n_filters": (4,), "value_range": (0, 16), "max_steps": 60}
    model = cls(**settings, **({"n_levels": 17} if cls is VAE else {}), random_state=0)
    two_step = TwoStep(FrozenEstimator(model.fit(digits[:300])), KernelDensity()).fit(digits[:300])
    X = digits[300:306]
    Z = two_step.transform(X)
    np.testing.assert_array_equal(Z, model.transform(X))
    h = 2e-3
    differences = [
        (model.inverse_transform(Z + h * step) - model.inverse_transform(Z - h * step)) / (2 * h)
        for step in np.eye(2)
    ]
    J = np.stack(differences, -1).reshape(6, 64, 2)
    expected = two_step.density_.score_samples(Z)
    expected -= 0.5 * np.linalg.slogdet(J.transpose(0, 2, 1) @ J).logabsdet
    np.testing.assert_allclose(two_step.score_samples(X), expected, atol=0.05)


def test_scores_belong_to_rows(digits):
    X = digits[:96]
    autoencoder = Autoencoder(3, n_filters=(4,), value_range=(0, 16), max_steps=30)
    two_step = TwoStep(autoencoder, KernelDensity(), random_state=0).fit(X)
    scores = two_step.score_samples(X)
    assert (scores.dtype, scores.shape) == (np.float64, (96,))
    np.testing.assert_array_equal(two_step.score_samples(X[::-1])[::-1], scores)
    parts = [two_step.score_samples(X[i : i + 9]) for i in range(0, 96, 9)]
    np.testing.assert_allclose(np.concatenate(parts), scores, rtol=0, atol=1e-6 * max(abs(scores)))
    np.testing.assert_allclose(clone(two_step).fit(X).score_samples(X), scores)
    detector = LogLikelihood(two_step).fit(X)
    np.testing.assert_allclose(detector.score_samples(X), scores)


@pytest.mark.parametrize(
    "density", [KernelDensity(), GaussianMixture(2, random_state=0), NeuralSplineFlow(max_epochs=2)]
)
def test_samples(plane, density):
    X, factors = plane
    two_step = TwoStep(PCA(2), density).fit(X)
    # The decoder has orthonormal columns, so that latents and items have the same density.
    of_latents = two_step.density_.score_samples(two_step.transform(X))
    np.testing.assert_allclose(two_step.score_samples(X), of_latents)
    drawn = two_step.sample(50, random_state=0)
    assert drawn.shape == (50, 5)
    # They lie in the plane.
    rest = (drawn - X.mean(0)) @ np.linalg.svd(factors)[2][2:].T
    np.testing.assert_allclose(rest, 0, atol=1e-6 * abs(X).max())
    np.testing.assert_array_equal(two_step.sample(50, random_state=0), drawn)
    assert (two_step.sample(50, random_state=1) != drawn).any()
    np.testing.assert_array_equal(model_samples(two_step, 50, random_state=0), drawn)


def test_defaults(digits):
    X = np.random.default_rng(0).normal(size=(60, 6))
    two_step = TwoStep(random_state=0)
    fitted = two_step.set_params(density=KernelDensity()).fit(X)
    assert fitted.transform(X).shape == (60, 3)
    assert TwoStep().autoencoder is None


def test_errors(plane, digits):
    X, _ = plane
    with pytest.raises(
        ValueError, match="cannot be differentiated; expected an Autoencoder, a VAE"
    ):
        TwoStep(KernelPCA(2, fit_inverse_transform=True), KernelDensity()).fit(X)
    vae = VAE(2, conditional=True, max_epochs=1).fit(X, np.arange(400) % 2)
    with pytest.raises(ValueError, match="a conditional VAE has a decoder for each class"):
        TwoStep(FrozenEstimator(vae), KernelDensity()).fit(X).score_samples(X)
    with pytest.raises(ValueError, match="makes 8 latents of items of 5 values"):
        TwoStep(Autoencoder(8, max_epochs=1), KernelDensity()).fit(X)
    # The second component repeats the first.
    flat = PCA(2).fit(X)
    flat.components_ = flat.components_[[0, 0]]
    with pytest.raises(ValueError, match="fit an autoencoder with a smaller n_latent"):
        TwoStep(FrozenEstimator(flat), KernelDensity()).fit(X).score_samples(X)
    flat = Autoencoder(2, hidden_features=(), max_steps=5).fit(X)
    last = [part for part in flat.module_.modules() if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():
        last.weight[:, 1] = last.weight[:, 0]
    with pytest.raises(ValueError, match="fit an autoencoder with a smaller n_latent"):
        TwoStep(FrozenEstimator(flat), KernelDensity()).fit(X).score_samples(X)
