"""Why a detector cannot be exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from sklearn.utils.validation import check_is_fitted

from skood._detector import Detector
from skood.classifiers._module import ModuleHandle
from skood.classifiers._network_classifier import NetworkClassifier
from skood.posthoc import ASH, MCDropout, NetworkDetector

__all__ = ["check_detector", "refuse", "refuse_model"]

_INSTEAD = "skood.save stores any fitted detector, and skood.load scores with it"


def check_detector(detector: Any) -> None:
    """Raise an error if an object is not a detector that is fitted to items."""
    if not isinstance(detector, Detector):
        raise TypeError(
            f"detector is a {type(detector).__name__}; expected a fitted detector of skood. Of a "
            "search, give best_estimator_"
        )
    check_is_fitted(detector)
    if not hasattr(detector, "input_shape_"):
        raise ValueError(
            f"this {type(detector).__name__} was fitted by fit_outputs on saved outputs, so it has "
            "no network to export; give it the network and call fit(X)"
        )


def refuse(detector: Any, exportable: Sequence[type]) -> NoReturn:
    """Raise a TypeError for a detector of a class that has no formula in tensors."""
    name, cls = type(detector).__name__, type(detector)
    parents = [base.__name__ for base in cls.__mro__[1:] if base in exportable]
    if parents:
        why = f"its formula may differ from the formula of {parents[0]}, which it is a subclass of"
    elif isinstance(detector, MCDropout):
        why = "its score is computed from random passes of its network"
    elif isinstance(detector, NetworkDetector):
        why = "its score reads gradients or inner layers of its network"
    elif cls.__module__.startswith("skood.likelihood"):
        why = "its score is computed by a density, not from the outputs of a classifier's network"
    elif isinstance(detector, Detector):
        why = "its score is not arithmetic on features and logits of a network"
    else:
        why = "it is not a detector of skood"
    names = ", ".join(sorted(known.__name__ for known in exportable))
    raise TypeError(f"{name} cannot be exported: {why}. {_INSTEAD}. These can be exported: {names}")


def refuse_model(detector: Any, model: Any) -> None:
    """Raise an error if a graph cannot contain what a detector reads."""
    name = type(detector).__name__
    if not isinstance(model, (NetworkClassifier, ModuleHandle)):
        raise TypeError(
            f"{name} on {type(model).__name__} cannot be exported: only the outputs of a torch "
            "network, and rows of X with features=None, are tensor arithmetic. Give a classifier "
            f"of skood.classifiers or a trained torch module; or {_INSTEAD}"
        )
    network = model.network()
    if any(isinstance(part, torch.jit.ScriptModule) for part in network.module.modules()):
        raise TypeError(
            f"{name} on a scripted network cannot be exported; give the network before "
            f"torch.jit.script, or {_INSTEAD}"
        )
    if network.reading is not None and network.reading.one_by_one:
        raise TypeError(
            f"{name} on {network.name} cannot be exported: an output of this network depends on "
            "the other items of its batch, as with dynamic quantisation. Give the network before "
            f"it was quantised, or {_INSTEAD}"
        )
    if isinstance(detector, ASH) and detector.variant == "b":
        raise ValueError(
            'ASH(variant="b") cannot be exported: which of several equal activations it keeps '
            'depends on the sorting algorithm of numpy; take variant="s" or "p", or '
            f"{_INSTEAD}"
        )
