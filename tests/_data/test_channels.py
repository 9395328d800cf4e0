"""Which axis of images holds the channels."""

import re

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch.utils.data import TensorDataset

import skood
from skood._data.channels import channels_are_last, channels_first
from skood._data.validation import check_data
from skood.classifiers import NeuralClassifier


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((9, 3, 16, 16), False),
        ((9, 16, 16, 3), True),
        ((9, 28, 28, 1), True),
        ((9, 1, 28, 28), False),
        ((9, 3, 16, 3), False),
        ((9, 64, 8, 8), False),
        ((9, 3, 32, 16), False),
        ((9, 2, 5, 4), False),
        ((9, 3, 4, 2), False),
        ((9, 13, 64, 64), False),
        ((9, 17, 17, 17), False),
        ((9, 32, 32, 17), False),
    ],
)
def test_recognised(shape, expected):
    assert channels_are_last(shape) is expected
    images = np.zeros(shape)
    assert channels_first(images).shape[1] == shape[3 if expected else 1]


@pytest.mark.parametrize("n_channels", [2, 4, 10, 13, 15, 16])
def test_few_channels_in_the_last_axis_may_be_columns(n_channels):
    shape = (9, 32, 17, n_channels)
    message = (
        f"X has shape {shape}: it may hold images (n, H, W, C) of {n_channels} channels, or "
        f"images (n, C, H, W) of 32 channels that are {n_channels} pixels wide. If the "
        "channels come last, give np.moveaxis(X, -1, 1), or set channels='last'"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        channels_are_last(shape)
    assert channels_are_last(shape, "last")
    assert not channels_are_last(shape, "first")


def test_stated_against_the_shape():
    assert not channels_are_last((9, 8, 8, 3), "first")
    assert channels_are_last((9, 3, 8, 8), "last")


X = np.random.default_rng(0).random((40, 12, 10, 4)).astype(np.float32)
MOVED = np.moveaxis(X, -1, 1)


def vae(**settings):
    settings = {"n_filters": (4, 4), "max_steps": 2, "random_state": 0, **settings}
    return skood.VAE(2, **settings)


class Linear(NeuralClassifier):
    def _build(self, item_shape, n_classes):
        n_values = int(np.prod(item_shape))
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(n_values, n_classes))


def test_estimators_ask_and_are_told():
    for data in (X, torch.from_numpy(X), TensorDataset(torch.from_numpy(X))):
        for model in (vae(), skood.LogLikelihood(vae()), skood.MSP(Linear())):
            with pytest.raises(ValueError, match="it may hold images"):
                model.fit(data, np.arange(40) % 2)
        density = vae(channels="last").fit(data)
        assert density.input_shape_ == (4, 12, 10)
        np.testing.assert_array_equal(density.score_samples(data), density.score_samples(MOVED))
    expected = vae().fit(MOVED).score_samples(MOVED)
    np.testing.assert_array_equal(vae(channels="last").fit(X).score_samples(X), expected)
    assert vae(channels="first").fit(X).input_shape_ == (12, 10, 4)


@pytest.mark.parametrize(
    "wrap",
    [
        skood.LogLikelihood,
        lambda density: skood.TunedThreshold(skood.LogLikelihood(density), random_state=0),
        lambda density: skood.LogLikelihood(FrozenEstimator(density.fit(X))),
    ],
)
def test_detectors_read_as_their_models_do(wrap):
    detector = wrap(vae(channels="last")).fit(X)
    assert detector.input_shape_ == (4, 12, 10)
    # Scores of data in either order are those of the same images.
    np.testing.assert_array_equal(detector.score_samples(X), detector.score_samples(MOVED))


def test_shared_data_are_told():
    with pytest.raises(ValueError, match="it may hold images"):
        skood.share_forward_pass(X)
    shared = skood.share_forward_pass(X, channels="last")
    assert shared.item_shape == (4, 12, 10)
    np.testing.assert_array_equal(shared.take(np.arange(2)), MOVED[:2])
    np.testing.assert_array_equal(shared.take_as_given(np.arange(2)), X[:2])
    assert skood.KNN(n_neighbors=5).fit(shared).score_samples(shared).shape == (40,)


def test_two_models_that_disagree():
    models = [skood.LogLikelihood(vae(channels="last")), skood.LogLikelihood(vae(channels="first"))]
    with pytest.raises(ValueError, match="expected one of 'first', 'last' and None, and the same"):
        skood.EnsembleDetector([("a", models[0]), ("b", models[1])]).fit(X)


def test_a_square_of_channels_keeps_the_order_of_fit():
    cube = np.random.default_rng(0).random((9, 4, 4, 4))
    fitted = vae(channels="last")
    data = check_data(fitted, cube, reset=True)
    np.testing.assert_array_equal(data.take(np.arange(9)), np.moveaxis(cube, -1, 1))
    again = check_data(fitted, cube, reset=False)
    np.testing.assert_array_equal(again.take(np.arange(9)), np.moveaxis(cube, -1, 1))
