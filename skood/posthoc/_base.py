"""Bases of the post-hoc detectors: the trained model and the classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags

from skood._data.checked_data import CheckedData
from skood._data.chunks import row_slices
from skood._estimator.parameters import IsModel, estimator, parameter
from skood._models import in_chunks
from skood._open_set import OpenSetDetector, class_proba_of
from skood.base import ModelDetector
from skood.classifiers import MLP, ConvNet, NeuralClassifier
from skood.classifiers._module import ModuleHandle
from skood.classifiers._network import Network
from skood.classifiers._network_classifier import NetworkClassifier
from skood.classifiers._outputs import Outputs
from skood.posthoc._models import (
    check_readable,
    classifier_outputs,
    fitted_model,
    is_multilabel,
    split_multilabel,
    with_handles,
)

__all__ = [
    "ClassifierDetector",
    "NetworkDetector",
    "PosthocDetector",
    "check_magnitude",
    "in_float64",
    "refuse_multilabel",
]

# Rows whose magnitude is checked at once.
_CHUNK = 4096


class PosthocDetector(OpenSetDetector, ModelDetector):
    """Base of the detectors on one model, which is the first of ``_model_parameters``.

    A bare module given as a parameter, alone or in a list, is wrapped in a handle.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, with_handles(value))

    @property
    def _model(self) -> Any:
        return getattr(self, self._model_parameters[0])

    def _check_parameters(self) -> None:
        """Raise a ValueError for parameters that contradict each other, before any training."""

    @property
    def _takes_any_shape(self) -> bool:
        """Whether a user's own network reads X."""
        return self._model is not None and not isinstance(self._model, NeuralClassifier)

    @property
    def classes_(self) -> npt.NDArray:
        """Labels, in the order of the class probabilities."""
        return np.asarray(self.classifier_.classes_)

    @property
    def _is_multilabel(self) -> bool:
        return is_multilabel(getattr(self, f"{self._model_parameters[0]}_", self._model))

    def _class_proba(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return class_probabilities(self.classifier_, data, self.memory)

    def _split_outliers(
        self, data: CheckedData, y: Any
    ) -> tuple[CheckedData, npt.NDArray | None, CheckedData | None]:
        return split_multilabel(self._model, data, y)


@estimator
class ClassifierDetector(PosthocDetector):
    """Base of the detectors on a classifier, which they train unless it is already trained.

    A subclass implements ``_score_samples(data)`` and, if the score learns from the training data,
    ``_learn_from_data(data, y, seed)``.

    Parameters
    ----------
    classifier : classifier or Module, default=None
        A classifier of :mod:`skood.classifiers` or a trained torch module. A classifier in
        :class:`sklearn.frozen.FrozenEstimator` is not trained again. None: a convolutional network
        for images and an MLP for rows.

    Attributes
    ----------
    classifier_ : classifier
        The trained classifier.
    _reads : {"logits", "network", "features", "head"}
        What the subclass reads: the logits of any classifier; a network; a network's penultimate
        features; or features and the weights of the last layer.
    _takes_multilabel : bool
        Whether the score is defined for classes that do not exclude each other.
    _needs : {"nothing", "data", "labels"}
        Which training data the score learns from, apart from the classifier.
    """

    classifier: Any = parameter(IsModel("predict"), None, default=None)

    _reads = "logits"
    _takes_multilabel = False
    _needs = "nothing"
    _model_parameters = ("classifier",)

    def _learn_from_data(
        self, data: CheckedData, y: npt.NDArray | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        """Learn the score's statistics from the training data, after the classifier is trained.

        Parameters
        ----------
        data : CheckedData
        y : ndarray or None
            Labels.
        seed : int
            Seed of this fit.

        Returns
        -------
        ndarray or None
            Indices of the rows to set the threshold on, if they were held out from learning.
        """
        return None

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        self._check_parameters()
        self._fit_classifier(inliers, y, seed)
        return self._learn_from_data(inliers, y, seed)

    def _fit_classifier(self, inliers: CheckedData, y: npt.NDArray | None, seed: int) -> None:
        """Train the classifier unless it is already trained."""
        name = type(self).__name__
        self.classifier_ = fitted_model(
            self._default_classifier(inliers) if self.classifier is None else self.classifier,
            inliers,
            y,
            seed=None if self.random_state is None else seed,
            memory=self.memory,
            name=name,
        )
        check_readable(self.classifier_, self._reads, name)
        if is_multilabel(self.classifier_) and not self._takes_multilabel:
            refuse_multilabel(name)

    def _default_classifier(self, data: CheckedData) -> NeuralClassifier:
        """Return the classifier for ``classifier=None``."""
        return ConvNet() if data.is_image else MLP()

    def _outputs(self, data: CheckedData) -> Outputs:
        return classifier_outputs(self.classifier_, data, self.memory)

    @property
    def _has_classes(self) -> bool:
        return not hasattr(self, "classifier_") or hasattr(self.classifier_, "classes_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        trained = isinstance(self.classifier, (FrozenEstimator, ModuleHandle))
        tags.target_tags.required = not trained or self._needs == "labels"
        return tags


@estimator
class NetworkDetector(ClassifierDetector):
    """Base of the detectors that run the network themselves, for gradients or inner layers.

    A subclass implements ``_score_samples(data)`` and, if the score learns from the training data,
    ``_learn_from_data(data, y, seed)``.
    """

    _reads = "network"

    @property
    def _network(self) -> Network:
        return self.classifier_.network()


def refuse_multilabel(name: str) -> None:
    """Raise for a score that is not defined for a multilabel network."""
    raise ValueError(
        f"{name} is a score of classes that exclude each other, but the network is multilabel; use "
        "Energy (JointEnergy), MSP (largest sigmoid), MaxLogit, or a detector on features"
    )


def class_probabilities(
    classifier: Any, data: CheckedData, memory: str | joblib.Memory | None
) -> npt.NDArray[np.float64]:
    """Return the class probabilities of any classifier; the pass of a network is shared.

    A classifier without ``predict_proba`` has the softmax of its logits.
    """
    if hasattr(classifier, "predict_proba") and not isinstance(classifier, NetworkClassifier):
        return class_proba_of(classifier, data)
    return np.exp(classifier_outputs(classifier, data, memory).log_proba)


def in_float64(
    score: Callable[[Any], npt.NDArray[np.float64]], values: Outputs | npt.NDArray
) -> npt.NDArray[np.float64]:
    """Score rows in float64, a few hundred at a time, independently of each other.

    Raises
    ------
    ValueError
        If features or logits are too large to be squared.
    """

    def checked(rows: Any) -> npt.NDArray[np.float64]:
        rows = rows.astype(np.float64, order="C")
        check_magnitude(*((rows.logits, rows.features) if isinstance(rows, Outputs) else (rows,)))
        return score(rows)

    return in_chunks(checked, values)


def check_magnitude(*arrays: Any) -> None:
    """Raise a ValueError if sums of squares of features or logits would overflow."""
    for values in arrays:
        if values.dtype.kind != "f" or 0 in values.shape:
            continue
        largest = 0.0
        for rows in row_slices(len(values), _CHUNK):
            part = values[rows]
            # np.maximum keeps NaN.
            largest = float(np.maximum(largest, max(part.max(), -part.min())))
        limit = 1e-4 * float(np.sqrt(np.finfo(values.dtype).max))
        if np.isnan(largest):
            raise ValueError(
                "X leads to features or logits that are NaN; if X has missing values, impute them, "
                "for instance with scikit-learn's SimpleImputer in a Pipeline; if its values are "
                "large, rescale X"
            )
        if not largest <= limit:
            raise ValueError(
                f"X leads to features or logits of magnitude {largest:.3g}, but {values.dtype} "
                f"allows at most {limit:.1g} here; rescale X, for instance with StandardScaler, "
                "and look for extreme values"
            )
