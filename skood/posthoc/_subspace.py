"""Detectors that split the feature space into a principal space and the rest."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from skood import functional as F
from skood._estimator.parameters import FRACTION, at_least, estimator, parameter
from skood._models import in_chunks
from skood._moments import ClassMoments
from skood.classifiers._outputs import Outputs
from skood.posthoc._base import in_float64
from skood.posthoc._covariance import as_float64, class_means, scatter
from skood.posthoc._explained import ExplainedByDistance, quadratic_form
from skood.posthoc._outputs_detector import FeatureDetector, OutputsDetector
from skood.posthoc._outputs_score import reads_chunks
from skood.posthoc._partial_fit import LearnsFromSums

__all__ = ["NECO", "Residual", "ViM"]


@estimator
class Residual(ExplainedByDistance, LearnsFromSums, OutputsDetector):
    r"""Length of the component outside the principal space, :math:`-\|R^\top (z - u)\|`.

    All logits are zero at the origin :math:`u = -W^+ b`. R contains the eigenvectors of
    :math:`\sum_i (z_i - u)(z_i - u)^\top` beyond the first `n_components`.

    Parameters
    ----------
    n_components : int, default=None
        Dimension of the principal space. None, as in the paper: 1000 for at least 2048 features,
        512 for at least 768, and half the number of features below that.

    Attributes
    ----------
    origin_ : ndarray of shape (n_features,)
        The origin u.
    residual_space_ : ndarray of shape (n_features, n_features - n_components)
        An orthonormal basis R of the residual space.

    References
    ----------
    .. [1] H. Wang, Z. Li, L. Feng, W. Zhang, "ViM: Out-Of-Distribution with Virtual-logit
       Matching", CVPR 2022, section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, Residual
    >>> X, y = load_iris(return_X_y=True)
    >>> Residual(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    n_components: int | None = parameter(at_least(1), None, default=None)

    _overfits = True
    _reads = "head"
    _needs = "data"

    _from_sums: ClassVar[tuple[str, ...]] = ("origin_", "residual_space_")

    def _new_sums(self) -> dict[str, Any]:
        return {"moments": ClassMoments()}

    def _add(
        self, sums: dict[str, Any], outputs: Outputs, class_indices: npt.NDArray[np.integer]
    ) -> None:
        sums["moments"].add(outputs.features, np.zeros(len(outputs.features), dtype=np.int64))

    def _learn_sums(self, sums: dict[str, Any], outputs: Outputs) -> None:
        self.origin_ = -np.linalg.pinv(outputs.weight) @ outputs.bias
        n_features = outputs.features.shape[1]
        n_components = self.n_components
        if n_components is None:
            n_components = 1000 if n_features >= 2048 else 512
            n_components = n_components if n_features >= 768 else n_features // 2
        if n_components >= n_features:
            raise ValueError(
                f"n_components={n_components} leaves no residual of {n_features} features; give "
                "fewer components"
            )
        moments = sums["moments"]
        shift = np.sqrt(moments.counts.sum()) * (moments.mean - self.origin_)
        _, vectors = np.linalg.eigh(moments.scatter + np.outer(shift, shift))
        self.residual_space_ = np.ascontiguousarray(vectors[:, : n_features - n_components])

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.residual(outputs.features, self.residual_space_, self.origin_)

    @property
    def _directions(self) -> npt.NDArray[np.float64]:
        return self.residual_space_

    def _distances(self, outputs: Outputs) -> dict[str, npt.NDArray]:
        delta = outputs.features - self.origin_
        squares, products = quadratic_form(delta, self.residual_space_)
        length = np.sqrt(squares.sum(1))[:, None]
        scale = np.where(length > 0, length, 1.0)
        return {
            "direction_contributions": -squares / scale,
            "feature_contributions": -products / scale,
        }


@estimator
class ViM(Residual):
    r"""Energy minus the virtual logit, :math:`\log\sum_k e^{f_k} - \alpha \|R^\top (z - u)\|`.

    :math:`\alpha` scales the residual to the logits: it is the mean largest logit of the training
    data, divided by their mean residual. u and R are defined as in :class:`Residual`.

    Attributes
    ----------
    alpha_ : float
        Scale of the virtual logit; 0 if the training data have no residual.

    References
    ----------
    .. [1] H. Wang, Z. Li, L. Feng, W. Zhang, "ViM: Out-Of-Distribution with Virtual-logit
       Matching", CVPR 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, ViM
    >>> X, y = load_iris(return_X_y=True)
    >>> ViM(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    _from_sums: ClassVar[tuple[str, ...]] = (*Residual._from_sums, "alpha_")

    def _learn_sums(self, sums: dict[str, Any], outputs: Outputs) -> None:
        super()._learn_sums(sums, outputs)
        residual = -float(in_float64(super()._score, outputs).mean())
        largest = in_chunks(lambda rows: rows.max(1), outputs.logits).mean(dtype=np.float64)
        self.alpha_ = float(largest / residual) if residual > 0 else 0.0

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        residual = self.residual_space_, self.origin_
        return F.vim(outputs.features, outputs.logits, *residual, self.alpha_)

    def _distances(self, outputs: Outputs) -> dict[str, npt.NDArray]:
        found = super()._distances(outputs)
        return {
            "constants": F.energy(outputs.logits),
            "direction_contributions": self.alpha_ * found["direction_contributions"],
            "feature_contributions": self.alpha_ * found["feature_contributions"],
        }


@estimator
class NECO(FeatureDetector):
    r"""Share of a feature's length in the principal space, :math:`\|P^\top e\| / \|e\|`.

    P contains the first principal directions of the training features. e is the feature, centred
    and divided by the standard deviation of each coordinate if `standardize` is true.

    Parameters
    ----------
    n_components : int or float, default=0.9
        Dimension of the principal space or, below 1, the fraction of the variance that it explains;
        at least one dimension is left out.
    standardize : bool, default=True
        True: as the authors do for most networks. False: e is the raw feature, as in the paper's
        formula, and P contains the directions of the centred features.
    max_logit : bool, default=False
        Whether the score is multiplied by the largest logit, as the authors do for some networks;
        `features` must then be a network.

    Attributes
    ----------
    components_ : ndarray of shape (n_features, n_components)
        The principal components P.

    Notes
    -----
    There is no parameter `normalize`: the authors' code standardises features and does not scale
    them to length 1. The ratio does not depend on the length of e, so it does not detect rows of a
    table that are extreme in a principal direction; :class:`KNN` and :class:`Mahalanobis` do.

    References
    ----------
    .. [1] M. Ben Ammar, N. Belkhir, S. Popescu, A. Manzanera, G. Franchi, "NECO: NEural
       Collapse Based Out-of-distribution detection", ICLR 2024, equation 6.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import NECO
    >>> X = load_iris().data
    >>> NECO(n_components=2).fit(X).score_samples(X).shape
    (150,)
    """

    n_components: float = parameter(
        at_least(1),
        FRACTION,
        default=0.9,
    )
    standardize: bool = parameter("boolean", default=True, kw_only=True)
    max_logit: bool = parameter("boolean", default=False, kw_only=True)

    @reads_chunks
    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        features = outputs.features
        n_features = features.shape[1]
        if max(self.n_components, 1) >= n_features:
            raise ValueError(
                f"n_components={self.n_components}, but there are {n_features} feature(s); NECO "
                "compares a subspace with the whole feature space: give fewer components"
            )
        one = np.zeros(len(features), dtype=np.int64)
        mean = class_means(features, one, as_float64)
        covariance = scatter(features, mean, one, as_float64) / len(features)
        self._mean, self._scale = np.zeros(n_features), np.ones(n_features)
        if self.standardize:
            variance = np.diag(covariance)
            varies = np.sqrt(variance) > 10 * np.finfo(np.float32).eps * np.abs(mean[0])
            self._mean = mean[0]
            self._scale = np.sqrt(np.where(varies, variance, 1.0))
            covariance = covariance / np.outer(self._scale, self._scale)
        values, vectors = np.linalg.eigh(covariance)
        n_components = self.n_components
        if n_components < 1:
            explained = np.cumsum(values[::-1]) / max(values.sum(), np.finfo(np.float64).tiny)
            n_components = min(int(np.searchsorted(explained, n_components)), n_features - 2) + 1
        self.components_ = np.ascontiguousarray(vectors[:, n_features - int(n_components) :])

    @property
    def _reads_logits(self) -> bool:
        return self.max_logit

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        share = F.neco((outputs.features - self._mean) / self._scale, self.components_)
        return share * outputs.logits.max(1) if self.max_logit else share
