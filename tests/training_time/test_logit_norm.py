"""LogitNorm: cross-entropy of the direction of the logits."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score

from skood import MLP, MSP, LogitNorm, ShallowConvNet
from skood.functional import log_msp


def tiny(**params):
    network = MLP((8,), max_epochs=6, batch_size=32, learning_rate=0.01, precision="fp32")
    return LogitNorm(**{"classifier": network, "random_state": 0, **params})


@pytest.mark.parametrize("temperature", [0.04, 0.5])
def test_loss_is_that_of_the_paper(iris, objective_of, temperature):
    objective, rows, _ = objective_of(tiny(temperature=temperature), *iris)
    x, class_index = objective.prepare(objective.read(rows[::4]), None)
    loss = objective.loss(x, class_index)
    logits = objective.network(x).detach().double().numpy()
    length = np.sqrt((logits**2).sum(1, keepdims=True))
    proba = np.exp(logits / (temperature * length))
    proba /= proba.sum(1, keepdims=True)
    expected = -np.log(proba[np.arange(len(x)), class_index])
    np.testing.assert_allclose(loss.detach(), expected, rtol=1e-4, atol=1e-6)
    loss.mean().backward()
    assert all(p.grad.abs().max() > 0 for p in objective.network.parameters())


def test_length_of_the_logits_makes_no_difference(iris, objective_of):
    objective, rows, _ = objective_of(tiny(temperature=0.2), *iris)
    batch = objective.prepare(objective.read(rows[::4]), None)
    before = objective.loss(*batch)
    with torch.no_grad():
        for parameter in objective.network[-1].parameters():
            parameter *= 50
    torch.testing.assert_close(objective.loss(*batch), before, rtol=1e-4, atol=1e-5)


def test_limits_of_the_loss(iris, objective_of):
    """A vanishing length is no division by 0; the largest margin of three classes is known."""
    objective, rows, _ = objective_of(tiny(temperature=0.5), *iris)
    x, class_index = objective.prepare(objective.read(rows), None)
    for network, expected in [
        (lambda x: torch.zeros(len(x), 3), np.log(3)),
        # The unit vector along e_y - (1, 1, 1) / 3.
        (
            lambda x: 1e3 * (torch.eye(3)[class_index] - 1 / 3),
            np.log1p(2 * np.exp(-np.sqrt(1.5) / 0.5)),
        ),
    ]:
        objective.network.forward = network
        np.testing.assert_allclose(objective.loss(x, class_index), expected, rtol=1e-5)


def test_label_smoothing_is_kept(iris, objective_of):
    network = MLP((8,), label_smoothing=0.3, max_epochs=1)
    objective, rows, _ = objective_of(tiny(classifier=network, temperature=0.5), *iris)
    x, class_index = objective.prepare(objective.read(rows[::4]), None)
    logits = objective.network(x).detach().double().numpy()
    log_proba = log_softmax(2 * logits / np.linalg.norm(logits, axis=1, keepdims=True), axis=1)
    right = log_proba[np.arange(len(x)), class_index]
    expected = -0.7 * right - 0.3 * log_proba.mean(1)
    np.testing.assert_allclose(objective.loss(x, class_index).detach(), expected, rtol=1e-4)
    np.testing.assert_allclose(objective.eval().loss(x, class_index).detach(), -right, rtol=1e-4)


def test_score_is_the_log_of_the_largest_plain_probability(iris):
    X, y = iris
    detector = tiny().fit(X, y)
    logits = detector.classifier_.decision_function(X)
    np.testing.assert_allclose(detector.score_samples(X), log_softmax(logits, axis=1).max(1))
    np.testing.assert_allclose(detector.predict_proba(X).max(1), np.exp(detector.score_samples(X)))


def test_score_of_a_probability_close_to_1():
    """log(1 - 2 e^-100), of which log_softmax makes 0."""
    logits = np.array([[0.0, 100.0, 0.0], [-100.0, -200.0, -200.0], [1.0, 1.0, 1.0]])
    np.testing.assert_allclose(log_msp(logits), [-2 * np.exp(-100)] * 2 + [-np.log(3)], rtol=1e-12)


def test_default_for_rows_does_not_saturate(iris):
    X, y = iris
    detector = LogitNorm(random_state=0).fit(X, y)
    assert detector.classifier_.learning_rate == 0.005
    assert (detector.classifier_.predict(X) == y).mean() > 0.9
    assert (detector.score_samples(X) < -1e-6).mean() > 0.9


def test_less_confident_than_cross_entropy(kinds_of_digits):
    """With the same network and seed, as accurate and less sure of digits it has not seen."""
    ((X, y), _, _), ((X_test, y_test), (outliers, _), _) = kinds_of_digits
    network = ShallowConvNet(
        (16, 32), hidden_features=64, optimizer="adam", learning_rate=1e-3, max_epochs=25
    ).set_params(batch_size=32, precision="fp32")
    ours, plain = (method(network, random_state=0).fit(X, y) for method in (LogitNorm, MSP))
    confidence = [
        np.median(detector.classifier_.predict_proba(outliers).max(1)) for detector in (ours, plain)
    ]
    assert confidence[0] < 0.5
    assert confidence[1] > 0.6
    assert (ours.classifier_.predict(X_test) == y_test).mean() > 0.95
    scores = ours.score_samples(np.concatenate([X_test, outliers]))
    assert roc_auc_score(np.arange(len(scores)) < len(X_test), scores) > 0.8


@pytest.mark.parametrize(
    "labels", [np.array(["a", "b", "c"]), np.array([5, 7, 90])], ids=["str", "int"]
)
def test_labels_of_any_kind(iris, labels):
    X, y = iris
    plain, named = tiny().fit(X, y), tiny().fit(X, labels[y])
    np.testing.assert_array_equal(named.classes_, labels)
    np.testing.assert_allclose(named.score_samples(X), plain.score_samples(X))


def test_errors(iris):
    X, y = iris
    with pytest.raises(ValueError, match="The 'temperature' parameter"):
        tiny(temperature=0.0).fit(X, y)
    with pytest.raises(ValueError, match="requires y to be passed"):
        tiny().fit(X)


def test_a_learning_rate_that_is_too_high(iris):
    """The loss stays above that of equal probabilities, log 3, and is said to."""
    X, y = iris
    network = MLP((64, 64), max_epochs=20, random_state=0)
    with pytest.warns(UserWarning) as caught:
        detector = LogitNorm(network, random_state=0).fit(X, y)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    loss = detector.history_["loss"][-1]
    assert loss > 1.1
    assert str(caught[0].message).startswith(
        f"the training loss of LogitNorm ends at {loss:.3g}, which is no better than 1.1, "
    )
    assert "25 times" in str(caught[0].message) and "learning_rate=0.05" in str(caught[0].message)
    network.set_params(learning_rate=0.005)
    assert LogitNorm(network, random_state=0).fit(X, y).history_["loss"][-1] < 1
