"""Base of the post-hoc detectors: the classifier or the features, and one pass over the data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags

from skood._checked_data import CheckedData, in_float32
from skood._models import in_chunks, rows_through
from skood._open_set import OpenSetDetector, class_proba_of, knows_classes
from skood._parameters import HasMethods, estimator, parameter
from skood.base import ModelDetector, threshold_rows
from skood.classifiers import (
    MLP,
    ConvNet,
    NeuralClassifier,
    PretrainedClassifier,
)
from skood.classifiers._module import ModuleHandle
from skood.classifiers._network import Network
from skood.classifiers._network_classifier import NetworkClassifier
from skood.classifiers._outputs import Outputs
from skood.posthoc._models import (
    check_readable,
    class_positions,
    classifier_outputs,
    fitted_model,
    is_multilabel,
    read_features,
    split_multilabel,
    with_handles,
)

__all__ = ["ClassifierDetector", "FeatureDetector", "NetworkDetector", "OutputsDetector"]


class _HoldsModules(OpenSetDetector, ModelDetector):
    """Wraps bare modules given as a parameter, one or a list of them, in handles."""

    @property
    def _takes_any_shape(self) -> bool:
        """Whether a model that is not ours reads X."""
        name = "features" if isinstance(self, FeatureDetector) else "classifier"
        model = getattr(self, name)
        return model is not None and not isinstance(model, NeuralClassifier)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, with_handles(value))


@estimator
class ClassifierDetector(_HoldsModules):
    """Base of the detectors on a classifier, which they train unless it is already trained.

    A subclass writes ``_score_samples`` and, if the score learns from the training data,
    ``_fit_on_outputs`` and ``_needs``.

    Parameters
    ----------
    classifier : classifier or Module, default=None
        A classifier of :mod:`skood.classifiers` or a trained torch module. One in
        :class:`sklearn.frozen.FrozenEstimator` is not trained again. None: a convolutional network
        for images and an MLP for rows.

    Attributes
    ----------
    classifier_ : classifier
        The trained classifier.
    _reads : {"logits", "network", "features", "head"}
        What the subclass reads: the logits of any classifier, a network, its penultimate features,
        or the weights of its last layer too.
    _takes_multilabel : bool
        Whether the score is defined where the classes do not exclude each other.
    _needs : {"nothing", "data", "labels"}
        Which training data ``_fit_on_outputs`` needs; with "nothing" it is not called.
    """

    classifier: Any = parameter(HasMethods(["fit", "predict"]), None, default=None)

    _reads = "logits"
    _takes_multilabel = False
    _needs = "nothing"
    _model_parameters = ("classifier",)

    def _fit_on_outputs(
        self, outputs: Outputs, class_indices: npt.NDArray[np.int64], data: CheckedData
    ) -> None:
        """Learn the score's statistics from the training data, after the classifier is trained.

        Parameters
        ----------
        outputs : Outputs
        class_indices : ndarray of shape (n,)
            Column of each row's class in the logits; empty unless ``_needs`` is "labels".
        data : CheckedData
        """

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        self._fit_classifier(inliers, y, seed)
        self._fit_scores(inliers, y)
        return None

    def _fit_classifier(self, inliers: CheckedData, y: npt.NDArray | None, seed: int) -> None:
        """Train the classifier unless it is already trained."""
        self.classifier_ = fitted_model(
            self._default_classifier(inliers) if self.classifier is None else self.classifier,
            inliers,
            y,
            seed=None if self.random_state is None else seed,
            memory=self.memory,
            name=type(self).__name__,
        )
        check_readable(self.classifier_, self._reads, type(self).__name__)
        if is_multilabel(self.classifier_) and not self._takes_multilabel:
            raise ValueError(
                f"{type(self).__name__} is a score of classes that exclude each other, but the "
                "network is multilabel; use Energy (JointEnergy), MSP (largest sigmoid), MaxLogit, "
                "or a detector on features"
            )

    def _default_classifier(self, data: CheckedData) -> NeuralClassifier:
        """Return the classifier for ``classifier=None``."""
        return ConvNet() if data.is_image else MLP()

    def _split_outliers(
        self, data: CheckedData, y: Any
    ) -> tuple[CheckedData, npt.NDArray | None, CheckedData | None]:
        return split_multilabel(self.classifier, data, y)

    def _fit_scores(self, inliers: CheckedData, y: npt.NDArray | None) -> None:
        """Pass the data through the classifier if the score learns from them."""
        if self._needs != "nothing":
            class_indices = np.empty(0, dtype=np.int64)
            if self._needs == "labels":
                class_indices = class_positions(y, self.classifier_, type(self).__name__)
            outputs = self._outputs(inliers)
            check_magnitude(outputs.logits, outputs.features)
            self._fit_on_outputs(outputs, class_indices, inliers)

    def _outputs(self, data: CheckedData) -> Outputs:
        return classifier_outputs(self.classifier_, data, self.memory)

    @property
    def classes_(self) -> npt.NDArray:
        """Labels, in the order of the class probabilities."""
        return np.asarray(self.classifier_.classes_)

    @property
    def _has_classes(self) -> bool:
        return not hasattr(self, "classifier_") or hasattr(self.classifier_, "classes_")

    @property
    def _is_multilabel(self) -> bool:
        return is_multilabel(getattr(self, "classifier_", self.classifier))

    def _class_proba(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return class_probabilities(self.classifier_, data, self.memory)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        trained = isinstance(self.classifier, (FrozenEstimator, ModuleHandle))
        tags.target_tags.required = not trained or self._needs == "labels"
        return tags


class OutputsDetector(ClassifierDetector):
    """Base of the detectors that are a function of features, logits and the last layer.

    A subclass writes ``_score``.
    """

    @abstractmethod
    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        """Score a few hundred rows, which come in float64."""

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return in_float64(self._score, self._outputs(data))

    @property
    def _head(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return self.classifier_.network().head


class NetworkDetector(ClassifierDetector):
    """Base of the detectors that run the network themselves: gradients, inner layers."""

    _reads = "network"

    @property
    def _network(self) -> Network:
        return self.classifier_.network()


@estimator
class FeatureDetector(_HoldsModules):
    """Base of the detectors that need only features.

    A subclass writes ``_fit_on_features`` and ``_score``.

    Parameters
    ----------
    features : transformer or Module, default=None
        Feature extractor: any transformer, a classifier of :mod:`skood.classifiers` or a trained
        torch module, which give their penultimate features. One in
        :class:`sklearn.frozen.FrozenEstimator` is not trained again. None: the rows of X are the
        features.

    Attributes
    ----------
    features_ : transformer
        The fitted feature extractor.
    classifier_ : classifier
        `features_`, if it is a classifier of the labels in y.
    """

    features: Any = parameter(HasMethods(["fit", "transform"]), None, default=None)

    _model_parameters = ("features",)

    @abstractmethod
    def _fit_on_features(
        self, features: npt.NDArray, class_indices: npt.NDArray[np.int64] | None
    ) -> None:
        """Learn the score's statistics from the training features.

        Parameters
        ----------
        features : ndarray of shape (n, d)
        class_indices : ndarray of shape (n,) or None
            0, 1, ..., or None where there are no labels.
        """

    @abstractmethod
    def _score(self, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Score a few hundred rows, which come in float64."""

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        self.features_ = None
        if self.features is not None:
            self.features_ = self._fitted_features(inliers, y, seed)
        self._labels_of_others = _unknown_labels(y, self.features_)
        class_indices = None if y is None else np.unique(y, return_inverse=True)[1]
        features = self._transform(inliers)
        check_magnitude(features)
        self._fit_on_features(features, class_indices)
        # Until the threshold is set, so that they are made once.
        self._learned_on = features

    def _fitted_features(self, inliers: CheckedData, y: npt.NDArray | None, seed: int) -> Any:
        name = type(self).__name__
        model = self.features
        trained = model.estimator if isinstance(model, FrozenEstimator) else model
        if isinstance(trained, PretrainedClassifier):
            return read_features(trained, inliers, name)
        return fitted_model(
            model,
            inliers,
            y,
            seed=None if self.random_state is None else seed,
            memory=self.memory,
            name=name,
            needs_labels=isinstance(model, NetworkClassifier),
        )

    @property
    def _trains_model(self) -> bool:
        return self.features is not None and super()._trains_model

    def _scores_of_held_out(self, data: CheckedData) -> npt.NDArray[np.float64]:
        del self._learned_on
        return super()._scores_of_held_out(data)

    def _scores_for_threshold(
        self, inliers: CheckedData, rows: npt.NDArray[np.integer] | None, seed: int
    ) -> npt.NDArray[np.float64]:
        rows = threshold_rows(np.arange(len(inliers)), seed)
        features = self._learned_on[rows]
        del self._learned_on
        return self._score_features(features, inliers.subset(rows))

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self._score_features(self._transform(data), data)

    def _score_features(self, features: npt.NDArray, data: CheckedData) -> npt.NDArray[np.float64]:
        """Score features of `data`."""
        return in_float64(self._score, features)

    def _transform(self, data: CheckedData) -> npt.NDArray:
        if self.features_ is None:
            return data.rows()
        if isinstance(self.features_, (NetworkClassifier, ModuleHandle)):
            return self.features_.network().outputs(data, self.memory).features
        return in_float32(rows_through(self.features_, "transform", data).reshape(len(data), -1))

    @property
    def classifier_(self) -> Any:
        """The model of the features, if it is a classifier of the labels in y."""
        model: Any = self.features_
        if not knows_classes(model):
            raise AttributeError(
                f"{type(self).__name__} has no classifier_: its features are not those of a "
                "classifier. Give a trained network with a head as features="
            )
        if self._labels_of_others:
            raise AttributeError(
                f"{type(self).__name__} has no classifier_: y has the labels "
                f"{self._labels_of_others[:5]}, but the network of its features knows "
                f"{np.asarray(model.classes_).tolist()[:10]}. If these are the same "
                "classes, name them with PretrainedClassifier(module, classes=...)"
            )
        return model

    @property
    def classes_(self) -> npt.NDArray:
        """Labels, in the order of the class probabilities."""
        return np.asarray(self.classifier_.classes_)

    @property
    def _has_classes(self) -> bool:
        if hasattr(self, "features_"):
            return self.classifier_ is not None
        return hasattr(self.features, "predict_proba")

    @property
    def _is_multilabel(self) -> bool:
        return is_multilabel(getattr(self, "features_", self.features))

    def _class_proba(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return class_probabilities(self.classifier_, data, self.memory)

    def _split_outliers(
        self, data: CheckedData, y: Any
    ) -> tuple[CheckedData, npt.NDArray | None, CheckedData | None]:
        return split_multilabel(self.features, data, y)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = isinstance(self.features, NeuralClassifier)
        return tags


def class_probabilities(
    classifier: Any, data: CheckedData, memory: str | joblib.Memory | None
) -> npt.NDArray[np.float64]:
    """Return the class probabilities of any classifier; the pass of a network is shared.

    They are the softmax of the logits if the classifier has no ``predict_proba``.
    """
    if hasattr(classifier, "predict_proba") and not isinstance(classifier, NetworkClassifier):
        return class_proba_of(classifier, data)
    return np.exp(classifier_outputs(classifier, data, memory).log_proba)


def _unknown_labels(y: npt.NDArray | None, model: Any) -> list[Any]:
    """Return the labels in y that are not classes of `model`, if it has classes."""
    if y is None or not knows_classes(model):
        return []
    known = set(np.asarray(model.classes_).tolist())
    return [label for label in np.unique(y).tolist() if label not in known]


def in_float64(
    score: Callable[[Any], npt.NDArray[np.float64]], values: Outputs | npt.NDArray
) -> npt.NDArray[np.float64]:
    """Score rows in float64, a few hundred at a time, independently of each other.

    Raises
    ------
    ValueError
        When features or logits are too large to be squared.
    """

    def checked(rows: Any) -> npt.NDArray[np.float64]:
        rows = rows.astype(np.float64, order="C")
        check_magnitude(*((rows.logits, rows.features) if isinstance(rows, Outputs) else (rows,)))
        return score(rows)

    return in_chunks(checked, values)


def check_magnitude(*arrays: npt.NDArray) -> None:
    """Raise a ValueError where sums of squares of features or logits would overflow."""
    for values in arrays:
        if values.dtype.kind != "f" or not values.size:
            continue
        largest = max(float(values.max()), -float(values.min()))
        limit = 1e-4 * float(np.sqrt(np.finfo(values.dtype).max))
        if np.isnan(largest):
            raise ValueError(
                "X leads to features or logits that are NaN; if X has missing values, impute them, "
                "with scikit-learn's SimpleImputer in a Pipeline for instance; if its values are "
                "large, rescale X"
            )
        if not largest <= limit:
            raise ValueError(
                f"X leads to features or logits of magnitude {largest:.3g}, but up to {limit:.1g} "
                f"can be computed with in {values.dtype}; rescale X, with StandardScaler for "
                "instance, and look for values that are far off"
            )
