"""Base of the post-hoc detectors: the classifier or the features, and one pass over the data."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax
from sklearn.base import clone, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags
from torch import nn

from skood._checked_data import CheckedData, in_float32
from skood._labels import encode_labels
from skood._models import fit_model, in_chunks, rows_through
from skood._parameters import HasMethods
from skood.base import BaseDetector, split_outliers, threshold_rows
from skood.classifiers import (
    MLP,
    ConvNet,
    FeatureExtractor,
    NeuralClassifier,
    PretrainedClassifier,
)
from skood.classifiers._module import ModuleHandle
from skood.classifiers._network import Network
from skood.classifiers._network_classifier import NetworkClassifier
from skood.classifiers._outputs import Outputs
from skood.classifiers._returned import NoLogitsError

__all__ = ["ClassifierDetector", "FeatureDetector", "NetworkDetector", "OutputsDetector"]


class _HoldsModules(BaseDetector):
    """Wraps bare modules given as a parameter, one or a list of them, in handles."""

    _takes_any_shape = True

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, with_handles(value))


class ClassifierDetector(_HoldsModules):
    """Base of the detectors on a classifier, which they train unless it is already trained.

    A subclass writes ``_score_samples`` and, if the score learns from the training data,
    ``_fit_on_outputs`` and ``_needs``.

    Attributes
    ----------
    _reads : {"logits", "network", "features", "head"}
        What the subclass reads: the logits of any classifier, a network, its penultimate features,
        or the weights of its last layer too.
    _takes_multilabel : bool
        Whether the score is defined where the classes do not exclude each other.
    _needs : {"nothing", "data", "labels"}
        Which training data ``_fit_on_outputs`` needs; with "nothing" it is not called.
    """

    _reads = "logits"
    _takes_multilabel = False
    _needs = "nothing"

    _parameter_constraints: dict = {
        **BaseDetector._parameter_constraints,
        "classifier": [HasMethods(["fit", "predict"]), None],
        "memory": [str, HasMethods(["cache"]), None],
    }

    def __init__(
        self,
        classifier: Any = None,
        *,
        contamination: float = 0.05,
        memory: str | joblib.Memory | None = None,
        verbose: bool | int | str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.classifier = classifier
        self.contamination = contamination
        self.memory = memory
        self.verbose = verbose
        self.random_state = random_state

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


class FeatureDetector(_HoldsModules):
    """Base of the detectors that need only features.

    A subclass writes ``_fit_on_features`` and ``_score``.
    """

    # Training features between learning and setting the threshold, so that they are made once.
    _learned_on: npt.NDArray

    _parameter_constraints: dict = {
        **BaseDetector._parameter_constraints,
        "features": [HasMethods(["fit", "transform"]), None],
        "memory": [str, HasMethods(["cache"]), None],
    }

    def __init__(
        self,
        features: Any = None,
        *,
        contamination: float = 0.05,
        memory: str | joblib.Memory | None = None,
        verbose: bool | int | str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.features = features
        self.contamination = contamination
        self.memory = memory
        self.verbose = verbose
        self.random_state = random_state

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
        class_indices = None if y is None else np.unique(y, return_inverse=True)[1]
        features = self._transform(inliers)
        check_magnitude(features)
        self._fit_on_features(features, class_indices)
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

    def _split_outliers(
        self, data: CheckedData, y: Any
    ) -> tuple[CheckedData, npt.NDArray | None, CheckedData | None]:
        return split_multilabel(self.features, data, y)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = isinstance(self.features, NeuralClassifier)
        return tags


def with_handles(value: Any) -> Any:
    """Wrap a bare module, or those in a list, in `PretrainedClassifier`; keep anything else.

    A bare module among the parameters would be copied by clone, and hashed by its storage.
    """
    if isinstance(value, list):
        held = [with_handles(item) for item in value]
        return held if any(a is not b for a, b in zip(held, value, strict=True)) else value
    module = value.estimator if isinstance(value, FrozenEstimator) else value
    is_module = isinstance(module, (nn.Module, torch.export.ExportedProgram))
    return PretrainedClassifier(module) if is_module else value


def is_multilabel(model: Any) -> bool:
    """Whether a classifier's classes do not exclude each other."""
    model = model.estimator if isinstance(model, FrozenEstimator) else model
    return isinstance(model, PretrainedClassifier) and model.multilabel


def split_multilabel(
    model: Any, data: CheckedData, y: Any
) -> tuple[CheckedData, npt.NDArray | None, CheckedData | None]:
    """Separate known outliers; labels (n, L) of a multilabel network are checked and left out.

    No row has one class there, so that no score learns from them.
    """
    if y is None or not is_multilabel(model) or np.ndim(y) != 2:
        return split_outliers(data, y)
    labels = np.asarray(y)
    if len(labels) != len(data) or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"y has shape {labels.shape} for {len(data)} items and values "
            f"{np.unique(labels)[:5].tolist()}; expected 0 or 1 for each item and label, shape "
            f"({len(data)}, n_labels)"
        )
    return data, None, None


def read_features(model: PretrainedClassifier, data: CheckedData, name: str) -> ModuleHandle:
    """Find out how features are read from a trained module.

    A module without a head, given as it is, becomes a `FeatureExtractor`.

    Raises
    ------
    ValueError
        When the module puts out logits, but nobody knows which layer's features they are made of.
    """
    is_bare = type(model)(model.module).get_params(deep=False) == model.get_params(deep=False)
    try:
        model = clone(model).fit(data)
    except NoLogitsError:
        if not is_bare:
            raise
        return FeatureExtractor(model.module).fit(data)
    reading = model.reading_
    if reading.n_features:
        return model
    has_head = reading.likeness == "altered" or reading.link in ("softmax", "log_softmax")
    if not is_bare or has_head or reading.is_hidden:
        check_readable(model, "features", name)
    if reading.likeness == "open":
        warnings.warn(
            f"no layer of {type(model.module).__name__} was found to make its output, so the "
            f"output itself, {reading.n_outputs} values for each item, is taken for the feature. "
            "If it is, say so with FeatureExtractor(module); if it holds logits, name the features "
            "with PretrainedClassifier(module, features_from=...). The layers: "
            + "; ".join(reading.failures),
            stacklevel=2,
        )
    return FeatureExtractor(model.module).fit(data)


def check_readable(model: Any, reads: str, name: str) -> None:
    """Raise where a fitted model does not have what a detector reads.

    Parameters
    ----------
    model : estimator
    reads : {"logits", "network", "features", "head"}
    name : str
        Name of the detector.
    """
    if isinstance(model, NetworkClassifier):
        model.network().require(reads, name)
    elif reads != "logits":
        raise TypeError(
            f"{name} reads a network: its layers, features or gradients, which "
            f"{type(model).__name__} does not have; expected a classifier of skood.classifiers or "
            "a trained torch module (module_ of a skorch net). MSP, MaxLogit, Energy, Entropy, "
            "GEN, KLMatching and OpenMax take any classifier"
        )


def fitted_model(
    model: Any,
    data: CheckedData,
    y: npt.NDArray | None,
    *,
    seed: int | None,
    memory: str | joblib.Memory | None,
    name: str,
    needs_labels: bool = True,
) -> Any:
    """Train `model`, or return it unchanged if it is already trained.

    Parameters
    ----------
    model : estimator
    data, y, seed, memory
        As in :func:`skood.base.fit_model`.
    name : str
        Name of the detector, for error messages.
    needs_labels : bool
    """
    trained = model.estimator if isinstance(model, FrozenEstimator) else model
    if isinstance(trained, ModuleHandle):
        # A copy with the same module finds out how its output is read.
        return clone(trained).fit(data)
    if isinstance(model, FrozenEstimator):
        return trained
    if y is None and needs_labels:
        raise ValueError(
            f"{name} requires y to be passed, but the target y is None: its classifier, "
            f"{type(model).__name__}, is yet to be trained. Give class labels, or a trained "
            "classifier in sklearn.frozen.FrozenEstimator"
        )
    if y is not None and is_classifier(model) and len(np.unique(y)) < 2:
        raise ValueError(f"y has one class, {y[0]}; a classifier needs at least 2 classes")
    return fit_model(model, data, y, seed=seed, memory=memory)


def classifier_outputs(
    classifier: Any, data: CheckedData, memory: str | joblib.Memory | None
) -> Outputs:
    """Return logits and probabilities of any classifier, and the features of a network."""
    if isinstance(classifier, NetworkClassifier):
        return classifier.network().outputs(data, memory)
    no_features = np.empty((len(data), 0))
    logits = log_proba = np.empty(0)
    normalized = not hasattr(classifier, "decision_function")
    if hasattr(classifier, "predict_proba"):
        proba = rows_through(classifier, "predict_proba", data).astype(np.float64)
        logits = log_proba = np.log(np.maximum(proba, np.finfo(np.float64).tiny))
    if hasattr(classifier, "decision_function"):
        logits = rows_through(classifier, "decision_function", data).astype(np.float64)
        if logits.ndim == 1:
            logits = np.stack([np.zeros_like(logits), logits], 1)
    if not logits.size:
        raise TypeError(
            f"{type(classifier).__name__} has neither predict_proba nor decision_function; a "
            "detector needs one of them to read how sure the classifier is"
        )
    if not log_proba.size:
        log_proba = log_softmax(logits, axis=1)
    return Outputs(logits, log_proba, no_features, normalized)


def class_positions(y: npt.NDArray | None, classifier: Any, name: str) -> npt.NDArray[np.int64]:
    """Return the class indices of labels, in the order of the logits of `classifier`."""
    if y is None:
        raise ValueError(
            f"{name} requires y to be passed, but the target y is None: it learns from the "
            "class labels of X"
        )
    classes = np.asarray(classifier.classes_).tolist()
    known = (
        f", but the classifier knows {classes[:10]}; give the labels it was trained on, or "
        "PretrainedClassifier(module, classes=...)"
    )
    return encode_labels(y, classes, known=known)


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
        if not largest <= limit:
            raise ValueError(
                f"X leads to features or logits of magnitude {largest:.3g}, but up to {limit:.1g} "
                f"can be computed with in {values.dtype}; rescale X, with StandardScaler for "
                "instance, and look for values that are far off"
            )
