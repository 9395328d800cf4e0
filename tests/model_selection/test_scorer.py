import pickle

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, SGDOneClassSVM
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

import skood
from skood.metrics import aupr_in, aupr_out, auroc, detection_error, fpr_at_tpr
from skood.model_selection import InlierFit, OODSplit, get_ood_scorer, get_ood_scorer_names

EXPECTED = {
    "auroc": auroc,
    "aupr_in": aupr_in,
    "aupr_out": aupr_out,
    "detection_error": lambda y, s: -detection_error(y, s),
    "fpr80": lambda y, s: -fpr_at_tpr(y, s, tpr=0.8),
    "fpr95": lambda y, s: -fpr_at_tpr(y, s, tpr=0.95),
    "fpr_at_tpr": lambda y, s: -fpr_at_tpr(y, s),
}

OF_CLASSES = {"ccr", "f1", "oscr"}


class Scores(BaseEstimator):
    """Its scores are the rows."""

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        Scores.calls += 1
        return np.asarray(X)[:, 0]


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    y = rng.integers(-1, 3, size=60)
    return rng.normal(size=(60, 1)) + (y >= 0)[:, None], y


def test_names():
    assert set(get_ood_scorer_names()) == set(EXPECTED) | OF_CLASSES


@pytest.mark.parametrize("name", EXPECTED)
def test_metrics(name, rows):
    X, y = rows
    Scores.calls = 0
    score = get_ood_scorer(name)(Scores(), X, y)
    assert score == EXPECTED[name](y, X[:, 0])
    assert isinstance(score, float)
    scorer = get_ood_scorer(name)
    assert scorer._sign == (-1 if score < 0 else 1)
    assert scorer(Scores(), X + 100 * (y >= 0)[:, None], y) == max(0, scorer._sign)


def test_several_metrics_score_once(rows):
    X, y = rows
    Scores.calls = 0
    scores = get_ood_scorer(list(EXPECTED))(Scores(), X, y)
    assert Scores.calls == 1
    assert scores == {name: metric(y, X[:, 0]) for name, metric in EXPECTED.items()}


def test_parameters(rows):
    X, y = rows
    score = get_ood_scorer("fpr_at_tpr", tpr=0.5)(Scores(), X, y)
    assert score == -fpr_at_tpr(y, X[:, 0], tpr=0.5)


@pytest.mark.parametrize(
    ("scorer", "text"),
    [
        (get_ood_scorer("fpr_at_tpr", tpr=0.5), "get_ood_scorer('fpr_at_tpr', tpr=0.5)"),
        (get_ood_scorer(("auroc", "fpr95")), "get_ood_scorer(['auroc', 'fpr95'])"),
    ],
)
def test_representation_and_pickle(scorer, text, rows):
    Scores.calls = 0
    assert repr(scorer) == text
    restored = pickle.loads(pickle.dumps(scorer))
    assert restored(Scores(), *rows) == scorer(Scores(), *rows)


@pytest.mark.parametrize(
    "detector",
    [
        EllipticEnvelope(random_state=0),
        GaussianMixture(random_state=0),
        IsolationForest(random_state=0),
        KernelDensity(),
        LocalOutlierFactor(novelty=True),
        OneClassSVM(),
        SGDOneClassSVM(random_state=0),
        skood.KNN(n_neighbors=3),
        skood.MSP(LogisticRegression()),
    ],
    ids=lambda detector: type(detector).__name__,
)
def test_detectors(detector, problem):
    """Outliers beyond the third class score lower, by either method."""
    X, y = problem
    X = np.where((y == -1)[:, None], -X / 2, X)
    if isinstance(detector, skood.MSP):
        X = np.where((y == -1)[:, None], X / 30, X)
    fitted = InlierFit(detector).fit(X, y)
    score = get_ood_scorer("auroc")(fitted, X, y)
    assert score > 0.75
    assert get_ood_scorer("auroc")(fitted.estimator_, X, y) == score


class OnlyDecides(BaseEstimator):
    def decision_function(self, X):
        return np.asarray(X)[:, 0]


def test_decision_function(rows):
    X, y = rows
    assert get_ood_scorer("auroc")(OnlyDecides(), X, y) == auroc(y, X[:, 0])


def wrappers():
    """Every way to wrap a detector whose classifier was trained on the classes 0 and 1."""
    detector = skood.MSP(LogisticRegression())
    search = GridSearchCV(
        detector, {"contamination": [0.1]}, scoring=lambda *args: 0.0, cv=StratifiedKFold(2)
    )
    return {
        "detector": detector,
        "pipeline": make_pipeline(StandardScaler(), detector),
        "inlier fit": InlierFit(detector),
        "inlier fit of pipeline": InlierFit(make_pipeline(StandardScaler(), detector)),
        "pipeline of inlier fit": make_pipeline(StandardScaler(), InlierFit(detector)),
        "search": search,
        "search over inlier fit": clone(search).set_params(
            estimator=InlierFit(detector), param_grid={"estimator__contamination": [0.1]}
        ),
        "classifier from a search": skood.MSP(GridSearchCV(LogisticRegression(), {"C": [1.0]})),
        "pipeline as classifier": skood.MSP(make_pipeline(StandardScaler(), LogisticRegression())),
        "knows no classes": InlierFit(IsolationForest(random_state=0)),
        "features only": InlierFit(skood.Mahalanobis()),
    }


@pytest.mark.parametrize("way", wrappers())
def test_unknown_classes_are_outliers(way, problem):
    X, y = problem
    fitted = wrappers()[way].fit(X[:80], y[:80])
    X, y = X[:120], y[:120]
    expected = auroc(np.where(y == 2, -1, 1), fitted.score_samples(X))
    assert get_ood_scorer("auroc")(fitted, X, y) == expected
    assert get_ood_scorer("auroc")(FrozenEstimator(fitted), X, y) == expected


def test_labels_that_are_strings(problem):
    X, y = problem
    names = np.array(["ant", "bee", "cat", "-1"])[y]
    known = (y == 0) | (y == 1)
    detector = skood.MSP(LogisticRegression()).fit(X[known], names[known])
    expected = auroc(np.where(known, 1, -1), detector.score_samples(X))
    assert get_ood_scorer("auroc")(detector, X, names) == expected
    assert get_ood_scorer("auroc")(detector, X, names.tolist()) == expected


@pytest.mark.parametrize(
    ("estimator", "y", "message"),
    [
        (IsolationForest(), [0] * 4, "no OOD row among the 4 .*keeps no classes_.*OODSplit"),
        (skood.MSP(LogisticRegression()), [0, 1, 0, 1], "no OOD row.*trained on 0, 1. In cross-"),
        (IsolationForest(), [-1] * 4, r"no in-distribution row among the 4 .*OODSplit"),
        (
            skood.MSP(LogisticRegression()),
            [7, 8, 7, -1],
            r"1 have the label -1, .* \(7, 8\) are no classes of the estimator, trained on 0, 1",
        ),
        (IsolationForest(), None, "the OOD scorer requires y"),
        (IsolationForest(), [0, 0, -2, -1], "y holds the label -2"),
    ],
)
def test_errors_of_labels(estimator, y, message):
    X = np.arange(4.0)[:, None]
    fitted = estimator.fit(X, [0, 1, 0, 1])
    for scorer in (get_ood_scorer("auroc"), get_ood_scorer(["auroc", "fpr95"])):
        with pytest.raises(ValueError, match=message):
            scorer(fitted, X, y)


@pytest.mark.parametrize("classifier", [LogisticRegression(), RandomForestClassifier(5)])
def test_error_for_a_classifier(classifier, problem):
    """The decision function separates two classes, and is no score of rows."""
    X, y = problem
    classifier.fit(X[:80], y[:80])
    with pytest.raises(TypeError, match=rf"{type(classifier).__name__} has no score.*skood.MSP"):
        get_ood_scorer("auroc")(classifier, X, y)


def test_a_part_of_training_rows_after_a_test_part_has_no_score():
    X, y = np.array([[0.0], [0.1], [0.2], [5.0]]), np.array([0, 0, 0, -1])
    forests = [IsolationForest(random_state=k).fit(X[:3]) for k in (0, 1)]
    scorer = get_ood_scorer("auroc")
    for _ in range(2):
        with pytest.raises(ValueError, match="no OOD row"):
            scorer(forests[0], X[:3], y[:3])
    assert 0 < scorer(forests[0], X, y) <= 1
    with pytest.raises(ValueError, match="no OOD row"):
        scorer(forests[1], X[:3], y[:3])
    with pytest.warns(UndefinedMetricWarning, match="training parts have no OOD row"):
        assert np.isnan(scorer(forests[0], X[:3], y[:3]))
    assert np.isnan(pickle.loads(pickle.dumps(scorer))(forests[0], X[:3], y[:3]))


def test_errors_of_names():
    with pytest.raises(ValueError, match="'auc' is no OOD scorer; expected one of aupr_in, aupr_"):
        get_ood_scorer("auc")
    with pytest.raises(ValueError, match="no name was given"):
        get_ood_scorer([])
    with pytest.raises(TypeError, match="'auroc' has no parameter tpr; its parameters: none"):
        get_ood_scorer("auroc", tpr=0.8)
    with pytest.raises(TypeError, match=r"'fpr95' has no parameter tpr.*'fpr_at_tpr' is the one"):
        get_ood_scorer("fpr95", tpr=0.8)
    with pytest.raises(TypeError, match="tpr given with several names"):
        get_ood_scorer(["fpr95", "auroc"], tpr=0.8)


def test_a_search_is_scored_by_its_scorer(problem):
    X, y = problem
    search = GridSearchCV(
        InlierFit(skood.KNN()),
        {"estimator__n_neighbors": [1, 5]},
        scoring=get_ood_scorer("auroc"),
        cv=OODSplit(2, random_state=0),
    ).fit(X, y)
    assert search.score(X, y) == auroc(y, search.score_samples(X))
