"""Detectors that compare features with training features, guided by the logits."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import numpy.typing as npt

from skood import functional as F
from skood._estimator.parameters import Interval, StrOptions, at_least, estimator, parameter
from skood._models import in_chunks
from skood._moments import ClassMeans
from skood.classifiers._outputs import Outputs
from skood.posthoc._approximate import ApproximateIndex
from skood.posthoc._covariance import as_float64
from skood.posthoc._explained import ExplainedByDistance
from skood.posthoc._left_out import LeavesItselfOut
from skood.posthoc._neighbours import (
    Bank,
    at_most,
    kept_rows,
    row_scales,
    sampled_indices,
    search_dtype,
)
from skood.posthoc._outputs_detector import OutputsDetector
from skood.posthoc._outputs_score import reads_chunks
from skood.posthoc._partial_fit import LearnsFromSums

__all__ = ["SHE", "NNGuide"]


@estimator
class SHE(ExplainedByDistance, LearnsFromSums, OutputsDetector):
    r"""Simplified Hopfield energy, :math:`\langle z, m_c \rangle`, c the predicted class.

    :math:`m_c` is the mean feature of the training rows of class c that are predicted as c, or of
    all rows of the class if none is.

    Attributes
    ----------
    patterns_ : ndarray of shape (n_classes, n_features)
        The :math:`m_c`.

    References
    ----------
    .. [1] J. Zhang, Q. Fu, X. Chen, L. Du, Z. Li, G. Wang, X. Liu, S. Han, D. Zhang,
       "Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization with
       Modern Hopfield Energy", ICLR 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, SHE
    >>> X, y = load_iris(return_X_y=True)
    >>> SHE(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    _reads = "features"
    _needs = "labels"
    _summed = ("logits", "features")
    _from_sums = ("patterns_",)

    def _new_sums(self) -> dict[str, Any]:
        return {"all": ClassMeans(), "correct": ClassMeans()}

    def _add(
        self, sums: dict[str, Any], outputs: Outputs, class_indices: npt.NDArray[np.integer]
    ) -> None:
        sums["all"].add(outputs.features, class_indices)
        correct = outputs.logits.argmax(1) == class_indices
        sums["correct"].add(outputs.features[correct], class_indices[correct])

    def _learn_sums(self, sums: dict[str, Any], outputs: Outputs) -> None:
        n_classes, every = outputs.logits.shape[1], sums["all"]
        self.patterns_ = every.means.copy()
        absent = np.flatnonzero(every.counts == 0).tolist()
        missing = [*absent, *range(len(every.counts), n_classes)]
        if missing:
            raise ValueError(
                f"no training row is of class {self._label_of(missing[0])}; SHE needs training "
                "rows of every class of the classifier"
            )
        correct = np.flatnonzero(sums["correct"].counts)
        self.patterns_[correct] = sums["correct"].means[correct]

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.she(outputs.features, outputs.logits, self.patterns_)

    def _distances(self, outputs: Outputs) -> dict[str, npt.NDArray]:
        predicted = outputs.logits.argmax(1)
        return {
            "feature_contributions": outputs.features * self.patterns_[predicted],
            "classes": predicted,
        }


@estimator
class NNGuide(LeavesItselfOut, OutputsDetector):
    r"""Energy, guided by the nearest training features.

    .. math::

        E(z) \; \frac{1}{k} \sum_{i \in top\text{-}k}
        \left\langle \frac{z}{\|z\|}, E(z_i) \frac{z_i}{\|z_i\|} \right\rangle,
        \qquad E = \log\sum_j \exp f_j

    The neighbours are the training rows with the k largest products.

    Parameters
    ----------
    n_neighbors : int, default=10
        Number k of neighbours; at most the number of rows in the bank.
    bank_fraction : float, default=1.0
        Fraction of the training rows, drawn at random, that forms the bank.
    index : {"faiss", "hnsw"} or None, default=None
        Library of an approximate search for banks of millions of rows: faiss (``pip install
        faiss-cpu``) or hnswlib (``pip install hnswlib``). None: the search is exact.

    Attributes
    ----------
    bank_ : ndarray of shape (n_bank, n_features)
        Normalised training features times their energy, computed on access.
    n_neighbors_ : int
        The k that is used, at most the number of rows in the bank.

    Notes
    -----
    Features are always scaled to length 1, as in the paper.

    A training row is among its own neighbours. If the threshold is set on training rows, of at
    least 500, each is compared with the other rows, as in :class:`KNN`. An `index` has the
    properties that are described there.

    References
    ----------
    .. [1] J. Park, Y. G. Jung, A. B. J. Teoh, "Nearest Neighbor Guidance for
       Out-of-Distribution Detection", ICCV 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, NNGuide
    >>> X, y = load_iris(return_X_y=True)
    >>> NNGuide(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    n_neighbors: int = parameter(at_least(1), default=10)
    bank_fraction: float = parameter(Interval(numbers.Real, 0, 1, closed="right"), default=1.0)
    index: str | None = parameter(StrOptions({"faiss", "hnsw"}), None, default=None, kw_only=True)

    _reads = "features"
    _needs = "data"
    _needs_logits = True

    @reads_chunks
    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        self._n_training_rows = len(outputs)
        n_bank = max(1, int(self.bank_fraction * len(outputs)))
        self.n_neighbors_ = at_most(self.n_neighbors, n_bank, "rows in the bank")
        self._bank_rows = None
        if n_bank < len(outputs):
            self._bank_rows = sampled_indices(len(outputs), n_bank, seed)
            outputs = outputs[self._bank_rows]
        self._rows = kept_rows(outputs.features)
        self._factors = in_chunks(F.energy, outputs.logits).astype(np.float64)
        scales = in_chunks(lambda rows: row_scales(as_float64(rows)), self._rows)
        self._scales = (scales * self._factors).astype(search_dtype(self._rows.dtype))
        self._index: ApproximateIndex | None = None
        if self.index is not None:
            self._index = self._bank().indexed_by(self.index)

    @property
    def bank_(self) -> npt.NDArray:
        """Normalised training features times their energy."""
        rows = F.unit_length(as_float64(np.asarray(self._rows))) * self._factors[:, None]
        return rows.astype(self._scales.dtype)

    def _bank(self) -> Bank:
        return Bank(
            self._rows,
            self._scales.dtype,
            normalizes=True,
            scales=self._scales,
            factors=self._factors,
            index=getattr(self, "_index", None),
        )

    def _queries(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.unit_length(outputs.features)

    def _of_neighbors(
        self, outputs: Outputs, nearest: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        return F.energy(outputs.logits) * nearest.mean(1)

    def _neighbors(self, outputs: Outputs) -> dict[str, npt.NDArray]:
        queries = self._queries(outputs)
        values, rows = self._bank().nearest(queries, self.n_neighbors_)
        energy = F.energy(outputs.logits)
        rows = rows[:, ::-1]
        distances = [
            np.linalg.norm(F.unit_length(as_float64(self._rows[near])) - query, axis=1)
            for near, query in zip(rows, queries, strict=True)
        ]
        return {
            "indices": rows,
            "distances": np.array(distances),
            "contributions": energy[:, None] * values[:, ::-1] / self.n_neighbors_,
        }
