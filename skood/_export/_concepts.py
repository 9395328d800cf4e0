"""Scores of image vectors and text vectors as functions of tensors, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skood import posthoc
from skood._export._arithmetic import energy, length, sigmoid_log
from skood._export._scores import FORMULAS, TensorOutputs

__all__ = ["ClassCosines"]


class ClassCosines(nn.Module):
    """Probabilities of the classes of a detector on class names.

    Parameters
    ----------
    detector : ConceptDetector
        Fitted.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        # A number in the code would be rounded to float32 by ONNX's exporter.
        for name in ("text_embeddings_", "temperature"):
            value = np.array(getattr(detector, name), np.float64)
            self.register_buffer(name, torch.tensor(value))

    def forward(self, outputs: TensorOutputs) -> Tensor:
        return torch.softmax(_class_logits(_directions(outputs), self), 1)


def _directions(outputs: TensorOutputs) -> Tensor:
    """Image vectors of length 1; NaN for vectors that are 0, which detectors refuse."""
    vectors = outputs.features
    is_zero = vectors.abs().amax(1) < 10 * torch.finfo(vectors.dtype).eps
    return vectors / torch.where(is_zero, torch.nan, length(vectors))[:, None]


def _class_logits(directions: Tensor, d: Any) -> Tensor:
    return directions @ d.text_embeddings_.T / d.temperature


def _mcm(outputs: TensorOutputs, d: Any) -> Tensor:
    logits = _class_logits(_directions(outputs), d)
    ordered = logits.topk(logits.shape[1], 1).values
    return ordered[:, 0] - energy(ordered[:, 1:])


def _neglabel(outputs: TensorOutputs, d: Any) -> Tensor:
    directions = _directions(outputs)
    inside = energy(_class_logits(directions, d))
    negative = directions @ d.negative_embeddings_.T / d.temperature
    groups = negative.reshape(-1, d.n_groups, d.negative_embeddings_.shape[0] // d.n_groups)
    odds = inside[:, None] - torch.logsumexp(groups, 2)
    return energy(sigmoid_log(odds)) - energy(sigmoid_log(-odds))


_OF_CLASSES = "text_embeddings_", "temperature"
_OF_NEGATIVES = *_OF_CLASSES, "negative_embeddings_", "n_groups"
FORMULAS.update(
    {
        posthoc.MCM: (_mcm, _OF_CLASSES),
        posthoc.NegLabel: (_neglabel, _OF_NEGATIVES),
        posthoc.CSP: (_neglabel, _OF_NEGATIVES),
    }
)
