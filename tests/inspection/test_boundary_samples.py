"""BoundarySamplesDisplay: the images of the sheet, and their order."""

from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from skood import VAE, BoundarySampler, OODGen
from skood._torch.seeding import draw_seed
from skood.classifiers import ConvNet
from skood.inspection import BoundarySamplesDisplay

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROWS = ["data", "reconstructed", "off the manifold", "on the manifold"]


@pytest.fixture(autouse=True)
def closed_figures():
    """Close the figures of each test."""
    yield
    plt.close("all")


def make_sampler(X, y=None, **kwargs):
    settings = {
        "n_latent": 2,
        "n_filters": (4,),
        "hidden_features": (8,),
        "likelihood": "bernoulli",
        "conditional": y is not None,
        "n_importance_samples": 2,
        "max_steps": 5,
        "random_state": 0,
    }
    vae = VAE(**{**settings, **kwargs})
    return BoundarySampler(vae, distance=(0.5, 2.0), random_state=0).fit(X, y)


@pytest.fixture(scope="module")
def data():
    """Images of 7 x 5, grey values in the middle of 0..255, and their classes."""
    X = np.random.default_rng(0).integers(90, 170, size=(60, 7, 5), dtype=np.uint8)
    return X, np.array(["cat", "dog", "eel"])[np.arange(60) % 3]


@pytest.fixture(scope="module")
def sampler(data):
    return make_sampler(*data)


def show(estimator, X, y=None, **kwargs):
    return BoundarySamplesDisplay.from_estimator(estimator, X, y, **{"random_state": 0, **kwargs})


def cells(display):
    """Images as they are on the sheet, shape (n_rows, n_columns, H, W[, 3])."""
    sheet = np.asarray(display.image_.get_array())
    first = next(iter(display.images.values()))
    n_columns, (height, width) = len(first), first.shape[2:]
    # Up to the next image, of which a white line is left out.
    rows = [sheet[i * (height + 1) :][:height] for i in range(4)]
    return np.array(
        [[row[:, j * (width + 1) :][:, :width] for j in range(n_columns)] for row in rows]
    )


def is_among(images, X):
    return [(image == X.reshape(len(X), *image.shape)).all((1, 2, 3)).any() for image in images]


def test_rows_of_the_sheet(data, sampler):
    """Data, reconstructions, and samples off and on the manifold of the same class."""
    X, y = data
    display = show(sampler, X, y, n_columns=6)
    assert list(display.images) == ROWS
    assert [images.shape for images in display.images.values()] == [(6, 1, 7, 5)] * 4
    shown = display.images["data"]
    assert all(is_among(shown, X))
    rows = [int(np.flatnonzero((X == image[0]).all((1, 2)))[0]) for image in shown]
    assert len(set(rows)) == 6
    labels = y[rows]
    # The classes take turns, so that every one is seen.
    assert labels.tolist() == ["cat", "dog", "eel"] * 2
    np.testing.assert_allclose(
        display.images["reconstructed"], sampler.vae_.reconstruct(X[rows], labels), rtol=1e-5
    )
    seed = draw_seed(0)
    np.testing.assert_allclose(
        display.images["off the manifold"],
        sampler.sample_off_manifold(X[rows], labels, seed),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        display.images["on the manifold"], sampler.sample_on_manifold(6, labels, seed), rtol=1e-5
    )
    # Each sample off the manifold stands below the image that it was moved from.
    step = (display.images["off the manifold"] - shown.astype(float)) / 255
    assert (np.linalg.norm(step.reshape(6, -1), axis=1) > 0.499).all()
    assert (np.linalg.norm(step.reshape(6, -1), axis=1) < 2.001).all()


def test_sheet_is_the_images_with_white_lines_between_them(data, sampler):
    X, y = data
    display = show(sampler, X, y, n_columns=6)
    sheet = np.asarray(display.image_.get_array())
    assert sheet.shape == (4 * 8 - 1, 6 * 6 - 1)
    assert (sheet[7::8] == 1).all()
    assert (sheet[:, 5::6] == 1).all()
    for row, images in zip(cells(display), display.images.values(), strict=True):
        np.testing.assert_allclose(row, images[:, 0] / 255.0, atol=1e-6)
    assert display.image_.get_clim() == (0, 1)
    assert display.image_.get_cmap().name == "gray"


def test_every_row_has_its_name_at_its_middle(data, sampler):
    ax = show(sampler, *data, n_columns=3).ax_
    assert [label.get_text() for label in ax.get_yticklabels()] == ROWS
    # An image of 7 rows of pixels that starts at row 8 i has its middle at 8 i + 3.
    np.testing.assert_allclose(ax.get_yticks(), [3, 11, 19, 27])
    assert len(ax.get_xticks()) == 0


def test_figure_and_axes(data, sampler):
    _, axes = plt.subplots(1, 2)
    display = show(sampler, *data, ax=axes[1])
    assert display.ax_ is axes[1]
    assert display.figure_ is axes[1].figure
    assert display.image_ in axes[1].images
    assert len(axes[0].images) == 0
    assert len(plt.get_fignums()) == 1
    own = show(sampler, *data)
    assert own.figure_ is not display.figure_
    assert own.image_ in own.ax_.images
    # Drawn once more, on the same images.
    again = own.plot(ax=axes[0])
    assert again is own
    assert own.ax_ is axes[0]
    np.testing.assert_array_equal(axes[0].images[0].get_array(), display.image_.get_array())
    own.figure_.canvas.draw()


def test_random_state(data, sampler):
    def sheet(random_state):
        return np.asarray(show(sampler, *data, random_state=random_state).image_.get_array())

    np.testing.assert_array_equal(sheet(3), sheet(3))
    assert (sheet(3) != sheet(4)).any()
    assert (sheet(None) != sheet(None)).any()
    # Other columns and other samples, not only one of them.
    first, second = (
        cells(show(sampler, *data, random_state=random_state)) for random_state in (3, 4)
    )
    assert (first != second).any((1, 2, 3)).all()


def test_number_of_columns(data, sampler):
    X, y = data
    assert len(show(sampler, X, y).images["data"]) == 10
    assert len(show(sampler, X, y, n_columns=1).images["data"]) == 1
    few = show(sampler, X[:4], y[:4])
    assert [len(images) for images in few.images.values()] == [4] * 4
    # One class that has more images than the others fills what they leave.
    some = np.array([0, 1, 3, 6, 9, 12])
    display = show(sampler, X[some], y[some])
    first_two = display.images["data"][:2, 0]
    assert (first_two[1] == X[1]).all()
    assert len(display.images["data"]) == 6


def test_without_labels(data):
    X, y = data
    unlabelled = make_sampler(X)
    display = show(unlabelled, X, n_columns=4)
    assert list(display.images) == ROWS
    assert all(is_among(display.images["data"], X))
    # A conditional model takes the most probable classes.
    assert show(make_sampler(X, y), X, n_columns=4).images["on the manifold"].shape == (4, 1, 7, 5)
    with pytest.raises(ValueError, match="y was given, but the sampler was fitted without"):
        show(unlabelled, X, y)


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        (lambda X: X / 255, {}),
        (lambda X: (X / 127.5 - 1).astype(np.float32), {"value_range": (-1, 1)}),
        (lambda X: X.astype(np.int64), {"value_range": (0, 255)}),
        (lambda X: X[..., None], {}),
        (lambda X: X.reshape(60, -1), {"image_shape": (1, 7, 5)}),
    ],
    ids=["floats", "another range", "integers", "channels last", "flat rows"],
)
def test_forms_of_the_same_images(data, sampler, form, settings):
    X, y = data
    plain = cells(show(sampler, X, y))
    other = form(X)
    sheet = cells(show(make_sampler(other, y, **settings), other, y))
    np.testing.assert_allclose(sheet[:2], plain[:2], atol=1e-3)
    np.testing.assert_array_equal(sheet.shape, plain.shape)
    assert sheet.min() >= 0
    assert sheet.max() <= 1


@pytest.mark.parametrize("shape", [(3, 7, 5), (7, 5, 3)])
def test_colour(shape):
    X = np.random.default_rng(0).integers(256, size=(30, *shape), dtype=np.uint8)
    display = show(make_sampler(X), X, n_columns=4)
    sheet = np.asarray(display.image_.get_array())
    assert sheet.shape == (4 * 8 - 1, 4 * 6 - 1, 3)
    assert (sheet[7::8] == 1).all()
    last = np.moveaxis(X, 1, 3) if shape[0] == 3 else X
    for cell in cells(display)[0]:
        assert (abs(cell - last / 255.0).max((1, 2, 3)) < 1e-6).any()


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (3, 4, 1)])
def test_images_one_pixel_wide_or_high(shape):
    X = np.random.default_rng(0).random((30, *shape))
    display = show(make_sampler(X), X, n_columns=1)
    n_channels, height, width = display.images["data"].shape[1:]
    expected = (4 * (height + 1) - 1, width)
    assert display.image_.get_array().shape == (
        expected if n_channels == 1 else (*expected, n_channels)
    )


def test_values_beyond_the_range_are_clipped():
    images = dict.fromkeys(ROWS, np.array([[[[-3.0, 0.5], [1.0, 7.0]]]]))
    display = BoundarySamplesDisplay(images, value_range=(0, 2)).plot()
    np.testing.assert_array_equal(cells(display)[:, 0], [[[0, 0.25], [0.5, 1]]] * 4)


def test_detector_that_has_a_sampler(data, sampler):
    X, y = data
    plain = show(sampler, X, y)
    display = show(SimpleNamespace(sampler_=sampler), X, y)
    np.testing.assert_array_equal(display.image_.get_array(), plain.image_.get_array())
    # And the detector itself.
    network = ConvNet((4,), max_epochs=1, validation_fraction=0.2)
    detector = OODGen(network, FrozenEstimator(sampler.vae_), random_state=0).fit(X, y)
    display = show(detector, X, y)
    np.testing.assert_allclose(cells(display)[:2], cells(plain)[:2], atol=1e-6)


def test_what_is_refused(data, sampler):
    X, y = data
    rows = np.random.default_rng(0).normal(size=(40, 6))
    of_rows = make_sampler(rows, likelihood="gaussian")
    with pytest.raises(ValueError, match="was fitted on rows of 6 values, not on images"):
        show(of_rows, rows)
    with pytest.raises(NotFittedError, match="This BoundarySampler instance is not fitted yet"):
        show(BoundarySampler(), X)
    with pytest.raises(NotFittedError, match="This OODGen instance is not fitted yet"):
        show(OODGen(), X)
    with pytest.raises(ValueError, match=r"X has items of shape \(1, 5, 7\)"):
        show(sampler, X.transpose(0, 2, 1), y)
    for labels in (y[:-1], np.append(y, "cat")):
        message = f"y has {len(labels)} labels for 60 items; expected one for each"
        with pytest.raises(ValueError, match=message):
            show(sampler, X, labels)
    with pytest.raises(ValueError, match=r"y has the labels \['fox'\]"):
        show(sampler, X, np.where(y == "dog", "fox", y))
    with pytest.raises(ValueError, match="n_columns=0; expected at least 1"):
        show(sampler, X, y, n_columns=0)
    assert plt.get_fignums() == []
