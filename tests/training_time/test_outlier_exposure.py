"""Outlier Exposure: its loss, its score, and what it is good for."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score

from skood import MLP, MSP, OutlierExposure


def tiny(**params):
    network = MLP((8,), max_epochs=4, batch_size=32, learning_rate=0.01, precision="fp32")
    return OutlierExposure(**{"classifier": network, "random_state": 0, **params})


def outliers_of(X):
    return X[::3] + 2.0


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_loss_is_that_of_the_paper(iris, objective_of, weight):
    X, y = iris
    detector = tiny(outliers=outliers_of(X), outlier_weight=weight)
    objective, training, _ = objective_of(detector, X, y)
    rows = objective.epoch_batches(training, 20, np.random.default_rng(0))[0]
    x, class_index = objective.prepare(objective.read(rows), None)
    losses = objective.loss(x, class_index)
    assert list(losses) == ["cross_entropy", "outlier_exposure"]
    proba = np.exp(objective.network(x).detach().double().numpy())
    proba /= proba.sum(1, keepdims=True)
    right = proba[np.arange(20), y[rows[:20]]]
    np.testing.assert_allclose(losses["cross_entropy"].detach(), -np.log(right), rtol=1e-5)
    expected = [-sum(np.log(p) / 3 for p in row) for row in proba[20:]]
    assert len(expected) == 40
    np.testing.assert_allclose(
        losses["outlier_exposure"].detach(), weight * np.array(expected), rtol=1e-5
    )
    losses["outlier_exposure"].mean().backward()
    assert all(p.grad.abs().max() > 0 for p in objective.network.parameters())


def test_limits_of_the_term():
    """log K where the network is undecided, and growing with every step away from it."""
    detector = OutlierExposure(outlier_weight=1.0)
    for n_classes in (2, 10):
        undecided = torch.full((1, n_classes), 7.0)
        term = detector._outlier_terms(undecided, undecided)["outlier_exposure"]
        torch.testing.assert_close(term, torch.tensor([float(np.log(n_classes))]))
        one = torch.zeros(1, n_classes)
        one[0, 0] = 20.0
        term = detector._outlier_terms(undecided, one)["outlier_exposure"]
        torch.testing.assert_close(term, torch.tensor([20.0 - 20.0 / n_classes]))
    assert detector._outlier_terms(undecided, undecided[:0]) == {}


def test_history(iris):
    X, y = iris
    detector = tiny(outliers=outliers_of(X)).set_params(classifier__validation_fraction=0.2)
    history = detector.fit(X, y).history_
    terms = ["cross_entropy", "outlier_exposure"]
    assert list(history) == ["loss", *terms, "validation_loss", "validation_cross_entropy"]
    np.testing.assert_allclose(history["loss"], sum(np.array(history[name]) for name in terms))
    np.testing.assert_array_equal(history["validation_loss"], history["validation_cross_entropy"])


def test_score_is_the_log_of_the_largest_probability(iris):
    X, y = iris
    detector = tiny(outliers=outliers_of(X)).fit(X, y)
    log_proba = log_softmax(detector.classifier_.decision_function(X), axis=1)
    np.testing.assert_allclose(detector.score_samples(X), log_proba.max(1))


def test_new_outliers_are_found_better_than_by_msp(kinds_of_digits):
    """Trained on the digits 5 to 7: both new images of these, and the digits 8 and 9."""
    ((X, y), (outliers, _), _), ((X_test, y_test), same, others) = kinds_of_digits
    network = MLP(max_epochs=30, batch_size=64, precision="fp32")
    ours = OutlierExposure(network, random_state=0).fit(
        np.concatenate([X, outliers]), np.r_[y, np.full(len(outliers), -1)]
    )
    plain = MSP(network, random_state=0).fit(X, y)
    for unknown, least, better in [(same[0], 0.99, 0.04), (others[0], 0.93, 0.02)]:
        known = np.arange(len(X_test) + len(unknown)) < len(X_test)
        data = np.concatenate([X_test, unknown])
        areas = [roc_auc_score(known, detector.score_samples(data)) for detector in (ours, plain)]
        assert areas[0] > least
        assert areas[0] > areas[1] + better
    assert (ours.classifier_.predict(X_test) == y_test).mean() > 0.97
    # Undecided among five classes.
    assert np.median(ours.predict_proba(same[0]).max(1)) < 0.35
    assert np.median(plain.classifier_.predict_proba(same[0]).max(1)) > 0.7
    assert (ours.predict(same[0]) == -1).mean() > 0.9
