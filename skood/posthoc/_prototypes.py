"""Detectors on features: angles to class means."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from skood import functional as F
from skood._estimator.parameters import estimator
from skood._moments import ClassMeans
from skood.classifiers._outputs import Outputs
from skood.posthoc._covariance import as_float64
from skood.posthoc._explained import ExplainedByDistance
from skood.posthoc._features import NormalizingDetector
from skood.posthoc._partial_fit import LearnsFromSums

__all__ = ["CosinePrototypes"]


@estimator
class CosinePrototypes(ExplainedByDistance, LearnsFromSums, NormalizingDetector):
    r"""Largest cosine with a class mean, :math:`\max_k z^\top \mu_k / (\|z\| \|\mu_k\|)`.

    The prototype :math:`\mu_k` of a class is the mean of its features [1]_. Without labels, there
    is one class.

    Attributes
    ----------
    prototypes_ : ndarray of shape (n_classes, n_features)
        Mean of the features of each class, of length 1.

    See Also
    --------
    KNN : With ``n_neighbors=1, normalize=True``, the order of the largest cosine with a training
        row, the cosine score of [2]_.
    Mahalanobis : Distance to the class means that accounts for the covariance.

    Notes
    -----
    The score ignores the length of features, and their covariance. Of the detectors on features of
    large language models in [3]_, the cosine with the nearest training row is the best: these
    features point in all directions. Features of smaller models (BERT) point in few, which
    :class:`Mahalanobis` accounts for. `normalize` only decides whether every training row has the
    same weight in a prototype.

    Features of several layers may be averaged or concatenated first, as in [1]_ and, before other
    scores, in [4]_: give an extractor that does so as `features`.

    References
    ----------
    .. [1] S. Gul, M. Elmahallawy, A. Tripathy, S. Madria, "Prototype Fusion: A Training-Free
       Multi-Layer Approach to OOD Detection", arXiv:2603.23677.
    .. [2] W. Zhou, F. Liu, M. Chen, "Contrastive Out-of-Distribution Detection for Pretrained
       Transformers", EMNLP 2021.
    .. [3] B. Liu, L.-M. Zhan, Z. Lu, Y. Feng, L. Xue, X.-M. Wu, "How Good Are LLMs at
       Out-of-Distribution Detection?", LREC-COLING 2024.
    .. [4] P. Colombo, E. D. C. Gomes, G. Staerman, N. Noiry, P. Piantanida, "Beyond
       Mahalanobis-Based Scores for Textual OOD Detection", NeurIPS 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import CosinePrototypes
    >>> X, y = load_iris(return_X_y=True)
    >>> CosinePrototypes().fit(X, y).predict([[5.0, 3.4, 1.5, 0.2], [0.2, 1.5, 3.4, 5.0]])
    array([ 1, -1])
    """

    _from_sums: ClassVar[tuple[str, ...]] = ("prototypes_",)

    def _prepare(self, features: npt.NDArray) -> npt.NDArray[np.float64]:
        return super()._prepare(as_float64(features))

    def _new_sums(self) -> dict[str, Any]:
        self._set_normalizes()
        return {"means": ClassMeans()}

    def _add(
        self, sums: dict[str, Any], outputs: Outputs, class_indices: npt.NDArray[np.integer]
    ) -> None:
        sums["means"].add(self._prepare(outputs.features), class_indices)

    def _learn_sums(self, sums: dict[str, Any], outputs: Outputs) -> None:
        self.prototypes_ = F.unit_length(sums["means"].means)

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.cosine_prototypes(self._prepare(outputs.features), self.prototypes_)

    def _distances(self, outputs: Outputs) -> dict[str, npt.NDArray]:
        features = F.unit_length(self._prepare(outputs.features))
        nearest = (features @ self.prototypes_.T).argmax(1)
        return {
            "feature_contributions": features * self.prototypes_[nearest],
            "classes": nearest,
        }
