"""Optimizers that the settings make, and the effect of their parameters."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from skood._torch.objective import Objective
from skood._torch.settings import TrainingSettings
from skood._torch.training import train
from skood.classifiers import MLP
from skood.density import NeuralSplineFlow

ADAM = TrainingSettings(
    max_epochs=1,
    max_steps=3,
    batch_size=4,
    learning_rate=0.1,
    lr_schedule="constant",
    clip_norm=None,
    patience=None,
    precision="fp32",
    compile=False,
    verbose=0,
)
SGD = replace(ADAM, optimizer="sgd", momentum=0.9)


class Slope(Objective):
    """A parameter that starts at 1 and whose loss has the slope `gradient`."""

    def __init__(self, gradient):
        super().__init__()
        self.value = nn.Parameter(torch.ones(()))
        self.gradient = gradient

    def read(self, rows):
        return rows

    def prepare(self, rows, generator):
        return (torch.from_numpy(rows),)

    def loss(self, rows):
        return self.gradient * self.value.expand(len(rows))


def trained(settings, gradient):
    slope = Slope(gradient)
    train(
        slope,
        np.arange(12),
        np.arange(0),
        settings,
        seed=0,
        device=torch.device("cpu"),
    )
    return slope.value.item()


def by_hand(*, momentum=0.0, weight_decay=0.0, gradient=1.0, learning_rate=0.1, n_steps=3):
    """SGD with Nesterov momentum (Sutskever et al., 2013), in torch's form."""
    value, velocity = 1.0, 0.0
    for _ in range(n_steps):
        slope = gradient + weight_decay * value
        velocity = momentum * velocity + slope
        value -= learning_rate * (slope + momentum * velocity)
    return value


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_sgd(momentum, weight_decay):
    settings = replace(SGD, momentum=momentum, weight_decay=weight_decay)
    expected = by_hand(momentum=momentum, weight_decay=weight_decay)
    assert trained(settings, 1.0) == pytest.approx(expected, rel=1e-6)


def test_weight_decay_shrinks_parameters_without_gradient():
    assert trained(SGD, 0.0) == 1
    settings = replace(SGD, momentum=0.0, weight_decay=0.2)
    assert trained(settings, 0.0) == pytest.approx((1 - 0.1 * 0.2) ** 3, rel=1e-6)


def test_adam_moves_by_the_learning_rate_for_any_gradient():
    for gradient in (1e-3, 1.0, 1e3):
        assert trained(ADAM, gradient) == pytest.approx(1 - 3 * 0.1, rel=1e-3)
    assert trained(replace(ADAM, weight_decay=0.2), 0.0) == pytest.approx(0.7, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "step"),
    # First step by hand: RMSprop's mean of squares is (1 - .9) g^2, Adadelta's step is
    # sqrt(eps / ((1 - .95) g^2 + eps)) g.
    [("rmsprop", 0.1 / math.sqrt(0.1)), ("adadelta", 0.1 * math.sqrt(1e-7 / (0.05 + 1e-7)))],
)
def test_first_step_of_adaptive_optimizers(name, step):
    settings = replace(ADAM, optimizer=name, max_steps=1)
    assert 1 - trained(settings, 1.0) == pytest.approx(step, rel=1e-2)


def test_estimators_choose():
    groups = [{"params": list(nn.Linear(1, 1).parameters())}]
    settings = TrainingSettings.of(MLP(momentum=0.8, weight_decay=0.1, learning_rate=0.3))
    group = settings.make_optimizer(groups).param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["lr"]) == (0.8, 0.1, 0.3)
    assert group["nesterov"]
    plain = TrainingSettings.of(MLP(momentum=0)).make_optimizer(groups)
    assert not plain.param_groups[0]["nesterov"]
    for estimator, kind in [
        (MLP(optimizer="adam"), torch.optim.Adam),
        (MLP(optimizer="adadelta"), torch.optim.Adadelta),
        (NeuralSplineFlow(), torch.optim.Adam),
    ]:
        assert isinstance(TrainingSettings.of(estimator).make_optimizer(groups), kind)
