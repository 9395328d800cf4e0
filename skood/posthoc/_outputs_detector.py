"""Bases of the detectors on a classifier's outputs, and on features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags

from skood._data.checked_data import CheckedData
from skood._data.memory_layout import in_float32
from skood._estimator.parameters import IsModel, estimator, parameter
from skood._models import rows_through
from skood._open_set import knows_classes
from skood._thresholds import threshold_rows
from skood.classifiers import NeuralClassifier, PretrainedClassifier
from skood.classifiers._module import ModuleHandle
from skood.classifiers._network_classifier import NetworkClassifier
from skood.classifiers._outputs import Outputs
from skood.posthoc._base import ClassifierDetector
from skood.posthoc._models import (
    class_positions,
    classifier_outputs,
    fitted_model,
    read_features,
    require_logits,
)
from skood.posthoc._outputs_score import OutputsScore, Part

__all__ = ["FeatureDetector", "OutputsDetector"]


@estimator
class OutputsDetector(OutputsScore, ClassifierDetector):
    """Base of the detectors whose score is a function of logits, features and the last layer.

    A subclass implements ``_score(outputs)``, which takes :class:`Outputs`. If the score learns
    from training data, the subclass sets ``_needs`` and implements
    ``_learn(outputs, class_indices, seed)``. ``outputs.features`` requires ``_reads = "features"``;
    ``outputs.weight``, ``outputs.bias`` and ``outputs.logits_of`` require ``_reads = "head"``.

    Attributes
    ----------
    _needs_logits : bool
        Whether the score depends on the size of logits, so that it refuses a classifier that gives
        only probabilities.
    """

    def _learn_from_data(
        self, data: CheckedData, y: npt.NDArray | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        if self._needs != "nothing":
            self._learn_from(self._outputs(data), self._class_indices(data, y), seed)
        return None

    def _class_indices(self, data: CheckedData, y: npt.NDArray | None) -> npt.NDArray[np.int64]:
        if self._needs != "labels":
            return np.zeros(len(data), dtype=np.int64)
        return class_positions(y, self.classifier_, type(self).__name__)

    def _fit_model(self, inliers: CheckedData, y: npt.NDArray | None, seed: int) -> None:
        self._fit_classifier(inliers, y, seed)

    def _outputs(self, data: CheckedData) -> Outputs:
        outputs = classifier_outputs(self.classifier_, data, self.memory)
        if self._needs_logits:
            require_logits(outputs, type(self).__name__)
        return replace(outputs, head=self._known_head) if self._reads == "head" else outputs

    @property
    def _known_head(self) -> Any:
        if self._reads == "head" and hasattr(self, "classifier_"):
            return self.classifier_.network().head
        return super()._known_head

    @property
    def _parts_read(self) -> tuple[Part, ...]:
        parts: tuple[Part, ...] = ("logits", "features", "head")
        return parts[: {"features": 2, "head": 3}.get(self._reads, 1)]

    def _indices_of(self, y: npt.NDArray | None, outputs: Outputs) -> npt.NDArray[np.int64]:
        if self._needs != "labels":
            return np.zeros(len(outputs), dtype=np.int64)
        name, n_classes = type(self).__name__, outputs.logits.shape[1]
        if y is None:
            raise ValueError(f"{name} learns from class labels; give fit_outputs(..., y=y)")
        if y.dtype.kind not in "biuf" or not np.isin(y, np.arange(n_classes)).all():
            raise ValueError(
                f"y has the labels {np.unique(y)[:5].tolist()}; expected the column of each row's "
                f"class in the logits, from 0 to {n_classes - 1}"
            )
        return y.astype(np.int64)

    def _label_of(self, class_index: int) -> Any:
        """Return the label of a class, or its index if there is no classifier."""
        return self.classes_[class_index] if hasattr(self, "classifier_") else class_index


@estimator
class FeatureDetector(OutputsScore):
    """Base of the detectors whose score is a function of features.

    A subclass implements ``_learn(outputs, class_indices, seed)`` and ``_score(outputs)``, which
    read ``outputs.features``.

    Parameters
    ----------
    features : transformer or Module, default=None
        Feature extractor: any transformer, or a classifier of :mod:`skood.classifiers` or a
        trained torch module, whose penultimate features are used. An extractor in
        :class:`sklearn.frozen.FrozenEstimator` is not trained again. None: the rows of X are the
        features.

    Attributes
    ----------
    features_ : transformer
        The fitted feature extractor.
    classifier_ : classifier
        `features_`, if it is a classifier of the labels in y.
    _reads_logits : bool
        Whether the score also reads ``outputs.logits``, so that `features` must be a network.
    """

    features: Any = parameter(IsModel("transform"), None, default=None)

    _model_parameters = ("features",)
    _needs = "data"
    _takes_multilabel = True

    @property
    def _reads_logits(self) -> bool:
        return False

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        self._check_parameters()
        self._fit_model(inliers, y, seed)
        self._note_labels(y)
        self._class_labels = None if y is None else np.unique(y)
        # Kept until the threshold is set, so that the features are computed once.
        self._learned_on = self._outputs(inliers)
        self._learn_from(self._learned_on, self._indices_of(y, self._learned_on), seed)

    def _fit_model(self, inliers: CheckedData, y: npt.NDArray | None, seed: int) -> None:
        self.features_ = None
        if self.features is not None:
            self.features_ = self._fitted_features(inliers, y, seed)

    def _note_labels(self, y: npt.NDArray | None) -> None:
        self._labels_of_others = _unknown_labels(y, self.features_)

    def _indices_of(self, y: npt.NDArray | None, outputs: Outputs) -> npt.NDArray[np.int64]:
        if y is None:
            return np.zeros(len(outputs), dtype=np.int64)
        # With less memory than `return_inverse` of np.unique.
        return np.searchsorted(np.unique(y), y)

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
        chosen = threshold_rows(len(inliers), seed)
        outputs = self._learned_on[chosen]
        del self._learned_on
        if self._overfits:
            self._warn_of_few_rows(len(inliers), outputs.features.shape[1], stacklevel=6)
        return self._training_scores(outputs, chosen)

    def _outputs(self, data: CheckedData) -> Outputs:
        if self.features_ is None:
            features = data.lazy_rows()
        elif isinstance(self.features_, (NetworkClassifier, ModuleHandle)):
            outputs = self.features_.network().outputs(data, self.memory)
            if outputs.logits.shape[1] or not self._reads_logits:
                return self._only_read(outputs)
            features = outputs.features
        else:
            rows = rows_through(self.features_, "transform", data)
            features = in_float32(rows.reshape(len(data), -1))
        if self._reads_logits:
            raise TypeError(
                f"{type(self).__name__} with these parameters reads logits, but features="
                f"{self.features!r} has none; give a classifier of skood.classifiers or a trained "
                "torch module"
            )
        return Outputs(_no_columns(features), _no_columns(features), features)

    def _only_read(self, outputs: Outputs) -> Outputs:
        """Leave out logits that the score does not read, whose size then does not matter."""
        if self._reads_logits:
            return outputs
        nothing = _no_columns(outputs.logits)
        return replace(outputs, logits=nothing, log_proba=nothing)

    @property
    def _parts_read(self) -> tuple[Part, ...]:
        return ("logits", "features") if self._reads_logits else ("features",)

    @property
    def classifier_(self) -> Any:
        """The model of the features, if it is a classifier of the labels in y."""
        model: Any = self.features_
        if not knows_classes(model):
            raise AttributeError(
                f"{type(self).__name__} has no classifier_: the model of its features is not a "
                "classifier. Give a trained network with a head as features="
            )
        if self._labels_of_others:
            raise AttributeError(
                f"{type(self).__name__} has no classifier_: y has the labels "
                f"{self._labels_of_others[:5]}, but the network of its features has the classes "
                f"{np.asarray(model.classes_).tolist()[:10]}. If these are the same "
                "classes, name them with PretrainedClassifier(module, classes=...)"
            )
        return model

    @property
    def _has_classes(self) -> bool:
        if hasattr(self, "features_"):
            return self.classifier_ is not None
        return hasattr(self.features, "predict_proba")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = isinstance(self.features, NeuralClassifier)
        return tags


def _no_columns(rows: Any) -> npt.NDArray:
    return np.empty((len(rows), 0), rows.dtype)


def _unknown_labels(y: npt.NDArray | None, model: Any) -> list[Any]:
    """Return the labels in y that are not classes of `model`, if it has classes."""
    if y is None or not knows_classes(model):
        return []
    known = set(np.asarray(model.classes_).tolist())
    return [label for label in np.unique(y).tolist() if label not in known]
