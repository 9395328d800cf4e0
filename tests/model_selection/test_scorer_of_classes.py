"""Scorers of open-set classification: OSCR, CCR and F1."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skood
from skood.metrics import ccr_at_fpr, open_set_f1, oscr
from skood.model_selection import InlierFit, LeaveClassesOut, OODSplit, get_ood_scorer

NAMES = ["oscr", "ccr", "f1"]


@pytest.fixture(params=["integers", "strings"])
def rows(request):
    X, y = load_iris(return_X_y=True)
    X, y = X[::2, :2], np.where(y[::2] == 2, -1, y[::2] + 3)
    if request.param == "strings":
        y = np.where(y == -1, "-1", np.char.add("class ", y.astype(str)))
    return X, y


def detector(X, y):
    inside = y.astype(str) != "-1"
    network = LogisticRegression().fit(X[inside], y[inside])
    return skood.MSP(FrozenEstimator(network)).fit(X[inside], y[inside])


def test_values(rows):
    X, y = rows
    fitted = detector(X, y)
    predicted = fitted.classes_[fitted.predict_proba(X).argmax(1)]
    scores = fitted.score_samples(X)
    expected = {
        "oscr": oscr(y, predicted, scores),
        "ccr": ccr_at_fpr(y, predicted, scores),
        "f1": open_set_f1(y, fitted.predict_class(X)),
    }
    for name in NAMES:
        assert get_ood_scorer(name)(fitted, X, y) == expected[name]
    assert get_ood_scorer(NAMES)(fitted, X, y) == expected
    score = get_ood_scorer("ccr", fpr=0.5)(fitted, X, y)
    assert score == ccr_at_fpr(y, predicted, scores, fpr=0.5)


def test_a_class_that_the_detector_was_not_trained_on_is_unknown(rows):
    X, y = rows
    fitted = detector(X, y)
    other = np.where(y.astype(str) == "-1", "class 9" if y.dtype.kind == "U" else 9, y)
    for name in NAMES:
        assert get_ood_scorer(name)(fitted, X, other) == get_ood_scorer(name)(fitted, X, y)


def test_search(rows):
    X, y = rows
    estimator = make_pipeline(StandardScaler(), skood.MSP(LogisticRegression()))
    search = GridSearchCV(
        InlierFit(estimator),
        {"estimator__msp__classifier__C": [0.01, 1.0]},
        scoring=get_ood_scorer(NAMES),
        refit="oscr",
        cv=OODSplit(2, random_state=0),
        error_score="raise",
    ).fit(X, y)
    best = search.best_estimator_.estimator_
    predicted = best.classes_[best.predict_proba(X).argmax(1)]
    expected = oscr(y, predicted, best.score_samples(X))
    assert get_ood_scorer("oscr")(search, X, y) == expected
    assert np.isfinite(search.cv_results_["mean_test_f1"]).all()


def test_classes_left_out():
    X, y = load_iris(return_X_y=True)
    results = cross_validate(
        skood.MSP(LogisticRegression()),
        X[::3],
        y[::3],
        scoring=get_ood_scorer("oscr"),
        cv=LeaveClassesOut(random_state=0),
        error_score="raise",
    )
    assert np.all(results["test_score"] >= 0)


class Fixed(BaseEstimator):
    classes_ = np.array([0, 1])

    def __init__(self, proba=None, decision=1):
        self.proba = proba
        self.decision = decision

    def score_samples(self, X):
        return np.arange(len(X), dtype=float)

    def predict_proba(self, X):
        return np.tile(self.proba, (len(X), 1))

    def predict(self, X):
        return np.full(len(X), self.decision)


def test_errors():
    X, y = np.zeros((4, 1)), np.array([0, 1, 0, -1])
    forest = skood.KNN(n_neighbors=1).fit(np.random.default_rng(0).normal(size=(9, 1)))
    with pytest.raises(TypeError, match="KNN predicts no classes; expected a detector with"):
        get_ood_scorer("oscr")(forest, X, y)
    with pytest.raises(TypeError, match="add up to 1"):
        get_ood_scorer("oscr")(Fixed([0.9, 0.8]), X, y)
    with pytest.raises(TypeError, match=r"shape \(4, 3\) for 2 classes"):
        get_ood_scorer("oscr")(Fixed([0.5, 0.5, 0.0]), X, y)
    with pytest.raises(TypeError, match="other values than"):
        get_ood_scorer("f1")(Fixed([0.5, 0.5], decision=0), X, y)
    with pytest.raises(TypeError, match="'oscr' has no parameter fpr"):
        get_ood_scorer("oscr", fpr=0.1)
    assert get_ood_scorer("f1")(Fixed([0.9, 0.1]), X, y) == open_set_f1(y, np.zeros(4, dtype=int))
