"""Detectors that fit a model and data, and the reasons why others do not."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.utils.validation import check_is_fitted

from skood import likelihood, posthoc, training_time
from skood._data.checked_data import CheckedData
from skood._data.unread_data import unread_frame
from skood._estimator.parameters import EXTERNAL
from skood.base import BaseDetector
from skood.calibration._base import needs_labels
from skood.classifiers import FeatureExtractor, PretrainedClassifier
from skood.classifiers._module import ModuleHandle
from skood.classifiers._network_classifier import NetworkClassifier
from skood.posthoc import (
    GMM,
    KNN,
    ConceptDetector,
    DeepEnsemble,
    FeatureDetector,
    KernelPCA,
    Mahalanobis,
    MCDropout,
    NetworkDetector,
    OutputsDetector,
    RelativeMahalanobis,
)
from skood.posthoc._models import is_network, read_features, with_handles

__all__ = [
    "Candidates",
    "Situation",
    "candidates_for",
    "check_usable",
    "fixed_choice",
    "given_candidates",
    "situation_of",
    "with_model",
]

_ALONE = (
    "runs the network itself, for gradients, inner layers or dropout, so that it cannot share the "
    "forward pass; give it in candidates= to compare it"
)
_OWN_NETWORK = "trains a network on a loss of its own; train it, and compare it with evaluate"
_NEEDS_TEXTS = "reads the names of the classes in words; fit it, and compare it with evaluate"
_OWN_DENSITY = "trains a density; train it, and compare it with evaluate"
_NEEDS_CLASSES = "learns from class labels, and y is None; give y"
_NO_NETWORK = "reads the features or the last layer of a network, and there is none"
_ONLY_PROBA = "reads logits, and the classifier has only probabilities"
_NO_CLASSIFIER = "reads logits, and there is no classifier; give one as model"


@dataclass(frozen=True)
class Situation:
    """What a user has.

    Parameters
    ----------
    model : estimator or None
        With a bare module in a handle.
    kind : {"network", "classifier", "features", "table", "rows"}
        A network with logits; another classifier; a transformer; an encoder of a frame whose
        columns are not all numbers; or no model.
    is_trained : bool
        Whether `fit` of a detector does not train the model.
    has_labels : bool
    has_logits : bool
        Whether the classifier is known to have more than probabilities.
    is_numeric_rows : bool
        Whether X is a table of numbers.
    """

    model: Any
    kind: str
    is_trained: bool
    has_labels: bool
    has_logits: bool
    is_numeric_rows: bool


@dataclass
class Candidates:
    """Detectors to compare, and the reason for every other detector, both by name."""

    detectors: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def situation_of(model: Any, data: CheckedData, labels: npt.NDArray | None) -> Situation:
    """Classify the model.

    Raises
    ------
    TypeError
        If it is neither a classifier nor a transformer.
    ValueError
        If there is no model, and X has other items than rows of numbers.
    """
    model = with_handles(model)
    if isinstance(model, PretrainedClassifier):
        model = _extractor_without_head(model, data, labels) or model
    trained = model.estimator if isinstance(model, FrozenEstimator) else model
    is_trained = isinstance(model, FrozenEstimator) or isinstance(trained, ModuleHandle)
    has_logits = hasattr(trained, "decision_function")
    if model is None:
        if data.has_fields or len(data.item_shape) != 1:
            raise ValueError(
                f"X has {data.description} and model is None; expected rows of numbers (n, d). "
                "Give a trained network, or a classifier of skood.classifiers to train, such as "
                "ConvNet(), or embeddings of the items. Densities, which need neither a network "
                "nor labels, are trained and compared with evaluate"
            )
        kind = "rows"
    elif isinstance(trained, NetworkClassifier):
        kind, has_logits = "network", True
    elif isinstance(trained, ModuleHandle):
        kind = "features"
    elif has_logits or hasattr(trained, "predict_proba"):
        kind = "classifier"
    elif hasattr(trained, "transform"):
        is_table = unread_frame(data) is not None and not is_network(trained)
        kind = "table" if is_table else "features"
        # An encoder learns no classes, and gives rows that it has seen no other scores.
        is_trained = is_trained and kind == "features"
    else:
        raise TypeError(
            f"model is {model!r}, which has neither predict_proba, decision_function nor "
            "transform; expected a torch module, a classifier, a transformer that makes features, "
            "or None for rows of X. Detectors are given in candidates="
        )
    is_rows = not data.has_fields and len(data.item_shape) == 1
    is_numeric_rows = is_rows and data.dtype.kind in "biuf"
    return Situation(model, kind, is_trained, labels is not None, has_logits, is_numeric_rows)


def _extractor_without_head(
    model: PretrainedClassifier, data: CheckedData, labels: npt.NDArray | None
) -> FeatureExtractor | None:
    """Return the extractor that a bare module without a head is, or None for a classifier.

    If no layer makes the outputs from features, they are logits only if there is one per class.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            reading = read_features(model, data, "recommend")
        except ValueError:
            return None
    n_classes = None if labels is None else len(np.unique(labels))
    if not isinstance(reading, FeatureExtractor) or reading.reading_.n_outputs == n_classes:
        return None
    for warning in caught:
        warnings.warn(warning.message, stacklevel=4)
    return FeatureExtractor(model.module)


def check_usable(situation: Situation) -> None:
    """Raise an error for a model that is neither trained nor can be trained."""
    model, name = situation.model, type(situation.model).__name__
    if isinstance(model, FrozenEstimator) and not isinstance(model.estimator, ModuleHandle):
        try:
            check_is_fitted(model.estimator)
        except NotFittedError as error:
            raise NotFittedError(
                f"model is FrozenEstimator({type(model.estimator).__name__}(...)), whose estimator "
                "is not fitted. Fit it first; without FrozenEstimator, it is trained on rows of X"
            ) from error
    needs_y = situation.kind in ("network", "classifier")
    if needs_y and not situation.is_trained and not situation.has_labels:
        raise ValueError(
            f"the model, {name}, is to be trained, and y is None; give class labels, or a trained "
            "classifier in sklearn.frozen.FrozenEstimator"
        )


def fixed_choice(situation: Situation, embeddings: bool) -> str:
    """Return the detector that is chosen without a comparison."""
    if situation.kind == "classifier":
        return "MSP"
    if situation.kind in ("rows", "table") and not embeddings:
        return "GMM" if situation.has_labels else "LocalOutlierFactor"
    return "KNN"


def candidates_for(situation: Situation, embeddings: bool) -> Candidates:
    """Return the package's detectors with their default parameters, sorted into both groups."""
    found = Candidates()
    for name in posthoc.__all__:
        detector_class = getattr(posthoc, name)
        if inspect.isabstract(detector_class) or not issubclass(detector_class, BaseDetector):
            continue
        reason = _reason_against(detector_class, situation)
        if reason is None:
            found.detectors[name] = detector_class()
        else:
            found.reasons[name] = reason
    on_rows = situation.kind in ("rows", "table")
    if on_rows or (situation.kind == "classifier" and situation.is_numeric_rows):
        for name, detector in _on_rows(embeddings).items():
            if isinstance(detector, RelativeMahalanobis) and not situation.has_labels:
                found.reasons[name] = _NEEDS_CLASSES
                continue
            found.reasons.pop(name, None)
            found.detectors[name] = detector
    for package, why in ((training_time, _OWN_NETWORK), (likelihood, _OWN_DENSITY)):
        for name in package.__all__:
            member = getattr(package, name)
            if inspect.isclass(member) and issubclass(member, BaseDetector):
                if not inspect.isabstract(member):
                    found.reasons[name] = why
    return found


def with_model(detector: Any, model: Any, kind: str) -> Any:
    """Return a clone on a model, unless the detector has a model of its own."""
    detector = clone(detector)
    if kind == "table":
        return make_pipeline(model, detector)
    given = detector.get_params(deep=False)
    for name, kinds in (
        ("classifier", ("network", "classifier")),
        ("features", ("network", "features")),
    ):
        if kind in kinds and name in given and given[name] is None:
            detector.set_params(**{name: model})
    return detector


def given_candidates(given: Mapping[str, Any] | Sequence[Any], situation: Situation) -> Candidates:
    """Return the user's candidates by name, on the user's model."""
    named = dict(given) if isinstance(given, Mapping) else {}
    if not isinstance(given, Mapping):
        for detector in given:
            name, count = type(detector).__name__, 1
            while name in named:
                count += 1
                name = f"{type(detector).__name__} {count}"
            named[name] = detector
    if not named:
        raise ValueError("candidates is empty; give at least one detector, or None for all")
    found = Candidates()
    for name, detector in named.items():
        if not hasattr(detector, "fit") or not hasattr(detector, "score_samples"):
            raise TypeError(
                f"{name!r} of candidates is {detector!r}, which lacks fit or score_samples; "
                f"{EXTERNAL}"
            )
        on_model = with_model(detector, situation.model, situation.kind)
        if not situation.has_labels and needs_labels(on_model):
            found.reasons[name] = _NEEDS_CLASSES
        else:
            found.detectors[name] = detector
    return found


def _reason_against(detector_class: type, situation: Situation) -> str | None:
    """Say why a detector is not compared, or return None."""
    kind = situation.kind
    if issubclass(detector_class, (NetworkDetector, MCDropout)):
        return _ALONE
    if detector_class is DeepEnsemble:
        return "trains several networks; train it, and compare it with evaluate"
    if issubclass(detector_class, ConceptDetector):
        return _NEEDS_TEXTS
    if issubclass(detector_class, FeatureDetector):
        if kind not in ("network", "features"):
            return _NO_NETWORK
        if detector_class is RelativeMahalanobis and not situation.has_labels:
            return _NEEDS_CLASSES
        return None
    assert issubclass(detector_class, OutputsDetector)
    if kind in ("rows", "features", "table"):
        return _NO_CLASSIFIER
    if kind == "classifier" and detector_class._reads != "logits":
        return _NO_NETWORK
    if detector_class._needs_logits and not situation.has_logits:
        return _ONLY_PROBA
    if detector_class._needs == "labels" and not situation.has_labels:
        return _NEEDS_CLASSES
    return None


def _on_rows(embeddings: bool) -> dict[str, Any]:
    """Detectors on the rows of X, by the name of the class."""
    if embeddings:
        return {
            "KNN": KNN(normalize=True),
            "Mahalanobis": Mahalanobis(normalize=True),
            "RelativeMahalanobis": RelativeMahalanobis(normalize=True),
            "GMM": make_pipeline(Normalizer(), GMM(reg_covar=1e-6)),
            "KernelPCA": KernelPCA(),
        }
    return {
        "KNN": make_pipeline(StandardScaler(), KNN()),
        "Mahalanobis": Mahalanobis(),
        "RelativeMahalanobis": RelativeMahalanobis(),
        "GMM": make_pipeline(StandardScaler(), GMM()),
        "IsolationForest": IsolationForest(),
        "LocalOutlierFactor": make_pipeline(StandardScaler(), LocalOutlierFactor(novelty=True)),
    }
