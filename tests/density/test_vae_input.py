"""Inputs and outputs of a VAE: forms, shapes, units, labels."""

import re

import numpy as np
import pytest
import torch
from tiny_models import Items
from torch.utils.data import TensorDataset

from skood._torch import precision
from skood.density import VAE


def make_vae(**kwargs):
    settings = {
        "n_latent": 2,
        "n_filters": (3,),
        "hidden_features": (6,),
        "n_importance_samples": 4,
        "max_steps": 2,
        "batch_size": 8,
        "precision": "fp32",
        "random_state": 0,
    }
    return VAE(**{**settings, **kwargs})


FORMS = {
    "float64": ({}, lambda x: x / 255),
    "float32": ({}, lambda x: (x / 255).astype(np.float32)),
    "int64": ({"value_range": (0, 255)}, lambda x: x.astype(np.int64)),
    "another range": ({"value_range": (-1, 1)}, lambda x: x / 127.5 - 1),
    "minmax": ({"value_range": "minmax"}, lambda x: x * 7.0 - 3),
    "(n, 1, H, W)": ({}, lambda x: x[:, None]),
    "(n, H, W, 1)": ({}, lambda x: x[..., None]),
    "list": ({"value_range": (0, 255)}, lambda x: x.tolist()),
    "fortran order": ({}, np.asfortranarray),
    "tensor": ({}, torch.from_numpy),
    "dataset": ({}, Items),
    "TensorDataset": ({}, lambda x: TensorDataset(torch.from_numpy(x), torch.arange(len(x)))),
    "flat rows": ({"image_shape": (1, 5, 4)}, lambda x: x.reshape(len(x), -1)),
    "flat dataset": ({"image_shape": [1, 5, 4]}, lambda x: Items(x.reshape(len(x), -1))),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "logistic"])
def test_images_in_every_form(images, form, likelihood):
    """The same scores and latents, but for the units of a density."""
    images[0, 0, :2] = 0, 255
    settings, transform = FORMS[form]
    X = transform(images)
    plain = make_vae(likelihood=likelihood).fit(images)
    same = make_vae(likelihood=likelihood, **settings).fit(X)
    low, high = same.value_range_
    units = 20 * np.log(255 / (high - low)) if likelihood == "gaussian" else 0
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(
        same.score_samples(X), plain.score_samples(images) + units, rtol=1e-5
    )
    np.testing.assert_allclose(same.transform(X), plain.transform(images), **close)
    decoded = (same.reconstruct(X) - low) / (high - low)
    assert decoded.shape == (24, *same.input_shape_)
    assert same.input_shape_ == ((20,) if "flat" in form else (1, 5, 4))
    assert same.n_features_in_ == 20
    np.testing.assert_allclose(
        decoded.reshape(24, 1, 5, 4), plain.reconstruct(images) / 255, **close
    )


def test_rows_in_every_form():
    X = np.random.default_rng(0).integers(9, size=(24, 3))
    plain = make_vae().fit(X.astype(float))
    frame_free = [X, X.astype(np.uint8), X.tolist(), torch.from_numpy(X), Items(X.astype(float))]
    for other in frame_free:
        vae = make_vae().fit(other)
        np.testing.assert_array_equal(vae.score_samples(other), plain.score_samples(X))
        np.testing.assert_array_equal(vae.reconstruct(other), plain.reconstruct(X))


@pytest.mark.parametrize(
    "shape",
    [(7, 5), (1, 8), (8, 1), (3, 7, 5), (3, 1, 6), (2, 2, 2), (1, 9, 4), (6, 5, 3), (5, 7, 1)],
)
@pytest.mark.parametrize("n_filters", [(), (6,), (6, 7), (6, 7, 8, 9)])
def test_shapes_of_images(shape, n_filters):
    """Odd sizes, more halvings than there are pixels, and channels in either place."""
    X = np.random.default_rng(0).random((12, *shape))
    vae = make_vae(n_filters=n_filters, hidden_features=(16,)).fit(X)
    channels_last = len(shape) == 3 and shape[2] in (1, 3)
    item = (shape[2], *shape[:2]) if channels_last else shape if len(shape) == 3 else (1, *shape)
    latents = vae.transform(X)
    assert latents.shape == (12, 2)
    assert vae.reconstruct(X).shape == vae.inverse_transform(latents).shape == (12, *item)
    np.testing.assert_allclose(vae.inverse_transform(latents), vae.reconstruct(X), rtol=1e-6)
    assert vae.sample(3, random_state=0).shape == (3, *item)
    assert np.isfinite(vae.score_samples(X)).all()
    # What comes out goes in again, as the same images.
    np.testing.assert_array_equal(
        vae.score_samples(X), vae.score_samples(X.transpose(0, 3, 1, 2) if channels_last else X)
    )
    # Every pixel and channel is read, and made of the latents.
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((64, *item), generator=generator, requires_grad=True)
    vae.module_.encode(x, None)[0].square().sum().backward()
    assert (x.grad != 0).any(0).all()
    made = vae.module_.decode(3 * torch.randn((64, 2), generator=generator), None)
    assert (made.std(0) > 0).all()


@pytest.mark.parametrize("shape", [(9, 1), (1, 9), (1, 1), (9, 2)])
@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
@pytest.mark.filterwarnings("ignore:in bfloat16 the gradient:UserWarning")
def test_narrow_images_train_right_whatever_the_hardware(monkeypatch, shape, likelihood):
    """Some processors' gradients in bfloat16 are garbage where a stride runs along one pixel."""
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: True)
    X = np.random.default_rng(0).random((30, *shape))
    settings = {"n_filters": (8, 8), "likelihood": likelihood, "max_steps": 10}
    for seed in range(3):
        half, single = (
            make_vae(**settings, precision=p, random_state=seed).fit(X) for p in ("auto", "fp32")
        )
        assert half.history_["loss"] == pytest.approx(single.history_["loss"], rel=0.02)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "logistic"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_units_and_dtypes_of_what_comes_out(likelihood, dtype):
    high = 255 if dtype is np.uint8 else 1
    X = (np.random.default_rng(0).random((24, 3, 5, 4)) * 0.2 * high).astype(dtype)
    settings = {"max_steps": 150, "learning_rate": 0.03, "validation_fraction": 0}
    vae = make_vae(likelihood=likelihood, **settings).fit(X)
    assert vae.dtype_ == dtype
    assert vae.value_range_ == (0, high)
    decoded = vae.reconstruct(X)
    assert decoded.dtype == vae.transform(X).dtype == np.float64
    # The mean of the data, once that is learned.
    assert decoded.mean() == pytest.approx(0.1 * high, rel=0.2)
    drawn = vae.sample(50, random_state=0)
    assert drawn.dtype == dtype
    assert drawn.min() >= 0
    assert drawn.max() <= high
    if likelihood == "logistic":
        assert abs(drawn * (255 / high) - np.round(drawn * (255 / high))).max() < 1e-4
    assert np.isfinite(vae.score_samples(drawn)).all()


def test_rows_come_back_in_their_units():
    rng = np.random.default_rng(0)
    scale, shift = np.array([1e-3, 1.0, 1e4, 1.0]), np.array([5.0, -100.0, 0.0, 1e6])
    unit = rng.normal(size=(200, 1)) + 0.1 * rng.normal(size=(200, 4))
    X = unit * scale + shift
    settings = {"max_steps": 300, "max_epochs": 100, "learning_rate": 0.02, "batch_size": 50}
    settings = {**settings, "hidden_features": (), "validation_fraction": 0}
    vae = make_vae(**settings).fit(X)
    np.testing.assert_allclose(vae.mean_, X.mean(0))
    np.testing.assert_allclose(vae.scale_, X.std(0))
    assert vae.value_range_ is None
    errors = (vae.reconstruct(X) - X).std(0) / scale
    assert errors.max() < 0.2
    # Rescaled rows have the same density up to the volume.
    plain = make_vae(**settings).fit(unit)
    np.testing.assert_allclose(
        vae.score_samples(X), plain.score_samples(unit) - np.log(scale).sum(), atol=5e-2
    )
    np.testing.assert_allclose(vae.transform(X), plain.transform(unit), atol=1e-2)


def test_pixels_are_rounded_to_the_nearest_level():
    rng = np.random.default_rng(0)
    levels = rng.integers(5, size=(12, 4, 4))
    moved = np.clip(levels / 4 + rng.uniform(-0.12, 0.12, size=levels.shape), 0, 1)
    vae = make_vae(n_levels=5, hidden_features=()).fit(levels / 4)
    with torch.no_grad():
        # A posterior that is the prior, so that only the likelihood reads x.
        vae.module_.encoder[0].weight.zero_()
        vae.module_.encoder[0].bias.zero_()
    np.testing.assert_array_equal(vae.score_samples(moved), vae.score_samples(levels / 4))
    beyond = np.clip(levels / 4 + 0.13, 0, 1)
    assert (vae.score_samples(beyond) != vae.score_samples(levels / 4)).all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
@pytest.mark.parametrize("shape", [(20, 4, 4), (20, 6)])
def test_minmax_clips_later_data_to_the_range_of_training(likelihood, shape):
    """No law beyond it: pixels ten times as bright as white would be ever more probable."""
    X = np.random.default_rng(0).normal(5, 1, size=shape)
    vae = make_vae(likelihood=likelihood, value_range="minmax", n_levels=8).fit(X)
    assert vae.value_range_ == (X.min(), X.max())
    clipped = np.clip(10 * X - 45, X.min(), X.max())
    np.testing.assert_array_equal(vae.score_samples(10 * X - 45), vae.score_samples(clipped))
    np.testing.assert_array_equal(vae.transform(10 * X - 45), vae.transform(clipped))


def test_minmax_of_a_normal_law_goes_on_beyond_the_range():
    X = np.random.default_rng(0).normal(size=(20, 4, 4))
    vae = make_vae(likelihood="gaussian", value_range="minmax").fit(X)
    far = [vae.score(factor * X) for factor in (1, 3, 10, 100)]
    assert (np.diff(far) < -10).all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "logistic"])
@pytest.mark.parametrize(
    ("settings", "X"),
    [
        ({}, np.full((20, 5, 4), 0.3)),
        ({}, np.zeros((20, 5, 4), dtype=np.uint8)),
        ({"value_range": "minmax"}, np.full((20, 5, 4), -7.0)),
        ({"value_range": "minmax"}, np.full((20, 3), 1e6)),
    ],
)
def test_constant_data_give_finite_scores(likelihood, settings, X):
    settings = {**settings, "max_steps": 200, "learning_rate": 0.1}
    vae = make_vae(likelihood=likelihood, **settings).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    assert np.isfinite(vae.transform(X)).all()
    assert np.isfinite(vae.sample(5, random_state=0).astype(float)).all()
    if likelihood == "gaussian":
        # No narrower than a thousandth of the range.
        low, high = vae.value_range_
        peak = -np.log(1e-3 * (high - low) * np.sqrt(2 * np.pi))
        assert vae.score(X) / X[0].size < peak


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -1e6])
def test_constant_feature(value):
    rows = np.random.default_rng(0).normal(size=(40, 3)) * [1, 10, 100]
    X = np.c_[rows, np.full(40, value)]
    vae = make_vae(max_steps=200, learning_rate=0.1).fit(X)
    assert vae.scale_[3] == 1
    np.testing.assert_allclose(vae.scale_[:3], rows.std(0))
    assert np.isfinite(vae.score_samples(X)).all()
    # A value that never occurred is far less probable.
    moved = X + np.array([0, 0, 0, 1])
    assert (vae.score_samples(moved) < vae.score_samples(X) - 5).all()


def test_input_is_never_modified():
    original = np.random.default_rng(0).random((12, 1, 4, 4)).astype(np.float32)
    for X in (original.copy(), torch.from_numpy(original.copy())):
        for likelihood in ("bernoulli", "gaussian", "logistic"):
            vae = make_vae(mutation_rate=1.0, likelihood=likelihood).fit(X)
            vae.score_samples(X)
            vae.reconstruct(X)
        np.testing.assert_array_equal(np.asarray(X), original)


def test_dataset_of_images_is_streamed(images):
    dataset = Items(images)
    make_vae(max_steps=2, batch_size=4).fit(dataset)
    # Two batches, and the first item for its shape; the validation part after the last step.
    assert dataset.n_read == 2 * 4 + 1 + 2


def test_range_of_a_stream_is_checked_on_the_way():
    X = np.full((60, 3, 3), 0.5)
    vae = make_vae().fit(X)
    X[50] = 2
    message = "X has values from 0.5 to 2, but pixels from 0 to 1 are expected for float64 images"
    for form in (X, Items(X)):
        with pytest.raises(ValueError, match=re.escape(message)):
            make_vae(max_epochs=1, batch_size=60).fit(form)
        for method in ("score_samples", "transform", "reconstruct"):
            with pytest.raises(ValueError, match=re.escape(message)):
                getattr(vae, method)(form)


def test_labels_of_a_conditional_model(images):
    y = np.array(["cat", "dog", "eel"])[np.arange(24) % 3]
    vae = make_vae(conditional=True).fit(images, y)
    latents = vae.transform(images, y)
    np.testing.assert_array_equal(vae.transform(images, y.tolist()), latents)
    for method, data in [
        ("transform", images), ("reconstruct", images), ("inverse_transform", latents)
    ]:  # fmt: skip
        call = getattr(vae, method)
        # What comes out depends on the label.
        differ = call(data, y) != call(data, np.roll(y, 1))
        assert differ.reshape(24, -1).any(1).all()
        with pytest.raises(ValueError, match="y has 23 labels for 24 items; expected one for each"):
            call(data, y[:-1])
        message = "y has the labels ['fox'], which y in fit did not contain; expected some of"
        with pytest.raises(ValueError, match=re.escape(message)):
            call(data, np.where(y == "dog", "fox", y))
    with pytest.raises(ValueError, match="give y, the labels to decode for"):
        vae.inverse_transform(latents)
    assert vae.__sklearn_tags__().target_tags.required is True


def test_unconditional_model_ignores_labels(images):
    plain = make_vae().fit(images)
    labelled = make_vae().fit(images, ["any", np.nan])
    np.testing.assert_array_equal(labelled.score_samples(images), plain.score_samples(images))
    np.testing.assert_array_equal(plain.transform(images, ["any"]), plain.transform(images))
    assert plain.__sklearn_tags__().target_tags.required is False
