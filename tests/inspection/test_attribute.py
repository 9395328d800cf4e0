"""Attributions of scores to inputs, against loops and closed forms."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import skood
from skood import GMM, KNN, MSP, ConformalDetector, Energy, LogLikelihood, Mahalanobis
from skood.inspection import attribute
from skood.model_selection import InlierFit


@pytest.fixture(scope="module")
def X():
    return load_iris().data


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(size=(60, 2, 6, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    generator = torch.Generator().manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(60, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
    )
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.4, generator=generator)
    return module


def numeric_gradient(score, x, step):
    gradient = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[i] += step
        below[i] -= step
        gradient[i] = (score(above[None])[0] - score(below[None])[0]) / (2 * step)
    return gradient


# --- occlusion


def test_columns_by_a_loop(X):
    detector = GMM().fit(X)
    others = X[[3, 70, 120]]
    found = attribute(detector, X[:5], baseline=others)
    for i in range(5):
        for j in range(4):
            falls = []
            for other in others:
                x = X[i].copy()
                x[j] = other[j]
                falls.append(detector.score_samples(X[i : i + 1]) - detector.score_samples(x[None]))
            np.testing.assert_allclose(found.values[i, j], np.mean(falls), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found.scores, detector.score_samples(X[:5]))
    np.testing.assert_allclose(
        found.baseline_scores, detector.score_samples(others).mean(), rtol=1e-12
    )
    assert found.feature_names == ("x0", "x1", "x2", "x3")


def test_a_column_that_is_not_read_has_no_part(X):
    detector = make_pipeline(
        make_column_transformer(("passthrough", [0, 2])),
        IsolationForest(n_estimators=5, random_state=0),
    ).fit(X)
    found = attribute(detector, X[:9], baseline=X.mean(0))
    assert not found.values[:, [1, 3]].any()
    assert found.values[:, [0, 2]].any()


def test_patches_by_a_loop(network, images):
    detector = Energy(network).fit(images)
    found = attribute(detector, images[:2], patch_size=4)
    blurred = gaussian_filter(images[:2].astype(float), (0, 0, 5 / 8, 5 / 8), mode="nearest")
    assert found.values.shape == (2, 6, 5)
    assert repr(found).count("patch at pixel (4, 0)") == 2
    for rows in (slice(0, 4), slice(4, 6)):
        for columns in (slice(0, 4), slice(4, 5)):
            x = images[:2].copy()
            x[:, :, rows, columns] = blurred[:, :, rows, columns]
            falls = detector.score_samples(images[:2]) - detector.score_samples(x)
            for i in range(2):
                np.testing.assert_allclose(found.values[i, rows, columns], falls[i], atol=1e-5)


@pytest.mark.parametrize("baseline", ["mean", 0.5, "image", "images"])
def test_baselines_of_images(network, images, baseline):
    detector = Energy(network).fit(images)
    given = {"image": images[7], "images": images[7:8]}.get(baseline, baseline)
    found = attribute(detector, images[:1], baseline=given, patch_size=6)
    b = {"mean": images[:1].mean((2, 3), keepdims=True), 0.5: 0.5}.get(baseline, images[7:8])
    b = np.broadcast_to(np.float32(b), (1, 2, 6, 5))
    fall = detector.score_samples(images[:1]) - detector.score_samples(b)
    np.testing.assert_allclose(found.values[0], fall[0], atol=1e-5)


def test_axes_and_dtypes_of_images_agree(network, images):
    three = np.random.default_rng(1).integers(0, 256, size=(20, 6, 5, 3), dtype=np.uint8)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(90, 4))
    classifier = skood.PretrainedClassifier(module, mean=[0.5] * 3, std=[0.2] * 3)
    detector = Energy(classifier).fit(three)
    first = np.moveaxis(three, -1, 1)
    for method in ("occlusion", "gradient", "integrated_gradients"):
        last = attribute(detector, three[:3], method=method, n_steps=32).values
        same = attribute(
            detector, np.ascontiguousarray(first[:3]), method=method, n_steps=32
        ).values
        np.testing.assert_allclose(same, last, atol=1e-5)
        assert last.shape == (3, 6, 5)


def test_frames_of_any_columns(X):
    frame = pd.DataFrame(X[:, :2], columns=["width", 1]).assign(
        count=np.arange(150) % 4, kind=pd.Categorical(np.where(X[:, 2] > 3, "a", "b"))
    )
    frame.columns = frame.columns.astype(str)
    encode = make_column_transformer(
        (OneHotEncoder(), ["kind"]), (StandardScaler(), ["width", "1", "count"])
    )
    pipeline = make_pipeline(encode, Mahalanobis()).fit(frame)
    found = attribute(pipeline, frame[:6], baseline=frame[100:105])
    assert found.feature_names == ("width", "1", "count", "kind")
    moved = frame[:1].copy()
    falls = []
    for kind in frame.kind[100:105]:
        moved["kind"] = pd.Categorical([kind], categories=["a", "b"])
        falls.append(pipeline.score_samples(frame[:1])[0] - pipeline.score_samples(moved)[0])
    np.testing.assert_allclose(found.values[0, 3], np.mean(falls), rtol=1e-9, atol=1e-12)
    numbers = frame[["width", "1", "count"]]
    detector = GMM().fit(numbers)
    for baseline in (numbers.median(), numbers.median().to_numpy(), numbers.median().to_frame().T):
        values = attribute(detector, numbers[:4], baseline=baseline).values
        expected = attribute(
            GMM().fit(numbers.to_numpy(float)),
            numbers[:4].to_numpy(float),
            baseline=numbers.median().to_numpy(float),
        ).values
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-9)
    named = attribute(
        Mahalanobis().fit(numbers),
        numbers[:4],
        method="integrated_gradients",
        baseline=numbers[:2],
        n_steps=2,
    )
    assert named.feature_names == tuple(numbers.columns)


def test_impossible_rows_and_wrong_estimators(X):
    tophat = LogLikelihood(KernelDensity(kernel="tophat", bandwidth=0.3)).fit(X)
    found = attribute(tophat, X[:1] + 50, baseline=X[0])
    assert not found.values.any()
    with pytest.raises(TypeError, match="StandardScaler has no score_samples"):
        attribute(StandardScaler().fit(X), X)


def test_an_attribution_depends_on_its_row_alone(X):
    detector = GMM().fit(X)
    together = attribute(detector, X[:30], baseline=X[:4])
    alone = attribute(detector, X[7:8], baseline=X[:4])
    np.testing.assert_allclose(together[7].values, alone.values, rtol=1e-9, atol=1e-9)


# --- gradients


@pytest.mark.parametrize("cls", [MSP, Energy, Mahalanobis, skood.ViM, KNN])
def test_gradient_by_finite_differences(cls, network, images):
    module = copy.deepcopy(network).double()
    X = images[:20].astype(float)
    detector = cls(module, **({"n_neighbors": 2} if cls is KNN else {})).fit(X)
    x = X[:1] * 0.9
    found = attribute(detector, x, method="gradient")
    expected = numeric_gradient(detector.score_samples, x[0], 1e-5).sum(0)
    np.testing.assert_allclose(found.values[0], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.scores, detector.score_samples(x), rtol=1e-9)


def test_integrated_gradients_sum_to_the_difference(network, images):
    detector = Energy(network).fit(images)
    found = attribute(detector, images[:5], method="integrated_gradients", baseline=0.0)
    whole = found.values.sum((1, 2))
    np.testing.assert_allclose(whole, found.scores - found.baseline_scores, rtol=1e-3, atol=1e-4)
    zeros = np.zeros_like(images[:1])
    np.testing.assert_allclose(found.baseline_scores, detector.score_samples(zeros)[0], rtol=1e-6)


def test_integrated_gradients_of_a_quadratic_form_are_its_explanation(X):
    detector = Mahalanobis().fit(X)
    found = attribute(
        detector, X[:9], method="integrated_gradients", baseline=detector.means_[0], n_steps=1
    )
    expected = detector.explain(X[:9]).feature_contributions
    np.testing.assert_allclose(found.values, expected, rtol=1e-8, atol=1e-10)


def test_gradient_of_a_density():
    X = load_iris().data * [1.0, 100.0, 1.0, 1.0]
    flow = skood.NeuralSplineFlow(1, n_bins=4, hidden_features=(8,), max_epochs=1, random_state=0)
    detector = LogLikelihood(flow).fit(X)
    found = attribute(detector, X[:3], method="gradient").values
    for i in range(3):
        for j, step in enumerate((1e-2, 1.0, 1e-2, 1e-2)):
            ends = np.array([X[i], X[i]])
            ends[:, j] += [step, -step]
            above, below = detector.score_samples(ends)
            assert found[i, j] == pytest.approx((above - below) / (2 * step), rel=0.05, abs=0.01)


def test_gradients_through_other_estimators(X):
    inner = Mahalanobis()
    expected = attribute(inner.fit(X), X[:2], method="gradient").values
    wrapped = [
        ConformalDetector(FrozenEstimator(inner)).fit(X),
        InlierFit(inner).fit(X),
        FrozenEstimator(inner),
    ]
    for detector in wrapped:
        found = attribute(detector, X[:2], method="gradient").values
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_scores_without_a_gradient(X, network, images):
    for detector, match in (
        (IsolationForest(n_estimators=5, random_state=0).fit(X), "not arithmetic of torch"),
        (LogLikelihood(KernelDensity()).fit(X), "KernelDensity has no log_density_gradient"),
        (make_pipeline(StandardScaler(), GMM()).fit(X), "a Pipeline has no gradient"),
        (ConformalDetector(GMM(), method="cross").fit(X), "ranks, which have no gradient"),
    ):
        with pytest.raises(TypeError, match=match):
            attribute(detector, X[:2], method="gradient")
    with pytest.raises(ValueError, match="not finite, for example because the item is a training"):
        attribute(KNN(n_neighbors=1).fit(X), X[:2], method="gradient")


def test_a_score_with_jumps_warns():
    class Steps(torch.nn.Module):
        def forward(self, x):
            return torch.stack([(10 * x[:, 0]).floor() + 0.1 * x[:, 1], 0 * x[:, 0]], 1)

    X = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    detector = skood.MaxLogit(Steps()).fit(X)
    with pytest.warns(UserWarning, match="miss the difference of the scores"):
        attribute(
            detector, np.float32([[3.0, 1.0]]), method="integrated_gradients", baseline=X[:1] * 0
        )


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"method": "shap"}, "expected one of 'occlusion'"),
        ({}, r"baseline=None, but X has rows.*np.median\(X_train, axis=0\)"),
        ({"baseline": "blur"}, "baseline='blur', but X has rows"),
        ({"baseline": np.zeros(3)}, r"baseline has shape \(3,\), which does not fit"),
        ({"baseline": np.zeros((2, 5))}, "which does not fit items of shape"),
        ({"n_steps": 0}, "n_steps=0"),
    ],
)
def test_bad_arguments(X, arguments, match):
    with pytest.raises(ValueError, match=match):
        attribute(GMM().fit(X), X[:2], **arguments)


def test_bad_baselines_of_frames_and_images(X, network, images):
    frame = load_iris(as_frame=True).data
    detector = GMM().fit(frame)
    with pytest.raises(ValueError, match="baseline lacks the columns"):
        attribute(detector, frame[:2], baseline=frame.iloc[:, :2])
    with pytest.raises(ValueError, match=r"baseline has shape \(3,\); expected a row of 4"):
        attribute(detector, frame[:2], baseline=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="expected 'blur', 'mean', a number or items"):
        attribute(Energy(network).fit(images), images[:2], baseline="black")
