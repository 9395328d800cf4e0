"""Global contrast normalisation of each item."""

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from torch.utils.data import Dataset

import skood
from skood import DeepSVDD, GlobalContrastNormalization, LeNet

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (7, 3, 6, 5)).astype(np.uint8)


def by_hand(image, norm):
    centred = image - image.mean()
    contrast = np.abs(centred).mean() if norm == "l1" else np.sqrt(np.square(centred).mean())
    return centred / contrast


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize(
    "X",
    [
        PIXELS,
        PIXELS.transpose(0, 2, 3, 1),
        PIXELS[:, 0],
        PIXELS.astype(np.float32) / 255,
        torch.from_numpy(PIXELS).double(),
        RNG.normal(size=(7, 4)),
        RNG.normal(size=(7, 4)).astype(np.float32),
    ],
    ids=["uint8", "channels last", "grey", "float32", "torch", "rows", "float32 rows"],
)
def test_formula(X, norm):
    made = GlobalContrastNormalization(norm=norm).fit(X).transform(X)
    expected = [by_hand(np.asarray(item, float), norm) for item in X]
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-6)
    is_wide = X.ndim == 2 and X.dtype == np.float64
    assert made.dtype == (np.float64 if is_wide else np.float32)
    assert made.shape == tuple(X.shape)


def test_each_image_has_its_own_contrast():
    made = GlobalContrastNormalization().fit(PIXELS)
    whole = made.transform(PIXELS)
    brighter = PIXELS.astype(np.float64) * RNG.uniform(0.5, 2, (7, 1, 1, 1)) + 10
    np.testing.assert_allclose(made.transform(brighter), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(made.transform(PIXELS[3:4]), whole[3:4])
    np.testing.assert_allclose(np.abs(whole).mean((1, 2, 3)), 1, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1])
def test_constant_images_become_zero(value):
    X = np.full((2, 5, 5), value)
    X[1, 0, 0] += 1
    made = GlobalContrastNormalization().fit_transform(X)
    assert (made[0] == 0).all()
    assert np.abs(made[1]).mean() == pytest.approx(1, rel=1e-5)


def test_streamed_images():
    class Streamed(Dataset):
        def __len__(self):
            return len(PIXELS)

        def __getitem__(self, index):
            return torch.from_numpy(PIXELS[index])

    made = GlobalContrastNormalization()
    np.testing.assert_array_equal(made.fit_transform(Streamed()), made.fit_transform(PIXELS))


def test_range_of_the_training_data_in_a_pipeline(tmp_path):
    """New images may lie outside the range; without "minmax", values beyond [0, 1] are refused."""
    X = PIXELS[:, 0]
    backbone = LeNet((3, 2), optimizer="adam", max_epochs=2, value_range="minmax")
    pipeline = make_pipeline(GlobalContrastNormalization(), DeepSVDD(backbone, random_state=0))
    pipeline.fit(X)
    normalized = pipeline[0].transform(X)
    assert pipeline[-1].backbone_.value_range_ == (normalized.min(), normalized.max())
    spot = np.zeros_like(X[:1])
    spot[0, 2, 2] = 255
    assert pipeline[0].transform(spot).max() > normalized.max()
    assert np.isfinite(pipeline.score_samples(spot)).all()
    refused = make_pipeline(GlobalContrastNormalization(), DeepSVDD(LeNet((3, 2)), random_state=0))
    with pytest.raises(ValueError, match="value_range"):
        refused.fit(X)
    skood.save(pipeline, tmp_path / "pipeline")
    loaded = skood.load(tmp_path / "pipeline")
    np.testing.assert_array_equal(loaded.score_samples(X), pipeline.score_samples(X))


def test_errors():
    with pytest.raises(ValueError, match="The 'norm' parameter"):
        GlobalContrastNormalization(norm="max").fit(PIXELS)
    with pytest.raises(ValueError, match=r"items of shape \(1, 6, 5\)"):
        GlobalContrastNormalization().fit(PIXELS).transform(PIXELS[:, :1])
