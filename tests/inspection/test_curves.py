"""Displays of ROC and precision-recall curves: the positive class and the lines."""

import matplotlib
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from skood import Mahalanobis
from skood.inspection import PrecisionRecallCurvesDisplay, RocCurvesDisplay
from skood.metrics import fpr_at_tpr

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DISPLAYS = [RocCurvesDisplay, PrecisionRecallCurvesDisplay]


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    # Rounded, so that there are ties.
    return {
        "in": rng.normal(1, 1, 300).round(1),
        "near": rng.normal(0, 1, 100).round(1),
        "far": np.append(rng.normal(-3, 1, 50).round(1), [-np.inf, np.inf]),
    }


def labelled(scores, name):
    inside, outside = scores["in"], scores[name]
    both = np.append(inside, outside)
    return np.repeat([1, -1], [len(inside), len(outside)]), both


def test_roc(scores):
    display = RocCurvesDisplay.from_predictions(scores, title="two sets")
    assert list(display.lines_) == ["near", "far"]
    for name, line in display.lines_.items():
        truth, both = labelled(scores, name)
        x, y = line.get_data()
        assert display.auroc_[name] == pytest.approx(auc(x, y))
        finite = np.nan_to_num(both, posinf=1e3, neginf=-1e3)
        assert display.auroc_[name] == pytest.approx(roc_auc_score(truth == 1, finite))
        assert display.fpr_[name] == fpr_at_tpr(truth, both)
        # To the right, in-distribution items are accepted before out-of-distribution ones.
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    texts = [text.get_text() for text in display.legend_.get_texts()]
    near = f"near: AUROC {display.auroc_['near']:.3f}, FPR95 "
    assert texts[0].startswith(near)
    dots = [line for line in display.ax_.lines if line.get_marker() == "o"]
    assert [dot.get_data() for dot in dots] == [([fpr], [0.95]) for fpr in display.fpr_.values()]
    assert display.ax_.get_ylabel() == "in accepted (TPR)"
    assert display.ax_.get_title() == "two sets"
    assert display.figure_ is display.ax_.figure


def test_roc_at_another_rate(scores):
    _, ax = plt.subplots()
    display = RocCurvesDisplay.from_predictions(scores, ax=ax, tpr=0.8, legend=False)
    assert display.ax_ is ax
    assert display.legend_ is None
    assert display.fpr_["near"] == fpr_at_tpr(*labelled(scores, "near"), tpr=0.8)


@pytest.mark.parametrize(("positive", "sign"), [("in", 1), ("out", -1)])
def test_precision_recall(scores, positive, sign):
    display = PrecisionRecallCurvesDisplay.from_predictions(scores, positive=positive)
    for name, line in display.lines_.items():
        truth, both = labelled(scores, name)
        finite = np.nan_to_num(both, posinf=1e3, neginf=-1e3)
        expected = average_precision_score(truth == sign, sign * finite)
        assert display.aupr_[name] == pytest.approx(expected)
        recall, precision = line.get_data()
        assert -np.sum(np.diff(recall) * precision[:-1]) == pytest.approx(expected)
    chance = {line.get_ydata()[0] for line in display.ax_.lines if len(line.get_ydata()) == 2}
    assert chance == {np.mean(labelled(scores, name)[0] == sign) for name in ("near", "far")}
    assert f"far: AUPR-{positive} " in display.legend_.get_texts()[1].get_text()
    assert f"items that are {positive}-" in display.ax_.get_ylabel()


@pytest.mark.parametrize("display", DISPLAYS)
def test_from_estimator(display):
    rng = np.random.default_rng(0)
    sets = {"in": rng.normal(size=(200, 2)), "out": rng.normal(6, 1, size=(50, 2))}
    detector = Mahalanobis().fit(sets["in"])
    drawn = display.from_estimator(detector, sets, legend=False)
    for name, X in sets.items():
        np.testing.assert_array_equal(drawn.scores[name], detector.score_samples(X))
    assert drawn.legend_ is None


@pytest.mark.parametrize("display", DISPLAYS)
def test_errors(display):
    of = display.from_predictions
    with pytest.raises(TypeError, match="scores is of type list; expected a dict"):
        of([1.0])
    with pytest.raises(ValueError, match="scores is empty"):
        of({})
    with pytest.raises(ValueError, match="scores has 1 set, 'in'; expected in-distribution data"):
        of({"in": [1.0]})
    with pytest.raises(ValueError, match=r"scores\['out'\] has 1 NaN among 1"):
        of({"in": [1.0], "out": [np.nan]})
    with pytest.raises(NotFittedError):
        display.from_estimator(Mahalanobis(), {"a": np.zeros((3, 2)), "b": np.zeros((3, 2))})


def test_positive_is_in_or_out():
    with pytest.raises(ValueError, match="positive=1; expected 'in' or 'out'"):
        PrecisionRecallCurvesDisplay.from_predictions({"a": [1.0], "b": [0.0]}, positive=1)
