"""Scores as functions of tensors: the formulas of :mod:`skood.functional` in torch, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skood import posthoc, training_time
from skood._export._arithmetic import (
    chosen,
    energy,
    largest_products,
    length,
    log1p,
    ratio,
    sigmoid_log,
    softplus,
    squared_distances,
    unit_length,
)
from skood.functional._logits import SHIFT
from skood.functional._shaping import number_kept
from skood.posthoc._neighbours import MORE_NEIGHBOURS

__all__ = ["FORMULAS", "Score", "TensorOutputs", "predictive_uncertainty"]


@dataclass(frozen=True)
class TensorOutputs:
    """Outputs of a network in a graph, as :class:`skood.posthoc.Outputs` of arrays.

    Parameters
    ----------
    features : Tensor of shape (n, d), float64
    logits : Tensor of shape (n, n_classes), float64
    multilabel : bool
    """

    features: Tensor
    logits: Tensor
    multilabel: bool = False

    @property
    def log_proba(self) -> Tensor:
        return sigmoid_log(self.logits) if self.multilabel else torch.log_softmax(self.logits, 1)


# Takes outputs, and the values of a detector that its score reads.
Formula = Callable[[TensorOutputs, Any], Tensor]

# The formula of each detector, and the attributes that it reads. A subclass may have another
# formula, so that classes are looked up exactly.
FORMULAS: dict[type, tuple[Formula, tuple[str, ...]]] = {}


def _formula(detector: type, *names: str) -> Callable[[Formula], Formula]:
    def register(function: Formula) -> Formula:
        FORMULAS[detector] = function, names
        return function

    return register


# Numbers that determine how many activations are kept.
_COUNTS = {"percentile", "top_fraction"}


class Score(nn.Module):
    """Formula of a detector, with the values that it learned.

    Parameters
    ----------
    detector : Detector
        Fitted, of one of the classes in `FORMULAS`.
    head : tuple of ndarray or None
        Weight and bias of the last layer, if the formula reads them.
    """

    def __init__(self, detector: Any, head: Any) -> None:
        super().__init__()
        self.formula, names = FORMULAS[type(detector)]
        # Some are learned only with some parameters.
        values = {name: getattr(detector, name, None) for name in names}
        if head is not None:
            values["weight"], values["bias"] = head
        for name, value in values.items():
            # Numbers, too, because ONNX's exporter rounds those in the code to float32.
            if name not in _COUNTS and isinstance(value, (np.ndarray, list, float)):
                self.register_buffer(name, torch.tensor(np.ascontiguousarray(value)))
            else:
                setattr(self, name, value)

    def forward(self, outputs: TensorOutputs) -> Tensor:
        return self.formula(outputs, self)


@_formula(posthoc.MSP)
def _msp(o: TensorOutputs, d: Any) -> Tensor:
    return o.log_proba.amax(1).exp()


@_formula(posthoc.MaxLogit)
def _max_logit(o: TensorOutputs, d: Any) -> Tensor:
    return o.logits.amax(1)


@_formula(posthoc.Energy, "temperature")
def _energy(o: TensorOutputs, d: Any) -> Tensor:
    if o.multilabel:
        return d.temperature * softplus(o.logits / d.temperature).sum(1)
    return energy(o.logits, d.temperature)


@_formula(training_time.EnergyRegularized)
@_formula(training_time.RegMixup)
@_formula(training_time.VOS)
def _plain_energy(o: TensorOutputs, d: Any) -> Tensor:
    return energy(o.logits)


@_formula(training_time.LogitNorm)
@_formula(training_time.OutlierExposure)
def _log_msp(o: TensorOutputs, d: Any) -> Tensor:
    ordered = o.logits.topk(o.logits.shape[1], 1).values
    return -log1p((ordered[:, 1:] - ordered[:, :1]).exp().sum(1))


@_formula(training_time.OODGen, "score_type")
def _oodgen(o: TensorOutputs, d: Any) -> Tensor:
    if d.score_type == "reject":
        return 1 - o.log_proba[:, -1].exp()
    if d.score_type == "max":
        return o.log_proba[:, :-1].amax(1).exp()
    return o.logits[:, :-1].amax(1) - o.logits[:, -1]


@_formula(training_time.DeepSAD, "center_")
def _deep_sad(o: TensorOutputs, d: Any) -> Tensor:
    return -(o.logits - d.center_).square().sum(1)


@_formula(training_time.DeepSVDD, "center_", "objective", "radius_")
def _deep_svdd(o: TensorOutputs, d: Any) -> Tensor:
    scores = _deep_sad(o, d)
    return scores if d.objective == "one-class" else scores + d.radius_**2


@_formula(posthoc.TemperatureScaling, "temperature_")
def _temperature_scaling(o: TensorOutputs, d: Any) -> Tensor:
    return torch.log_softmax(o.logits / d.temperature_, 1).amax(1).exp()


@_formula(posthoc.Entropy)
def _entropy(o: TensorOutputs, d: Any) -> Tensor:
    return (o.log_proba.exp() * o.log_proba).sum(1)


@_formula(posthoc.GEN, "gamma", "n_top")
def _gen(o: TensorOutputs, d: Any) -> Tensor:
    top = o.log_proba.topk(min(d.n_top, o.logits.shape[1]), 1).values.exp()
    return -(top**d.gamma * (1 - top).clamp(min=0) ** d.gamma).sum(1)


@_formula(posthoc.KLMatching, "templates_")
def _kl_matching(o: TensorOutputs, d: Any) -> Tensor:
    proba = o.log_proba.exp()
    negative_entropy = (proba * o.log_proba).sum(1, keepdim=True)
    return -(negative_entropy - proba @ d.templates_.log().T).amin(1)


@_formula(posthoc.OpenMax, "centres_", "weibull_", "alpha")
def _openmax(o: TensorOutputs, d: Any) -> Tensor:
    alpha = min(d.alpha, o.logits.shape[1])
    shape, scale, smallest = d.weibull_.T
    distance = squared_distances(o.logits, d.centres_).sqrt()
    moved = (distance - smallest + SHIFT).clamp(min=0)
    cumulative = 1 - torch.exp(-((moved / scale) ** shape))
    largest, classes = o.logits.topk(alpha, 1)
    weight = (alpha - torch.arange(alpha, dtype=torch.float64)) / alpha
    lost = largest * cumulative.gather(1, classes) * weight
    known = o.logits.scatter(1, classes, largest - lost)
    unknown = lost.sum(1, keepdim=True)
    return -torch.softmax(torch.cat([unknown, known], 1), 1)[:, 0]


@_formula(posthoc.GradNorm)
def _gradnorm(o: TensorOutputs, d: Any) -> Tensor:
    from_uniform = (o.log_proba.exp() - 1 / o.logits.shape[1]).abs().sum(1)
    return from_uniform * o.features.abs().sum(1)


@_formula(posthoc.FDBD, "mean_", "_separations", "_smallest")
def _fdbd(o: TensorOutputs, d: Any) -> Tensor:
    boundary = chosen(d._separations, o.logits)
    differs = boundary > 0
    gap = o.logits.amax(1, keepdim=True) - o.logits
    distance = torch.where(differs, gap / torch.where(differs, boundary, 1.0), 0.0)
    n_boundaries = differs.sum(1).clamp(min=1)
    spread = torch.maximum(length(o.features - d.mean_), d._smallest)
    return distance.sum(1) / n_boundaries / spread


@_formula(posthoc.NCI, "mean_", "alpha")
def _nci(o: TensorOutputs, d: Any) -> Tensor:
    centred = o.features - d.mean_
    towards = (chosen(d.weight, o.logits) * centred).sum(1)
    size = length(centred)
    cosine = torch.where(size > 0, towards / torch.where(size > 0, size, 1.0), 0.0)
    return cosine + d.alpha * o.features.abs().sum(1)


@_formula(posthoc.PNML, "_whitening", "probabilities")
def _pnml(o: TensorOutputs, d: Any) -> Tensor:
    u = unit_length(o.features)
    logits = u @ d.weight.T + d.bias if d.probabilities == "normalized" else o.logits
    p = torch.softmax(logits, 1).clamp(1e-12, 1 - 1e-12)
    g = (u @ d._whitening).square().sum(1)
    t = (g / (1 + g))[:, None]
    return -torch.log((p / (p + (1 - p) * p**t)).sum(1)) / math.log(p.shape[1])


@_formula(posthoc.SHE, "patterns_")
def _she(o: TensorOutputs, d: Any) -> Tensor:
    return (o.features * chosen(d.patterns_, o.logits)).sum(1)


@_formula(posthoc.NNGuide, "bank_", "n_neighbors_")
def _nnguide(o: TensorOutputs, d: Any) -> Tensor:
    z, k = unit_length(o.features), d.n_neighbors_
    nearest = largest_products(z, d.bank_, k + MORE_NEIGHBOURS)
    products = (nearest * z[:, None]).sum(2).topk(k, 1).values
    return energy(o.logits) * products.mean(1)


@_formula(posthoc.ReAct, "threshold_")
def _react(o: TensorOutputs, d: Any) -> Tensor:
    return energy(torch.minimum(o.features, d.threshold_) @ d.weight.T + d.bias)


@_formula(posthoc.VRA, "thresholds_", "suppress")
def _vra(o: TensorOutputs, d: Any) -> Tensor:
    low, high = d.thresholds_
    # ONNX's exporter writes a maximum of a minimum in a wrong order.
    below = low if d.suppress == "clip" else 0.0
    shaped = torch.where(o.features > high, high, o.features)
    shaped = torch.where(o.features < low, below, shaped)
    return energy(shaped @ d.weight.T + d.bias)


@_formula(posthoc.DICE, "weight_")
def _dice(o: TensorOutputs, d: Any) -> Tensor:
    return energy(o.features @ d.weight_.T + d.bias)


@_formula(posthoc.ASH, "percentile", "variant")
def _ash(o: TensorOutputs, d: Any) -> Tensor:
    n_kept = number_kept(int(o.features.shape[1]), d.percentile)
    values, kept = o.features.topk(n_kept, 1)
    if d.variant == "s":
        total = o.features.sum(1, keepdim=True)
        values = values * torch.exp(ratio(total, values.sum(1, keepdim=True)))
    shaped = torch.zeros_like(o.features).scatter(1, kept, values)
    return energy(shaped @ d.weight.T + d.bias)


@_formula(posthoc.SCALE, "percentile")
def _scale(o: TensorOutputs, d: Any) -> Tensor:
    shaped = torch.exp(_ratio_to_top(o.features, d.percentile))[:, None] * o.features
    return energy(shaped @ d.weight.T + d.bias)


@_formula(posthoc.LTS, "top_fraction")
def _lts(o: TensorOutputs, d: Any) -> Tensor:
    r = _ratio_to_top(o.features.clamp(min=0), 100 * (1 - d.top_fraction))
    return energy(r.square()[:, None] * o.logits)


def _ratio_to_top(features: Tensor, percentile: float) -> Tensor:
    n_top = number_kept(int(features.shape[1]), percentile)
    return ratio(features.sum(1), features.topk(n_top, 1).values.sum(1))


@_formula(posthoc.Mahalanobis, "normalizes_", "_whitening", "_origin", "_white_means")
def _mahalanobis(o: TensorOutputs, d: Any) -> Tensor:
    white = _prepared(o, d) @ d._whitening - d._origin
    return -squared_distances(white, d._white_means).amin(1)


@_formula(
    posthoc.RelativeMahalanobis,
    *FORMULAS[posthoc.Mahalanobis][1],
    *("mean_", "_background"),
)
def _relative_mahalanobis(o: TensorOutputs, d: Any) -> Tensor:
    white = (_prepared(o, d) - d.mean_) @ d._background
    return _mahalanobis(o, d) + white.square().sum(1)


@_formula(posthoc.KNN, "normalizes_", "bank_", "_origin", "_half_square", "n_neighbors_")
def _knn(o: TensorOutputs, d: Any) -> Tensor:
    queries, k = _prepared(o, d) - d._origin, d.n_neighbors_
    nearest = largest_products(queries, d.bank_, k + MORE_NEIGHBOURS, -d._half_square)
    squared = (nearest - queries[:, None]).square().sum(2)
    return -squared.topk(k, 1, largest=False).values[:, -1].sqrt()


@_formula(posthoc.GMM, "weights_", "means_", "_factors")
def _gmm(o: TensorOutputs, d: Any) -> Tensor:
    densities = [
        torch.log(weight)
        # The diagonal.
        + torch.log(factor.flatten()[:: len(factor) + 1]).sum()
        - 0.5 * ((o.features - mean) @ factor).square().sum(1)
        for weight, mean, factor in zip(d.weights_, d.means_, d._factors, strict=True)
    ]
    constant = -0.5 * o.features.shape[1] * math.log(2 * math.pi)
    return energy(torch.stack(densities, 1)) + constant


@_formula(posthoc.Residual, "residual_space_", "origin_")
def _residual(o: TensorOutputs, d: Any) -> Tensor:
    return -length(o.features @ d.residual_space_ - d.origin_ @ d.residual_space_)


@_formula(posthoc.ViM, "residual_space_", "origin_", "alpha_")
def _vim(o: TensorOutputs, d: Any) -> Tensor:
    return energy(o.logits) + d.alpha_ * _residual(o, d)


@_formula(posthoc.NECO, "_mean", "_scale", "components_", "max_logit")
def _neco(o: TensorOutputs, d: Any) -> Tensor:
    e = (o.features - d._mean) / d._scale
    size, inside = length(e), length(e @ d.components_)
    share = torch.where(size > 0, inside / torch.where(size > 0, size, 1.0), 1.0)
    return share * o.logits.amax(1) if d.max_logit else share


@_formula(posthoc.KernelPCA, "kernel", "mean_", "components_", "frequencies_", "phases_")
def _kernel_pca(o: TensorOutputs, d: Any) -> Tensor:
    mapped = unit_length(o.features)
    if d.kernel == "cosine-gaussian":
        scale = math.sqrt(2 / d.frequencies_.shape[1])
        mapped = scale * torch.cos(mapped @ d.frequencies_ + d.phases_)
    centred = mapped - d.mean_
    return -length(centred - centred @ d.components_ @ d.components_.T)


def _prepared(o: TensorOutputs, d: Any) -> Tensor:
    return unit_length(o.features) if d.normalizes_ else o.features


def predictive_uncertainty(log_proba: Tensor, score_type: str) -> tuple[Tensor, Tensor]:
    """Return minus the entropy or mutual information of members, and their mean probabilities.

    Parameters
    ----------
    log_proba : Tensor of shape (n, n_members, n_classes)
    score_type : {"entropy", "mutual_information"}
    """
    mean = torch.logsumexp(log_proba, 1) - math.log(log_proba.shape[1])
    scores = (mean.exp() * mean).sum(1)
    if score_type == "mutual_information":
        of_members = (log_proba.exp() * log_proba).sum(2).mean(1)
        scores = (scores - of_members).clamp(max=0)
    return scores, mean.exp()
