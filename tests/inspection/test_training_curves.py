"""TrainingCurvesDisplay: choice and colours of curves."""

import matplotlib
import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator

from skood import KNN, MLP
from skood.inspection import TrainingCurvesDisplay

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


HISTORY = {
    "loss": [3.0, 2.0, 1.5],
    "metric": [2.0, 1.0, 0.9],
    "validation_loss": [3.1, 2.2, 2.0],
    "validation_accuracy": [0.3, 0.5, 0.6],
}


def test_losses_by_default():
    display = TrainingCurvesDisplay.from_history(HISTORY, title="a training")
    assert list(display.lines_) == ["loss", "validation_loss"]
    own, held_out = display.lines_.values()
    np.testing.assert_array_equal(own.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(own.get_ydata(), HISTORY["loss"])
    assert own.get_color() == held_out.get_color()
    assert (own.get_linestyle(), held_out.get_linestyle()) == ("-", "--")
    assert display.ax_.get_title() == "a training"
    assert [t.get_text() for t in display.legend_.get_texts()] == ["loss", "validation loss"]


def test_named_curves():
    _, ax = plt.subplots()
    display = TrainingCurvesDisplay.from_history(
        HISTORY, ["metric", "accuracy"], ax=ax, legend=False
    )
    assert list(display.lines_) == ["metric", "validation_accuracy"]
    assert len({line.get_color() for line in display.lines_.values()}) == 2
    assert display.ax_ is ax
    assert display.legend_ is None
    assert list(TrainingCurvesDisplay.from_history({"auroc": [0.5]}).lines_) == ["auroc"]


def test_from_estimator():
    X, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    model = MLP((4,), max_epochs=2, validation_fraction=0.2).fit(X, y)
    for estimator in (model, FrozenEstimator(model)):
        display = TrainingCurvesDisplay.from_estimator(estimator)
        assert display.history["loss"] == model.history_["loss"]
    with pytest.raises(TypeError, match="KNN has no history_; expected a density"):
        TrainingCurvesDisplay.from_estimator(KNN(n_neighbors=1).fit(X))
    with pytest.raises(ValueError, match=r"no \['speed'\]; it has \['loss'"):
        TrainingCurvesDisplay.from_estimator(model, ["speed"])
    with pytest.raises(ValueError, match="the history has no curves"):
        TrainingCurvesDisplay.from_history({})
