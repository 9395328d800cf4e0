"""Ensembles, searches and tables on a Dask cluster of two workers: the results of one process."""

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from skood import (
    KNN,
    MLP,
    WAIC,
    DeepEnsemble,
    Energy,
    LogLikelihood,
    Mahalanobis,
    NeuralSplineFlow,
    evaluate,
)
from skood.calibration import EnsembleDetector
from skood.model_selection import InlierFit, OODSplit, get_ood_scorer

X, y = load_iris(return_X_y=True)
# Unlike a detector's own y, the labels of a search mark the third class as out-of-distribution.
MARKED = np.where(y == 2, -1, y)


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def on_cluster(cluster):
    """Run joblib's tasks on the cluster, and check that both of its workers had some."""

    def tasks():
        logs = cluster.run(lambda dask_worker: dask_worker.state.executed_count)
        return np.array(list(logs.values()))

    before = tasks()
    with joblib.parallel_config("dask"):
        yield
    assert (tasks() > before).all()


def assert_equal(detector, other):
    np.testing.assert_array_equal(detector.score_samples(X), other.score_samples(X))
    assert detector.offset_ == other.offset_


def waic():
    flow = NeuralSplineFlow(1, 4, (8,), max_epochs=2)
    return WAIC(flow, 3, random_state=0)


def deep_ensemble():
    return DeepEnsemble(MLP((8,), max_epochs=2), n_members=3, random_state=0)


def ensemble_of_detectors():
    detectors = [
        ("knn", KNN()),
        ("forest", IsolationForest(n_estimators=5)),
        ("flow", LogLikelihood(NeuralSplineFlow(1, 4, (8,), max_epochs=2))),
        ("energy", FrozenEstimator(Energy(MLP((8,), max_epochs=2, random_state=0)).fit(X, y))),
    ]
    return EnsembleDetector(detectors, random_state=0)


@pytest.mark.filterwarnings("ignore:Energy was trained before")
@pytest.mark.parametrize("make", [waic, deep_ensemble, ensemble_of_detectors])
def test_members_are_trained_by_workers(on_cluster, make):
    with joblib.parallel_config("sequential"):
        alone = make().fit(X, y)
    assert_equal(make().fit(X, y), alone)


def test_search(on_cluster):
    search = GridSearchCV(
        InlierFit(KNN()),
        {"estimator__n_neighbors": [1, 5, 20]},
        scoring=get_ood_scorer("auroc"),
        cv=OODSplit(2, random_state=0),
    )
    with joblib.parallel_config("sequential"):
        alone = clone(search).fit(X, MARKED)
    search.fit(X, MARKED)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )
    assert_equal(search.best_estimator_.estimator_, alone.best_estimator_.estimator_)


def test_table(on_cluster):
    detectors = {
        "energy": Energy(MLP((8,), max_epochs=2, random_state=0)),
        "mahalanobis": Mahalanobis(),
        "flow": LogLikelihood(NeuralSplineFlow(1, 4, (8,), max_epochs=2), random_state=0),
    }
    arguments = X[1::2], {"far": X[::5] + 9, "near": X[::5] + 1}, y[1::2]
    training = {"X_train": X[::2], "y_train": y[::2]}
    with joblib.parallel_config("sequential"):
        alone = evaluate(detectors, *arguments, **training)
    table = evaluate(detectors, *arguments, **training)
    for row in (*table, *alone):
        del row["seconds"]
    assert list(table) == list(alone)


def test_scores_of_parts(on_cluster):
    """The recipe for a large X: each task scores a part of the rows."""
    detector = LogLikelihood(NeuralSplineFlow(1, 4, (8,), max_epochs=2), random_state=0).fit(X)
    parts = joblib.Parallel()(
        joblib.delayed(detector.score_samples)(rows) for rows in np.array_split(X, 3)
    )
    np.testing.assert_allclose(np.concatenate(parts), detector.score_samples(X), rtol=1e-5)


def test_trained_members_are_not_copied():
    """Neither cluster nor processes are needed: nothing is left to train."""
    members = [FrozenEstimator(KernelDensity(bandwidth=width).fit(X)) for width in (0.3, 0.6)]
    detector = WAIC(members, n_jobs=2).fit(X)
    assert all(a is b for a, b in zip(detector.densities_, members, strict=True))
    networks = [MLP((8,), max_epochs=1, random_state=k).fit(X, y) for k in range(2)]
    ensemble = DeepEnsemble(list(map(FrozenEstimator, networks)), n_jobs=2).fit(X)
    assert ensemble.estimators_ == networks
