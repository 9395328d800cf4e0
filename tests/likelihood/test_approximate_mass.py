"""ApproximateMass: the gradient of densities that are known."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skood import VAE, ApproximateMass, ImageFlow, LikelihoodRatio, NeuralSplineFlow, PixelCNN


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(90, 3)) * [1, 100, 0.01] + [0, 5, 7]


@pytest.fixture(scope="module")
def normal(rows):
    """A flow without splines: a normal distribution with the moments of the rows."""
    flow = NeuralSplineFlow(2, 4, (8,), max_steps=1, random_state=0).fit(rows)
    with torch.no_grad():
        for weight in flow.module_.parameters():
            weight.zero_()
    return flow


def test_score_of_a_normal_distribution(rows, normal):
    """Minus the distance to the mean, in standard deviations."""
    detector = ApproximateMass(FrozenEstimator(normal)).fit(rows)
    distance = np.linalg.norm((rows - rows.mean(0)) / rows.std(0), axis=1)
    np.testing.assert_allclose(detector.score_samples(rows), -distance, rtol=1e-5)
    np.testing.assert_allclose(
        normal.log_density_gradient(rows), -(rows - rows.mean(0)) / rows.std(0), atol=1e-5
    )
    assert detector.predict([rows.mean(0), rows.mean(0) + 9 * rows.std(0)]).tolist() == [1, -1]


def test_images(of_digits, digits):
    detector = ApproximateMass(FrozenEstimator(of_digits)).fit(digits[:64])
    gradients = of_digits.log_density_gradient(digits[:5])
    assert (gradients.shape, gradients.dtype) == ((5, 1, 8, 8), np.float64)
    scores = detector.score_samples(digits[:5])
    # The order of sums depends on the size of a batch.
    np.testing.assert_allclose(scores, -np.sqrt((gradients**2).sum((1, 2, 3))), rtol=2e-6)
    np.testing.assert_allclose(detector.score_samples(digits[3:5]), scores[3:5], rtol=2e-6)


def test_any_density_with_a_gradient(rows):
    class Laplace(BaseEstimator):
        def fit(self, X, y=None):
            self.n_features_in_ = X.shape[1]
            return self

        def log_density_gradient(self, X):
            return -np.sign(X)

    scores = ApproximateMass(Laplace()).fit(rows).score_samples([[1.0, -2.0, 3.0], [0, 0, 1.0]])
    np.testing.assert_allclose(scores, [-np.sqrt(3), -1])


@pytest.mark.parametrize(
    "density",
    [
        KernelDensity(),
        GaussianMixture(),
        PixelCNN(),
        VAE(),
        VAE(likelihood="logistic"),
        VAE(likelihood="bernoulli"),
        LikelihoodRatio(),
    ],
    ids=str,
)
def test_densities_without_a_gradient(rows, density):
    """The error comes before any training."""
    with pytest.raises(TypeError, match="has no log_density_gradient; expected a flow"):
        ApproximateMass(density).fit(rows)


def test_which_densities_have_a_gradient(rows):
    assert hasattr(NeuralSplineFlow(), "log_density_gradient")
    assert hasattr(ImageFlow(), "log_density_gradient")
    assert hasattr(VAE(likelihood="gaussian"), "log_density_gradient")
    # The likelihood of rows is known once the VAE is fitted.
    fitted = VAE(1, hidden_features=(4,), max_steps=1, random_state=0).fit(rows)
    detector = ApproximateMass(FrozenEstimator(fitted)).fit(rows)
    expected = -np.linalg.norm(fitted.log_density_gradient(rows), axis=1)
    np.testing.assert_array_equal(detector.score_samples(rows), expected)


def test_frozen_density_is_not_trained_again(rows, normal):
    normal.module_.zero_grad(set_to_none=True)
    ApproximateMass(FrozenEstimator(normal)).fit(rows).score_samples(rows)
    for weight in normal.module_.parameters():
        assert (weight == 0).all()
        assert weight.grad is None


def test_default_density_goes_by_the_shape_of_the_data(rows, monkeypatch):
    short = {"max_epochs": 1, "max_steps": 2}
    for cls in (ImageFlow, NeuralSplineFlow):
        fit = cls.fit
        monkeypatch.setattr(
            cls, "fit", lambda self, X, y=None, fit=fit: fit(self.set_params(**short), X, y)
        )
    assert type(ApproximateMass().fit(rows).density_) is NeuralSplineFlow
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    assert type(ApproximateMass().fit(images).density_) is ImageFlow
