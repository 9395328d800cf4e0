"""What all training-time methods keep: resumed runs, compiled steps, gradients."""

from functools import cache, partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris

from skood import MLP, VAE, VMDLS, VOS, DeepSAD, DeepSVDD, OODGen, training_time

N_EPOCHS = 5


def network(**params):
    """Network that trains for 5 epochs of 4 steps, on 150 rows."""
    settings = {"max_epochs": N_EPOCHS, "batch_size": 32, "precision": "fp32", "random_state": 0}
    return MLP((8,), **{**settings, "learning_rate": 0.01, **params})


# Parameters that show what a method does within five epochs.
PARAMETERS = {
    # Virtual outliers begin with the ninth step, and weigh more than by default.
    VOS: {"n_candidates": 200, "uncertainty_weight": 5.0, "n_outliers_per_class": 20},
    OODGen: {
        "vae": VAE(1, conditional=True, hidden_features=(8,), max_epochs=3),
        "off_manifold_interval": 2,
    },
    # Four steps an epoch too; it does not use the batch size of its backbone.
    VMDLS: {
        "backbone": network(optimizer="adam", batch_size=128),
        "n_latent": 3,
        "n_classes_per_batch": 3,
        "n_samples_per_batch": 12,
    },
    DeepSVDD: {"n_latent": 4},
    DeepSAD: {"n_latent": 4},
}


def methods():
    """Yield the name and an instance of every method."""
    for name in training_time.__all__:
        cls = getattr(training_time, name)
        if hasattr(cls, "score_samples") and not cls.__abstractmethods__:
            optimizer = "adam" if cls._architecture == "backbone" else "sgd"
            given = {cls._architecture: network(optimizer=optimizer)}
            yield name, cls(**{**given, **PARAMETERS.get(cls, {})})
    soft = {"objective": "soft-boundary", "n_warm_up_epochs": 2}
    yield "soft boundary", DeepSVDD(network(optimizer="adam"), 4, **soft)


METHODS = dict(methods())
each_method = pytest.mark.parametrize("name", METHODS)


def method(name):
    return clone(METHODS[name]).set_params(random_state=0)


@cache
def data():
    """Rows and labels of iris, and 50 outliers among them."""
    X, y = load_iris(return_X_y=True)
    outliers = X[::3] + np.random.default_rng(0).normal(2, 1, size=(50, 4))
    order = np.random.default_rng(1).permutation(200)
    return np.r_[X, outliers][order], np.r_[y, np.full(50, -1)][order]


@cache
def trained(name):
    return method(name).fit(*data())


def state_of(detector):
    return getattr(detector, f"{detector._architecture}_").module_.state_dict()


# In the first epoch, within a later one, and between two.
@pytest.mark.parametrize("step", [3, 10, 16])
@each_method
def test_resumed_training_ends_the_same(name, step, resumed, tmp_path):
    whole = trained(name)
    again = resumed(method(name), *data(), step, tmp_path)
    torch.testing.assert_close(state_of(again), state_of(whole), rtol=0, atol=0)
    X, _ = data()
    np.testing.assert_array_equal(again.score_samples(X), whole.score_samples(X))
    assert list(again.history_) == list(whole.history_)
    for term, values in whole.history_.items():
        assert again.history_[term] == pytest.approx(values, rel=1e-5)


@each_method
def test_a_compiled_step_has_the_same_loss(name, monkeypatch):
    plain = trained(name)
    # Traced as by default, but not translated to C++, which takes half a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    detector = method(name)
    compiled = detector.set_params(**{f"{detector._architecture}__compile": True}).fit(*data())
    assert compiled.history_["loss"] == pytest.approx(plain.history_["loss"], rel=1e-4)


@each_method
def test_every_parameter_gets_a_gradient(name, objective_of):
    objective, rows, _ = objective_of(method(name), *data())
    rng = np.random.default_rng(0)
    generator = torch.Generator()
    for epoch in range(N_EPOCHS - 1):
        objective.start_epoch(epoch, resumed=False)
        for batch in objective.epoch_batches(rows, 32, rng):
            with torch.no_grad():
                objective.loss(*objective.prepare(objective.read(batch), generator))
                objective.after_step()
    objective.start_epoch(N_EPOCHS - 1, resumed=False)
    batch = objective.epoch_batches(rows, 32, rng)[0]
    losses = objective.loss(*objective.prepare(objective.read(batch), generator))
    terms = losses.values() if isinstance(losses, dict) else [losses]
    sum(term.mean() for term in terms).backward()
    for label, parameter in objective.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, label
    assert not any(tensor.requires_grad for tensor in objective.buffers())
    grouped = [p for group in objective.parameter_groups() for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped})
    assert {id(p) for p in grouped} == {id(p) for p in objective.parameters()}
