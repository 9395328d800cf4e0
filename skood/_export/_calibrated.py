"""Detectors around detectors: thresholds, p-values and combinations of p-values in a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._export._arithmetic import count_up_to
from skood._open_set import knows_classes
from skood.calibration import ConformalDetector, EnsembleDetector, TunedThreshold
from skood.calibration._base import LARGEST
from skood.calibration._p_values import p_value_levels

__all__ = ["CALIBRATED", "members_of"]


def members_of(detector: Any) -> list[Any]:
    """Return the fitted detectors inside a calibrated detector."""
    return [detector.detector_] if hasattr(detector, "detector_") else list(detector.detectors_)


class _Calibrated(nn.Module):
    """Base of the calibrated detectors, which combine the scores of `parts`.

    Parameters
    ----------
    detector : CalibratedDetector
    parts : list of Module
        One for each detector inside.
    """

    largest: Tensor
    smallest: Tensor

    def __init__(self, detector: Any, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        # As tensors, because numbers in the code would become float32 in ONNX.
        self.register_buffer("largest", torch.tensor(LARGEST, dtype=torch.float64))
        self.register_buffer("smallest", torch.tensor(np.finfo(np.float64).tiny))
        members = members_of(detector)
        self.with_classes = [k for k, part in enumerate(members) if knows_classes(part)]
        known = [np.asarray(members[k].classes_) for k in self.with_classes]
        if not all(np.array_equal(classes, known[0]) for classes in known):
            self.with_classes = []

    def forward(self, outputs: Any) -> dict[str, Tensor]:
        of_parts = [part(outputs) for part in self.parts]
        scores = [self._clipped(part["score"]) for part in of_parts]
        if not self.with_classes:
            return self.combined(scores)
        mean = torch.stack([of_parts[k]["probabilities"] for k in self.with_classes]).mean(0)
        return {**self.combined(scores, mean.argmax(1)), "probabilities": mean}

    def _clipped(self, scores: Tensor) -> Tensor:
        too_low, too_high = scores < -self.largest, scores > self.largest
        return torch.where(too_low, -self.largest, torch.where(too_high, self.largest, scores))

    def combined(
        self, scores: list[Tensor], class_index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the score, and the p-value if there is one."""
        return {"score": scores[0]}


class _Conformal(_Calibrated):
    def __init__(self, detector: ConformalDetector, parts: list[nn.Module]) -> None:
        super().__init__(detector, parts)
        self.ranks = nn.ModuleList(map(_Ranks, detector.calibration_scores_))
        self.n_calibration = detector.n_calibration_
        self.levels = _Levels([detector.n_calibration_], [detector._failure_rate])

    def combined(
        self, scores: list[Tensor], class_index: Tensor | None = None
    ) -> dict[str, Tensor]:
        ranked = list(zip(self.ranks, scores, strict=True))
        n_outscored = sum(ranks.count_up_to(score) for ranks, score in ranked)
        n = self.n_calibration + 1
        if len(scores) == 1:
            return {"score": scores[0], "p_value": self.levels(n_outscored)}
        between = sum(ranks.smooth(score) for ranks, score in ranked) / len(scores)
        return {"score": (n_outscored + between) / n, "p_value": (1 + n_outscored) / n}


class _ClassConditional(_Calibrated):
    """Compares an item with the calibration scores of its predicted class."""

    calibration: Tensor
    thresholds: Tensor

    def __init__(self, detector: ConformalDetector, parts: list[nn.Module]) -> None:
        super().__init__(detector, parts)
        if not self.with_classes or detector.classifier is not None:
            raise ValueError(
                "ConformalDetector(class_conditional=True) with another classifier than the "
                "detector's own cannot be exported; leave out classifier=, or store the detector "
                "with skood.save"
            )
        # Rows of other classes are compared with all calibration scores.
        classes = np.asarray(detector.classes_).tolist()
        of_class = [detector.calibration_scores_[0]] * len(classes)
        deltas = [detector._failure_rate] * len(classes)
        thresholds = np.full(len(classes), detector._other_threshold)
        for label, scores, threshold in zip(
            detector.calibrated_classes_.tolist(),
            detector.class_scores_,
            detector.thresholds_,
            strict=True,
        ):
            of_class[classes.index(label)] = scores
            deltas[classes.index(label)] = detector._class_delta
            thresholds[classes.index(label)] = threshold
        n_rows = [len(scores) for scores in of_class]
        table = np.full((len(classes), max(n_rows)), np.inf)
        for row, scores in zip(table, of_class, strict=True):
            row[: len(scores)] = scores
        self.register_buffer("calibration", torch.tensor(table))
        self.levels = _Levels(n_rows, deltas)
        self.register_buffer("thresholds", torch.tensor(thresholds))

    def combined(
        self, scores: list[Tensor], class_index: Tensor | None = None
    ) -> dict[str, Tensor]:
        assert class_index is not None
        n_outscored = count_up_to(self.calibration[class_index], scores[0])
        p_value = self.levels(n_outscored, class_index)
        return {"score": scores[0] - self.thresholds[class_index], "p_value": p_value}


def _conformal(detector: ConformalDetector, parts: list[nn.Module]) -> nn.Module:
    make = _ClassConditional if detector.class_conditional else _Conformal
    return make(detector, parts)


class _Combined(_Calibrated):
    def __init__(self, detector: EnsembleDetector, parts: list[nn.Module]) -> None:
        super().__init__(detector, parts)
        self.ranks = nn.ModuleList(map(_Ranks, detector.reference_scores_))
        self.calibration = _Ranks(detector.calibration_scores_)
        self.levels = _Levels([detector.n_calibration_], [detector._failure_rate])
        self.combination = _COMBINATIONS[detector.combination]

    def combined(
        self, scores: list[Tensor], class_index: Tensor | None = None
    ) -> dict[str, Tensor]:
        smooth = [ranks.smooth(score) for ranks, score in zip(self.ranks, scores, strict=True)]
        p = torch.maximum(torch.stack(smooth, 1), self.smallest)
        score = self.combination(p)
        n_outscored = self.calibration.count_up_to(score)
        return {"score": score, "p_value": self.levels(n_outscored)}


_COMBINATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "fisher": lambda p: 2 * p.log().sum(1),
    "harmonic": lambda p: p.shape[1] / (1 / p).sum(1),
    "bonferroni": lambda p: p.shape[1] * p.amin(1),
    "mean_rank": lambda p: p.mean(1),
}

CALIBRATED: dict[type, Callable[[Any, list[nn.Module]], nn.Module]] = {
    ConformalDetector: _conformal,
    EnsembleDetector: _Combined,
    TunedThreshold: _Calibrated,
}


class _Levels(nn.Module):
    """P-values of ranks, for each of several sets of calibration scores.

    Parameters
    ----------
    n_calibration : sequence of int
    deltas : sequence of float or None
        As in :func:`skood.calibration._p_values.p_value_levels`.
    """

    table: Tensor

    def __init__(self, n_calibration: Sequence[int], deltas: Sequence[float | None]) -> None:
        super().__init__()
        table = np.ones((len(n_calibration), max(n_calibration) + 1))
        for row, n, delta in zip(table, n_calibration, deltas, strict=True):
            row[: n + 1] = p_value_levels(n, delta)
        self.register_buffer("table", torch.tensor(table))

    def forward(self, n_outscored: Tensor, which: Tensor | None = None) -> Tensor:
        counts = n_outscored.long()
        return self.table[0][counts] if which is None else self.table[which, counts]


class _Ranks(nn.Module):
    """Ranks of scores among calibration scores."""

    scores: Tensor
    values: Tensor
    positions: Tensor
    middle_ranks: Tensor

    def __init__(self, calibration: npt.NDArray[np.float64]) -> None:
        super().__init__()
        values, n_equal = np.unique(calibration, return_counts=True)
        low, high = np.percentile(calibration, [25, 75])
        self.scale = float(high - low) or 1.0
        self.register_buffer("scores", torch.tensor(calibration))
        self.register_buffer("values", torch.tensor(values))
        middle = np.cumsum(n_equal) - (n_equal - 1) / 2
        # With the first and the last a second time, for scores outside.
        self.register_buffer("positions", torch.tensor(np.pad(values, 1, "edge")))
        self.register_buffer("middle_ranks", torch.tensor(np.pad(middle, 1, "edge")))

    def count_up_to(self, scores: Tensor) -> Tensor:
        return count_up_to(self.scores, scores)

    def smooth(self, scores: Tensor) -> Tensor:
        """As :func:`skood.calibration._p_values.smooth_p_values`."""
        n_ranks = len(self.scores) + 1
        below = 1 + (self.values[0] - scores).clamp(min=0) / self.scale
        above = 1 + (scores - self.values[-1]).clamp(min=0) / self.scale
        left = count_up_to(self.values, scores).long()
        width = self.positions[left + 1] - self.positions[left]
        inside = torch.where(width > 0, width, 1.0)
        share = torch.where(width > 0, (scores - self.positions[left]) / inside, 0.0)
        first, last = self.middle_ranks[left], self.middle_ranks[left + 1]
        ranks = (first + share * (last - first)) / below
        return torch.where(above > 1, n_ranks - (n_ranks - ranks) / above, ranks) / n_ranks
