"""Optimizers and schedules of the densities' parameters."""

import numpy as np
import pytest
from estimators import tiny_flow

X = np.random.default_rng(0).normal(size=(60, 3))


def weights(**settings):
    """Weights after training on one batch a step, by name."""
    settings = {"batch_size": 60, "validation_fraction": 0.0, "max_steps": 1, **settings}
    flow = tiny_flow(random_state=0, clip_norm=None, **settings).fit(X)
    return {name: weight.detach().numpy() for name, weight in flow.module_.named_parameters()}


def test_adamw_shrinks_weights_by_the_learning_rate():
    settings = {"optimizer": "adamw", "learning_rate": 0.01, "lr_schedule": "constant"}
    initial = weights(learning_rate=1e-12)
    without, decayed = (weights(**settings, weight_decay=decay) for decay in (0.0, 0.5))
    adam = weights(**settings | {"optimizer": "adam"})
    for name, weight in initial.items():
        np.testing.assert_allclose(decayed[name] - without[name], -0.005 * weight, atol=1e-6)
        np.testing.assert_allclose(without[name], adam[name], atol=1e-6)


def test_weight_decay_of_adam_is_a_penalty():
    """Adam scales the penalty's gradient to steps of the learning rate."""
    settings = {"learning_rate": 0.01, "lr_schedule": "constant", "weight_decay": 1e9}
    initial, decayed = weights(learning_rate=1e-12), weights(**settings)
    for name, weight in initial.items():
        large = np.abs(weight) > 1e-3
        expected = -0.01 * np.sign(weight[large])
        np.testing.assert_allclose((decayed[name] - weight)[large], expected, atol=1e-5)


def test_schedule_of_points():
    """The second of two steps is taken at half of the training."""
    settings = {"max_steps": 2, "learning_rate": 0.01}
    constant = weights(**settings, lr_schedule="constant")
    points = weights(**settings, lr_schedule=[(0, 1), (1, 1)])
    first = weights(**settings | {"max_steps": 1}, lr_schedule="constant")
    stopped = weights(**settings, lr_schedule=((0, 1), (0.5, 1), (0.5, 0), (1, 0)))
    for name in constant:
        np.testing.assert_array_equal(points[name], constant[name])
        np.testing.assert_array_equal(stopped[name], first[name])
    assert any((constant[name] != first[name]).any() for name in constant)
    with pytest.raises(ValueError, match="fraction of the training, factor of the learning rate"):
        weights(lr_schedule=((0.5, 1), (1, 0)))
