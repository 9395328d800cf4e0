"""Pitfalls of scikit-learn's tools in OOD detection, each with the correct way."""

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    StratifiedKFold,
    check_cv,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skood
from skood.model_selection import InlierFit, OODSplit, get_ood_scorer

AUROC = get_ood_scorer("auroc")


def search_over(estimator, cv, grid=None):
    return GridSearchCV(estimator, grid or {"scale": [1.0, 2.0]}, scoring=AUROC, cv=cv)


def test_refit_on_outliers(records, problem):
    """OODSplit keeps outliers out of training parts, but the refit uses all rows of X."""
    search_over(records, OODSplit(3, random_state=0)).fit(*problem)
    labels = [y for _, y, _ in records.fits]
    assert [-1 in y for y in labels] == [False] * 6 + [True]

    records.fits.clear()
    inside = {"estimator__scale": [1.0, 2.0]}
    search = search_over(InlierFit(records), OODSplit(3, random_state=0), inside).fit(*problem)
    assert [len(y) for _, y, _ in records.fits] == [80] * 6 + [120]
    assert all((y >= 0).all() and (X < 10).all() for X, y, _ in records.fits)
    np.testing.assert_allclose(search.best_estimator_.estimator_.mean_, problem[0][:120].mean(0))


def test_a_scaler_sees_outliers(problem):
    """A detector drops known outliers, but the step before it in a Pipeline does not."""
    X, y = problem
    pipeline = make_pipeline(StandardScaler(), skood.Mahalanobis())
    assert (pipeline.fit(X, y)[0].mean_ > 3).all()

    clean = InlierFit(pipeline).fit(X, y)
    np.testing.assert_allclose(clean.estimator_[0].mean_, X[y >= 0].mean(0))
    results = cross_validate(
        clean, X, y, scoring=AUROC, cv=OODSplit(3, random_state=0), return_estimator=True
    )
    for fitted in results["estimator"]:
        assert (np.abs(fitted.estimator_[0].mean_) < 1).all()


def test_an_integer_is_unshuffled_k_fold_for_a_detector(problem):
    """With rows sorted by label, a test part has an untrained class and no OOD rows."""
    X, y = problem
    detector = skood.MSP(LogisticRegression())
    assert isinstance(check_cv(3, y, classifier=False), KFold)
    train, test = next(KFold(3).split(X, y))
    assert set(y[test]) == {0, 1}
    assert set(y[train]) == {1, 2, -1}
    with pytest.raises(ValueError, match=r"no OOD row among the 50 scored.*OODSplit"):
        cross_val_score(IsolationForest(), X, y, scoring=AUROC, cv=3, error_score="raise")
    with pytest.warns(UserWarning, match="Scoring failed"):
        scores = cross_val_score(detector, X, np.abs(y), scoring=AUROC, cv=KFold(3, shuffle=True))
    assert np.isnan(scores).all()

    for _, test in OODSplit(3).split(X, y):
        assert set(y[test]) == {0, 1, 2, -1}
    scores = cross_val_score(detector, X, y, scoring=AUROC, cv=OODSplit(3), error_score="raise")
    assert np.isfinite(scores).all()


def test_stratified_k_fold_trains_on_outliers_as_a_class(problem):
    X, y = problem
    for train, _ in StratifiedKFold(3).split(X, y):
        assert -1 in y[train]
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    results = cross_validate(pipeline, X, y, cv=StratifiedKFold(3), return_estimator=True)
    assert all(-1 in fitted.classes_ for fitted in results["estimator"])

    for train, _ in OODSplit(3).split(X, y):
        assert -1 not in y[train]
    detector = InlierFit(skood.MSP(pipeline))
    results = cross_validate(detector, X, y, cv=OODSplit(3), scoring=AUROC, return_estimator=True)
    for fitted in results["estimator"]:
        assert fitted.estimator_.classifier_.classes_.tolist() == [0, 1, 2]


def test_roc_auc_refuses_class_labels(problem):
    X, y = problem
    forest = InlierFit(IsolationForest(random_state=0))
    settings = {"cv": OODSplit(3, random_state=0), "error_score": "raise"}
    with pytest.raises(ValueError, match=r"y_true takes value in|multi_class must be in"):
        cross_val_score(forest, X, y, scoring="roc_auc", **settings)

    scores = cross_val_score(forest, X, y, scoring=AUROC, **settings)
    expected = [
        roc_auc_score(
            y[test] >= 0, IsolationForest(random_state=0).fit(X[train]).score_samples(X[test])
        )
        for train, test in settings["cv"].split(X, y)
    ]
    np.testing.assert_allclose(scores, expected)
