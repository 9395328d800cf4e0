"""Displays of explanations: neighbours, contributions and maps of pixels."""

import matplotlib
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skood
from skood import KNN, MSP, LogLikelihood, Mahalanobis, PixelCNN
from skood.inspection import (
    ContributionsDisplay,
    NeighborsDisplay,
    PixelMapsDisplay,
    attribute,
)

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def digits():
    return load_digits().images[:80]


@pytest.fixture(scope="module")
def frame():
    return load_iris(as_frame=True).data


def test_neighbours_of_images(digits):
    detector = KNN(n_neighbors=7).fit(digits)
    display = NeighborsDisplay.from_estimator(detector, digits[3:5], digits, n_neighbors=3)
    assert display.axes_.shape == (2, 4)
    found = detector.explain(digits[3:5])
    for item in range(2):
        for column in range(4):
            row = 3 + item if column == 0 else found.indices[item, column - 1]
            drawn = display.axes_[item, column].images[0].get_array()
            np.testing.assert_allclose(drawn, digits[row] / 16)
    assert display.axes_[0, 1].get_title() == f"row 3: {0:.3g}"
    assert display.axes_[1, 0].get_title().startswith("score -")


def test_neighbours_of_rows_are_drawn_in_standard_deviations(frame):
    pipeline = make_pipeline(StandardScaler(), KNN(n_neighbors=2)).fit(frame)
    display = NeighborsDisplay.from_estimator(pipeline, frame[:1], frame)
    expected = ((frame - frame.mean()) / frame.std(ddof=0)).to_numpy()[:1].T
    np.testing.assert_allclose(display.axes_[0, 0].images[0].get_array(), expected, atol=1e-12)
    assert display.axes_[0, 0].images[0].get_clim() == (-3, 3)


def test_neighbours_of_colour_images():
    X = np.random.default_rng(0).integers(0, 256, size=(30, 5, 4, 3), dtype=np.uint8)
    X[0, 0, 0] = 0, 255, 99
    display = NeighborsDisplay.from_estimator(KNN(n_neighbors=2).fit(X), X[:1], X)
    np.testing.assert_allclose(display.axes_[0, 0].images[0].get_array(), X[0] / 255)


def test_wrong_neighbours(frame, digits):
    detector = KNN(n_neighbors=2).fit(frame)
    found = detector.explain(frame[-3:])
    with pytest.raises(ValueError, match="but X_train has 100 rows; give the X that was given"):
        NeighborsDisplay.from_explanation(found, frame[-3:], frame[:100])
    with pytest.raises(ValueError, match="X has 2 items, and explanation 3"):
        NeighborsDisplay.from_explanation(found, frame[-2:], frame)
    with pytest.raises(TypeError, match="explanation is a DistanceExplanation; expected"):
        NeighborsDisplay.from_explanation(Mahalanobis().fit(frame).explain(frame), frame, frame)


def test_bars_of_contributions(frame):
    detector = Mahalanobis().fit(frame)
    found = detector.explain(frame[:2])
    display = ContributionsDisplay.from_explanation(found, item=1, n_bars=2)
    assert display.names[:2] == [name for name, _ in found.largest(1, n=2)]
    assert display.names[2] == "2 others"
    assert display.contributions.sum() == pytest.approx(found.scores[1])
    widths = [bar.get_width() for bar in display.bars_]
    np.testing.assert_allclose(widths, display.contributions)
    _, ax = plt.subplots()
    directions = ContributionsDisplay.from_estimator(detector, frame[:1], directions=True, ax=ax)
    assert directions.ax_ is ax
    assert directions.contributions.sum() == pytest.approx(found.scores[0])


def test_bars_of_classes_columns_and_constants(frame):
    y = load_iris().target_names[load_iris().target]
    network = FrozenEstimator(skood.MLP((8, 8), max_epochs=2, random_state=0).fit(frame, y))
    classes = ContributionsDisplay.from_estimator(MSP(network).fit(frame, y), frame[:1])
    assert set(classes.names) == {"setosa", "versicolor", "virginica", "constant"}
    vim = ContributionsDisplay.from_estimator(skood.ViM(network).fit(frame, y), frame[:1])
    assert vim.names[-1] == "energy"
    columns = attribute(skood.GMM().fit(frame), frame[:1], baseline=frame.median())
    assert set(ContributionsDisplay.from_explanation(columns).names) == set(frame.columns)
    with pytest.raises(TypeError, match="explanation is a ndarray; expected what explain"):
        ContributionsDisplay.from_explanation(np.zeros(3))
    with pytest.raises(TypeError, match="ClassesExplanation has no direction_contributions"):
        ContributionsDisplay.from_estimator(MSP(network).fit(frame, y), frame, directions=True)


def test_maps_of_pixels(digits):
    density = PixelCNN(2, 1, n_levels=17, value_range=(0, 16), max_steps=2, random_state=0)
    found = LogLikelihood(density).fit(digits).explain(digits[:2])
    display = PixelMapsDisplay.from_explanation(found, digits[:2])
    np.testing.assert_array_equal(display.axes_[1, 0].images[0].get_array(), found.contributions[0])
    occluded = attribute(KNN(n_neighbors=2).fit(digits), digits[:2])
    shown = PixelMapsDisplay.from_explanation(occluded, digits[:2, None], limit=3.0)
    assert list(shown.maps) == ["occlusion"]
    assert shown.limit_ == 3
    with pytest.raises(ValueError, match="give the images that were explained"):
        PixelMapsDisplay.from_explanation(found, digits[:3])
    with pytest.raises(TypeError, match="explanation is a NeighborsExplanation without a map"):
        PixelMapsDisplay.from_explanation(KNN(n_neighbors=2).fit(digits).explain(digits), digits)
