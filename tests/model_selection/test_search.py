"""Searches and validations of scikit-learn with the splitters and scorers of this package."""

import warnings

import numpy as np
import pytest
import sklearn
import torch
from scipy.stats import randint
from sklearn.ensemble import IsolationForest
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from sklearn.utils.fixes import parse_version

import skood
from skood.datasets import synthetic_outliers
from skood.metrics import auroc
from skood.model_selection import InlierFit, LeaveClassesOut, OODSplit, get_ood_scorer

AUROC = get_ood_scorer("auroc")
SPLIT = OODSplit(3, random_state=0)


def frame(X, **kwargs):
    return pytest.importorskip("pandas").DataFrame(X, **kwargs)


@pytest.fixture
def problem(problem):
    """With outliers between the classes, so that not every setting finds them all."""
    X, y = problem
    rng = np.random.default_rng(1)
    return np.where((y == -1)[:, None], rng.uniform(-4, 4, size=X.shape), X), y


def by_hand(detector, X, y, metric=auroc, splitter=SPLIT, groups=None):
    return [
        metric(y[test], detector.fit(X[train], y[train]).score_samples(X[test]))
        for train, test in splitter.split(X, y, groups)
    ]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_grid_search(problem, n_jobs):
    X, y = problem
    pipeline = make_pipeline(StandardScaler(), skood.KNN())
    search = GridSearchCV(
        InlierFit(pipeline),
        {"estimator__knn__n_neighbors": [1, 5, 60]},
        scoring=AUROC,
        cv=SPLIT,
        n_jobs=n_jobs,
        error_score="raise",
    ).fit(X, y)
    expected = [np.mean(by_hand(pipeline.set_params(knn__n_neighbors=k), X, y)) for k in (1, 5, 60)]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected)
    assert search.best_params_ == {
        "estimator__knn__n_neighbors": (1, 5, 60)[int(np.argmax(expected))]
    }
    assert search.predict(X).shape == (150,)


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize(
    "scoring",
    [
        {name: get_ood_scorer(name) for name in ("auroc", "fpr95", "detection_error")},
        get_ood_scorer(["auroc", "fpr95", "detection_error"]),
    ],
    ids=["dictionary", "one scorer"],
)
def test_multimetric(problem, scoring, n_jobs):
    X, y = problem
    search = GridSearchCV(
        InlierFit(OneClassSVM()),
        {"estimator__gamma": [0.1, 10.0]},
        scoring=scoring,
        refit="detection_error",
        cv=SPLIT,
        n_jobs=n_jobs,
    ).fit(X, y)
    for k, gamma in enumerate([0.1, 10.0]):
        expected = np.mean(by_hand(OneClassSVM(gamma=gamma), X, y))
        assert search.cv_results_["mean_test_auroc"][k] == pytest.approx(expected)
    assert (search.cv_results_["mean_test_fpr95"] <= 0).all()
    assert search.best_score_ == search.cv_results_["mean_test_detection_error"].max()


def test_randomized_search(problem):
    search = RandomizedSearchCV(
        InlierFit(IsolationForest(random_state=0)),
        {"estimator__n_estimators": randint(2, 20)},
        n_iter=3,
        scoring=AUROC,
        cv=SPLIT,
        random_state=0,
    ).fit(*problem)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


HALVING = {"scoring": AUROC, "random_state": 0, "error_score": "raise"}


@pytest.mark.parametrize("outliers_in_train", [False, True])
def test_halving_search(problem, outliers_in_train):
    """Training parts, which are scored by default, have a score if they have outliers."""
    search = HalvingGridSearchCV(
        InlierFit(skood.KNN()),
        {"estimator__n_neighbors": [1, 3, 5]},
        cv=OODSplit(3, random_state=0, outliers_in_train=outliers_in_train),
        min_resources=50,
        return_train_score=outliers_in_train,
        **HALVING,
    ).fit(*problem)
    assert search.n_resources_ == [50, 150]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert outliers_in_train == ("mean_train_score" in search.cv_results_)


@pytest.mark.parametrize("search", [HalvingGridSearchCV, GridSearchCV])
def test_training_parts_have_no_score_and_one_warning(problem, search):
    """Candidates are chosen nevertheless, and the warning is shown once."""
    X, y = problem
    scorer = get_ood_scorer("auroc")
    settings = {"scoring": scorer, "cv": SPLIT, "return_train_score": True, "error_score": "raise"}
    if search is HalvingGridSearchCV:
        settings |= {"min_resources": 50, "random_state": 0}
    grid = {"estimator__n_neighbors": [1, 3, 5]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        found = search(InlierFit(skood.KNN()), grid, **settings).fit(X, y)
    ours, *others = [str(w.message) for w in caught]
    assert ours.startswith("training parts have no OOD row")
    # Of scikit-learn, for each table of results.
    assert all(text.startswith("One or more of the train scores are non-f") for text in others)
    assert np.isnan(found.cv_results_["mean_train_score"]).all()
    settings["return_train_score"] = False
    expected = search(InlierFit(skood.KNN()), grid, **settings).fit(X, y)
    np.testing.assert_array_equal(
        found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    assert np.isfinite(expected.cv_results_["mean_test_score"]).all()
    assert found.best_params_ == expected.best_params_


def test_training_parts_have_no_score_of_several_metrics(problem):
    scorer = get_ood_scorer(["auroc", "fpr95"])
    with pytest.warns(UserWarning) as caught:
        scores = cross_validate(
            skood.KNN(), *problem, scoring=scorer, cv=SPLIT, return_train_score=True, n_jobs=1
        )
    assert len(caught) == 1
    for name in ("auroc", "fpr95"):
        assert np.isnan(scores[f"train_{name}"]).all()
        assert np.isfinite(scores[f"test_{name}"]).all()


def test_halving_search_with_too_few_rows_or_folds_that_change(problem):
    X, y = problem
    settings = {"return_train_score": False, **HALVING}
    grid = {"estimator__n_neighbors": [1, 3]}
    search = HalvingGridSearchCV(InlierFit(skood.KNN()), grid, cv=SPLIT, **settings)
    with pytest.raises(ValueError, match="draws rows of the test parts: raise its min_resources"):
        search.set_params(min_resources=9).fit(X, np.minimum(y, 0))
    with pytest.raises(ValueError, match="consistent folds across"):
        search.set_params(cv=OODSplit(3)).fit(X, y)


def test_halving_over_another_resource_keeps_test_parts_whole(problem):
    X, y = problem
    detector = InlierFit(skood.MSP(skood.MLP((4,), random_state=0)))
    search = HalvingGridSearchCV(
        detector,
        {"estimator__classifier__learning_rate": [0.001, 0.1]},
        cv=SPLIT,
        resource="estimator__classifier__max_epochs",
        min_resources=1,
        max_resources=2,
        factor=2,
        return_train_score=False,
        **HALVING,
    ).fit(X, y)
    assert search.n_resources_ == [1, 2]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_halving_search_without_outliers(problem):
    X, y = problem
    search = HalvingGridSearchCV(
        skood.MSP(LogisticRegression()),
        {"classifier__C": [0.1, 1.0, 10.0]},
        cv=LeaveClassesOut(random_state=0),
        min_resources=40,
        return_train_score=False,
        **HALVING,
    ).fit(X[:120], y[:120])
    assert len(search.n_resources_) == 2
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_halving_over_trees(problem):
    search = HalvingGridSearchCV(
        InlierFit(IsolationForest(random_state=0)),
        {"estimator__max_samples": [16, 64]},
        cv=SPLIT,
        resource="estimator__n_estimators",
        max_resources=10,
        return_train_score=False,
        **HALVING,
    ).fit(*problem)
    assert search.best_score_ > 0.5


def test_cross_validate(problem):
    X, y = problem
    results = cross_validate(
        InlierFit(skood.Mahalanobis()), X, y, scoring={"a": AUROC}, cv=SPLIT, n_jobs=2
    )
    np.testing.assert_allclose(results["test_a"], by_hand(skood.Mahalanobis(), X, y))


@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        frame,
        torch.from_numpy,
        lambda X: X.reshape(-1, 1, 2),
        lambda X: X.reshape(-1, 1, 1, 2),
    ],
    ids=["list", "frame", "tensor", "3d", "images"],
)
def test_types_of_x(problem, convert):
    if convert is torch.from_numpy and parse_version(sklearn.__version__) < parse_version("1.8"):
        pytest.skip("older scikit-learn takes the device of a tensor for one of numpy")
    X, y = problem
    detector = InlierFit(skood.KNN(n_neighbors=3))
    scores = cross_val_score(detector, convert(X), y, scoring=AUROC, cv=SPLIT, error_score="raise")
    np.testing.assert_allclose(scores, by_hand(skood.KNN(n_neighbors=3), X, y))


@pytest.mark.filterwarnings("ignore:One or more of the test scores:UserWarning")
def test_error_score(problem):
    """A test part without outliers gives a warning and NaN, or an error, by `error_score`."""
    X, y = problem
    search = GridSearchCV(IsolationForest(n_estimators=2), {}, scoring=AUROC, cv=2, refit=False)
    with pytest.warns(UserWarning, match=r"(?s)Scoring failed.*OODSplit"):
        search.fit(X[:120], y[:120])
    with pytest.raises(ValueError, match="no OOD row"):
        search.set_params(error_score="raise").fit(X[:120], y[:120])
    search.set_params(error_score=-1.0)
    with pytest.warns(UserWarning, match="Scoring failed"):
        search.fit(X[:120], y[:120])
    assert search.cv_results_["mean_test_score"].tolist() == [-1.0]


def test_one_score_for_each_set_of_outliers(problem):
    X, y = problem
    groups = np.where(y == -1, np.array(["b", "a", "c"])[np.arange(150) % 3], "")
    search = GridSearchCV(
        InlierFit(skood.KNN()), {"estimator__n_neighbors": [3]}, scoring=AUROC, cv=SPLIT
    )
    search.fit(X, y, groups=groups)
    for k, (train, test) in enumerate(SPLIT.split(X, y, groups)):
        assert set(groups[test]) == {"", "abc"[k]}
        expected = auroc(
            y[test], skood.KNN(n_neighbors=3).fit(X[train], y[train]).score_samples(X[test])
        )
        assert search.cv_results_[f"split{k}_test_score"] == pytest.approx(expected)


def test_tuning_on_one_set_and_testing_on_another(records, problem):
    """A nested search: the inner search has no row of the tested set."""
    X, y = problem
    groups = np.where(y == -1, np.array(["a", "b"])[np.arange(150) % 2], "")
    X = np.column_stack([X, groups == "a"])
    search = GridSearchCV(
        InlierFit(records), {"estimator__scale": [1.0, 2.0]}, scoring=AUROC, cv=SPLIT
    )
    outer = OODSplit(2, random_state=0, outliers_in_train=True)
    seen = []

    def sees(estimator, X, y):
        seen.append(set(X[y == -1, 2]))
        return AUROC(estimator, X, y)

    search.set_params(scoring=sees)
    settings = {"scoring": AUROC, "cv": outer, "params": {}, "error_score": "raise"}
    scores = cross_validate(search, X, y, groups=groups, **settings)["test_score"]
    assert np.isfinite(scores).all()
    assert seen == [{0.0}] * 6 + [{1.0}] * 6
    assert all((y >= 0).all() for _, y, _ in records.fits)


@pytest.mark.parametrize(
    "detector",
    [
        skood.MSP(LogisticRegression()),
        InlierFit(skood.MSP(LogisticRegression())),
        InlierFit(skood.Mahalanobis()),
        InlierFit(make_pipeline(StandardScaler(), skood.KNN(n_neighbors=3))),
        InlierFit(IsolationForest(random_state=0)),
    ],
    ids=["MSP", "InlierFit-MSP", "Mahalanobis", "KNN", "IsolationForest"],
)
def test_classes_left_out(detector, problem):
    X, y = problem
    splitter = LeaveClassesOut(random_state=0)
    scores = cross_val_score(detector, X, y, scoring=AUROC, cv=splitter, error_score="raise")
    inner = detector.estimator if isinstance(detector, InlierFit) else detector
    expected = []
    for train, test in splitter.split(X, y):
        labels = np.where(np.isin(y[test], y[train]), 1, -1)
        expected.append(auroc(labels, inner.fit(X[train], y[train]).score_samples(X[test])))
    np.testing.assert_allclose(scores, expected)


def test_classes_left_out_of_a_detector_that_keeps_none(problem):
    X, y = problem
    with pytest.raises(ValueError, match=r"no OOD row.*keeps no classes_.*InlierFit\(estimator\)"):
        cross_val_score(skood.KNN(), X, y, scoring=AUROC, cv=LeaveClassesOut(), error_score="raise")


def test_search_with_synthetic_outliers(problem):
    """Without real outliers."""
    X, y = problem
    X, y = X[:120], y[:120]
    outliers = synthetic_outliers(X, "permutation", random_state=0)
    search = GridSearchCV(
        InlierFit(skood.KNN()), {"estimator__n_neighbors": [1, 3, 60]}, scoring=AUROC, cv=SPLIT
    )
    search.fit(np.concatenate([X, outliers]), np.append(y, np.full(120, -1)))
    assert search.best_params_["estimator__n_neighbors"] < 60
    assert search.best_score_ > 0.55
