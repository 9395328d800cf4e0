import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skood import LogLikelihood, NeuralSplineFlow, PixelCNN


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(80, 3))


def test_scores_are_those_of_the_density(rows):
    detector = LogLikelihood(GaussianMixture(2, random_state=0)).fit(rows)
    expected = GaussianMixture(2, random_state=0).fit(rows).score_samples(rows)
    np.testing.assert_allclose(detector.score_samples(rows), expected)


def test_other_peoples_densities_get_images_as_rows():
    images = load_digits().images[:100]
    detector = LogLikelihood(KernelDensity(bandwidth=2.0)).fit(images)
    expected = KernelDensity(bandwidth=2.0).fit(images.reshape(100, -1))
    np.testing.assert_allclose(
        detector.score_samples(images), expected.score_samples(images.reshape(100, -1))
    )
    assert not hasattr(detector, "score_pixels")


def test_pipeline_as_density(rows):
    density = make_pipeline(StandardScaler(), KernelDensity())
    scores = LogLikelihood(density).fit(rows * [1, 10, 100]).score_samples(rows * [1, 10, 100])
    scaled = StandardScaler().fit_transform(rows)
    np.testing.assert_allclose(scores, KernelDensity().fit(scaled).score_samples(scaled))


def test_frozen_density_is_not_trained_again(rows):
    fitted = NeuralSplineFlow(max_epochs=2, random_state=0).fit(rows)
    weights = {k: v.clone() for k, v in fitted.module_.state_dict().items()}
    detector = LogLikelihood(FrozenEstimator(fitted)).fit(rows[:50])
    np.testing.assert_array_equal(detector.score_samples(rows), fitted.score_samples(rows))
    assert all((weights[k] == v).all() for k, v in fitted.module_.state_dict().items())


def test_default_density_goes_by_the_shape_of_the_data(rows, monkeypatch):
    short = {"max_epochs": 1, "max_steps": 2}
    for cls in (PixelCNN, NeuralSplineFlow):
        fit = cls.fit
        monkeypatch.setattr(
            cls, "fit", lambda self, X, y=None, fit=fit: fit(self.set_params(**short), X, y)
        )
    assert type(LogLikelihood().fit(rows).density_) is NeuralSplineFlow
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5), dtype=np.uint8)
    assert type(LogLikelihood().fit(images).density_) is PixelCNN


def test_threshold_is_read_from_a_sample_of_large_data():
    X = np.random.default_rng(0).normal(size=(20_000, 1))
    scored = []

    class Counting(KernelDensity):
        def fit(self, X, y=None):
            self.n_features_in_ = X.shape[1]
            return self

        def score_samples(self, X):
            scored.extend(X[:, 0])
            return -np.abs(X[:, 0])

    detector = LogLikelihood(Counting(), threshold_fraction=0, random_state=0).fit(X)
    assert len(set(scored)) == 5000
    assert len(scored) < 5200, "no row twice but to fill up the last chunk"
    assert np.mean(detector.predict(X) == 1) == pytest.approx(0.95, abs=0.012)


def test_density_without_score_samples_is_an_error(rows):
    with pytest.raises(ValueError, match="'density' parameter"):
        LogLikelihood(StandardScaler()).fit(rows)
