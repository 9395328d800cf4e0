"""Detectors of PyOD, whose scores are higher for outliers."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skood
from skood import ConformalDetector, EnsembleDetector, ExternalDetector, TunedThreshold, evaluate
from skood.metrics import auroc
from skood.model_selection import OODSplit, get_ood_scorer

pytest.importorskip("pyod")

from pyod.models.cd import CD
from pyod.models.cof import COF
from pyod.models.copod import COPOD
from pyod.models.devnet import DevNet
from pyod.models.ecod import ECOD
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.lof import LOF
from pyod.models.pca import PCA

IS_ALONE = {ECOD: True, COPOD: True}
DETECTORS = [
    ECOD(),
    COPOD(),
    IForest(n_estimators=10),
    KNN(),
    LOF(),
    PCA(),
    make_pipeline(StandardScaler(), ECOD()),
]
each = pytest.mark.parametrize(
    "detector", DETECTORS, ids=lambda detector: "-".join(repr(detector).split("(")[:1])
)
# PyOD divides by zero where a row is scored by itself, before it is refused.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:pyod")


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(150, 4))


@pytest.fixture(scope="module")
def far(X):
    return np.random.default_rng(1).normal(size=(30, 4)) + 5


@each
def test_the_direction_is_known(detector, X, far):
    external = ExternalDetector(detector, random_state=0).fit(X)
    assert (external.higher_, external.method_) == ("outlier", "decision_function")
    scores = external.score_samples(np.r_[X, far])
    assert auroc(np.repeat([1, -1], [len(X), len(far)]), scores) > 0.99
    # A score belongs to the row.
    np.testing.assert_allclose(external.score_samples(far[:3]), scores[len(X) : len(X) + 3])
    final = detector[-1] if hasattr(detector, "steps") else detector
    assert external.scores_alone_ == IS_ALONE.get(type(final), False)
    with pytest.raises(ValueError, match=r"decision_function of .* is higher for outliers"):
        ExternalDetector(detector, higher="inlier").fit(X)


def test_the_values_are_those_of_pyod(X, far):
    external = ExternalDetector(KNN(), threshold_fraction=0).fit(X)
    np.testing.assert_array_equal(external.score_samples(far), -KNN().fit(X).decision_function(far))


def test_outliers_in_one_call_do_not_hide_each_other(X):
    """The empirical distribution of ECOD counts the rows that it scores."""
    same = np.tile([[4.0, 4.0, 4.0, 4.0]], (150, 1))
    labels = np.repeat([1, -1], [len(X), len(same)])
    together = -ECOD().fit(X).decision_function(np.r_[X, same])
    alone = ExternalDetector(ECOD()).fit(X).score_samples(np.r_[X, same])
    assert auroc(labels, alone) == 1 > auroc(labels, together) + 0.2


@each
def test_in_everything_that_takes_detectors(detector, X, far):
    X, far = X[:80], far[:5]
    external = ExternalDetector(detector, random_state=0)
    pair = [("external", external), ("ours", skood.Mahalanobis())]
    for wrapper in (
        ConformalDetector(external, 0.1, random_state=0),
        EnsembleDetector(pair, alpha=0.1, random_state=0),
        TunedThreshold(external, random_state=0),
    ):
        fitted = clone(wrapper).fit(X)
        assert (fitted.predict(far) == -1).all()
        scores = fitted.score_samples(X)
        assert (scores >= fitted.offset_).mean() > 0.7
        copied = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(copied.score_samples(X), scores)
        assert type(external).__name__ in fitted._repr_html_()
    (row,) = evaluate({"one": external}, X, {"far": far}, X_train=X)
    assert row["auroc"] > 0.95


def test_search(X, far):
    everything, y = np.r_[X, far], np.repeat([0, -1], [len(X), len(far)])
    search = GridSearchCV(
        ExternalDetector(KNN()),
        {"detector__n_neighbors": [1, 5], "detector__contamination": [0.1, 0.2]},
        scoring=get_ood_scorer("auroc"),
        cv=OODSplit(3),
        error_score="raise",
    ).fit(everything, y)
    assert search.best_score_ > 0.99


@each
def test_without_it_the_error_names_it(detector, X, far):
    names = r"skood\.ExternalDetector\(detector, higher="
    for wrapper in (
        ConformalDetector(detector),
        EnsembleDetector([("one", detector)]),
        TunedThreshold(detector),
    ):
        with pytest.raises(ValueError, match=names):
            wrapper.fit(X)
    with pytest.raises(ValueError, match=names):
        evaluate({"one": detector}, X, {"far": far}, X_train=X)
    fitted = clone(detector).fit(X)
    with pytest.raises(TypeError, match=names):
        get_ood_scorer("auroc")(fitted, np.r_[X, far], np.repeat([0, -1], [len(X), len(far)]))


def test_detectors_without_a_score_of_single_rows(X):
    X = X[:40]
    for detector in (COF(), CD()):
        with pytest.raises(ValueError, match="scores a row only relative to the other rows"):
            ExternalDetector(detector).fit(X)


def test_labels(X):
    """Those of classes are not those of outliers, 1 in PyOD."""
    with pytest.raises(ValueError, match=r"DevNet of PyOD learns from labels where 1 = outlier"):
        ExternalDetector(DevNet()).fit(X, np.repeat(["a", "b"], 75))
    y = np.where(X[:, 0] > 0, "a", "b")
    chosen = ExternalDetector(make_pipeline(SelectKBest(k=1), KNN())).fit(X, y)
    assert list(chosen.detector_[0].get_support()) == [True, False, False, False]
    labelled = ExternalDetector(KNN()).fit(X, y).score_samples(X)
    np.testing.assert_array_equal(labelled, ExternalDetector(KNN()).fit(X).score_samples(X))


def test_fitted_before(X, far):
    frozen = ExternalDetector(FrozenEstimator(KNN().fit(X))).fit(X[:75])
    np.testing.assert_array_equal(frozen.score_samples(far), -KNN().fit(X).decision_function(far))


def test_frames(X, far):
    frame = pd.DataFrame(X, columns=list("abcd"))
    external = ExternalDetector(KNN()).fit(frame)
    expected = ExternalDetector(KNN()).fit(X).score_samples(X)
    np.testing.assert_array_equal(external.score_samples(frame), expected)
    with pytest.raises(ValueError, match="feature names"):
        external.score_samples(frame[list("dcba")])
