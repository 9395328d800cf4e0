"""A network runs once over a set, however many detectors read it."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import skood
from skood import share_forward_pass
from skood.classifiers import NeuralClassifier
from skood.metrics import auroc

FROM_OUTPUTS = [
    skood.ASH(),
    skood.DICE(),
    skood.Energy(),
    skood.Entropy(),
    skood.FDBD(),
    skood.GEN(),
    skood.GradNorm(),
    skood.KLMatching(),
    skood.LTS(),
    skood.MSP(),
    skood.MaxLogit(),
    skood.NCI(),
    skood.NNGuide(),
    skood.ODIN(epsilon=0.0),
    skood.OpenMax(rows="all"),
    skood.PNML(),
    skood.ReAct(),
    skood.Residual(),
    skood.SCALE(),
    skood.SHE(),
    skood.VRA(),
    skood.ViM(),
]
FROM_FEATURES = [
    skood.GMM(),
    skood.KNN(n_neighbors=3),
    skood.Mahalanobis(),
    skood.NECO(),
    skood.RelativeMahalanobis(),
]


# Batches on which a network is tried: all of them, and all but one.
TRIED = [8, 7]


def on(detector, network):
    name = "classifier" if "classifier" in detector.get_params() else "features"
    return clone(detector).set_params(**{name: network})


@pytest.mark.parametrize("detector", FROM_OUTPUTS + FROM_FEATURES, ids=lambda d: type(d).__name__)
def test_fit_runs_the_network_once(detector, network, images, y):
    """Learning and the threshold read the same pass, after the network is tried on 8 images."""
    detector = on(detector, network).fit(images, y)
    assert network.batches == [*TRIED, 32, 32, 26]
    detector.score_samples(images)
    assert len(network.batches) == len(TRIED) + 6


def test_shared_data_are_passed_once(network, images, y):
    shared, other = share_forward_pass(images), share_forward_pass(images[::-1].copy())
    alone = {}
    for detector in FROM_OUTPUTS + FROM_FEATURES:
        fitted = on(detector, network).fit(images, y)
        alone[type(detector).__name__] = fitted.score_samples(images[::-1])
    network.batches.clear()
    for detector in FROM_OUTPUTS + FROM_FEATURES:
        scores = on(detector, network).fit(shared, y).score_samples(other)
        np.testing.assert_array_equal(scores, alone[type(detector).__name__])
    assert len(network.batches) == len(TRIED) + 6


def test_known_outliers_do_not_break_sharing(network, images, y):
    shared = share_forward_pass(images)
    skood.MSP(network).fit(shared)
    y = np.where(np.arange(90) < 10, -1, y)
    skood.ViM(network).fit(shared, y)
    assert len(network.batches) == len(TRIED) + 3


def test_changed_weights_are_noticed(network, images):
    shared = share_forward_pass(images)
    detector = skood.Energy(network).fit(shared)
    before = detector.score_samples(shared)
    with torch.no_grad():
        network.head.bias += 1
    np.testing.assert_allclose(detector.score_samples(shared), before + 1, rtol=1e-5)


def test_other_features_are_another_pass(images):
    layers = torch.nn.Flatten(), torch.nn.Linear(36, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)
    module = torch.nn.Sequential(*layers)
    shared = share_forward_pass(images)
    first = skood.PretrainedClassifier(module, features_from="0").transform(shared)
    second = skood.PretrainedClassifier(module).transform(shared)
    assert (first.shape, second.shape) == ((90, 36), (90, 4))


def test_memory_serves_detectors_fitted_one_after_another(network, images, y, tmp_path):
    for detector in (skood.MSP(), skood.ViM(), skood.KNN(n_neighbors=3)):
        fitted = on(detector, network).set_params(memory=str(tmp_path)).fit(images, y)
        fitted.score_samples(images)
    assert len(network.batches) == 3 * len(TRIED) + 3
    skood.MSP(network, memory=str(tmp_path)).fit(images + 1)
    assert len(network.batches) == 4 * len(TRIED) + 6


def test_a_grid_over_hyperparameters_runs_the_network_once_for_a_fold(network, images, y, tmp_path):
    search = GridSearchCV(
        skood.KNN(skood.PretrainedClassifier(network), memory=str(tmp_path)),
        {"n_neighbors": [1, 2, 3, 4]},
        scoring=lambda detector, X, y: detector.score_samples(X).mean(),
        cv=3,
        refit=False,
    )
    search.fit(images, y)
    # Training and test part of three folds: 60 and 30 images.
    assert sum(network.batches) == 12 * sum(TRIED) + 3 * (60 + 30)


class CountsFits(skood.MLP):
    fits = 0

    def fit(self, X, y, **kwargs):
        CountsFits.fits += 1
        return super().fit(X, y, **kwargs)


ODIN_GRID = {"temperature": [1.0, 10.0, 1000.0], "epsilon": [0.0, 0.01]}


def separation(detector, X, y):
    return auroc(y, detector.score_samples(X))


@pytest.fixture
def rows(trained):
    _, X, y = trained
    rng = np.random.default_rng(1)
    order = rng.permutation(len(X) + 60)
    X = np.concatenate([X, rng.normal(size=(60, 5)) + 1.3])[order]
    return X, np.append(y, np.full(60, -1))[order]


def test_a_grid_over_odin_with_a_frozen_classifier_never_trains(trained, rows, monkeypatch):
    network, _, _ = trained
    monkeypatch.setattr(NeuralClassifier, "fit", lambda *args, **kwargs: pytest.fail("trained"))
    search = GridSearchCV(skood.ODIN(FrozenEstimator(network)), ODIN_GRID, scoring=separation, cv=3)
    search.fit(*rows)
    assert len(search.cv_results_["params"]) == 6
    assert search.best_score_ > 0.5
    assert search.best_estimator_.classifier_ is network


def test_a_grid_over_odin_trains_once_for_a_fold(rows, tmp_path):
    CountsFits.fits = 0
    grid = {"temperature": [1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0]}
    search = GridSearchCV(
        skood.ODIN(CountsFits((8,), max_epochs=5, random_state=0), memory=str(tmp_path)),
        {**grid, "epsilon": [0.0, 0.01, 0.05]},
        scoring=skood.get_ood_scorer("auroc"),
        cv=skood.OODSplit(3, random_state=0),
        refit=False,
    )
    search.fit(*rows)
    assert CountsFits.fits == 3


def test_pipeline_with_flat_rows(images, y):
    network = skood.ConvNet((4, 8), image_shape=(1, 6, 6), max_epochs=2, random_state=0)
    flat = images.reshape(90, 36)
    pipeline = make_pipeline(FunctionTransformer(), skood.MSP(network)).fit(flat, y)
    direct = skood.MSP(clone(network).set_params(image_shape=None)).fit(images, y)
    np.testing.assert_array_equal(pipeline.score_samples(flat), direct.score_samples(images))


def test_a_bare_module_is_held_not_copied(network, images):
    detector = skood.MSP(network)
    assert detector.classifier.module is network
    assert clone(detector).classifier.module is network
    assert clone(detector).set_params(classifier=network).classifier.module is network
    frozen = skood.MSP(FrozenEstimator(network)).fit(images)
    np.testing.assert_array_equal(
        frozen.score_samples(images), detector.fit(images).score_samples(images)
    )
    restored = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(restored.score_samples(images), detector.score_samples(images))
    network.batches.clear()
    before = joblib.hash(clone(detector))
    detector.score_samples(images)
    network.batches.clear()
    assert joblib.hash(clone(detector)) == before


def test_any_transformer_makes_features(trained):
    _, X, y = trained
    halved = FunctionTransformer(lambda rows: rows[:, :2])
    detector = skood.Mahalanobis(halved).fit(X, y)
    np.testing.assert_array_equal(
        detector.score_samples(X), skood.Mahalanobis().fit(X[:, :2], y).score_samples(X[:, :2])
    )


class OnlyPredicts(BaseEstimator):
    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.zeros(len(X))


def test_plain_classifiers(trained):
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC
    from sklearn.tree import DecisionTreeClassifier

    _, X, y = trained
    logistic = LogisticRegression().fit(X, y)
    frozen = FrozenEstimator(logistic)
    np.testing.assert_allclose(
        skood.MSP(frozen).fit(X).score_samples(X), logistic.predict_proba(X).max(1)
    )
    np.testing.assert_allclose(
        skood.MaxLogit(frozen).fit(X).score_samples(X), logistic.decision_function(X).max(1)
    )
    # Two classes have one column of logits in scikit-learn.
    two = FrozenEstimator(LogisticRegression().fit(X, y > 0))
    np.testing.assert_allclose(
        skood.Energy(two).fit(X).score_samples(X),
        np.log1p(np.exp(two.decision_function(X))),
    )
    assert np.isfinite(skood.Entropy(DecisionTreeClassifier()).fit(X, y).score_samples(X)).all()
    assert np.isfinite(skood.MSP(LinearSVC()).fit(X, y).score_samples(X)).all()
    with pytest.raises(TypeError, match=r"ReAct reads a network: .* LogisticRegression"):
        skood.ReAct(logistic).fit(X, y)
    with pytest.raises(TypeError, match="neither predict_proba nor decision_function"):
        skood.MSP(OnlyPredicts()).fit(X, y)
