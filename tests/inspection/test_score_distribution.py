"""ScoreDistributionDisplay: histograms and threshold."""

import matplotlib
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skood import Mahalanobis
from skood.inspection import ScoreDistributionDisplay

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_from_estimator():
    rng = np.random.default_rng(0)
    sets = {"in": rng.normal(size=(200, 2)), "out": rng.normal(6, 1, size=(50, 2))}
    detector = Mahalanobis().fit(sets["in"])
    display = ScoreDistributionDisplay.from_estimator(detector, sets, bins=20, title="both")
    for name, X in sets.items():
        np.testing.assert_array_equal(display.scores[name], detector.score_samples(X))
        assert display.accepted_[name] == (detector.predict(X) == 1).mean()
        # Nothing is lost beyond the axes.
        assert display.histograms_[name].get_data().values.sum() == pytest.approx(1)
        assert len(display.histograms_[name].get_data().values) == 20
    assert display.line_.get_xdata()[0] == detector.offset_
    low, high = display.ax_.get_xlim()
    assert low < detector.offset_ < high
    texts = [text.get_text() for text in display.legend_.get_texts()]
    assert texts[:2] == ["in: 95.0 % accepted", "out: 0.0 % accepted"]
    assert display.ax_.get_xlabel() == "score of Mahalanobis (right: in-distribution)"
    assert display.figure_ is display.ax_.figure


def test_the_threshold_inside_a_pipeline():
    X = np.random.default_rng(0).normal(size=(200, 2))
    pipeline = make_pipeline(StandardScaler(), Mahalanobis()).fit(X)
    display = ScoreDistributionDisplay.from_estimator(pipeline, {"in": X})
    assert display.line_.get_xdata()[0] == pipeline[-1].offset_
    assert display.accepted_ == {"in": np.mean(pipeline.predict(X) == 1)}


def test_an_estimator_without_a_threshold():
    X = np.random.default_rng(0).normal(size=(30, 2))
    display = ScoreDistributionDisplay.from_estimator(KernelDensity().fit(X), {"all": X})
    assert display.line_ is None
    assert display.accepted_ == {}


def test_from_predictions():
    _, ax = plt.subplots()
    scores = {"in": [1.0, 2, 3], "out": [-np.inf, 0, np.inf]}
    display = ScoreDistributionDisplay.from_predictions(
        scores, 1.0, score_name="log p (nats)", ax=ax, legend=False, xlim=(0, 4), bins=4
    )
    assert display.ax_ is ax
    assert display.legend_ is None
    assert display.accepted_ == {"in": 1.0, "out": pytest.approx(1 / 3)}
    np.testing.assert_allclose(
        display.histograms_["in"].get_data().values, [0, 1 / 3, 1 / 3, 1 / 3]
    )
    np.testing.assert_allclose(display.histograms_["out"].get_data().values, [2 / 3, 0, 0, 1 / 3])


def test_constant_scores_are_in_view():
    display = ScoreDistributionDisplay.from_predictions({"a": np.ones(5)})
    assert display.ax_.get_xlim() == (0, 2)


def test_sets_that_are_far_off_leave_the_first_visible():
    scores = {"in": np.linspace(0, 1, 101), "out": np.linspace(-1e6, -1e5, 50)}
    display = ScoreDistributionDisplay.from_predictions(scores)
    low, high = display.ax_.get_xlim()
    assert -4 < low < -2.5
    assert 0.9 < high < 1.2
    assert display.histograms_["out"].get_data().values[0] == 1


def test_errors():
    of = ScoreDistributionDisplay.from_predictions
    with pytest.raises(TypeError, match="scores is of type ndarray; expected a dict"):
        of(np.zeros(3))
    with pytest.raises(ValueError, match="scores is empty"):
        of({})
    with pytest.raises(ValueError, match=r"scores\['a'\] has shape \(2, 1\); expected \(n_samp"):
        of({"a": [[1], [2]]})
    with pytest.raises(ValueError, match=r"scores\['b'\] has 1 NaN among 2"):
        of({"a": [1.0], "b": [1.0, np.nan]})
    with pytest.raises(NotFittedError):
        ScoreDistributionDisplay.from_estimator(Mahalanobis(), {"a": np.zeros((3, 2))})
