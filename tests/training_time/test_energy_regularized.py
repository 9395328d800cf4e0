"""Energy-bounded learning: its loss, its margins, and what it is good for."""

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score

from skood import MLP, Energy, EnergyRegularized


def tiny(**params):
    network = MLP((8,), max_epochs=4, batch_size=32, learning_rate=0.01, precision="fp32")
    return EnergyRegularized(**{"classifier": network, "random_state": 0, **params})


def outliers_of(X):
    return X[::3] + 2.0


# An untrained network has energies around -log 3 = -1.1.
@pytest.mark.parametrize(("m_in", "m_out", "weight"), [(-23, -0.5, 0.1), (-1.1, -1.0, 2.0)])
def test_loss_is_that_of_the_paper(iris, objective_of, m_in, m_out, weight):
    X, y = iris
    detector = tiny(outliers=outliers_of(X), m_in=m_in, m_out=m_out, energy_weight=weight)
    objective, training, _ = objective_of(detector, X, y)
    rows = objective.epoch_batches(training, 20, np.random.default_rng(0))[0]
    x, class_index = objective.prepare(objective.read(rows), None)
    losses = objective.loss(x, class_index)
    assert list(losses) == ["cross_entropy", "energy_in", "energy_out"]
    exponentials = np.exp(objective.network(x).detach().double().numpy())
    right = exponentials[np.arange(20), y[rows[:20]]] / exponentials[:20].sum(1)
    energy = -np.log(exponentials.sum(1))
    inside = weight * np.maximum(0, energy[:20] - m_in) ** 2
    outside = weight * np.maximum(0, m_out - energy[20:]) ** 2
    assert 0 < inside.max()
    assert 0 < outside.max()
    for name, expected in zip(losses, [-np.log(right), inside, outside], strict=True):
        np.testing.assert_allclose(losses[name].detach(), expected, rtol=1e-4, atol=1e-5)
    (losses["energy_in"].mean() + losses["energy_out"].mean()).backward()
    assert all(p.grad.abs().max() > 0 for p in objective.network.parameters())


def test_limits_of_the_terms():
    """Nothing within the margins, a square beyond them, on one side each."""
    detector = EnergyRegularized(m_in=-10, m_out=-4, energy_weight=0.5)

    def terms(inlier, outlier):
        # One logit of c and one of -inf have the energy -c.
        logits = [torch.tensor([[c, -torch.inf]]) for c in (inlier, outlier)]
        return [float(term) for term in detector._outlier_terms(*logits).values()]

    assert terms(10.0, 4.0) == [0, 0]
    assert terms(99.0, -99.0) == [0, 0]
    assert terms(7.0, 10.0) == [0.5 * 3**2, 0.5 * 6**2]
    alone = detector._outlier_terms(torch.zeros(3, 2), torch.zeros(0, 2))
    assert list(alone) == ["energy_in"]


def test_history_and_score(iris):
    X, y = iris
    detector = tiny(outliers=outliers_of(X)).set_params(classifier__validation_fraction=0.2)
    detector.fit(X, y)
    terms = ["cross_entropy", "energy_in"]
    assert list(detector.history_) == [
        "loss",
        *terms,
        "energy_out",
        "validation_loss",
        *[f"validation_{name}" for name in terms],
    ]
    logits = detector.classifier_.decision_function(X)
    np.testing.assert_allclose(detector.score_samples(X), np.log(np.exp(logits).sum(1)))


def area(detector, known, unknown):
    data = np.concatenate([known, unknown])
    return roc_auc_score(np.arange(len(data)) < len(known), detector.score_samples(data))


@pytest.mark.parametrize("n_classes", [2, 5])
def test_new_outliers_are_found_better_than_by_energy(kinds_of_digits, n_classes):
    """With the default margins, and trained from random weights on few classes."""
    ((X, y), (outliers, _), _), ((X_test, y_test), same, _) = kinds_of_digits
    X, y = X[y < n_classes], y[y < n_classes]
    X_test, y_test = X_test[y_test < n_classes], y_test[y_test < n_classes]
    network = MLP(max_epochs=30, batch_size=64, precision="fp32")
    ours = EnergyRegularized(network, outliers, random_state=0).fit(X, y)
    plain = Energy(network, random_state=0).fit(X, y)
    assert area(ours, X_test, same[0]) > max(0.99, area(plain, X_test, same[0]) + 0.015)
    assert (ours.classifier_.predict(X_test) == y_test).mean() > 0.97
    # The energies are those that were asked for.
    assert np.median(ours.score_samples(X_test)) > 5.5
    assert np.median(ours.score_samples(same[0])) < 2.5


def test_fine_tuning_with_the_margins_of_the_authors(kinds_of_digits):
    ((X, y), (outliers, _), _), ((X_test, y_test), same, _) = kinds_of_digits
    settings = {"batch_size": 64, "precision": "fp32"}
    trained = MLP(max_epochs=20, random_state=0, **settings).fit(X, y)
    network = MLP(
        max_epochs=20, learning_rate=1e-3, weights_init=FrozenEstimator(trained), **settings
    )
    detector = EnergyRegularized(network, outliers, m_in=-23, m_out=-5, random_state=0).fit(X, y)
    assert area(detector, X_test, same[0]) > 0.99
    assert (detector.classifier_.predict(X_test) == y_test).mean() > 0.95


def test_errors(iris):
    X, y = iris
    with pytest.raises(ValueError, match=r"m_in=5 and m_out=-2\.0; expected m_in < m_out, since"):
        tiny(outliers=outliers_of(X), m_in=5).fit(X, y)
    with pytest.raises(ValueError, match="The 'energy_weight' parameter"):
        tiny(outliers=outliers_of(X), energy_weight=0).fit(X, y)
