"""DimensionCurveDisplay: means, bands, and the scale of a detector."""

import matplotlib
import numpy as np
import pytest
from estimators import tiny_diffusion, tiny_flow
from sklearn.frozen import FrozenEstimator

from skood import LocalIntrinsicDimension, LogLikelihood
from skood.inspection import DimensionCurveDisplay

matplotlib.use("Agg")
from matplotlib import pyplot as plt

X = np.random.default_rng(0).normal(size=(60, 3)) * [1, 2, 0.1]


@pytest.fixture(autouse=True)
def closed_figures():
    """Close the figures of each test."""
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def detector():
    settings = {"target_dimension": 1.5, "estimator": "convolution", "random_state": 0}
    return LocalIntrinsicDimension(tiny_flow(random_state=0), **settings).fit(X)


def test_curves_of_a_detector(detector):
    sets = {"train": X, "far": 3 * X[:20]}
    display = DimensionCurveDisplay.from_estimator(detector, sets, [1.0, -2.0, 0.0], title="by r")
    ax = display.ax_
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("scale r", "local intrinsic dimension")
    assert (ax.get_title(), display.figure_) == ("by r", ax.figure)
    for name, items in sets.items():
        _, curve = detector.dimension_curve(items, [-2.0, 0.0, 1.0])
        # Sorted by the scale.
        np.testing.assert_array_equal(display.lines_[name].get_xdata(), [-2, 0, 1])
        np.testing.assert_allclose(display.lines_[name].get_ydata(), curve.mean(0))
        vertices = display.bands_[name].get_paths()[0].vertices
        assert vertices[:, 1].min() == pytest.approx(np.percentile(curve, 10, axis=0).min())
        assert vertices[:, 1].max() == pytest.approx(np.percentile(curve, 90, axis=0).max())
    labels = [text.get_text() for text in display.legend_.get_texts()]
    scale = f"r = {detector.scale_:.2f}".replace("-", "\N{MINUS SIGN}")
    assert labels == ["train", "far", scale, "target dimension 1.5"]
    assert [line.get_xdata()[0] for line in ax.lines if line.get_label() == scale] == [
        detector.scale_
    ]


def test_defaults(detector):
    _, ax = plt.subplots()
    display = DimensionCurveDisplay.from_estimator(
        FrozenEstimator(detector), {"train": X}, ax=ax, legend=False
    )
    assert (display.ax_, display.legend_) == (ax, None)
    assert display.curves["train"].shape == (60, 50)


def test_times_of_a_diffusion_model():
    model = LocalIntrinsicDimension(tiny_diffusion(), scale=-1.0, random_state=0).fit(X)
    display = DimensionCurveDisplay.from_estimator(model, {"train": X}, times=[0.1, 0.5])
    assert display.ax_.get_xlabel() == "time t"
    np.testing.assert_array_equal(display.lines_["train"].get_xdata(), [0.1, 0.5])
    # Neither a scale nor a target dimension.
    assert len(display.ax_.lines) == 1


def test_errors(detector):
    with pytest.raises(TypeError, match="LogLikelihood has no dimension_curve"):
        DimensionCurveDisplay.from_estimator(LogLikelihood(), {"train": X})
    with pytest.raises(ValueError, match="sets is empty"):
        DimensionCurveDisplay.from_estimator(detector, {})
    for values in (np.zeros((3, 4)), np.zeros(2), np.zeros((0, 2))):
        with pytest.raises(ValueError, match="a value for each of the scales"):
            DimensionCurveDisplay.from_curves([0.0, 1.0], {"train": values})
