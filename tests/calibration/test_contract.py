"""Calibrated detectors: scikit-learn's checks, images, pipelines, searches and caches."""

import pickle
import random

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.utils.data import TensorDataset

import skood
from skood.calibration import ConformalDetector, EnsembleDetector, TunedThreshold
from skood.metrics import auroc


def wrappers(detector, other):
    """Wrappers with levels at which the few rows of the checks reject some rows."""
    pair = [("one", detector), ("other", other)]
    return [
        ConformalDetector(detector, 0.25),
        ConformalDetector(detector, 0.25, method="cross", n_splits=3),
        EnsembleDetector(pair, alpha=0.25, calibration_fraction=0.6),
        TunedThreshold(detector),
    ]


WRAPPERS = wrappers(IsolationForest(n_estimators=5), skood.KNN(n_neighbors=2))
each_wrapper = pytest.mark.parametrize(
    "detector", WRAPPERS, ids=["conformal", "cross", "ensemble", "tuned"]
)


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(90, 4))


@parametrize_with_checks(WRAPPERS)
def test_scikit_learn(estimator, check):
    check(estimator)


@each_wrapper
def test_random_state_decides_and_the_global_one_is_left_alone(detector, X):
    """Also for random steps inside a pipeline."""
    forest = make_pipeline(StandardScaler(), IsolationForest(n_estimators=5))
    name = "one" if isinstance(detector, EnsembleDetector) else "detector"

    def scores(seed):
        fitted = clone(detector).set_params(random_state=seed, **{name: forest}).fit(X)
        return fitted.score_samples(X)

    before = np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate()  # noqa: NPY002
    np.testing.assert_array_equal(scores(0), scores(0))
    assert not np.array_equal(scores(0), scores(1))
    assert not np.array_equal(scores(None), scores(None))
    after = np.random.get_state()[1], torch.get_rng_state(), random.getstate()  # noqa: NPY002
    np.testing.assert_array_equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert before[2] == after[2]


@each_wrapper
def test_pickle_and_clone(detector, X):
    fitted = clone(detector).fit(X)
    restored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(restored.score_samples(X), fitted.score_samples(X))
    np.testing.assert_array_equal(restored.predict(X), fitted.predict(X))
    if hasattr(fitted, "p_values"):
        np.testing.assert_array_equal(restored.p_values(X), fitted.p_values(X))
    assert repr(clone(fitted)) == repr(detector)


@pytest.mark.parametrize(
    "model",
    [
        IsolationForest(n_estimators=5),
        LocalOutlierFactor(novelty=True, n_neighbors=5),
        OneClassSVM(gamma=0.1),
        GaussianMixture(2),
        skood.KNN(n_neighbors=2, normalize=False),
        make_pipeline(StandardScaler(), skood.Mahalanobis()),
    ],
    ids=lambda model: type(model).__name__,
)
def test_any_detector(model, X):
    outliers = X[:20] + 20
    for detector in wrappers(model, skood.Mahalanobis()):
        predicted = detector.set_params(random_state=0).fit(X).predict(np.r_[X, outliers])
        assert np.mean(predicted[90:] == -1) == 1
        assert np.mean(predicted[:90] == -1) < 0.5


@pytest.mark.filterwarnings("ignore:.*was trained before")
@each_wrapper
def test_images_and_streams_and_shared_sources(detector):
    """Detectors of this package get images; others get flat rows."""
    images = np.random.default_rng(0).random((60, 1, 6, 6)).astype(np.float32)
    network = skood.ConvNet(max_epochs=1, random_state=0).fit(images, np.arange(60) % 2)
    ours = skood.MSP(FrozenEstimator(network))
    name = "other" if isinstance(detector, EnsembleDetector) else "detector"
    for model in (ours, IsolationForest(n_estimators=5)):
        detector = clone(detector).set_params(random_state=0, **{name: model})
        expected = clone(detector).fit(images).score_samples(images)
        assert expected.shape == (60,)
        for data in (TensorDataset(torch.from_numpy(images)), skood.share_forward_pass(images)):
            fitted = clone(detector).fit(data)
            assert fitted.input_shape_ == (1, 6, 6)
            np.testing.assert_allclose(fitted.score_samples(data), expected, rtol=1e-5)
        with pytest.raises(ValueError, match=r"items of shape \(1, 5, 6\)"):
            fitted.predict(images[:, :, 1:])


@pytest.mark.filterwarnings("ignore:.*was trained before")
@each_wrapper
def test_one_pass_of_a_shared_network(detector):
    images = np.random.default_rng(0).random((60, 1, 6, 6)).astype(np.float32)
    network = skood.ConvNet(max_epochs=1, random_state=0).fit(images, np.arange(60) % 2)
    n_images = []
    network.module_.register_forward_hook(lambda module, inputs, _: n_images.append(len(inputs[0])))
    frozen = FrozenEstimator(network)
    name = "one" if isinstance(detector, EnsembleDetector) else "detector"
    models = {name: skood.MSP(frozen)}
    if name == "one":
        models["other"] = skood.Energy(frozen)
    detector = clone(detector).set_params(random_state=0, **models)
    shared = skood.share_forward_pass(images)
    skood.MSP(frozen).fit(shared).score_samples(shared)
    n_images.clear()
    detector.fit(shared).score_samples(shared)
    assert not n_images


@each_wrapper
def test_pipeline(detector, X):
    pipeline = make_pipeline(StandardScaler(), clone(detector).set_params(random_state=0)).fit(X)
    scaled = StandardScaler().fit_transform(X)
    expected = clone(detector).set_params(random_state=0).fit(scaled)
    np.testing.assert_allclose(pipeline.score_samples(X), expected.score_samples(scaled))
    np.testing.assert_array_equal(pipeline.predict(X), expected.predict(scaled))


@each_wrapper
def test_search(detector, X):
    """Over a parameter of the wrapped detector, with known outliers to score by."""
    X = np.r_[X, X[:30] + 4]
    y = np.repeat([0, -1], [90, 30])
    prefix = "other" if isinstance(detector, EnsembleDetector) else "detector"
    detector = clone(detector).set_params(random_state=0, **{prefix: skood.KNN(normalize=False)})
    search = GridSearchCV(
        detector,
        {f"{prefix}__n_neighbors": [1, 5]},
        scoring=lambda fitted, X, y: auroc(y, fitted.score_samples(X)),
        cv=KFold(3, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_[f"{prefix}__n_neighbors"] in (1, 5)
    assert search.best_score_ > 0.8


@each_wrapper
def test_memory(detector, X, tmp_path):
    """A second fit with another level takes the detector from the cache."""
    memory = joblib.Memory(tmp_path, verbose=0)
    detector = clone(detector).set_params(random_state=0, memory=memory)
    level = {"target": 0.5} if isinstance(detector, TunedThreshold) else {"alpha": 0.5}
    without = clone(detector).set_params(memory=None, **level).fit(X)
    detector.fit(X)
    cached = sorted(tmp_path.rglob("output.pkl"))
    assert len(cached) == {"cross": 3, "ensemble": 2}.get(
        "ensemble" if isinstance(detector, EnsembleDetector) else getattr(detector, "method", ""), 1
    )
    again = clone(detector).set_params(**level).fit(X)
    assert sorted(tmp_path.rglob("output.pkl")) == cached
    np.testing.assert_array_equal(again.decision_function(X), without.decision_function(X))


def test_nested(X):
    """A calibrated detector can be wrapped like any other detector."""
    inner = ConformalDetector(skood.KNN(n_neighbors=2, normalize=False), 0.2)
    pair = EnsembleDetector([("one", inner), ("two", skood.Mahalanobis())], alpha=0.2)
    outer = TunedThreshold(pair)
    outer.set_params(random_state=0, detector__one__detector__n_neighbors=4).fit(X)
    assert outer.detector_.named_detectors_.one.detectors_[0].n_neighbors == 4
    assert outer.predict(np.full((1, 4), 50.0)) == -1


@each_wrapper
def test_errors_of_data(detector, X):
    detector = clone(detector)
    name = "one" if isinstance(detector, EnsembleDetector) else "detector"
    refuses_nan = clone(detector).set_params(**{name: skood.KNN(n_neighbors=2)})
    with pytest.raises(ValueError, match="NaN"):
        refuses_nan.fit(np.full((20, 2), np.nan))
    with pytest.raises(ValueError, match="minimum of 2"):
        detector.fit(X[:1])
    with pytest.raises(ValueError, match="89 labels, but X has 90"):
        detector.fit(X, np.zeros(89))
    with pytest.raises(ValueError, match="1 of 90 labels in y are in-distribution"):
        detector.fit(X, np.r_[0, -np.ones(89)])
    for fitted in (detector.fit(X), refuses_nan.fit(X)):
        for method in (fitted.predict, getattr(fitted, "p_values", fitted.predict)):
            with pytest.raises(ValueError, match="3 features"):
                method(X[:, :3])
    for method in (fitted.predict, getattr(fitted, "p_values", fitted.predict)):
        with pytest.raises(ValueError, match="NaN"):
            method(np.full((2, 4), np.nan))


def test_class_labels_reach_the_detector(X):
    """Strings too, among which -1 is a string."""
    y = np.where(X[:, 0] > 0, "b", "a").astype(object)
    y[:10] = -1
    detector = ConformalDetector(skood.MSP(skood.MLP((8,), max_epochs=2)), 0.2, random_state=0)
    for labels in (y, y.astype(str)):
        assert list(clone(detector).fit(X, labels).detectors_[0].classifier_.classes_) == ["a", "b"]
