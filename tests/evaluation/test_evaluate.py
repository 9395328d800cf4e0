"""The table of detectors by OOD sets."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import skood
from skood import evaluate
from skood.metrics import auroc


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.batches = 0

    def forward(self, x):
        self.batches += 1
        return self.layers(x)


@pytest.fixture
def network():
    with torch.random.fork_rng():
        return Counting()


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)


@pytest.fixture
def ood(X):
    return {"near": X[:30] + 1, "far": X[:20] + 20}


def test_rows(network, X, ood):
    detectors = {"energy": skood.Energy(network).fit(X), "knn": skood.KNN(n_neighbors=3).fit(X)}
    y = skood.PretrainedClassifier(network).predict(X)
    y[:6] = (y[:6] + 1) % 3
    table = evaluate(detectors, X, ood, y, metrics=["auroc", "fpr80"])
    assert [(r["detector"], r["ood_set"]) for r in table] == [
        ("energy", "near"),
        ("energy", "far"),
        ("knn", "near"),
        ("knn", "far"),
    ]
    first = table[0]
    scores = [detectors["energy"].score_samples(rows) for rows in (X, ood["near"])]
    assert first["auroc"] == auroc(np.repeat([1, -1], [60, 30]), np.concatenate(scores))
    assert first["id_accuracy"] == 0.9
    assert (first["n_id"], first["n_ood"]) == (60, 30)
    assert first["id_accepted"] == np.mean(detectors["energy"].predict(X) == 1)
    assert table[3]["ood_accepted"] == np.mean(detectors["knn"].predict(ood["far"]) == 1)
    assert "id_accuracy" not in table[2]
    heading, *lines = str(table).splitlines()
    assert len(lines) == 4
    assert "id_accuracy" in heading
    assert "0.900" in lines[0]
    assert set(table[0]) >= {"auroc", "fpr80", "seconds"}


@pytest.mark.parametrize("detector", [skood.KNN(), make_pipeline(StandardScaler(), skood.KNN())])
def test_one_detector_or_one_set_without_its_name(detector, X):
    with pytest.raises(TypeError, match=r"detectors is .*KNN\(\).*in a list, \[detector\]"):
        evaluate(detector, X, {"far": X + 9}, X_train=X)
    with pytest.raises(TypeError, match="ood_sets is of type ndarray; expected a dict"):
        evaluate([detector], X, X + 9, X_train=X)
    name = type(detector).__name__
    with pytest.raises(TypeError, match=rf"is the class {name}; expected an object, {name}\("):
        evaluate([type(detector)], X, {"far": X + 9}, X_train=X)


def test_the_threshold_inside_a_pipeline_or_a_search(X, ood):
    """They have no ``offset_``, but reject what the detector inside rejects."""
    wrapped = {
        "pipeline": make_pipeline(StandardScaler(), skood.KNN(n_neighbors=3)),
        "frozen": FrozenEstimator(make_pipeline(StandardScaler(), "passthrough", skood.GMM())),
        "forest": make_pipeline(StandardScaler(), IsolationForest(random_state=0)),
        "search": GridSearchCV(
            skood.KNN(), {"n_neighbors": [2, 3]}, scoring=lambda detector, X, y=None: 0.0, cv=2
        ),
    }
    wrapped["frozen"].estimator.fit(X)
    fitted = {name: detector.fit(X, None) for name, detector in wrapped.items()}
    table = evaluate(fitted, X, ood, metrics=["auroc"])
    assert len(table) == 8
    for row in table:
        detector = fitted[row["detector"]]
        assert row["id_accepted"] == np.mean(detector.predict(X) == 1)
        assert row["ood_accepted"] == np.mean(detector.predict(ood[row["ood_set"]]) == 1)
    without = make_pipeline(StandardScaler(), KernelDensity()).fit(X)
    assert "id_accepted" not in evaluate([without], X, ood)[0]


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_shared_network_runs_once_over_a_set(network, X, ood, n_jobs):
    detectors = [
        skood.MSP(network),
        skood.Energy(network),
        skood.ReAct(network),
        skood.MSP(network),
    ]
    alone = evaluate([d.fit(X) for d in detectors[:1]], X, ood)
    network.batches = 0
    table = evaluate(detectors, X, ood, X_train=X.copy(), n_jobs=n_jobs)
    # Training data, ID data and two OOD sets are a batch each; the network is tried on two.
    assert network.batches == 6
    assert [row["detector"] for row in table[::2]] == ["MSP", "Energy", "ReAct", "MSP 2"]
    assert table[0]["auroc"] == alone[0]["auroc"] == table[6]["auroc"]


def test_text_and_frame(X, ood):
    table = evaluate([skood.KNN(n_neighbors=3, normalize=False)], X, ood, X_train=X)
    lines = str(table).splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:3] == ["detector", "ood_set", "auroc"]
    assert lines[2].split()[:3] == ["KNN", "far", "1.000"]
    pytest.importorskip("pandas")
    frame = table.to_frame()
    assert list(frame["ood_set"]) == ["near", "far"]
    assert frame["auroc"][1] == 1.0


def test_images_and_other_detectors(ood):
    images = np.random.default_rng(0).uniform(size=(50, 1, 4, 4)).astype(np.float32)
    network = skood.ConvNet((4,), max_epochs=1, random_state=0).fit(images, np.arange(50) % 2)
    detectors = {
        "ours": skood.MSP(FrozenEstimator(network)).fit(images),
        "forest": IsolationForest(random_state=0).fit(images.reshape(50, -1)),
    }
    table = evaluate(
        detectors, images, {"dark": images / 9}, metrics={"mine": lambda y, s: y.sum()}
    )
    assert [row["mine"] for row in table] == [0.0, 0.0]


def test_labels_for_fitting(X, ood):
    y = (X[:, 0] > 0).astype(int)
    detector = skood.MSP(skood.MLP((8,), max_epochs=40, batch_size=16, random_state=0))
    table = evaluate([detector], X, ood, y, X_train=X, y_train=y)
    assert table[0]["id_accuracy"] > 0.8


def test_errors(X, ood):
    with pytest.raises(ValueError, match=r"unknown metrics \['auc'\]; known: auroc, fpr95"):
        evaluate([skood.KNN(n_neighbors=3).fit(X)], X, ood, metrics=["auc"])
    with pytest.raises(ValueError, match="0 detectors and 2 OOD sets"):
        evaluate([], X, ood)
    with pytest.raises(ValueError, match="0 sample"):
        evaluate([skood.KNN(n_neighbors=3).fit(X)], X, {"none": X[:0]})


def test_a_detector_that_is_not_fitted_is_named_with_the_way_to_fit_it(X, ood):
    with pytest.raises(NotFittedError, match=r"near of detectors is not fitted; .* X_train"):
        evaluate({"all": skood.GMM().fit(X), "near": skood.KNN()}, X, ood)


def test_accuracy_of_a_detector_that_predicts_classes_itself(X, ood):
    y = np.array(["a", "b"])[(X[:, 0] > 0).astype(int)]
    detector = skood.VMDLS(skood.MLP((8,), max_epochs=2), n_latent=2, random_state=0).fit(X, y)
    table = evaluate([detector], X, ood, y)
    predicted = detector.classes_[detector.predict_proba(X).argmax(1)]
    assert table[0]["id_accuracy"] == np.mean(predicted == y)
