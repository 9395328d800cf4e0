"""Detectors that split the feature space into a principal part and the rest."""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from skood._checked_data import CheckedData
from skood._parameters import Interval, estimator, parameter
from skood.classifiers._network_classifier import NetworkClassifier
from skood.classifiers._outputs import Outputs
from skood.posthoc._base import FeatureDetector, OutputsDetector, in_float64
from skood.posthoc._covariance import as_float64, class_means, scatter

__all__ = ["NECO", "Residual", "ViM"]


@estimator
class Residual(OutputsDetector):
    r"""Length of the component outside the principal space, :math:`-\|R^\top (z - u)\|`.

    The origin :math:`u = -W^+ b` is where all logits are zero. R holds the eigenvectors of
    :math:`\sum_i (z_i - u)(z_i - u)^\top` beyond the first `n_components`.

    Parameters
    ----------
    n_components : int, default=None
        Dimension of the principal space. None, as in the paper: 1000 of 2048 features and
        more, 512 of 768 and more, half of them below.

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

    n_components: int | None = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), None, default=None
    )

    _overfits = True

    _reads = "head"
    _needs = "data"

    def _fit_on_outputs(
        self, outputs: Outputs, class_indices: npt.NDArray[np.int64], data: CheckedData
    ) -> None:
        weight, bias = self._head
        self.origin_ = -np.linalg.pinv(weight) @ bias
        n_features = weight.shape[1]
        n_components = self.n_components
        if n_components is None:
            n_components = 1000 if n_features >= 2048 else 512
            n_components = n_components if n_features >= 768 else n_features // 2
        if n_components >= n_features:
            raise ValueError(
                f"n_components={n_components} leaves no residual of {n_features} features; give "
                "fewer"
            )
        one = np.zeros(len(outputs), dtype=np.int64)
        second_moment = scatter(outputs.features, self.origin_[None], one, as_float64)
        _, vectors = np.linalg.eigh(second_moment)
        self.residual_space_ = np.ascontiguousarray(vectors[:, : n_features - n_components])
        self._shift = self.origin_ @ self.residual_space_

    def _residual(self, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        outside = features @ self.residual_space_ - self._shift
        return np.sqrt(np.einsum("ij,ij->i", outside, outside))

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return -self._residual(outputs.features)


@estimator
class ViM(Residual):
    r"""Energy minus the virtual logit, :math:`\log\sum_k e^{f_k} - \alpha \|R^\top (z - u)\|`.

    :math:`\alpha` scales the residual to the logits: it is the mean largest logit divided by
    the mean residual, over the training data. u and R are those of :class:`Residual`.

    Parameters
    ----------
    n_components : int, default=None
        Dimension of the principal space. None, as in the paper: 1000 of 2048 features and
        more, 512 of 768 and more, half of them below.

    Attributes
    ----------
    alpha_ : float
        Scale of the virtual logit; 0 where the training data have no residual.
    origin_ : ndarray of shape (n_features,)
        The origin u.
    residual_space_ : ndarray of shape (n_features, n_features - n_components)
        An orthonormal basis R of the residual space.

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

    def _fit_on_outputs(
        self, outputs: Outputs, class_indices: npt.NDArray[np.int64], data: CheckedData
    ) -> None:
        super()._fit_on_outputs(outputs, class_indices, data)
        residual = in_float64(self._residual, outputs.features).mean()
        largest = outputs.logits.max(1).mean(dtype=np.float64)
        self.alpha_ = float(largest / residual) if residual > 0 else 0.0

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return logsumexp(outputs.logits, axis=1) - self.alpha_ * self._residual(outputs.features)


@estimator
class NECO(FeatureDetector):
    r"""Share of a feature's length in the principal space, :math:`\|P^\top e\| / \|e\|`.

    P holds the first principal directions of the training features and e is the feature
    itself, centred and divided by the standard deviation of each coordinate where
    `standardize` is on.

    Parameters
    ----------
    n_components : int or float, default=0.9
        Dimension of the principal space, or, below 1, the share of the variance it explains; at
        least one dimension is left out.
    standardize : bool, default=True
        As the authors do for most networks. False: e is the raw feature, as in the paper's
        formula, and P the directions of the centred features.
    max_logit : bool, default=False
        Multiply by the largest logit; `features` must then be a network. The authors do so for
        some networks; here it is off, so that features from anywhere will do.

    Attributes
    ----------
    components_ : ndarray of shape (n_features, n_components)
        The principal components P.

    Notes
    -----
    There is no parameter `normalize`: the authors' code standardises features and does not scale
    them to length 1. The ratio does not depend on the length of e, so rows of a table that lie far
    out in a principal direction are not detected. :class:`~skood.posthoc.KNN` and
    :class:`~skood.posthoc.Mahalanobis` detect them.

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
        Interval(numbers.Integral, 1, None, closed="left"),
        Interval(numbers.Real, 0, 1, closed="neither"),
        default=0.9,
    )
    standardize: bool = parameter("boolean", default=True, kw_only=True)
    max_logit: bool = parameter("boolean", default=False, kw_only=True)

    def _fit_on_features(
        self, features: npt.NDArray, class_indices: npt.NDArray[np.int64] | None
    ) -> None:
        n_features = features.shape[1]
        if max(self.n_components, 1) >= n_features:
            raise ValueError(
                f"n_components={self.n_components}, but there are {n_features} feature(s); NECO "
                "compares a part of the feature space with all of it: give fewer components"
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

    def _score(self, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        e = (features - self._mean) / self._scale
        length = np.linalg.norm(e, axis=1)
        inside = np.linalg.norm(e @ self.components_, axis=1)
        return np.divide(inside, length, out=np.ones_like(length), where=length > 0)

    def _score_features(self, features: npt.NDArray, data: CheckedData) -> npt.NDArray[np.float64]:
        scores = super()._score_features(features, data)
        if not self.max_logit:
            return scores
        if not isinstance(self.features_, NetworkClassifier):
            raise TypeError(
                "max_logit=True needs logits: give a classifier of skood.classifiers or a "
                f"trained torch module as features, not {self.features!r}"
            )
        logits = self.features_.network().outputs(data, self.memory).logits
        return scores * logits.max(1).astype(np.float64)
