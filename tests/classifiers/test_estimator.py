"""Classifiers as scikit-learn estimators: labels, predictions, parameters, errors."""

import inspect
import re

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skood.base import estimator, parameter
from skood.classifiers import (
    MLP,
    VGG,
    ConvNet,
    DenseNet,
    NeuralClassifier,
    ResNet,
    ShallowConvNet,
    WideResNet,
)

CLASSES = [MLP, ConvNet, DenseNet, WideResNet, ResNet, ShallowConvNet, VGG]
TRAINING = [name for name in inspect.signature(NeuralClassifier.__init__).parameters][1:]


@pytest.mark.parametrize(
    "names",
    [
        [3, 7, 50],
        [-5.0, -2.0, 4.0],
        ["10", "9", "dog"],
        np.array(["a", "b", "long name"], dtype=object),
        np.array([1, 2, 3], dtype=np.uint8),
    ],
    ids=str,
)
def test_labels_of_any_type(tiny, images, labels, names):
    names = np.asarray(names)
    expected = tiny().fit(images, labels)
    network = tiny().fit(images, names[labels])
    np.testing.assert_array_equal(network.classes_, np.sort(names))
    assert network.classes_.dtype == names.dtype
    np.testing.assert_array_equal(network.predict(images), names[expected.predict(images)])
    np.testing.assert_array_equal(network.predict_proba(images), expected.predict_proba(images))
    assert network.score(images, names[labels]) == expected.score(images, labels)


def test_classes_are_sorted_whatever_their_order(tiny, images, labels):
    names = np.array(["z", "m", "a"])
    network = tiny(max_steps=100, n_filters=(8,), augmentation=None).fit(images, names[labels])
    assert network.classes_.tolist() == ["a", "m", "z"]
    assert network.score(images, names[labels]) > 0.8


@pytest.mark.parametrize("container", [list, tuple, torch.as_tensor, lambda y: y[:, None] * 1.0])
@pytest.mark.filterwarnings("ignore:A column-vector y")
def test_containers_of_labels(tiny, images, labels, container):
    expected = tiny().fit(images, labels)
    network = tiny().fit(images, container(labels))
    np.testing.assert_array_equal(network.predict(images), expected.predict(images))


@pytest.mark.parametrize("names", [[False, True], [-1, 1], [0, 1], ["no", "yes"]], ids=str)
def test_two_classes(tiny, images, names):
    y = np.array(names)[np.arange(24) % 2]
    network = tiny().fit(images, y)
    decision, proba = network.decision_function(images), network.predict_proba(images)
    assert decision.shape == (24,)
    assert proba.shape == (24, 2)
    np.testing.assert_allclose(proba[:, 1], 1 / (1 + np.exp(-decision)), rtol=1e-9)
    np.testing.assert_array_equal(network.predict(images), np.array(names)[(decision > 0) * 1])


def test_predictions_agree(tiny, images, labels):
    network = tiny().fit(images, labels)
    logits, proba = network.decision_function(images), network.predict_proba(images)
    assert logits.dtype == proba.dtype == np.float64
    np.testing.assert_allclose(proba, softmax(logits, axis=1), rtol=1e-12)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(network.predict(images), logits.argmax(1))
    assert network.score(images, labels) == (network.predict(images) == labels).mean()
    assert network.transform(images).shape == (24, 4)
    again = clone(network).fit_transform(images, labels)
    np.testing.assert_array_equal(again, network.transform(images))


def test_layouts_of_images(tiny, images, labels):
    expected = tiny().fit(images, labels).decision_function(images)
    for X in (images.transpose(0, 2, 3, 1), torch.from_numpy(images)):
        network = tiny().fit(X, labels)
        assert network.n_features_in_ == 90
        np.testing.assert_array_equal(network.decision_function(X), expected)
        np.testing.assert_array_equal(network.decision_function(images), expected)


@pytest.mark.parametrize("cls", CLASSES)
class TestParameters:
    def test_all_are_named(self, cls):
        own = [name for name in vars(cls()) if name not in TRAINING]
        assert list(inspect.signature(cls).parameters)[: len(own)] == own
        assert set(cls().get_params()) == {*own, *TRAINING}

    def test_all_can_be_set(self, cls):
        for name, default in cls().get_params().items():
            value = object()
            assert getattr(cls(**{name: value}), name) is value
            assert getattr(clone(cls(**{name: value}), safe=False), name) is not default
            assert cls().set_params(**{name: value}).get_params()[name] is value

    def test_repr_shows_what_was_changed(self, cls):
        assert repr(cls()) == f"{cls.__name__}()"
        text = repr(cls(patience=3, batch_size=7))
        assert re.sub(r"\s", "", text) == f"{cls.__name__}(batch_size=7,patience=3)"

    def test_unknown_ones_are_refused(self, cls):
        with pytest.raises(TypeError, match="unexpected keyword argument 'max_epoch'"):
            cls(max_epoch=3)
        with pytest.raises(ValueError, match="Invalid parameter 'max_epoch' for estimator"):
            cls().set_params(max_epoch=3)

    def test_bad_values_are_refused(self, cls):
        X, y = np.zeros((4, 1, 32, 32)), [0, 1, 0, 1]
        for name, value in {
            "max_epochs": 0,
            "momentum": 1.0,
            "weight_decay": -1e-4,
            "lr_schedule": "linear",
            "label_smoothing": 1.0,
            "augmentation": "mixup",
            "image_shape": 32,
            "precision": "fp16",
        }.items():
            with pytest.raises(ValueError, match=f"The '{name}' parameter of {cls.__name__} must"):
                cls(**{name: value}).fit(X, y)

    def test_tags(self, cls):
        assert is_classifier(cls())
        tags = cls().__sklearn_tags__()
        assert tags.target_tags.required
        assert tags.transformer_tags.preserves_dtype == []


def test_parameters_of_own_architectures():
    """A subclass may add parameters, to those of another architecture too, or take none."""

    @estimator
    class Wider(ConvNet):
        factor: int = parameter(default=2, kw_only=True)

    class Fixed(ConvNet):
        def __init__(self, factor=2):
            super().__init__(max_epochs=3)
            self.factor = factor

    class Renamed(ConvNet):
        pass

    assert Wider(factor=3, n_filters=(5,), dropout=0.1).get_params()["n_filters"] == (5,)
    assert set(Wider().get_params()) == {"factor", *ConvNet().get_params()}
    assert clone(Wider(factor=3, patience=2)).get_params()["patience"] == 2
    assert Fixed().get_params() == {"factor": 2}
    assert clone(Fixed(factor=5)).factor == 5
    assert Renamed().get_params() == ConvNet().get_params()
    own = {"n_filters", "n_convolutions", "hidden_features", "dropout"}
    assert ConvNet().get_params().keys() == {*own, *TRAINING}


def test_grid_search(tiny, images, labels):
    grid = {"n_filters": [(2,), (3, 4)], "learning_rate": [1e-12, 0.1], "label_smoothing": [0.1]}
    search = GridSearchCV(tiny(max_steps=20), grid, cv=2).fit(images, labels)
    assert len(search.cv_results_["params"]) == 4
    assert set(search.best_params_) == set(grid)
    assert search.best_estimator_.transform(images).shape[1] in (2, 4)
    assert search.predict_proba(images).shape == (24, 3)


def test_pipeline(tiny, images, labels):
    rows = images.reshape(24, -1) / 255
    flip = FunctionTransformer(lambda X: 1 - X)
    pipeline = Pipeline([("flip", flip), ("net", tiny(image_shape=(3, 6, 5)))])
    pipeline.fit(rows, labels)
    expected = tiny().fit(1 - images / 255, labels)
    np.testing.assert_allclose(
        pipeline.predict_proba(rows), expected.predict_proba(1 - images / 255), rtol=1e-6
    )
    search = GridSearchCV(pipeline, {"net__n_filters": [(2,), (3,)]}, cv=2).fit(rows, labels)
    assert search.best_estimator_["net"].n_filters in [(2,), (3,)]


def test_as_a_step_of_a_pipeline():
    X, y = load_iris(return_X_y=True)
    network = MLP((8,), max_epochs=20, random_state=0, compile=False)
    pipeline = make_pipeline(StandardScaler(), network, KNeighborsClassifier(3)).fit(X, y)
    assert pipeline.score(X, y) > 0.9


def test_input_is_not_modified_and_nothing_is_written_after_fit(tiny, images, labels):
    X, y = images.copy(), labels.copy()
    network = tiny().fit(X, y)
    before = set(vars(network))
    network.predict(X), network.transform(X), network.score(X, y)
    np.testing.assert_array_equal(X, images)
    np.testing.assert_array_equal(y, labels)
    assert set(vars(network)) == before


def test_training_again_forgets(tiny, images, labels):
    network = tiny().fit(images, labels)
    rows = images.reshape(24, -1)[:, :36] / 255
    network.set_params(image_shape=(1, 6, 6)).fit(rows, labels > 0)
    fresh = tiny(image_shape=(1, 6, 6)).fit(rows, labels > 0)
    np.testing.assert_array_equal(network.decision_function(rows), fresh.decision_function(rows))


def test_unfitted(tiny, images):
    for method in ("predict", "predict_proba", "decision_function", "transform"):
        with pytest.raises(NotFittedError, match="ConvNet instance is not fitted yet"):
            getattr(tiny(), method)(images)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "ConvNet requires y to be passed, but the target y is None"),
        (np.zeros(24), "y has one class, .*0.0.*; a classifier needs at least 2 classes"),
        (np.arange(23) % 2, "y has 23 labels, but X has 24 items; expected one label for each"),
        (np.arange(24) % 4 - 1, "labels -1, which mark out-of-distribution rows.* fit a detector"),
        (np.array(["cat", "dog", -1])[np.arange(24) % 3], "labels -1, which mark"),
        (np.array([-1, 0, -2])[np.arange(24) % 3], "labels -1, which mark"),
        (np.linspace(0, 1, 24), "Unknown label type: continuous"),
        (np.zeros((24, 2)), r"y should be a 1d array, got an array of shape \(24, 2\)"),
    ],
)
def test_errors_of_y(tiny, images, y, message):
    with pytest.raises(ValueError, match=message):
        tiny().fit(images, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X.astype(int), "pixels of dtype int64 have no range of their own"),
        (lambda X: X / 127, "X has values from .* but pixels from 0 to 1 are expected"),
        (lambda X: np.where(X > 250, np.nan, X / 255), "contains NaN"),
        (lambda X: np.where(X > 250, np.inf, X / 255), "contains infinity"),
        (lambda X: X[:0], "0 sample"),
        (lambda X: X[:1], "minimum of 2"),
    ],
)
def test_errors_of_X(tiny, images, labels, change, message):
    X = change(images)
    with pytest.raises(ValueError, match=message):
        tiny().fit(X, labels[: len(X)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda X: X[:, :, :5],
            r"items of shape \(3, 5, 5\), but ConvNet was fitted on .*\(3, 6, 5",
        ),
        (
            lambda X: X[:, :1],
            r"items of shape \(1, 6, 5\), but ConvNet was fitted on items of shape",
        ),
        (lambda X: X.reshape(24, 90), r"items of shape \(90,\), but ConvNet"),
        (lambda X: np.where(X > 250, np.nan, X / 255), "contains NaN"),
        (
            lambda X: X / 255,
            "pixels of dtype float64, but ConvNet was fitted on pixels from 0 to 255",
        ),
        (lambda X: X.astype(int), "pixels of dtype int64 have no range of their own"),
    ],
)
def test_errors_of_prediction(tiny, images, labels, change, message):
    network = tiny().fit(images, labels)
    for method in (network.predict, network.transform):
        with pytest.raises(ValueError, match=message):
            method(change(images))


def test_value_range(tiny, images, labels):
    """Stated, it holds for every dtype; learned, it bounds nothing that is scored later."""
    X = images.astype(int) * 3 - 100
    expected = tiny().fit(images, labels).decision_function(images)
    stated = tiny(value_range=(-100, 665)).fit(X, labels)
    np.testing.assert_allclose(stated.decision_function(X.astype(float)), expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r"X has values from -101 to .* pixels from -100 to 665"):
        stated.predict(X - 1)
    learned = tiny(value_range="minmax").fit(X, labels)
    assert learned.value_range_ == (X.min(), X.max())
    assert np.isfinite(learned.decision_function(X + 1000)).all()
