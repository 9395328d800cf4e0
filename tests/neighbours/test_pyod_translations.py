"""Conventions and detectors of PyOD, as docs/user_guide/migrating.rst lists them."""

import numpy as np
import pytest
from sklearn import ensemble, neighbors, svm

import skood


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(200, 4))


@pytest.fixture(scope="module")
def new():
    return 2 * np.random.default_rng(1).normal(size=(100, 4))


def test_detectors_of_pyod(translations, check_translation, evaluated, X, new):
    pytest.importorskip("pyod")
    from pyod.models import gmm, iforest, knn, lof, ocsvm, pca

    pyod = (gmm, iforest, knn, lof, ocsvm, pca)
    for expression, ours, relation in translations("Detectors of PyOD"):
        theirs = evaluated(expression, *pyod).fit(X).decision_function(new)
        detector = evaluated(ours, skood, ensemble, neighbors, svm, *pyod).fit(X)
        check_translation(theirs, detector.score_samples(new), relation)


def test_conventions_of_pyod(X, new):
    pytest.importorskip("pyod")
    from pyod.models.knn import KNN

    theirs, ours = KNN().fit(X), skood.KNN(n_neighbors=5).fit(X)
    assert (theirs.contamination, ours.contamination) == (0.1, 0.05)
    assert set(theirs.predict(new)) == {0, 1}
    np.testing.assert_array_equal(
        theirs.predict(new) == 1, theirs.decision_function(new) > theirs.threshold_
    )
    np.testing.assert_array_equal(ours.predict(new) == -1, ours.score_samples(new) < ours.offset_)
    np.testing.assert_allclose(theirs.decision_function(X), -ours.score_samples(X))
    # Without the row itself, its fifth neighbour is its sixth.
    sixth = skood.KNN(n_neighbors=6).fit(X)
    np.testing.assert_allclose(theirs.decision_scores_, -sixth.score_samples(X))
