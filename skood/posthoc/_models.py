"""Fits, checks and reads the classifier or feature extractor of a detector."""

from __future__ import annotations

import warnings
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax
from sklearn.base import clone, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from torch import nn

from skood._data.checked_data import CheckedData
from skood._data.labels import encode_labels
from skood._data.outliers import split_outliers
from skood._models import all_through, check_same_columns, fit_model
from skood._torch.shared_module import SharedModule
from skood.classifiers import FeatureExtractor, PretrainedClassifier
from skood.classifiers._module import ModuleHandle
from skood.classifiers._network_classifier import NetworkClassifier
from skood.classifiers._outputs import Outputs
from skood.classifiers._returned import NoLogitsError

__all__ = [
    "check_readable",
    "class_positions",
    "classifier_outputs",
    "fitted_model",
    "is_multilabel",
    "is_network",
    "read_features",
    "require_logits",
    "split_multilabel",
    "with_handles",
]


def with_handles(value: Any) -> Any:
    """Wrap a bare module, or modules in a list, in `PretrainedClassifier`; keep other values.

    As a parameter, a bare module would be copied by `clone`, and its hash would depend on storage.
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


def is_network(model: Any) -> bool:
    """Whether a fitted transformer computes features of a network.

    True for our classifiers, trained modules and skorch nets, also frozen, found by a search, or as
    the last effective step of a Pipeline. False for other transformers that contain a network, such
    as densities with their latents.
    """
    if isinstance(model, FrozenEstimator):
        return is_network(model.estimator)
    if isinstance(model, Pipeline):
        steps = [step for _, step in model.steps if step is not None and step != "passthrough"]
        return bool(steps) and is_network(steps[-1])
    if hasattr(model, "best_estimator_"):
        return is_network(model.best_estimator_)
    if isinstance(model, (NetworkClassifier, SharedModule)):
        return hasattr(model, "transform")
    # A fitted skorch net: unlike our densities, it also has the module as a parameter.
    return hasattr(model, "module") and isinstance(getattr(model, "module_", None), nn.Module)


def split_multilabel(
    model: Any, data: CheckedData, y: Any
) -> tuple[CheckedData, npt.NDArray | None, CheckedData | None]:
    """Separate known outliers; labels (n, L) of a multilabel network are checked and dropped.

    No score learns from such labels, because a row does not have one class.
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
    """Determine how features are read from a trained module.

    A bare module without a head becomes a `FeatureExtractor`.

    Raises
    ------
    ValueError
        If the module outputs logits, but the layer that computes them from features is unknown.
    """
    bare = type(model)(model.module).get_params(deep=False)
    is_bare = all(value is bare[name] for name, value in model.get_params(deep=False).items())
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
            "If this is right, give FeatureExtractor(module); if the output holds logits, name the "
            "features with PretrainedClassifier(module, features_from=...). The layers: "
            + "; ".join(reading.failures),
            stacklevel=2,
        )
    return FeatureExtractor(model.module).fit(data)


def check_readable(model: Any, reads: str, name: str) -> None:
    """Raise if a fitted model does not have what a detector reads.

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
            "a trained torch module (module_ of a skorch net). MSP, MaxLogit, Entropy, GEN and "
            "KLMatching take any classifier, Energy and OpenMax any with decision_function"
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
        As in :func:`skood._models.fit_model`.
    name : str
        Name of the detector, for error messages.
    needs_labels : bool
    """
    trained = model.estimator if isinstance(model, FrozenEstimator) else model
    if isinstance(trained, ModuleHandle):
        # A copy with the same module determines how its output is read.
        return clone(trained).fit(data)
    if isinstance(model, FrozenEstimator):
        check_same_columns(trained, data)
        return trained
    if y is None and needs_labels:
        raise ValueError(
            f"{name} requires y to be passed, but the target y is None: its classifier, "
            f"{type(model).__name__}, is not trained yet. Give class labels, or a trained "
            "classifier in sklearn.frozen.FrozenEstimator"
        )
    if y is not None and is_classifier(model) and len(np.unique(y)) < 2:
        raise ValueError(f"y has one class, {y[0]}; a classifier needs at least 2 classes")
    return fit_model(model, data, y, seed=seed, memory=memory)


def classifier_outputs(
    classifier: Any, data: CheckedData, memory: str | joblib.Memory | None
) -> Outputs:
    """Return the logits and probabilities of any classifier, and the features of a network."""
    if isinstance(classifier, NetworkClassifier):
        return classifier.network().outputs(data, memory)
    no_features = np.empty((len(data), 0))
    known = [name for name in ("predict_proba", "decision_function") if hasattr(classifier, name)]
    if not known:
        raise TypeError(
            f"{type(classifier).__name__} has neither predict_proba nor decision_function; a "
            "detector needs one of them"
        )
    made = dict(zip(known, all_through(classifier, known, data), strict=True))
    logits, proba = (
        made.get(name, np.empty(0)).astype(np.float64)
        for name in ("decision_function", "predict_proba")
    )
    if "decision_function" in made and logits.ndim == 1:
        logits = np.stack([np.zeros_like(logits), logits], 1)
    if "predict_proba" not in made:
        return Outputs(logits, log_softmax(logits, axis=1), no_features, normalized=False)
    log_proba = np.log(np.maximum(proba, np.finfo(np.float64).tiny))
    normalized = "decision_function" not in made
    return Outputs(log_proba if normalized else logits, log_proba, no_features, normalized)


def require_logits(outputs: Outputs, name: str) -> None:
    """Raise if a score depends on the size of logits, but only probabilities are known.

    Logarithms of probabilities are logits minus their log-sum-exp, which differs between items, and
    a probability of 0 has no logarithm.

    Parameters
    ----------
    outputs : Outputs
    name : str
        Name of the detector.
    """
    if outputs.normalized:
        raise ValueError(
            f"{name} reads logits, but the classifier gives only probabilities, from which logits "
            "cannot be computed; use MSP, Entropy, GEN or KLMatching, which read probabilities, or "
            "a classifier with logits (decision_function, or a network without its softmax)"
        )


def class_positions(y: npt.NDArray | None, classifier: Any, name: str) -> npt.NDArray[np.int64]:
    """Return the class indices of labels, in the order of the logits of `classifier`."""
    if y is None:
        raise ValueError(
            f"{name} requires y to be passed, but the target y is None: {name} learns from the "
            "class labels of X"
        )
    classes = np.asarray(classifier.classes_).tolist()
    known = (
        f", but the classifier has the classes {classes[:10]}; give the labels that it was trained "
        "on, or PretrainedClassifier(module, classes=...)"
    )
    return encode_labels(y, classes, known=known)
