"""Detectors on features: Gaussians of the training features."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from skood import functional as F
from skood._data.lazy_rows import subset_of
from skood._estimator.parameters import POSITIVE, StrOptions, estimator, parameter
from skood._moments import ClassMoments
from skood.classifiers._outputs import Outputs
from skood.posthoc._covariance import as_float64, class_means, scatter, whitening
from skood.posthoc._explained import (
    ExplainedByDistance,
    quadratic_form,
    removals,
    unit_columns,
)
from skood.posthoc._models import is_network
from skood.posthoc._outputs_detector import FeatureDetector
from skood.posthoc._outputs_score import reads_chunks
from skood.posthoc._partial_fit import LearnsFromSums

__all__ = ["GMM", "Mahalanobis", "NormalizingDetector", "RelativeMahalanobis"]

# Rows that are converted to float64 at once.
_CHUNK = 4096


@estimator
class NormalizingDetector(FeatureDetector):
    """Base of the detectors that may scale features to length 1.

    Parameters
    ----------
    normalize : {"auto"} or bool, default="auto"
        Whether feature vectors are scaled to length 1. "auto" scales features of a network: a
        classifier of :mod:`skood.classifiers` or a trained torch module, also as the last step of a
        Pipeline. It does not scale rows of X (``features=None``) or the output of other
        transformers. Saved features (:meth:`fit_outputs`) count as features of a network. Set
        ``normalize=True`` for embeddings of a network in X, which "auto" cannot recognise.

    Attributes
    ----------
    normalizes_ : bool
        Whether feature vectors are scaled to length 1.
    """

    normalize: bool | str = parameter("boolean", StrOptions({"auto"}), default="auto", kw_only=True)

    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        self._set_normalizes()

    def _set_normalizes(self) -> None:
        self.normalizes_ = bool(self.normalize)
        if isinstance(self.normalize, str):
            self.normalizes_ = not hasattr(self, "features_") or is_network(self.features_)

    def _prepare(self, features: npt.NDArray) -> npt.NDArray:
        return F.unit_length(features) if self.normalizes_ else features


@estimator
class Mahalanobis(ExplainedByDistance, LearnsFromSums, NormalizingDetector):
    r"""Distance to the nearest class mean, :math:`-\min_k (z - \mu_k)^\top S^{-1} (z - \mu_k)`.

    S is the covariance that all classes share, divided by the number of rows. Without labels,
    there is one class.

    Attributes
    ----------
    means_ : ndarray of shape (n_classes, n_features)
        Mean of each class.

    Notes
    -----
    On vectors of length 1, this is Mahalanobis++ [2]_, which lowers FPR95 by 7.6 percentage points
    on average over 44 networks trained on ImageNet.

    No ridge is added to S. The inverse omits directions in which S is zero up to rounding, so
    constant or collinear features do no harm. The authors also perturb the input along the
    gradient of the score, with a step size chosen on OOD data, and combine several layers with a
    regression fitted to OOD data. This class does neither; :class:`LayerMahalanobis` combines
    layers without OOD data.

    References
    ----------
    .. [1] K. Lee, K. Lee, H. Lee, J. Shin, "A Simple Unified Framework for Detecting
       Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018, equation 2.
    .. [2] M. Mueller, M. Hein, "Mahalanobis++: Improving OOD Detection via Feature
       Normalization", ICML 2025, table 4.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import Mahalanobis
    >>> X, y = load_iris(return_X_y=True)
    >>> Mahalanobis().fit(X, y).predict([[5.0, 3.4, 1.5, 0.2], [9.0, 9.0, 9.0, 9.0]])
    array([ 1, -1])
    """

    _overfits = True
    _from_sums: ClassVar[tuple[str, ...]] = ("means_", "_whitening", "_origin", "_white_means")

    def _prepare(self, features: npt.NDArray) -> npt.NDArray[np.float64]:
        return super()._prepare(as_float64(features))

    def _new_sums(self) -> dict[str, Any]:
        self._set_normalizes()
        return {"moments": ClassMoments()}

    def _add(
        self, sums: dict[str, Any], outputs: Outputs, class_indices: npt.NDArray[np.integer]
    ) -> None:
        sums["moments"].add(self._prepare(outputs.features), class_indices)

    def _learn_sums(self, sums: dict[str, Any], outputs: Outputs) -> None:
        moments = sums["moments"]
        self.means_ = moments.means
        self._whitening = whitening(moments.scatter / moments.counts.sum())
        # Centred at the mean of the class means to limit cancellation in the distances.
        white_means = self.means_ @ self._whitening
        self._origin = white_means.mean(0)
        self._white_means = white_means - self._origin

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        white = self._prepare(outputs.features) @ self._whitening - self._origin
        return F.mahalanobis(white, self._white_means)

    @property
    def _directions(self) -> npt.NDArray[np.float64]:
        return unit_columns(self._whitening)

    def _distances(self, outputs: Outputs) -> dict[str, npt.NDArray]:
        prepared = self._prepare(outputs.features)
        white = prepared @ self._whitening - self._origin
        class_scores = -cdist(white, self._white_means, "sqeuclidean")
        nearest = class_scores.argmax(1)
        delta = prepared - self.means_[nearest]
        squares, products = quadratic_form(delta, self._whitening)
        return {
            "direction_contributions": -squares,
            "feature_contributions": -products,
            "classes": nearest,
            "class_scores": class_scores,
            "feature_removals": removals(delta, self._whitening),
        }


@estimator
class RelativeMahalanobis(Mahalanobis):
    r"""Mahalanobis distance to the nearest class minus the distance to all the data.

    :math:`-\min_k [d_k^2(z) - d_0^2(z)]`, where :math:`d_0` is the Mahalanobis distance with the
    mean and the covariance (divided by the number of rows) of all training features.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
        Mean of all training features.

    Notes
    -----
    Vectors of length 1 lower FPR95 by 2.9 percentage points on average over 44 networks trained on
    ImageNet [2]_.

    References
    ----------
    .. [1] J. Ren, S. Fort, J. Liu, A. G. Roy, S. Padhy, B. Lakshminarayanan, "A Simple Fix to
       Mahalanobis Distance for Improving Near-OOD Detection", 2021, arXiv:2106.09022.
    .. [2] M. Mueller, M. Hein, "Mahalanobis++: Improving OOD Detection via Feature
       Normalization", ICML 2025, table 4.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import RelativeMahalanobis
    >>> X, y = load_iris(return_X_y=True)
    >>> RelativeMahalanobis().fit(X, y).score_samples(X).shape
    (150,)
    """

    _from_sums: ClassVar[tuple[str, ...]] = (*Mahalanobis._from_sums, "mean_", "_background")

    def _learn_sums(self, sums: dict[str, Any], outputs: Outputs) -> None:
        super()._learn_sums(sums, outputs)
        moments = sums["moments"]
        self.mean_ = moments.mean
        self._background = whitening(moments.total_scatter / moments.counts.sum())

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        white = (self._prepare(outputs.features) - self.mean_) @ self._background
        return super()._score(outputs) + np.square(white).sum(1)

    @property
    def _directions(self) -> npt.NDArray[np.float64]:
        return np.hstack([super()._directions, unit_columns(self._background)])

    def _distances(self, outputs: Outputs) -> dict[str, npt.NDArray]:
        found = super()._distances(outputs)
        delta = self._prepare(outputs.features) - self.mean_
        squares, products = quadratic_form(delta, self._background)
        found["feature_contributions"] += products
        found["feature_removals"] -= removals(delta, self._background)
        found["class_scores"] += squares.sum(1)[:, None]
        parts = found["direction_contributions"], squares
        return {**found, "direction_contributions": np.hstack(parts)}


@estimator
class GMM(FeatureDetector):
    r"""Density of a Gaussian for each class, :math:`\log\sum_k \pi_k N(z; \mu_k, S_k + r I)`.

    :math:`\pi_k` is the frequency of a class and :math:`S_k` its covariance, divided by the
    number of its rows. Without labels, there is one class.

    Parameters
    ----------
    reg_covar : float, default=0.001
        The r, in squared units of the features.

    Attributes
    ----------
    means_ : ndarray of shape (n_classes, n_features)
        Mean of each class.
    weights_ : ndarray of shape (n_classes,)
        Frequency of each class.

    See Also
    --------
    skood.likelihood.LogLikelihood : With ``sklearn.mixture.GaussianMixture``, for mixtures fitted
        without labels.

    References
    ----------
    .. [1] J. Mukhoti, A. Kirsch, J. van Amersfoort, P. H. S. Torr, Y. Gal, "Deep Deterministic
       Uncertainty: A New Simple Baseline", CVPR 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import GMM
    >>> X, y = load_iris(return_X_y=True)
    >>> GMM().fit(X, y).predict([[5.0, 3.4, 1.5, 0.2], [9.0, 9.0, 9.0, 9.0]])
    array([ 1, -1])
    """

    reg_covar: float = parameter(POSITIVE, default=1e-3)

    _overfits = True

    @reads_chunks
    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        features = outputs.features
        counts = np.bincount(class_indices)
        self.means_ = class_means(features, class_indices, as_float64)
        self.weights_ = counts / len(features)
        self._factors = []
        for k, mean in enumerate(self.means_):
            rows = subset_of(features, np.flatnonzero(class_indices == k))
            one_class = np.zeros(len(rows), dtype=np.int64)
            covariance = scatter(rows, mean[None], one_class, as_float64) / len(rows)
            covariance.flat[:: len(covariance) + 1] += self.reg_covar
            try:
                factor = np.linalg.inv(np.linalg.cholesky(covariance)).T
            except np.linalg.LinAlgError as error:
                raise ValueError(
                    f"features of a class have variances up to {np.diag(covariance).max():.3g}, "
                    f"so large that reg_covar={self.reg_covar} is lost in rounding error; rescale "
                    "X, or give a larger reg_covar"
                ) from error
            self._factors.append(factor)

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.gaussian_mixture(outputs.features, self.weights_, self.means_, self._factors)
