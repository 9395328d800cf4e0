"""A method that trains a classifier differently is a loss and a score."""

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

from skood import MLP, LogitNorm, OODSplit, get_ood_scorer
from skood.training_time._logit_norm import LogitNormObjective


class LogitNormMLP(MLP):
    _objective = LogitNormObjective


def test_a_classifier_with_another_loss(iris):
    """Its loss is that of normalised logits, whose length does not matter."""
    X, y = iris
    settings = {"max_epochs": 60, "batch_size": 50, "learning_rate": 0.02, "random_state": 0}
    network = LogitNormMLP(**settings).fit(X, y)
    assert network.score(X, y) > 0.9
    logits = network.decision_function(X)
    proba = np.exp(logits / np.linalg.norm(logits, axis=1, keepdims=True) / 0.04)
    loss = -np.log(proba / proba.sum(1, keepdims=True))[np.arange(150), y].mean()
    assert network.history_["loss"][-1] == pytest.approx(loss, rel=0.2)


def test_a_detector_with_another_loss(iris, tmp_path, monkeypatch):
    X, y = iris
    detector = LogitNorm(
        MLP(max_epochs=60, batch_size=40, learning_rate=0.02, validation_fraction=0.2),
        random_state=0,
    ).fit(X, y)
    assert (detector.predict_class(X) == y).mean() > 0.9
    assert detector.predict_proba(X).shape == (150, 3)
    assert list(detector.history_) == ["loss", "validation_loss"]
    assert 0.8 < (detector.predict(X) == 1).mean() < 1
    np.testing.assert_array_equal(detector.classes_, [0, 1, 2])
    with pytest.raises(ValueError, match="requires y to be passed"):
        LogitNorm(MLP(max_epochs=1)).fit(X)


def test_a_search_over_what_training_does_not_depend_on_trains_once(iris, tmp_path, monkeypatch):
    X, y = iris
    trained = []
    original = MLP.fit_objective

    def counted(self, *args, **kwargs):
        trained.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(MLP, "fit_objective", counted)
    data = np.r_[X, X[::5] + 3 * np.random.default_rng(0).normal(size=(30, 4))]
    GridSearchCV(
        LogitNorm(MLP(max_epochs=2), memory=str(tmp_path), random_state=0),
        {"contamination": [0.05, 0.1, 0.2]},
        scoring=get_ood_scorer("auroc"),
        cv=OODSplit(3),
        refit=False,
    ).fit(data, np.r_[y, np.full(30, -1)])
    assert len(trained) == 3
