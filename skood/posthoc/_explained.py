"""Explanations of the scores that are functions of a network's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skood import functional as F
from skood.classifiers._outputs import Outputs
from skood.explanation import ClassesExplanation, DistanceExplanation, NeighborsExplanation
from skood.posthoc._base import in_float64
from skood.posthoc._neighbours import Bank
from skood.posthoc._outputs_detector import FeatureDetector
from skood.posthoc._outputs_score import OutputsScore

__all__ = [
    "ExplainedByClasses",
    "ExplainedByDistance",
    "ExplainedByNeighbors",
    "largest_alone",
    "quadratic_form",
    "removals",
    "softmax_of",
    "unit_columns",
]

_Array = npt.NDArray[np.float64]
# Rounding error of a sum of contributions, relative to the sum of their absolute values.
_ROUNDING = 1e-6


def _explained(
    detector: OutputsScore,
    fields: Callable[[Outputs], dict[str, npt.NDArray]],
    outputs: Outputs,
    which: str = "contributions",
) -> dict[str, npt.NDArray]:
    """Return the scores and the fields of an explanation, computed in chunks in float64.

    Parameters
    ----------
    detector : OutputsScore
    fields : callable
        Takes outputs and returns arrays by the names of fields.
    outputs : Outputs
    which : str
        Name of the contributions that, with "constants" if there are any, sum to the score.
    """
    found: dict[str, list[npt.NDArray]] = {}

    def explain(rows: Outputs) -> npt.NDArray[np.float64]:
        scores = detector._score(rows)
        for name, values in {"scores": scores, **fields(rows)}.items():
            found.setdefault(name, []).append(values)
        return scores

    in_float64(explain, outputs)
    whole = {name: np.concatenate(parts) for name, parts in found.items()}
    terms = [whole[which], *([whole["constants"][:, None]] if "constants" in whole else [])]
    gap = np.abs(whole["scores"] - np.hstack(terms).sum(1))
    if (gap > _ROUNDING * np.abs(np.hstack(terms)).sum(1)).any():
        raise TypeError(
            f"the contributions do not sum to the score of {type(detector).__name__}: the class "
            "changes the score of a detector, but not its explanation; override both, or explain "
            "it by skood.inspection.attribute"
        )
    return whole


def quadratic_form(delta: _Array, factor: _Array) -> tuple[_Array, _Array]:
    r"""Divide :math:`\delta^\top W W^\top \delta` among the columns of W, and the coordinates.

    Parameters
    ----------
    delta : ndarray of shape (n, d)
    factor : ndarray of shape (d, r)
        The W.

    Returns
    -------
    of_directions : ndarray of shape (n, r)
        Squares of :math:`W^\top \delta`.
    of_features : ndarray of shape (n, d)
        :math:`\delta_i (W W^\top \delta)_i`. Both sum to the quadratic form.
    """
    projected = delta @ factor
    return np.square(projected), delta * (projected @ factor.T)


def removals(delta: _Array, factor: _Array) -> _Array:
    r"""Return how far a quadratic form falls if one coordinate takes its best value, (n, d).

    With :math:`P = W W^\top`, these are :math:`(P \delta)_i^2 / P_{ii}`, and 0 for a coordinate
    that the others determine: it has no other value in the space where the form is finite.
    """
    inside = np.square(unit_columns(factor)).sum(1)
    precision = np.square(factor).sum(1)
    slopes = np.square((delta @ factor) @ factor.T)
    is_free = inside > 1 - _ROUNDING
    return np.where(is_free, slopes / np.where(is_free, precision, 1.0), 0.0)


def unit_columns(factor: _Array) -> _Array:
    """Scale columns to length 1; columns of zeros stay as they are."""
    lengths = np.linalg.norm(factor, axis=0)
    return factor / np.where(lengths > 0, lengths, 1.0)


class ExplainedByNeighbors(OutputsScore):
    """Base of the scores that compare an item with training rows.

    A subclass implements ``_neighbors`` and ``_bank``, and sets ``_bank_rows`` in ``_learn``.

    Attributes
    ----------
    bank_indices_ : ndarray of shape (n_bank,), int64
        Row of each member of the bank in the X, or the saved outputs, that were given to the fit.
    """

    _explains = True
    _remembers_rows = True
    # Members of the bank among the rows that were learned from; None for all.
    _bank_rows: npt.NDArray[np.int64] | None
    if TYPE_CHECKING:
        _rows: Any

    def _bank(self) -> Bank:
        """Return the bank to search."""
        raise NotImplementedError

    def _neighbors(self, outputs: Outputs) -> dict[str, npt.NDArray]:
        """Return fields of a NeighborsExplanation, with rows of the bank as its indices."""
        raise NotImplementedError

    @property
    def bank_indices_(self) -> npt.NDArray[np.int64]:
        """Row of each member of the bank in the X, or the saved outputs, of the fit."""
        if hasattr(self, "_rows") and "_training_rows" not in vars(self):
            raise AttributeError(
                f"this {type(self).__name__} was stored by a version that did not keep the rows of "
                "its bank; fit it again"
            )
        learned, members = self._training_rows, self._bank_rows
        if learned is None:
            return np.arange(len(self._rows)) if members is None else members
        return (learned if members is None else learned[members]).astype(np.int64)

    def _explanation(self, outputs: Outputs) -> NeighborsExplanation:
        rows = self.bank_indices_
        found = _explained(self, self._neighbors, outputs)
        found["indices"] = rows[found["indices"]]
        return NeighborsExplanation(**found)


class ExplainedByDistance(OutputsScore):
    """Base of the scores that are distances in the feature space, or sums over its coordinates.

    A subclass implements ``_distances``, and ``_directions`` if it has directions.
    """

    _explains = True

    @property
    def _directions(self) -> _Array | None:
        """The directions, columns of length 1."""
        return None

    def _distances(self, outputs: Outputs) -> dict[str, npt.NDArray]:
        """Return fields of a DistanceExplanation, but classes by their indices."""
        raise NotImplementedError

    def _explanation(self, outputs: Outputs) -> DistanceExplanation:
        found = _explained(self, self._distances, outputs, "feature_contributions")
        found.setdefault("constants", np.zeros(len(outputs)))
        labels = self._explained_labels
        if labels is None and "class_scores" in found and found["class_scores"].shape[1] == 1:
            # All rows without labels are one class.
            del found["classes"], found["class_scores"]
        if "classes" in found and labels is not None:
            found["classes"] = labels[found["classes"]]
        names = self._feature_names(found["feature_contributions"].shape[1])
        return DistanceExplanation(**found, feature_names=names, directions=self._directions)

    @property
    def _explained_labels(self) -> npt.NDArray | None:
        """The labels of the classes; None if they are unknown, and explained by their indices."""
        if isinstance(self, FeatureDetector):
            return getattr(self, "_class_labels", None)
        return np.asarray(self.classes_) if hasattr(self, "classifier_") else None

    def _feature_names(self, n_features: int) -> tuple[str, ...]:
        """Return the names of the coordinates of the feature space."""
        if getattr(self, "features_", self) is not None:
            model = getattr(self, "features_", None)
            try:
                names = [] if model is None else list(model.get_feature_names_out())
            except (AttributeError, ValueError):
                # A transformer without names of its outputs.
                names = []
        elif hasattr(self, "feature_names_in_"):
            names = list(self.feature_names_in_)
        elif len(self.input_shape_) == 3:
            channels, height, width = self.input_shape_
            names = [
                f"pixel ({h}, {w})" + (f" of channel {c}" if channels > 1 else "")
                for c in range(channels)
                for h in range(height)
                for w in range(width)
            ]
        else:
            names = [f"x{i}" for i in range(n_features)]
        if len(names) != n_features:
            return tuple(f"feature {i}" for i in range(n_features))
        return tuple(map(str, names))


class ExplainedByClasses(OutputsScore):
    """Base of the scores that are sums over classes, up to a constant.

    A subclass implements ``_shares``.
    """

    _explains = True

    def _shares(self, outputs: Outputs) -> tuple[_Array | float, _Array]:
        """Return the constant of each row, and the contributions of classes, (n, n_classes)."""
        raise NotImplementedError

    def _log_proba(self, outputs: Outputs) -> _Array:
        """Return the log-probabilities that the score reads."""
        return outputs.log_proba

    def _explanation(self, outputs: Outputs) -> ClassesExplanation:
        def fields(rows: Outputs) -> dict[str, npt.NDArray]:
            constants, contributions = self._shares(rows)
            return {
                "constants": np.broadcast_to(constants, len(rows)).astype(np.float64),
                "contributions": contributions,
                "logits": rows.logits,
                "probabilities": np.exp(self._log_proba(rows)),
            }

        found = _explained(self, fields, outputs)
        on_classifier = hasattr(self, "classifier_")
        n_classes = outputs.logits.shape[1]
        classes = np.asarray(self.classes_) if on_classifier else np.arange(n_classes)
        return ClassesExplanation(**found, classes=classes)


def largest_alone(values: _Array) -> _Array:
    """Return an array with the largest value of each row in its place, and 0 elsewhere."""
    return np.where(np.arange(values.shape[1]) == values.argmax(1)[:, None], values, 0.0)


def softmax_of(logits: _Array, temperature: float) -> _Array:
    return np.exp(F.log_softmax(logits, temperature))
