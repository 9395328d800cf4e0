"""A fitted detector as one torch module: items in, score and decision out."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._export._calibrated import CALIBRATED, members_of
from skood._export._concepts import ClassCosines
from skood._export._network import NetworkOutputs, Rows, Source
from skood._export._refusals import refuse, refuse_model
from skood._export._scores import FORMULAS, Score, TensorOutputs, predictive_uncertainty
from skood.classifiers._module import ModuleHandle
from skood.classifiers._network_classifier import NetworkClassifier
from skood.posthoc import ConceptDetector, DeepEnsemble, FeatureDetector, TemperatureScaling
from skood.training_time import OODGen, TrainingDetector

__all__ = ["Builder", "DetectorGraph", "models_of", "unwrapped"]


def unwrapped(detector: Any) -> Any:
    """Return the estimator inside ``FrozenEstimator``."""
    return detector.estimator if isinstance(detector, FrozenEstimator) else detector


def models_of(detector: Any) -> list[Any]:
    """Return the models whose outputs a fitted detector reads; None for the rows of X.

    Raises
    ------
    TypeError, ValueError
        If the detector cannot be exported.
    """
    if type(detector) in CALIBRATED:
        return [model for part in members_of(detector) for model in models_of(unwrapped(part))]
    if type(detector) is not DeepEnsemble and type(detector) not in FORMULAS:
        refuse(detector, [*FORMULAS, DeepEnsemble, *CALIBRATED])
    if isinstance(detector, FeatureDetector):
        models = [detector.features_]
    elif isinstance(detector, TrainingDetector):
        models = [getattr(detector, f"{detector._architecture}_")]
    elif isinstance(detector, DeepEnsemble):
        models = list(detector.estimators_)
    else:
        models = [detector.classifier_]
    for model in models:
        if model is not None or not isinstance(detector, FeatureDetector):
            refuse_model(detector, model)
    return models


class DetectorGraph(nn.Module):
    """Score, decision and prediction of a fitted detector.

    Parameters
    ----------
    detector : Detector
    data : CheckedData
        Example items, which have the shape, the axes and the dtype of the graph's input.
    """

    offset: Tensor

    def __init__(self, detector: Any, data: CheckedData) -> None:
        super().__init__()
        builder = Builder(data)
        self.root = builder.node(detector)
        self.sources = nn.ModuleList(builder.sources)
        # Numbers in the code would be rounded to float32 by ONNX's exporter.
        self.register_buffer("offset", torch.tensor(detector.offset_, dtype=torch.float64))
        self.excludes_classes = not getattr(detector, "_is_multilabel", False)

    def forward(self, X: Tensor) -> dict[str, Tensor]:
        values = self.root([source(X) for source in self.sources])
        score = values["score"]
        accepted = score < torch.inf
        for source in self.sources:
            in_range = source.accepted(X)
            accepted = accepted if in_range is None else accepted & in_range
        # Detectors refuse these items.
        score = torch.where(accepted, score, torch.nan)
        decision = score - self.offset
        named = {
            "score": score,
            "decision": decision,
            "is_inlier": torch.where(decision >= 0, 1, -1),
        }
        if "p_value" in values:
            named["p_value"] = torch.where(accepted, values["p_value"], torch.nan)
        if "probabilities" in values:
            if self.excludes_classes:
                named["class_index"] = values["probabilities"].argmax(1)
            named["probabilities"] = values["probabilities"]
        return named


class Builder:
    """Makes the parts of a graph; a network that several detectors read runs once."""

    def __init__(self, data: CheckedData) -> None:
        self.data = data
        self.sources: list[Source] = []
        self._known: dict[Any, int] = {}

    def node(self, detector: Any) -> nn.Module:
        """Return a module that takes the outputs of all sources, and returns named values."""
        detector = unwrapped(detector)
        if type(detector) in CALIBRATED:
            parts = [self.node(part) for part in members_of(detector)]
            return CALIBRATED[type(detector)](detector, parts)
        sources = [self._source(model) for model in models_of(detector)]
        if isinstance(detector, DeepEnsemble):
            return _EnsembleScore(sources, detector)
        return _DetectorScore(sources[0], detector)

    def _source(self, model: NetworkClassifier | ModuleHandle | None) -> int:
        key: Any = None
        if model is not None:
            network = model.network()
            how = network.output, network.features_from, network.multilabel, network.is_extractor
            key = (id(network.module), network.read(self.data), how, network.settings)
        if key not in self._known:
            made = Rows(self.data) if model is None else NetworkOutputs(model, self.data)
            self._known[key] = len(self.sources)
            self.sources.append(made)
        return self._known[key]


class _DetectorScore(nn.Module):
    """Score of one detector on one network, and class probabilities if it has any."""

    def __init__(self, source: int, detector: Any) -> None:
        super().__init__()
        self.source = source
        reads_head = getattr(detector, "_reads", None) == "head"
        self.score = Score(detector, detector.classifier_.network().head if reads_head else None)
        self.has_classes = hasattr(detector, "predict_proba")
        self.temperature = 1.0
        if isinstance(detector, TemperatureScaling):
            self.temperature = detector.temperature_
        # Its last class is the class of outliers.
        self.n_left_out = int(isinstance(detector, OODGen))
        self.of_names = ClassCosines(detector) if isinstance(detector, ConceptDetector) else None

    def forward(self, outputs: list[TensorOutputs]) -> dict[str, Tensor]:
        own = outputs[self.source]
        values = {"score": self.score(own)}
        if self.has_classes:
            values["probabilities"] = self._probabilities(own)
        return values

    def _probabilities(self, own: TensorOutputs) -> Tensor:
        if self.of_names is not None:
            return self.of_names(own)
        if own.multilabel:
            return own.log_proba.exp()
        n_classes = own.logits.shape[1] - self.n_left_out
        return torch.softmax(own.logits[:, :n_classes] / self.temperature, 1)


class _EnsembleScore(nn.Module):
    """Uncertainty of several networks, and their mean probabilities."""

    def __init__(self, sources: list[int], detector: DeepEnsemble) -> None:
        super().__init__()
        self.sources, self.score_type = sources, detector.score_type

    def forward(self, outputs: list[TensorOutputs]) -> dict[str, Tensor]:
        log_proba = torch.stack([outputs[source].log_proba for source in self.sources], 1)
        score, proba = predictive_uncertainty(log_proba, self.score_type)
        return {"score": score, "probabilities": proba}
