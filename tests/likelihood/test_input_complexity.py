"""InputComplexity: bits of the density and bits of lossless codecs."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from sklearn.mixture import GaussianMixture

from skood import HierarchicalVAE, InputComplexity
from skood.likelihood import _input_complexity


class Stated:
    """A density whose log-densities are given."""

    def __init__(self, nats=None):
        self.nats = nats

    def get_params(self, deep=True):
        return {"nats": self.nats}

    def set_params(self, **parameters):
        vars(self).update(parameters)
        return self

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        return np.full(len(X), self.nats)


@pytest.fixture
def images():
    """Smooth images, (40, 12, 10) uint8."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(256, size=(40, 3, 2), dtype=np.uint8)
    return coarse.repeat(4, 1).repeat(5, 2)


def density():
    return GaussianMixture(1, reg_covar=10.0)


def test_reference(monkeypatch):
    """Nats and the bits of a code, by the stored values."""
    stored = np.load(Path(__file__).parent / "data" / "complexity.npz")
    for nats, bits, expected in zip(
        stored["log_lik_nats"], stored["bits"], stored["id_score_bits"], strict=True
    ):
        monkeypatch.setattr(
            _input_complexity, "_code_lengths", lambda images, codecs, b=bits: np.full((2, 1), b)
        )
        X = np.zeros((2, 4, 4), dtype=np.uint8)
        detector = InputComplexity(Stated(float(nats))).fit(X)
        np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-12)


@pytest.mark.parametrize("codec", ["png", "jpeg2000", "webp"])
@pytest.mark.parametrize("shape", [(30, 20), (1, 30, 20), (3, 30, 20)], ids=str)
def test_codecs_are_lossless(codec, shape):
    """The length is the size of a file from which the image can be read again."""
    X = np.random.default_rng(0).integers(256, size=(4, *shape), dtype=np.uint8)
    detector = InputComplexity(density(), codecs=(codec,)).fit(X)
    found = detector.complexity(X)
    assert found.dtype == np.float64
    for bits, image in zip(found, X, strict=True):
        pixels = image.transpose(1, 2, 0) if shape[0] == 3 else image.reshape(30, 20)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, **_input_complexity._CODECS[codec])
        assert bits == 8 * len(file.getvalue())
        read = Image.open(file)
        np.testing.assert_array_equal(
            np.asarray(read.convert("RGB" if shape[0] == 3 else "L")), pixels
        )
        # Noise cannot be compressed.
        assert bits > 0.98 * 8 * pixels.size


def test_score_is_in_bits_on_both_sides(images):
    detector = InputComplexity(density()).fit(images)
    nats = detector.density_.score_samples(images.reshape(40, -1))
    complexity = detector.complexity(images)
    np.testing.assert_allclose(detector.score_samples(images), nats / np.log(2) + complexity)
    of_each = [
        InputComplexity(density(), codecs=(c,)).fit(images) for c in ("png", "jpeg2000", "webp")
    ]
    np.testing.assert_array_equal(complexity, np.min([d.complexity(images) for d in of_each], 0))
    np.testing.assert_array_equal(detector.complexity(images[::-1])[::-1], complexity)
    noise = np.random.default_rng(1).integers(256, size=(5, 12, 10), dtype=np.uint8)
    assert detector.complexity(noise).min() > complexity.max()


def test_threads_change_nothing(images):
    X = np.concatenate([images] * 10)
    one, two = (InputComplexity(density(), n_jobs=n).fit(X).score_samples(X) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_codecs_see_levels(images):
    """The same levels in other ranges and dtypes have the same code."""
    levels = images // 16
    expected = InputComplexity(density()).fit(levels).complexity(levels)
    for X, settings in (
        (levels.astype(float), {"value_range": (0, 15), "n_levels": 16}),
        (levels / 15, {"n_levels": 16}),
        (levels.astype(int) - 3, {"value_range": "minmax", "n_levels": 16}),
        (levels.reshape(40, -1), {"image_shape": (1, 12, 10)}),
    ):
        detector = InputComplexity(density(), **settings).fit(X)
        np.testing.assert_array_equal(detector.complexity(X), expected)


def test_other_numbers_of_channels():
    X = np.random.default_rng(0).integers(256, size=(4, 5, 6, 7), dtype=np.uint8)
    detector = InputComplexity(density()).fit(X)
    tall = X.reshape(4, 30, 7)
    np.testing.assert_array_equal(
        detector.complexity(X), InputComplexity(density()).fit(tall).complexity(tall)
    )


def test_errors(monkeypatch, images):
    with pytest.raises(ValueError, match="codecs=\\('gif',\\); expected at least one of"):
        InputComplexity(density(), codecs=("gif",)).fit(images)
    with pytest.raises(ValueError, match="give image_shape=\\(C, H, W\\)"):
        InputComplexity(density()).fit(images.reshape(40, -1))
    with monkeypatch.context() as patch:
        patch.setattr(features, "check", lambda name: name != "webp")
        with pytest.raises(ValueError, match="cannot write 'webp'; install one that can, or give"):
            InputComplexity(density()).fit(images)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="pip install Pillow"):
        InputComplexity(density()).fit(images)


def test_density_of_binarised_images_is_refused(images):
    density = HierarchicalVAE(likelihood="bernoulli", binarize="dynamic")
    with pytest.raises(ValueError, match="models binarised images, but the codecs compress"):
        InputComplexity(density).fit(images)
