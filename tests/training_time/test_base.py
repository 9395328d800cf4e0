"""A method that trains a classifier differently is a loss and a score."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from torch.nn.functional import cross_entropy

from skood import (
    MLP,
    VAE,
    VMDLS,
    VOS,
    DeepSAD,
    DeepSVDD,
    LogitNorm,
    OODGen,
    OODSplit,
    OutlierExposure,
    get_ood_scorer,
)
from skood.training_time import ClassifierObjective


class NormObjective(ClassifierObjective):
    def loss(self, *batch):
        x, class_index = batch
        return LogitNorm()._loss(self, x, class_index)


class LogitNormMLP(MLP):
    _objective = NormObjective


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
        LogitNorm(
            MLP((16,), max_epochs=9, learning_rate=0.01), memory=str(tmp_path), random_state=0
        ),
        {"contamination": [0.05, 0.1, 0.2]},
        scoring=get_ood_scorer("auroc"),
        cv=OODSplit(3),
        refit=False,
    ).fit(data, np.r_[y, np.full(30, -1)])
    assert len(trained) == 3


SMOOTHING = {"label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("make", "given", "said"),
    [
        (lambda m: DeepSVDD(m, 2), SMOOTHING, "label_smoothing=0.1 of its backbone"),
        (lambda m: DeepSAD(m, 2), SMOOTHING, "label_smoothing=0.1 of its backbone"),
        (
            lambda m: OODGen(m, VAE(1, conditional=True, max_epochs=1)),
            SMOOTHING,
            "label_smoothing=0.1 of its classifier",
        ),
        (
            lambda m: VMDLS(m, 2),
            {"batch_size": 32, **SMOOTHING},
            "batch_size=32 and label_smoothing=0.1 of its backbone",
        ),
        (
            lambda m: VOS(m, start_fraction=0),
            {"patience": 3, "validation_fraction": 0.1},
            "patience=3 of its classifier",
        ),
        (
            lambda m: OutlierExposure(m),
            {"patience": 3, "validation_fraction": 0.1},
            "patience=3 of its classifier",
        ),
    ],
    ids=["DeepSVDD", "DeepSAD", "OODGen", "VMDLS", "VOS", "OutlierExposure"],
)
def test_training_parameters_that_are_not_used(iris, make, given, said):
    """One warning, and only where such a parameter is given."""
    X, y = iris
    y = np.where(np.arange(150) % 10 == 0, -1, y)
    settings = {"max_epochs": 3, "learning_rate": 1e-3, "optimizer": "adam", "random_state": 0}
    detector = make(MLP((8,), **settings, **given))
    with pytest.warns(UserWarning) as caught:
        detector.fit(X, y)
    # torch has a FutureWarning of its own.
    (warning,) = [warning for warning in caught if warning.category is UserWarning]
    message = f"{type(detector).__name__} does not use {said}; leave the default"
    assert str(warning.message).startswith(message)
    assert warning.filename == __file__
    make(MLP((8,), **settings)).fit(X, y)


def test_label_smoothing_is_used_by_cross_entropy(iris):
    X, y = iris
    settings = {"max_epochs": 30, "learning_rate": 0.03, "random_state": 0}
    for make in (partial(LogitNorm, temperature=1.0), partial(VOS, start_fraction=0)):
        plain, smooth = (
            make(MLP((32,), **settings, label_smoothing=part)).fit(X, y) for part in (0.0, 0.3)
        )
        assert smooth.history_["loss"][-1] > plain.history_["loss"][-1] + 0.05


@pytest.mark.filterwarnings("ignore:the training loss of LogitNorm ends at")
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_of_the_first_steps(iris, smoothing):
    X, y = iris
    # Two steps on all rows that move nothing: the loss is the loss of the final network.
    classifier = MLP(
        (8,),
        max_epochs=2,
        batch_size=len(X),
        learning_rate=1e-12,
        label_smoothing=smoothing,
        precision="fp32",
        random_state=0,
    )
    for make in (LogitNorm, partial(VOS, start_fraction=0)):
        detector = make(classifier).fit(X, y)
        logits = torch.as_tensor(detector.classifier_.decision_function(X))
        if make is LogitNorm:
            logits = logits / (0.04 * torch.linalg.norm(logits, axis=1, keepdims=True))
        expected = cross_entropy(logits, torch.as_tensor(y), label_smoothing=smoothing)
        history = detector.history_
        np.testing.assert_allclose(history.get("cross_entropy", history["loss"]), expected, 1e-5)
