"""EvaluationDisplay: every figure in its cell, brighter for better values."""

import matplotlib
import numpy as np
import pytest

from skood import GMM, KNN, evaluate
from skood.inspection import EvaluationDisplay

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    sets = {"far": rng.normal(5, 1, size=(20, 3)), "wide": 2 * rng.normal(size=(20, 3))}
    return evaluate({"knn": KNN(n_neighbors=2), "gmm": GMM()}, X, sets, X_train=X)


@pytest.mark.parametrize("metric", ["auroc", "fpr95"])
def test_cells(table, metric):
    display = EvaluationDisplay.from_table(table, metric)
    assert display.values.shape == (2, 2)
    for row in table:
        place = display.detectors.index(row["detector"]), display.ood_sets.index(row["ood_set"])
        assert display.values[place] == row[metric]
        text = display.texts_[place]
        assert text.get_text() == f"{row[metric]:.3f}"
        assert text.get_position() == place[::-1]
    labels = [text.get_text() for text in display.ax_.get_yticklabels()]
    assert labels == display.detectors
    assert display.ax_.get_title() == metric


@pytest.mark.parametrize(("metric", "best"), [("auroc", 1), ("fpr95", 0), ("detection_error", 0)])
def test_good_is_bright(metric, best):
    rows = [
        {"detector": "a", "ood_set": "x", metric: 0.0},
        {"detector": "b", "ood_set": "x", metric: 1.0},
    ]
    display = EvaluationDisplay.from_table(rows, metric)
    brightness = [sum(display.image_.cmap(display.image_.norm(v))[:3]) for v in (0.0, 1.0)]
    assert int(np.argmax(brightness)) == best
    colours = [text.get_color() for text in display.texts_[:, 0]]
    assert sorted(colours) == ["black", "white"]
    assert colours[best] == "black"


def test_what_was_not_measured_is_left_empty():
    rows = [
        {"detector": "a", "ood_set": "x", "auroc": 0.5},
        {"detector": "b", "ood_set": "y", "auroc": 0.7},
    ]
    _, ax = plt.subplots()
    display = EvaluationDisplay.from_table(rows, ax=ax, vmin=0, vmax=1, title="two")
    assert display.texts_[0, 1] is None
    assert np.isnan(display.values[0, 1])
    assert display.ax_ is ax
    assert ax.get_title() == "two"


def test_errors(table):
    with pytest.raises(ValueError, match=r"metric='f1'; its columns are \["):
        EvaluationDisplay.from_table(table, "f1")
    with pytest.raises(ValueError, match="it is empty"):
        EvaluationDisplay.from_table([])
