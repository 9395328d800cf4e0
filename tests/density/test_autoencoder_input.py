"""Inputs of an autoencoder: forms, shapes, units and errors."""

import re

import numpy as np
import pytest
import torch
from tiny_models import Items, make_autoencoder
from torch.utils.data import TensorDataset

from skood.density import Autoencoder

METHODS = "transform", "reconstruct"


FORMS = {
    "float64": ({}, lambda x: x / 255),
    "float32": ({}, lambda x: (x / 255).astype(np.float32)),
    "int64": ({"value_range": (0, 255)}, lambda x: x.astype(np.int64)),
    "another range": ({"value_range": (-1, 1)}, lambda x: x / 127.5 - 1),
    "minmax": ({"value_range": "minmax"}, lambda x: x * 7.0 - 3),
    "(n, 1, H, W)": ({}, lambda x: x[:, None]),
    "(n, H, W, 1)": ({}, lambda x: x[..., None]),
    "fortran order": ({}, np.asfortranarray),
    "tensor": ({}, torch.from_numpy),
    "dataset": ({}, Items),
    "TensorDataset": ({}, lambda x: TensorDataset(torch.from_numpy(x), torch.arange(len(x)))),
    "flat rows": ({"image_shape": (1, 5, 4)}, lambda x: x.reshape(len(x), -1)),
    "flat dataset": ({"image_shape": [1, 5, 4]}, lambda x: Items(x.reshape(len(x), -1))),
}


@pytest.mark.parametrize("form", FORMS)
def test_images_in_every_form(images, form):
    """The same latents, and the same reconstructions in the units of X."""
    images[0, 0, :2] = 0, 255
    settings, transform = FORMS[form]
    X = transform(images)
    plain, same = make_autoencoder().fit(images), make_autoencoder(**settings).fit(X)
    assert plain.value_range_ == (0, 255)
    low, high = same.value_range_
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(same.transform(X), plain.transform(images), **close)
    made = same.reconstruct(X)
    assert made.shape == (24, *same.input_shape_)
    assert same.input_shape_ == ((20,) if "flat" in form else (1, 5, 4))
    np.testing.assert_allclose(
        ((made - low) / (high - low)).reshape(24, 1, 5, 4), plain.reconstruct(images) / 255, **close
    )
    np.testing.assert_allclose(same.history_["loss"], plain.history_["loss"], rtol=1e-4)


def test_rows_in_every_form():
    X = np.random.default_rng(0).integers(9, size=(24, 3))
    expected = make_autoencoder().fit(X.astype(float)).reconstruct(X)
    for other in (X.astype(np.uint8), X.tolist(), torch.from_numpy(X), Items(X.astype(float))):
        np.testing.assert_array_equal(make_autoencoder().fit(other).reconstruct(other), expected)


@pytest.mark.parametrize("shape", [(28, 28), (7, 9), (1, 8), (3, 7, 5), (2, 2, 2), (6, 5, 3)])
@pytest.mark.parametrize("n_filters", [(), (6, 7), (6, 7, 8, 9)])
def test_shapes_of_images(shape, n_filters):
    """Odd sizes, more halvings than there are pixels, and channels in either place."""
    X = np.random.default_rng(0).random((12, *shape))
    autoencoder = make_autoencoder(n_filters=n_filters, hidden_features=(64,)).fit(X)
    channels_last = len(shape) == 3 and shape[2] == 3
    item = (shape[2], *shape[:2]) if channels_last else shape if len(shape) == 3 else (1, *shape)
    latents, made = autoencoder.transform(X), autoencoder.reconstruct(X)
    assert latents.shape == (12, 2)
    assert made.shape == (12, *item)
    np.testing.assert_array_equal(autoencoder.inverse_transform(latents), made)
    # What comes out goes in again.
    assert autoencoder.reconstruct(made).shape == made.shape
    # Every pixel and channel is read, and made of the latents.
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((64, *item), generator=generator, requires_grad=True)
    autoencoder.module_.encode(x).square().sum().backward()
    assert (x.grad != 0).any(0).all()
    decoded = autoencoder.module_.decode(3 * torch.randn((64, 2), generator=generator))
    assert (decoded.std(0) > 0).all()


@pytest.mark.parametrize(
    ("X", "settings"),
    [
        (np.random.default_rng(0).integers(256, size=(24, 5, 4), dtype=np.uint8), {}),
        (np.random.default_rng(0).random((24, 5, 4)), {}),
        (np.random.default_rng(0).normal(size=(24, 5, 4)), {"value_range": "minmax"}),
        (np.random.default_rng(0).uniform(-3, 5, size=(24, 6)), {"value_range": (-3, 5)}),
        (np.random.default_rng(0).normal(size=(24, 6)), {"value_range": "minmax"}),
    ],
    ids=["bytes", "floats", "minmax", "rows", "minmax rows"],
)
def test_reconstructions_lie_in_the_range(X, settings):
    autoencoder = make_autoencoder(max_steps=30, hidden_features=(16,), **settings).fit(X)
    low, high = autoencoder.value_range_
    expected = {np.dtype(np.uint8): (0, 255), np.dtype(float): (0, 1)}[X.dtype]
    if settings:
        expected = settings["value_range"]
    assert (low, high) == (expected if expected != "minmax" else (X.min(), X.max()))
    far = autoencoder.inverse_transform(1e3 * np.random.default_rng(0).normal(size=(100, 2)))
    for made in (autoencoder.reconstruct(X), far):
        assert made.min() >= low
        assert made.max() <= high
    # Both ends of it can be reached.
    assert far.min() < low + 0.01 * (high - low)
    assert far.max() > high - 0.01 * (high - low)
    if settings.get("value_range") == "minmax":
        beyond = autoencoder.reconstruct(10 * X)
        assert low <= beyond.min() < beyond.max() <= high
        assert (autoencoder.transform(10 * X) != autoencoder.transform(X)).any(1).all()


def test_standardised_rows_have_no_range():
    X = np.random.default_rng(0).normal(size=(40, 3))
    autoencoder = make_autoencoder(max_steps=20).fit(X)
    assert autoencoder.value_range_ is None
    np.testing.assert_allclose(autoencoder.mean_, X.mean(0))
    np.testing.assert_allclose(autoencoder.scale_, X.std(0))
    assert np.ptp(autoencoder.inverse_transform([[-1e4, 0], [1e4, 0]])) > 100


@pytest.mark.parametrize(
    "X", [np.full((20, 5, 4), 0.3), np.zeros((20, 5, 4), np.uint8), np.full((20, 3), 1e6)]
)
def test_constant_data(X):
    autoencoder = make_autoencoder(max_steps=100, learning_rate=0.05).fit(X)
    assert np.isfinite(autoencoder.transform(X)).all()
    unit = 255 if X.dtype == np.uint8 else 1
    np.testing.assert_allclose(
        autoencoder.reconstruct(X).reshape(X.shape) / unit, X / unit, atol=0.05
    )


def test_input_is_never_modified():
    original = np.random.default_rng(0).random((12, 1, 4, 4)).astype(np.float32)
    for X in (original.copy(), torch.from_numpy(original.copy())):
        make_autoencoder().fit(X).reconstruct(X)
        np.testing.assert_array_equal(np.asarray(X), original)


@pytest.mark.parametrize(
    ("settings", "X", "message"),
    [
        ({}, np.full((9, 3, 4), 2.5), "X has values from 2.5 to 2.5, but pixels from 0 to 1"),
        ({"value_range": (0, 16)}, np.full((9, 3), 17), "X has values from 17 to 17, but pixels"),
        ({}, np.zeros((9, 3, 4), dtype=np.int64), "pixels of dtype int64 have no range of their"),
        ({"value_range": (1, 1)}, np.zeros((9, 3, 4)), "value_range=(1, 1) must be (low, high)"),
        (
            {"image_shape": (1, 3, 5)},
            np.zeros((9, 12)),
            "items of shape (12,) hold 12 values, which do not fill the shape (1, 3, 5)",
        ),
        ({}, np.zeros((1, 3)), "Found array with 1 sample(s)"),
        ({}, np.full((9, 3), np.nan), "Input X contains NaN"),
        ({}, np.zeros((9, 2, 3, 4, 5)), "X has shape (9, 2, 3, 4, 5); expected rows (n, d) or"),
        ({"n_latent": 0}, np.zeros((9, 3)), "The 'n_latent' parameter of Autoencoder must be an"),
        ({"n_filters": 3}, np.zeros((9, 3)), "The 'n_filters' parameter of Autoencoder must be"),
        ({"value_range": 3}, np.zeros((9, 3)), "The 'value_range' parameter of Autoencoder must"),
        ({"optimizer": "sgd"}, np.zeros((9, 3)), "The 'optimizer' parameter of Autoencoder must"),
    ],
)
def test_what_fit_refuses(settings, X, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_autoencoder(**settings).fit(X)


def test_unknown_parameter_is_refused():
    with pytest.raises(TypeError, match="mutation_rate"):
        Autoencoder(mutation_rate=0.1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("X", "message"),
    [
        (
            np.zeros((2, 4, 5), dtype=np.uint8),
            "X has items of shape (1, 4, 5), but Autoencoder was fitted on items of shape (1, 5, 4)"
            " (images are counted as (C, H, W))",
        ),
        (
            np.zeros((2, 5, 4)),
            "X has pixels of dtype float64, but Autoencoder was fitted on pixels from 0 to 255",
        ),
        (np.zeros((0, 5, 4), dtype=np.uint8), "Found array with 0 sample(s)"),
        (np.full((2, 5, 4), np.nan), "Input contains NaN"),
    ],
)
def test_what_reading_refuses(images, method, X, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(make_autoencoder().fit(images), method)(X)


def test_range_of_a_stream_is_checked_on_the_way():
    X = np.full((60, 3, 3), 0.5)
    autoencoder = make_autoencoder().fit(X)
    X[50] = 2
    message = "X has values from 0.5 to 2, but pixels from 0 to 1 are expected for float64 images"
    for form in (X, Items(X)):
        with pytest.raises(ValueError, match=re.escape(message)):
            make_autoencoder(max_epochs=1, batch_size=60).fit(form)
        for method in METHODS:
            with pytest.raises(ValueError, match=re.escape(message)):
                getattr(autoencoder, method)(form)


def test_values_beyond_what_can_be_computed():
    X = np.random.default_rng(0).normal(size=(20, 3))
    autoencoder = make_autoencoder().fit(X)
    far = X.copy()
    far[[3, 5]] *= 1e300
    for method in METHODS:
        with pytest.raises(ValueError, match="NaN or inf for 2 of the 20 items of X, whose values"):
            getattr(autoencoder, method)(far)
    with pytest.raises(ValueError, match="NaN or inf for 1 of the 2 items of Z, whose values"):
        autoencoder.inverse_transform([[0, 1], [1e300, 0]])


def test_what_decoding_refuses(images):
    autoencoder = make_autoencoder().fit(images)
    for Z, message in [
        (np.zeros((3, 5)), "Z has 5 columns; expected n_latent=2"),
        (np.full((3, 2), np.nan), "Input Z contains NaN"),
        (np.zeros(2), "Expected 2D array, got 1D array instead"),
    ]:
        with pytest.raises(ValueError, match=message):
            autoencoder.inverse_transform(Z)


def test_unfitted_autoencoder_says_so(images):
    for method in (*METHODS, "inverse_transform"):
        with pytest.raises(ValueError, match="This Autoencoder instance is not fitted yet"):
            getattr(Autoencoder(), method)(images)
