"""The same images give PixelCNN the same scores, whatever form they come in."""

import re

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from skood.density import PixelCNN


class Images(Dataset):
    """A torch Dataset of images, which counts how often it is read."""

    def __init__(self, items):
        self.items = items
        self.n_read = 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.n_read += 1
        return self.items[index]


def memmap(tmp_path, images):
    np.save(tmp_path / "images.npy", images)
    return np.load(tmp_path / "images.npy", mmap_mode="r")


def read_only(images):
    images = images.copy()
    images.flags.writeable = False
    return images


GREY = {
    "float64": ({}, lambda x, _: x / 255),
    "float32": ({}, lambda x, _: (x / 255).astype(np.float32)),
    "int64": ({"value_range": (0, 255)}, lambda x, _: x.astype(np.int64)),
    "uint16": ({"value_range": (0, 255)}, lambda x, _: x.astype(np.uint16)),
    "big-endian": ({"value_range": (0, 255)}, lambda x, _: x.astype(">f4")),
    "another range": ({"value_range": (-1, 1)}, lambda x, _: x / 127.5 - 1),
    "minmax": ({"value_range": "minmax"}, lambda x, _: x * 7.0 - 3),
    "(n, 1, H, W)": ({}, lambda x, _: x[:, None]),
    "(n, H, W, 1)": ({}, lambda x, _: x[..., None]),
    "list": ({"value_range": (0, 255)}, lambda x, _: x.tolist()),
    "fortran order": ({}, lambda x, _: np.asfortranarray(x)),
    "strided": ({}, lambda x, _: np.repeat(x, 2, axis=2)[..., ::2]),
    "read-only": ({}, lambda x, _: read_only(x)),
    "memory map": ({}, lambda x, path: memmap(path, x)),
    "tensor": ({}, lambda x, _: torch.from_numpy(x)),
    "tensor with gradient": ({}, lambda x, _: torch.tensor(x / 255, requires_grad=True)),
    "dataset": ({}, lambda x, _: Images(x)),
    "dataset of (1, H, W)": ({}, lambda x, _: Images([*torch.from_numpy(x)[:, None]])),
    "dataset with labels": ({}, lambda x, _: Images([(image, 7) for image in x])),
    "TensorDataset": ({}, lambda x, _: TensorDataset(torch.from_numpy(x), torch.arange(len(x)))),
    "flat rows": ({"image_shape": (1, 5, 4)}, lambda x, _: x.reshape(len(x), -1)),
    "flat rows, list": ({"image_shape": [1, 5, 4]}, lambda x, _: x.reshape(len(x), -1)),
    "flat dataset": ({"image_shape": (1, 5, 4)}, lambda x, _: Images(x.reshape(len(x), -1))),
}
COLOUR = {
    "channels last": ({}, lambda x, _: x.transpose(0, 2, 3, 1)),
    "channels last, dataset": ({}, lambda x, _: Images(x.transpose(0, 2, 3, 1))),
    "channels last, tensor": ({}, lambda x, _: torch.from_numpy(x).permute(0, 2, 3, 1)),
    "float64": ({}, lambda x, _: x / 255),
    "memory map": ({}, lambda x, path: memmap(path, x)),
    "flat rows": ({"image_shape": (3, 5, 4)}, lambda x, _: x.reshape(len(x), -1)),
}


def assert_equivalent(tiny, images, settings, X):
    plain = tiny().fit(images)
    same = tiny(**settings).fit(X)
    np.testing.assert_array_equal(same.score_samples(X), plain.score_samples(images))
    np.testing.assert_array_equal(same.score_pixels(X), plain.score_pixels(images))
    assert same.history_ == plain.history_
    assert same.image_shape_ == plain.image_shape_


@pytest.mark.parametrize("form", GREY)
def test_grey_images_in_every_form(tiny, images, tmp_path, form):
    # "minmax" is to find the whole range.
    images[0, 0, :2] = 0, 255
    settings, transform = GREY[form]
    assert_equivalent(tiny, images, settings, transform(images, tmp_path))


@pytest.mark.parametrize("form", COLOUR)
def test_colour_images_in_every_form(tiny, tmp_path, form):
    images = np.random.default_rng(0).integers(256, size=(24, 3, 5, 4), dtype=np.uint8)
    settings, transform = COLOUR[form]
    assert_equivalent(tiny, images, settings, transform(images, tmp_path))


def test_half_precision_tensor(tiny):
    images = torch.from_numpy(np.random.default_rng(0).integers(17, size=(24, 5, 4)))
    settings = {"n_levels": 17, "value_range": (0, 16)}
    plain = tiny(**settings).fit(images)
    for dtype in (torch.bfloat16, torch.float16):
        np.testing.assert_array_equal(
            plain.score_samples(images.to(dtype)), plain.score_samples(images)
        )


def test_pixels_are_rounded_to_the_nearest_level(tiny):
    rng = np.random.default_rng(0)
    levels = rng.integers(5, size=(12, 4, 4))
    density = tiny(n_levels=5).fit(levels / 4)
    moved = np.clip(levels / 4 + rng.uniform(-0.12, 0.12, size=levels.shape), 0, 1)
    np.testing.assert_array_equal(density.score_samples(moved), density.score_samples(levels / 4))
    beyond = np.clip(levels / 4 + 0.13, 0, 1)
    assert (density.score_samples(beyond) != density.score_samples(levels / 4)).all()


def test_minmax_clips_later_data_to_the_range_of_training(tiny):
    X = np.random.default_rng(0).normal(size=(12, 4, 4))
    density = tiny(value_range="minmax", n_levels=8).fit(X)
    assert density.value_range_ == (X.min(), X.max())
    clipped = np.clip(3 * X, X.min(), X.max())
    np.testing.assert_array_equal(density.score_samples(3 * X), density.score_samples(clipped))


@pytest.mark.parametrize("value", [0.0, 5.0, -0.1])
def test_minmax_of_constant_images(tiny, value):
    X = np.full((12, 4, 4), value)
    density = tiny(value_range="minmax", n_levels=8).fit(X)
    scores = density.score_samples(np.concatenate([X, X + 10]))
    assert np.isfinite(scores).all()
    assert len(np.unique(scores[:12])) == 1
    assert scores[12] != scores[0]


def test_row_is_a_sequence(tiny):
    X = np.random.default_rng(0).integers(256, size=(12, 6), dtype=np.uint8)
    row = tiny(image_shape="row").fit(X)
    image = tiny().fit(X.reshape(12, 1, 1, 6))
    np.testing.assert_array_equal(row.score_samples(X), image.score_samples(X.reshape(12, 1, 1, 6)))
    assert row.score_pixels(X).shape == (12, 1, 6)
    assert row.image_shape_ == (1, 1, 6)
    assert row.input_shape_ == (6,)
    assert row.n_features_in_ == 6
    assert row.sample(3).shape == (3, 6)


@pytest.mark.parametrize("value_range", [(-0.1, 0.2), (-0.3, 0.7)])
def test_samples_lie_in_the_range(tiny, value_range):
    """White is the end of the range to the last digit, and the model takes its own samples."""
    X = np.full((20, 4, 4), value_range[1])
    density = tiny(value_range=value_range, n_levels=256, max_steps=1).fit(X)
    levels = np.linspace(0, 1, 256)
    drawn = density.sample(20, random_state=0)
    assert drawn.dtype == np.float64
    low, high = value_range
    off = np.abs(drawn[..., None] - (low * (1 - levels) + high * levels)).min(-1)
    assert off.max() < 1e-12
    assert np.isfinite(density.score_samples(drawn)).all()


def test_input_is_never_modified(tiny):
    original = np.random.default_rng(0).random((12, 1, 4, 4)).astype(np.float32)
    for X in (original.copy(), torch.from_numpy(original.copy())):
        density = tiny(mutation_rate=1.0).fit(X)
        density.score_samples(X)
        density.score_pixels(X)
        np.testing.assert_array_equal(np.asarray(X), original)


def test_dataset_is_streamed(tiny, images):
    dataset = Images(images)
    density = tiny(max_steps=2, batch_size=4).fit(dataset)
    # Two batches, and the first item for its shape.
    assert dataset.n_read == 2 * 4 + 1
    dataset.n_read = 0
    density.score_samples(dataset)
    assert dataset.n_read <= 32 + 1


def test_range_of_a_stream_is_checked_on_the_way(tiny):
    X = np.full((60, 3, 3), 0.5)
    density = tiny().fit(X)
    X[50] = 2
    message = "X has values from 0.5 to 2, but pixels from 0 to 1 are expected for float64 images"
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny(max_steps=None, max_epochs=1, batch_size=60).fit(Images(X))
    for form in (X, Images(X)):
        with pytest.raises(ValueError, match=re.escape(message)):
            density.score_samples(form)


@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy])
def test_range_of_what_is_in_memory_is_checked_before_training(tiny, form, mutations_forbidden):
    X = np.full((5000, 2, 2), 0.5)
    X[4999, 1, 1] = -1
    with pytest.raises(ValueError, match=r"X has values from -1 to 0\.5, but pixels from 0 to 1"):
        tiny(mutation_rate=0.5).fit(form(X))


@pytest.fixture
def mutations_forbidden(monkeypatch):
    """Fail where a batch is mutated, which is where training has started."""

    def fail(*_):
        raise AssertionError("training has started")

    monkeypatch.setattr(PixelCNN, "_mutate", fail)


@pytest.mark.parametrize(
    ("settings", "X", "message"),
    [
        (
            {},
            np.zeros((9, 12)),
            "X has rows of 12 values, but PixelCNN models images: give image_shape=(C, H, W) if "
            "the rows are flat images, or image_shape='row' if they are not",
        ),
        (
            {"image_shape": (1, 3, 5)},
            np.zeros((9, 12)),
            "items of shape (12,) hold 12 values, which do not fill the shape (1, 3, 5); "
            "give the shape (C, H, W) of your images",
        ),
        ({"image_shape": (3, 4)}, np.zeros((9, 12)), "image_shape=(3, 4) must be (C, H, W)"),
        (
            {},
            np.full((9, 3, 4), 2.5),
            "X has values from 2.5 to 2.5, but pixels from 0 to 1 are expected for float64 "
            "images; rescale X, or state its range with value_range=(low, high)",
        ),
        (
            {},
            np.full((9, 3, 4), -0.5, dtype=np.float32),
            "X has values from -0.5 to -0.5, but pixels from 0 to 1 are expected for float32",
        ),
        (
            {"value_range": (0, 16)},
            np.full((9, 3, 4), 17),
            "X has values from 17 to 17, but pixels from 0 to 16 are expected for int64 images",
        ),
        (
            {},
            np.zeros((9, 3, 4), dtype=np.int64),
            "pixels of dtype int64 have no range of their own: give value_range=(low, high), the "
            "values of black and white (uint8 is taken as 0..255, floats as 0..1)",
        ),
        ({}, np.zeros((9, 3, 4), dtype=bool), "pixels of dtype bool have no range of their own"),
        (
            {"value_range": (1, 1)},
            np.zeros((9, 3, 4)),
            "value_range=(1, 1) must be (low, high) with low < high",
        ),
        (
            {"value_range": (0, 1, 2)},
            np.zeros((9, 3, 4)),
            "value_range=(0, 1, 2) must be (low, high)",
        ),
        ({}, np.zeros((1, 3, 4)), "Found array with 1 sample(s)"),
    ],
)
def test_what_fit_refuses(tiny, settings, X, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny(**settings).fit(X)


@pytest.mark.parametrize("method", ["score_samples", "score_pixels", "bits_per_dim", "score"])
@pytest.mark.parametrize(
    ("X", "message"),
    [
        (
            np.zeros((2, 4, 5), dtype=np.uint8),
            "X has items of shape (1, 4, 5), but PixelCNN was fitted on items of shape (1, 5, 4) "
            "(images are counted as (C, H, W))",
        ),
        (
            np.zeros((2, 3, 5, 4), dtype=np.uint8),
            "X has items of shape (3, 5, 4), but PixelCNN was fitted on items of shape (1, 5, 4)",
        ),
        (
            np.zeros((2, 5, 4)),
            "X has pixels of dtype float64, but PixelCNN was fitted on pixels from 0 to 255 (uint8 "
            "is taken as 0..255, floats as 0..1); convert X, or state one range for both with "
            "value_range=(low, high)",
        ),
        (np.zeros((2, 5, 4), dtype=np.int64), "pixels of dtype int64 have no range of their own"),
        (np.zeros((0, 5, 4), dtype=np.uint8), "Found array with 0 sample(s)"),
        (np.full((2, 5, 4), np.nan), "Input contains NaN"),
    ],
)
def test_what_scoring_refuses(tiny, images, method, X, message):
    density = tiny().fit(images)
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(density, method)(X)


def test_range_of_later_images_is_checked(tiny):
    X = np.random.default_rng(0).random((12, 4, 4))
    density = tiny().fit(X)
    with pytest.raises(ValueError, match=r"X has values from .* to .*, but pixels from 0 to 1"):
        density.score_samples(2 * X)
    assert np.isfinite(density.score_samples(X.astype(np.float32))).all()


def test_flat_rows_of_another_length(tiny):
    density = tiny(image_shape=(1, 3, 4)).fit(np.zeros((9, 12)))
    with pytest.raises(ValueError, match="X has 15 features, but PixelCNN is expecting 12"):
        density.score_samples(np.zeros((2, 15)))


def test_unfitted_model_says_so(images):
    for method in ("score_samples", "score_pixels", "bits_per_dim"):
        with pytest.raises(ValueError, match="This PixelCNN instance is not fitted yet"):
            getattr(PixelCNN(), method)(images)
    with pytest.raises(ValueError, match="This PixelCNN instance is not fitted yet"):
        PixelCNN().sample()
