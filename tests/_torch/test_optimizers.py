"""Optimizers that the settings make, and the effect of their parameters."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from skood._torch.objective import Objective
from skood._torch.settings import TrainingSettings, multi_step
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


def test_adamw_shrinks_parameters_by_the_learning_rate():
    """Loshchilov and Hutter (2019), algorithm 2: the decay does not pass through the moments."""
    settings = replace(ADAM, optimizer="adamw", weight_decay=0.2)
    assert trained(settings, 0.0) == pytest.approx((1 - 0.1 * 0.2) ** 3, rel=1e-6)


def test_amsgrad_divides_by_the_largest_second_moment():
    """Reddi et al. (2018): after a large gradient, Adam's steps grow again and AMSGrad's do not."""

    class Falling(Slope):
        def loss(self, rows):
            return (100.0 if self.epoch == 0 else 1.0) * self.value.expand(len(rows))

    def last(optimizer, n):
        slope = Falling(0.0)
        settings = replace(ADAM, optimizer=optimizer, max_steps=n, max_epochs=n, batch_size=12)
        settings = replace(settings, betas=(0.0, 0.9))
        train(slope, np.arange(12), [], settings, seed=0, device=torch.device("cpu"))
        return slope.value.item()

    step = {name: last(name, 30) - last(name, 31) for name in ("adam", "amsgrad")}
    # v_t = .9 v_(t-1) + .1 g^2, divided by 1 - .9^t; AMSGrad's maximum is v_1 = 1 000.
    v = 0.9**30 * 1000 + (1 - 0.9**30)
    assert step["adam"] == pytest.approx(0.1 * np.sqrt((1 - 0.9**31) / v), rel=1e-3)
    assert step["amsgrad"] == pytest.approx(0.1 * np.sqrt((1 - 0.9**31) / 1000), rel=1e-3)


@pytest.mark.parametrize(
    ("points", "factors"),
    [
        (((0, 0.2), (0.25, 1), (1, 0)), [0.2, 0.6, 1, 5 / 6, 4 / 6, 0.5, 2 / 6, 1 / 6]),
        (multi_step([2, 4, 5], 8), [1, 1, 0.1, 0.1, 0.01, 0.001, 0.001, 0.001]),
        (((0, 1), (1, 1)), [1] * 8),
        # Two points at the start: the second counts.
        (((0, 3), (0, 1), (1, 1)), [1] * 8),
    ],
    ids=["points", "milestones", "constant", "jump at 0"],
)
def test_points_of_a_schedule(points, factors):
    settings = replace(ADAM, lr_schedule=points)
    assert [settings.lr_factor(step, 8) for step in range(8)] == pytest.approx(factors)


@pytest.mark.parametrize(
    "points",
    [
        (),
        ((0, 1),),
        ((0, 1), (0.5, 1)),
        ((0.1, 1), (1, 1)),
        ((0, 1), (0.8, 1), (0.5, 1), (1, 1)),
        ((0, 1), (1, -1)),
        ((0, 1), (1, math.nan)),
        ((0, 1), (1, "1")),
        (0, 1),
        ((0, 1, 2), (1, 1, 2)),
    ],
)
def test_points_that_are_no_schedule_raise(points):
    with pytest.raises(ValueError, match=r"lr_schedule=.*; expected points"):
        MLP((2,), lr_schedule=points).fit(np.eye(4), [0, 0, 1, 1])


@pytest.mark.parametrize("milestones", [[0, 2], [3, 2], [2, 2], [2, 8]], ids=str)
def test_milestones_outside_the_training_raise(milestones):
    with pytest.raises(ValueError, match="expected increasing epochs between 0 and max_epochs=8"):
        multi_step(milestones, 8)


def test_lookahead():
    """SGD with an average every five steps, in closed form (a constant slope of 1)."""
    value = average = 1.0
    for step in range(1, 13):
        value -= 0.1
        if step % 5 == 0:
            kept = 0.9**5 * (step / 12) ** 3
            average = kept * average + (1 - kept) * value
            value = average
    settings = replace(ADAM, optimizer="sgd", lookahead=0.9, max_epochs=4, max_steps=None)
    # The trained weight is the average, without the last two steps.
    assert trained(settings, 1.0) == pytest.approx(average, rel=1e-6)
    assert average != value


def test_rates_of_groups_may_change_between_epochs():
    class Phases(Slope):
        def parameter_groups(self):
            return [{"params": [self.value], "lr_scale": 10.0 if self.epoch == 0 else 0.5}]

    slope = Phases(1.0)
    settings = replace(ADAM, optimizer="sgd", max_epochs=2, max_steps=None)
    train(slope, np.arange(12), [], settings, seed=0, device=torch.device("cpu"))
    assert slope.value.item() == pytest.approx(1 - 3 * 1.0 - 3 * 0.05)


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
