"""PixelMapsDisplay: images above maps, on one scale."""

import matplotlib
import numpy as np
import pytest

from skood import KNN, LikelihoodRatio, PixelCNN
from skood.inspection import PixelMapsDisplay

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).integers(0, 5, size=(12, 6, 5)).astype(float)


@pytest.fixture(scope="module")
def detector(X):
    density = PixelCNN(2, 1, n_levels=5, value_range=(0, 4), max_steps=2, random_state=0)
    return LikelihoodRatio(density, random_state=0).fit(X)


def drawn(axis):
    return axis.images[0].get_array()


def test_from_estimator(detector, X):
    display = PixelMapsDisplay.from_estimator(detector, X[:3])
    assert display.axes_.shape == (3, 3)
    log_p = detector.density_.score_pixels(X[:3])
    ratio = detector.score_pixels(X[:3])
    for k in range(3):
        np.testing.assert_allclose(drawn(display.axes_[0, k]), X[k] / 4)
        np.testing.assert_array_equal(drawn(display.axes_[1, k]), log_p[k])
        np.testing.assert_array_equal(drawn(display.axes_[2, k]), ratio[k])
    limit = np.percentile(np.abs([log_p, ratio]), 99)
    assert display.limit_ == pytest.approx(limit)
    limits = {axis.images[0].get_clim() for axis in display.axes_[1:].flat}
    assert limits == {(-display.limit_, display.limit_)}
    labels = [axis.get_ylabel() for axis in display.axes_[:, 0]]
    assert labels == ["", "log p(x)", "log-likelihood ratio"]


def test_a_density_by_itself(detector, X):
    display = PixelMapsDisplay.from_estimator(detector.density_, X[:2, None])
    assert list(display.maps) == ["log p(x)"]
    assert display.images.shape == (2, 6, 5)


def test_from_maps():
    images = np.random.default_rng(0).integers(0, 256, size=(2, 4, 4, 3)).astype(np.uint8)
    figure = plt.figure()
    maps = {"a": np.ones((2, 4, 4)), "b": np.zeros((2, 4, 4))}
    display = PixelMapsDisplay.from_maps(images, maps, figure=figure, limit=2.0)
    assert display.figure_ is figure
    assert display.limit_ == 2
    assert drawn(display.axes_[0, 1]).shape == (4, 4, 3)
    assert PixelMapsDisplay.from_maps(images[..., 0], {"b": maps["b"]}).limit_ == 1


def test_errors(detector, X):
    with pytest.raises(TypeError, match="KNN has no score_pixels; expected a fitted"):
        PixelMapsDisplay.from_estimator(KNN(), X)
    with pytest.raises(ValueError, match=r"maps\['a'\] has shape \(2, 3\) and images \(12, 6, 5\)"):
        PixelMapsDisplay.from_maps(X, {"a": np.zeros((2, 3))})
    with pytest.raises(TypeError, match="maps is of type list"):
        PixelMapsDisplay.from_maps(X, [X])
