"""DualThresholdDisplay: thresholds, accepted fractions, and items beyond the axes."""

from functools import partial

import matplotlib
import numpy as np
import pytest
import torch
from estimators import tiny_flow
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from skood import LocalIntrinsicDimension, LogLikelihood
from skood.inspection import DualThresholdDisplay

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba

from_estimator = DualThresholdDisplay.from_estimator
from_pairs = DualThresholdDisplay.from_pairs


@pytest.fixture(autouse=True)
def closed_figures():
    """Close the figures of each test."""
    yield
    plt.close("all")


class Pairs(BaseEstimator):
    """Detector whose data are the pairs; each score is the smaller of two counts, by hand."""

    def __init__(self, contamination=0.05):
        self.contamination = contamination

    def fit(self, X, y=None):
        self.train_pairs_ = np.asarray(X)
        self.offset_ = float(np.percentile(self.score_samples(X), 100 * self.contamination))
        return self

    def score_pairs(self, X):
        return np.asarray(X)

    def score_samples(self, X):
        return np.array([min((self.train_pairs_ <= pair).mean(0)) for pair in np.asarray(X)])

    def predict(self, X):
        return np.where(self.score_samples(X) >= self.offset_, 1, -1)


@pytest.fixture
def pairs():
    """Three sets: training data, likely items of low dimension, and unlikely items."""
    rng = np.random.default_rng(0)
    return {
        "known": rng.normal([-100, 30], [10, 4], size=(300, 2)),
        "simple": rng.normal([-70, 12], [5, 2], size=(200, 2)),
        "far": rng.normal([-200, 35], [10, 4], size=(100, 2)),
    }


def names(display):
    return [text.get_text() for text in display.legend_.get_texts()]


def offsets(scatter):
    return np.asarray(scatter.get_offsets())


@pytest.mark.parametrize("n_train", [2, 7, 50, 333])
@pytest.mark.parametrize("contamination", [0.01, 0.05, 0.3, 0.5])
@pytest.mark.parametrize("n_values", [3, 20, 10**9], ids=lambda n: f"of {n} values")
def test_thresholds_decide_as_the_detector(n_train, contamination, n_values):
    rng = np.random.default_rng(n_train)
    train = rng.integers(n_values, size=(n_train, 2)) / 7
    detector = Pairs(contamination).fit(train)
    others = rng.integers(-1, n_values + 1, size=(300, 2)) / 7
    display = from_estimator(detector, {"train": train, "others": others})
    for name, items in [("train", train), ("others", others)]:
        decisions = detector.predict(items)
        by_thresholds = (items >= display.thresholds).all(1)
        np.testing.assert_array_equal(by_thresholds, decisions == 1)
        assert display.accepted_[name] == (decisions == 1).mean()
    for threshold, values in zip(display.thresholds, train.T, strict=True):
        reaches = [(values <= value).mean() >= detector.offset_ for value in values]
        assert threshold == values[reaches].min()


@pytest.mark.parametrize("estimator", ["threshold", "lanczos"])
def test_local_intrinsic_dimension(estimator):
    X = np.random.default_rng(0).normal(size=(90, 4)) * [1, 2, 0.1, 3]
    flow = tiny_flow(random_state=0)
    detector = LocalIntrinsicDimension(flow, estimator=estimator, scale=-1.0, random_state=0)
    detector.set_params(combine="min").fit(X[:60])
    sets = {"train": X[:60], "test": X[60:], "far": 3 * X[60:]}
    display = from_estimator(detector, sets)
    for name, items in sets.items():
        np.testing.assert_array_equal(display.pairs[name], detector.score_pairs(items))
        assert display.accepted_[name] == (detector.predict(items) == 1).mean()
    assert display.accepted_["train"] >= 0.95
    assert display.accepted_["far"] < display.accepted_["test"]
    again = from_estimator(FrozenEstimator(detector), {"train": torch.from_numpy(X[:60])})
    assert again.thresholds == display.thresholds
    assert again.accepted_["train"] == display.accepted_["train"]


def test_region_of_a_joint_score():
    X = np.random.default_rng(0).normal(size=(90, 4)) * [1, 2, 0.1, 3]
    settings = {"estimator": "convolution", "scale": -1.0, "random_state": 0}
    detector = LocalIntrinsicDimension(tiny_flow(random_state=0), **settings).fit(X[:60])
    sets = {"train": X[:60], "test": X[60:], "far": 3 * X[60:]}
    display = from_estimator(detector, sets)
    assert (display.thresholds, display.lines_) == (None, [])
    for name, items in sets.items():
        assert display.accepted_[name] == (detector.predict(items) == 1).mean()
    assert names(display)[3] == "accepted"
    # The filled polygons contain the accepted pairs, and no others.
    view = np.array([display.ax_.get_xlim(), display.ax_.get_ylim()]).T
    points = np.random.default_rng(0).uniform(*view, size=(500, 2))
    inside = np.zeros(500, bool)
    for path in display.region_.get_paths():
        inside |= path.contains_points(points)
    accepted = detector.combine_pairs(points) >= detector.offset_
    assert 0 < accepted.mean() < 1
    assert (inside == accepted).mean() > 0.98
    again = from_estimator(FrozenEstimator(detector), sets)
    assert again.accepted_ == display.accepted_


def test_region_by_hand(pairs):
    display = from_pairs(pairs, accepts=lambda pairs: pairs[:, 0] > -120)
    assert display.accepted_["far"] == (pairs["far"][:, 0] > -120).mean()
    nothing = from_pairs(pairs, accepts=lambda pairs: np.zeros(len(pairs), bool))
    assert nothing.region_ is None
    assert nothing.accepted_ == dict.fromkeys(pairs, 0.0)
    with pytest.raises(ValueError, match="both thresholds and accepts"):
        from_pairs(pairs, (-120, 22), accepts=lambda pairs: pairs[:, 0] > 0)


def test_what_is_drawn(pairs):
    display = from_pairs(pairs, (-120, 22), title="by hand")
    ax = display.ax_
    assert display.figure_ is ax.figure
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("log p(x) (nats)", "local intrinsic dimension")
    assert ax.get_title() == "by hand"
    assert display.thresholds == (-120, 22)
    on_density, on_dimension = display.lines_
    assert list(on_density.get_xdata()) == [-120, -120]
    assert list(on_dimension.get_ydata()) == [22, 22]
    # The region has its lower left corner on the thresholds, and fills the rest of the axes.
    assert display.region_.get_xy() == (-120, 22)
    upper = display.region_.get_bbox().max
    np.testing.assert_allclose(upper, [ax.get_xlim()[1], ax.get_ylim()[1]])
    assert all(artist in ax.get_children() for artist in [*display.lines_, display.region_])

    expected = {
        name: 100 * ((items[:, 0] >= -120) & (items[:, 1] >= 22)).mean()
        for name, items in pairs.items()
    }
    assert expected["known"] > 90 > 10 > expected["far"]
    assert names(display) == [
        *(f"{name}: {part:.1f} % accepted" for name, part in expected.items()),
        "accepted: log p(x) ≥ −120.0,\nLID ≥ 22.0",
        "beyond the axes",
    ]
    colours = [tuple(scatter.get_facecolors()[0, :3]) for scatter in display.scatters_.values()]
    assert len(set(colours)) == 3
    for handle, colour in zip(display.legend_.legend_handles, colours, strict=False):
        np.testing.assert_allclose(to_rgba(handle.get_color())[:3], colour)
    # Later sets lie over earlier ones.
    order = [ax.collections.index(scatter) for scatter in display.scatters_.values()]
    assert order == sorted(order)


def test_every_item_is_in_view_or_marked_at_the_edge(pairs):
    pairs["known"][:3] = [[1e6, 30], [-np.inf, 31], [-100, -1e5]]
    display = from_pairs(pairs, (-120, 22))
    view = np.array([display.ax_.get_xlim(), display.ax_.get_ylim()]).T
    # One percent of a set at each end does not widen the view.
    assert view[0, 0] > -260
    assert view[1, 0] < -20
    assert view[0, 1] > 0
    n_beyond = 0
    for name, items in pairs.items():
        inside = ((items >= view[0]) & (items <= view[1])).all(1)
        np.testing.assert_array_equal(offsets(display.scatters_[name]), items[inside])
        edge = display.edge_scatters_[name]
        np.testing.assert_array_equal(offsets(edge), np.clip(items[~inside], *view))
        assert len(edge.get_paths()) == (~inside).sum()
        n_beyond += (~inside).sum()
        for axis in (0, 1):
            low, high = np.quantile(items[np.isfinite(items[:, axis]), axis], [0.01, 0.99])
            assert view[0, axis] <= low <= high <= view[1, axis]
    assert 3 <= n_beyond <= 24
    # Triangles of the first three items point right, left and down.
    tips = [far_vertex(path) for path in display.edge_scatters_["known"].get_paths()[:3]]
    np.testing.assert_allclose(tips, [[0.5, 0], [-0.5, 0], [0, -0.5]], atol=1e-9)
    display.figure_.canvas.draw()


def far_vertex(path):
    """Vertex of an equilateral triangle that lies furthest along one axis."""
    vertices = path.vertices[:3]
    return vertices[np.abs(vertices).max(1).argmax()]


def test_given_limits(pairs):
    display = from_pairs(pairs, (-120, 22), xlim=(-130, -90), ylim=(25, 100))
    assert (display.ax_.get_xlim(), display.ax_.get_ylim()) == ((-130, -90), (25, 100))
    known = pairs["known"]
    inside = ((known >= (-130, 25)) & (known <= (-90, 100))).all(1)
    assert 0 < inside.sum() < len(known)
    assert len(offsets(display.scatters_["known"])) == inside.sum()
    assert len(offsets(display.edge_scatters_["known"])) == (~inside).sum()
    # The part that is accepted does not depend on the view, and the region stays inside it.
    assert display.accepted_ == from_pairs(pairs, (-120, 22)).accepted_
    np.testing.assert_allclose(display.region_.get_bbox().extents, [-120, 25, -90, 100])


def test_view_holds_thresholds_and_single_values():
    display = from_pairs({"one": [[5.0, 3.0]]}, (90, 3))
    assert display.ax_.get_xlim() == (0.75, 94.25)
    assert display.ax_.get_ylim() == (2, 4)
    assert names(display)[0] == "one: 0.0 % accepted"
    assert len(names(display)) == 2
    # No value to go by: all are at the edge.
    display = from_pairs({"impossible": [[-np.inf, 3.0]] * 4})
    assert display.ax_.get_xlim() == (-1, 1)
    np.testing.assert_array_equal(offsets(display.edge_scatters_["impossible"]), [[-1, 3]] * 4)


def test_nan_is_left_out_and_counted(pairs):
    spoilt = {**pairs, "far": pairs["far"].copy()}
    spoilt["far"][:10, 0] = np.nan
    spoilt["far"][10:15, 1] = np.nan
    spoilt["far"][20] = [-100, 30]
    display = from_pairs(spoilt, (-120, 22))
    assert display.accepted_["far"] == 1 / 85
    assert names(display)[2] == "far: 1.2 % accepted\n(15 with NaN left out)"
    drawn = display.scatters_["far"], display.edge_scatters_["far"]
    assert sum(len(offsets(scatter)) for scatter in drawn) == 85
    np.testing.assert_array_equal(display.pairs["far"], spoilt["far"])


def test_without_thresholds(pairs):
    display = from_pairs(pairs)
    assert display.thresholds is None
    assert display.region_ is None
    assert display.lines_ == []
    assert display.accepted_ == {}
    assert names(display) == ["known", "simple", "far", "beyond the axes"]


def test_given_axes_and_drawing_again(pairs):
    _, axes = plt.subplots(1, 2)
    display = from_pairs(pairs, (-120, 22), ax=axes[1], scatter_kwargs={"s": 3, "color": "k"})
    assert display.ax_ is axes[1]
    assert display.scatters_["far"] in axes[1].collections
    assert list(display.scatters_["far"].get_sizes()) == [3]
    np.testing.assert_array_equal(display.scatters_["far"].get_facecolors()[0, :3], 0)
    assert len(axes[0].collections) == 0
    first = display.region_
    assert display.plot(ax=axes[0], legend=False) is display
    assert display.legend_ is None
    assert display.ax_ is axes[0]
    assert display.region_ is not first
    assert len(plt.get_fignums()) == 1


def test_more_sets_than_colours(pairs):
    display = from_pairs({number: pairs["known"] + number for number in range(12)})
    assert names(display)[:12] == [str(number) for number in range(12)]
    looks = {
        (scatter.get_paths()[0].vertices.tobytes(), scatter.get_facecolors().tobytes())
        for scatter in display.scatters_.values()
    }
    assert len(looks) == 12


def test_what_is_refused(pairs):
    known = pairs["known"]
    detector = Pairs().fit(known)
    with pytest.raises(TypeError, match="LogLikelihood has no score_pairs, which returns"):
        from_estimator(LogLikelihood(tiny_flow()), pairs)
    with pytest.raises(NotFittedError, match="This LocalIntrinsicDimension instance is not fitted"):
        from_estimator(LocalIntrinsicDimension(), pairs)
    for make, name in [(partial(from_estimator, detector), "sets"), (from_pairs, "pairs")]:
        with pytest.raises(TypeError, match=f"{name} is of type ndarray; expected a dict of sets"):
            make(known)
        with pytest.raises(ValueError, match=f"{name} is empty; expected at least one set"):
            make({})
    for bad in (known[:, 0], known[:, :1], known[None], np.ones((3, 4))):
        with pytest.raises(ValueError, match=r"pairs\['b'\] has shape .*; expected \(n_samples"):
            from_pairs({"a": known, "b": bad})
    for bad in (known[:0], np.full((5, 2), np.nan)):
        message = rf"pairs\['b'\] has no row without NaN among {len(bad)}; expected at least one"
        with pytest.raises(ValueError, match=message):
            from_pairs({"a": known, "b": bad})
    for bad in (3.0, (1, 2, 3), (np.nan, 1), (-np.inf, 1), [(1, 2)]):
        with pytest.raises(ValueError, match=r"thresholds=.*; expected two finite numbers"):
            from_pairs(pairs, bad)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        from_pairs(pairs, colour="red")
    assert plt.get_fignums() == []
