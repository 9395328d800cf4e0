"""Displays of open-set classification."""

import matplotlib
import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

import skood
from skood.inspection import CCRCurvesDisplay, OpenSetF1CurvesDisplay
from skood.metrics import ccr_at_fpr, open_set_f1, oscr

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DISPLAYS = [CCRCurvesDisplay, OpenSetF1CurvesDisplay]


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture(params=["integers", "strings"])
def given(request):
    rng = np.random.default_rng(0)
    scores = {
        "in": rng.normal(1, 1, 90).round(1),
        "near": rng.normal(0, 1, 40).round(1),
        "far": np.append(rng.normal(-3, 1, 20).round(1), [-np.inf, np.inf]),
    }
    y_id = rng.integers(0, 3, 90)
    y_pred = {name: rng.integers(0, 3, len(values)) for name, values in scores.items()}
    y_pred["in"][:60] = y_id[:60]
    if request.param == "strings":
        y_id = y_id.astype(str)
        y_pred = {name: values.astype(str) for name, values in y_pred.items()}
    return scores, y_pred, y_id


def arrays(given, name):
    scores, y_pred, y_id = given
    unknown = "-1" if y_id.dtype.kind == "U" else -1
    return (
        np.append(y_id, np.full(len(scores[name]), unknown)),
        np.append(y_pred["in"], y_pred[name]),
        np.append(scores["in"], scores[name]),
    )


def test_ccr(given):
    display = CCRCurvesDisplay.from_predictions(*given, fpr=0.1, title="three classes")
    assert list(display.lines_) == ["near", "far"]
    for name, line in display.lines_.items():
        assert display.oscr_[name] == oscr(*arrays(given, name))
        assert display.ccr_[name] == ccr_at_fpr(*arrays(given, name), fpr=0.1)
        x, y = line.get_data()
        for fpr in (0.05, 0.5, 1.0):
            assert y[x <= fpr].max() == ccr_at_fpr(*arrays(given, name), fpr=fpr)
    assert display.ax_.get_xscale() == "log"
    assert display.ax_.get_title() == "three classes"
    assert display.legend_.get_texts()[0].get_text().endswith("at FPR 10 %")


@pytest.mark.parametrize("x", ["threshold", "accepted"])
def test_f1(given, x):
    scores, _, _ = given
    display = OpenSetF1CurvesDisplay.from_predictions(*given, offset=0.33, x=x)
    for name, line in display.lines_.items():
        y_true, y_pred, y_score = arrays(given, name)
        unknown = "-1" if y_true.dtype.kind == "U" else -1
        decided = np.where(y_score >= 0.33, y_pred, unknown)
        assert display.f1_[name] == pytest.approx(open_set_f1(y_true, decided))
        at_x, f1 = line.get_data()
        assert np.isfinite(at_x).all()
        assert display.best_[name] == pytest.approx(f1.max())
        if x == "accepted":
            assert (at_x[0], at_x[-1]) == (0, 1)
    accepted = np.mean(scores["in"] >= 0.33)
    (line,) = (line for line in display.ax_.lines if line not in display.lines_.values())
    assert line.get_xdata()[0] == pytest.approx(0.33 if x == "threshold" else accepted)


def test_f1_without_a_threshold(given):
    display = OpenSetF1CurvesDisplay.from_predictions(*given, legend=False)
    assert display.f1_ == {}
    assert display.legend_ is None
    assert len(display.ax_.lines) == 2


@pytest.mark.parametrize("display", DISPLAYS)
def test_from_estimator(display):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = (X[:, 0] > 0).astype(int)
    network = LogisticRegression().fit(X, y)
    detector = skood.MSP(FrozenEstimator(network)).fit(X, y)
    sets = {"in": X, "shifted": X + 1}
    _, ax = plt.subplots()
    shown = display.from_estimator(detector, sets, y, ax=ax)
    assert shown.ax_ is ax
    np.testing.assert_array_equal(shown.scores["shifted"], detector.score_samples(X + 1))
    np.testing.assert_array_equal(shown.y_pred["in"], network.predict(X))
    assert shown.offset == detector.offset_
    with pytest.raises(TypeError, match="KNN predicts no classes"):
        display.from_estimator(skood.KNN(n_neighbors=3).fit(X), sets, y)


class Several(BaseEstimator):
    """Classes that do not exclude each other."""

    def __init__(self):
        self.classes_ = np.arange(2)

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        return X[:, 0]

    def predict_proba(self, X):
        return np.full((len(X), 2), 0.9)


@pytest.mark.parametrize("display", DISPLAYS)
def test_errors(display, given):
    scores, y_pred, y_id = given
    with pytest.raises(ValueError, match=r"y_pred has no predictions of \['far'\]"):
        display.from_predictions(scores, {k: y_pred[k] for k in ("in", "near")}, y_id)
    with pytest.raises(ValueError, match=r"labels of 'y_id' have shape \(89,\)"):
        display.from_predictions(scores, y_pred, y_id[1:])
    with pytest.raises(ValueError, match=r"labels of 'near' have shape \(39,\)"):
        display.from_predictions(scores, y_pred | {"near": y_pred["near"][1:]}, y_id)
    sets = {name: values[:, None] for name, values in scores.items()}
    with pytest.raises(TypeError, match="probabilities of Several do not add up to 1"):
        display.from_estimator(Several(), sets, y_id)
    with pytest.raises(TypeError, match="y_pred is of type ndarray"):
        display.from_predictions(scores, y_pred["in"], y_id)
    with pytest.raises(ValueError, match="x='fpr'"):
        OpenSetF1CurvesDisplay.from_predictions(*given, x="fpr")
