import pickle
import re

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_approximation import Nystroem
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skood import (
    KNN,
    VAE,
    Autoencoder,
    ImageFlow,
    LikelihoodRatio,
    LogLikelihood,
    NeuralSplineFlow,
    PixelCNN,
)
from skood.datasets import make_linear_embedding, model_samples
from skood.metrics import auroc

ROWS = load_iris().data
TINY = {"max_steps": 1, "random_state": 0}
FLOW = NeuralSplineFlow(n_transforms=1, hidden_features=(8,), **TINY)
OF_ROWS = {
    "flow": FLOW,
    "kernel": KernelDensity(bandwidth=0.2),
    "mixture": GaussianMixture(2),
    "pipeline": make_pipeline(StandardScaler(), PCA(2), GaussianMixture(2)),
    "pipeline of one step": make_pipeline(GaussianMixture(2)),
    "detector": LogLikelihood(FLOW),
    "detector, pipeline": LogLikelihood(make_pipeline(StandardScaler(), KernelDensity())),
    "pipeline, detector": make_pipeline(StandardScaler(), LogLikelihood(KernelDensity())),
    "ratio": LikelihoodRatio(GaussianMixture(2), background=GaussianMixture(1)),
}
OF_IMAGES = {
    "VAE": VAE(n_latent=2, hidden_features=(8,), **TINY),
    "PixelCNN": PixelCNN(n_filters=4, n_resnet=1, **TINY),
    "ImageFlow": ImageFlow((1,), n_filters=4, n_blocks=1, n_bins=2, **TINY),
    "detector of images": LogLikelihood(KernelDensity()),
}
SHAPES = {**dict.fromkeys(OF_ROWS, (4,)), **dict.fromkeys(OF_IMAGES, (1, 8, 8))}
every_model = pytest.mark.parametrize("name", SHAPES)


@pytest.fixture(scope="module")
def fitted(digits):
    pixels = (digits[:64] * 15).astype(np.uint8)
    return {
        **{name: model.fit(ROWS) for name, model in OF_ROWS.items()},
        **{name: model.fit(pixels) for name, model in OF_IMAGES.items()},
    }


@every_model
def test_seeds(fitted, name):
    model = fitted[name]
    first = model_samples(model, 7, random_state=0)
    assert first.shape == (7, *SHAPES[name])
    np.testing.assert_array_equal(model_samples(model, 7, random_state=0), first)
    of_instance = model_samples(model, 7, np.random.RandomState(0))
    np.testing.assert_array_equal(model_samples(model, 7, np.random.RandomState(0)), of_instance)
    assert (model_samples(model, 7, random_state=1) != first).any()
    assert (model_samples(model, 7) != model_samples(model, 7)).any()
    assert model_samples(model, np.int64(1)).shape == (1, *SHAPES[name])


@every_model
def test_models_and_global_generators_are_left_alone(fitted, name):
    model = fitted[name]
    before = pickle.dumps(model)
    of_numpy = np.random.get_state()[1].copy()  # noqa: NPY002
    of_torch = torch.get_rng_state()
    model_samples(model, 3)
    model_samples(model, 3, random_state=0)
    assert pickle.dumps(model) == before
    np.testing.assert_array_equal(of_numpy, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(of_torch, torch.get_rng_state())


@pytest.mark.parametrize("name", ["flow", "kernel", "VAE", "PixelCNN", "ImageFlow"])
def test_samples_are_those_of_the_density(fitted, name):
    samples = model_samples(fitted[name], 5, random_state=0)
    expected = fitted[name].sample(5, random_state=0)
    np.testing.assert_array_equal(samples, expected)
    assert samples.dtype == expected.dtype
    frozen = model_samples(FrozenEstimator(fitted[name]), 5, random_state=0)
    np.testing.assert_array_equal(frozen, expected)


def test_detectors_give_the_samples_of_their_density(fitted):
    for name in ("detector", "ratio"):
        detector = fitted[name]
        expected = model_samples(detector.density_, 5, random_state=0)
        for model in (detector, FrozenEstimator(detector)):
            np.testing.assert_array_equal(model_samples(model, 5, random_state=0), expected)
    detector = fitted["detector of images"]
    flat = detector.density_.sample(5, random_state=0)
    images = model_samples(detector, 5, random_state=0)
    np.testing.assert_array_equal(images, flat.reshape(5, 1, 8, 8))
    assert detector.score_samples(images).shape == (5,)


def test_samples_of_a_mixture_have_its_distribution():
    rng = np.random.default_rng(0)
    mixture = GaussianMixture(2, random_state=0)
    mixture.fit(np.append(rng.normal(-3, 1, 500), rng.normal(4, 0.5, 1500))[:, None])
    samples = model_samples(mixture, 4000, random_state=0)[:, 0]
    means, scales = mixture.means_[:, 0], np.sqrt(mixture.covariances_[:, 0, 0])

    def distribution(x):
        return sum(
            w * stats.norm.cdf(x, mean, scale)
            for w, mean, scale in zip(mixture.weights_, means, scales, strict=True)
        )

    assert stats.kstest(samples, distribution).pvalue > 0.001


def test_pipelines_are_run_backward():
    X, _ = make_linear_embedding(500, 2, 5, random_state=0)
    X = 7 + 3 * X
    model = make_pipeline(StandardScaler(), PCA(2), GaussianMixture(1)).fit(X)
    samples = model_samples(model, 3000, random_state=0)
    # On the plane of the data, and with their moments.
    assert np.linalg.matrix_rank(samples - X.mean(0), tol=1e-6) == 2
    assert np.linalg.matrix_rank(np.concatenate([samples, X]) - X.mean(0), tol=1e-6) == 2
    np.testing.assert_allclose(samples.mean(0), X.mean(0), atol=0.3)
    np.testing.assert_allclose(np.cov(samples.T), np.cov(X.T), atol=0.12 * np.cov(X.T).max())


def test_samples_score_above_other_data():
    detector = LogLikelihood(GaussianMixture(3, random_state=0)).fit(ROWS)
    samples = model_samples(detector, 300, random_state=0)
    others = ROWS[:, ::-1]
    y_true = np.repeat([1, -1], [300, len(others)])
    assert auroc(y_true, detector.score_samples(np.concatenate([samples, others]))) > 0.99
    # As likely as the training data: they are what the model takes for in-distribution.
    assert np.mean(detector.predict(samples) == 1) == pytest.approx(0.95, abs=0.07)


@pytest.mark.parametrize(
    "model",
    [
        NeuralSplineFlow(),
        KernelDensity(),
        GaussianMixture(),
        LogLikelihood(KernelDensity()),
        LikelihoodRatio(),
        FrozenEstimator(KernelDensity()),
        FrozenEstimator(LogLikelihood()),
        make_pipeline(StandardScaler(), KernelDensity()),
    ],
    ids=lambda model: str(model)[:40],
)
def test_unfitted(model):
    with pytest.raises(NotFittedError, match="not fitted"):
        model_samples(model, 3)


@pytest.mark.parametrize(
    "model",
    [KNN(), Autoencoder(), StandardScaler(), KernelDensity, LogLikelihood, ROWS, None],
    ids=lambda model: str(model)[:40],
)
def test_models_without_samples(model):
    message = f"model={model!r} has no samples to draw; expected a fitted density with a method"
    with pytest.raises(TypeError, match="^" + re.escape(message)):
        model_samples(model, 3)


def test_steps_without_inverse():
    model = make_pipeline(StandardScaler(), Nystroem(n_components=9), GaussianMixture()).fit(ROWS)
    message = r"the steps \['standardscaler', 'nystroem'\] cannot be inverted; expected every step"
    with pytest.raises(TypeError, match=message):
        model_samples(model, 3)


@pytest.mark.parametrize("n_samples", [0, 2.5, True, None])
def test_numbers_of_samples(fitted, n_samples):
    with pytest.raises(ValueError, match=f"n_samples={n_samples}; expected an integer of at least"):
        model_samples(fitted["kernel"], n_samples)
