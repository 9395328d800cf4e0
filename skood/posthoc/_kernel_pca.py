"""Reconstruction error of kernel PCA on features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from skood._estimator.parameters import (
    FRACTION,
    POSITIVE,
    StrOptions,
    at_least,
    estimator,
    parameter,
)
from skood._torch.seeding import Stream, numpy_rng
from skood.classifiers._outputs import Outputs
from skood.functional import unit_length
from skood.posthoc._covariance import class_means, scatter
from skood.posthoc._outputs_detector import FeatureDetector
from skood.posthoc._outputs_score import reads_chunks

__all__ = ["KernelPCA"]


@estimator
class KernelPCA(FeatureDetector):
    r"""Reconstruction error of kernel PCA, :math:`-\lVert (I - U U^\top)(\Phi(z) - \mu) \rVert`.

    The columns of U are the principal directions of the mapped training features
    :math:`\Phi(z_i)`, and :math:`\mu` is their mean. The map belongs to a kernel [1]_. The cosine
    kernel (CoP) has :math:`\Phi(z) = z / \lVert z \rVert`. The cosine-Gaussian kernel (CoRP),
    :math:`\exp(-\gamma \, \lVert u - v \rVert^2)` of unit vectors u and v, is approximated by M
    random Fourier features

    .. math:: \Phi_j(z) = \sqrt{2 / M} \, \cos(w_j^\top z / \lVert z \rVert + b_j), \qquad
        w_j \sim \mathcal{N}(0, 2 \gamma I), \quad b_j \sim \mathcal{U}(0, 2 \pi).

    Parameters
    ----------
    kernel : {"cosine", "cosine-gaussian"}, default="cosine-gaussian"
        Kernel of the principal component analysis.
    explained_variance : float, default=0.8
        Fraction of the variance of the mapped features that the columns of U explain.
    gamma : float, default=2.0
        :math:`\gamma` of the Gaussian kernel.
    n_fourier_features : int, default=2048
        Number M of random Fourier features.

    Attributes
    ----------
    mean_ : ndarray of shape (n_mapped,)
        Mean :math:`\mu` of the mapped training features.
    components_ : ndarray of shape (n_mapped, n_components)
        Principal directions U.
    frequencies_ : ndarray of shape (n_features, n_fourier_features)
        The :math:`w_j`, for the cosine-Gaussian kernel.
    phases_ : ndarray of shape (n_fourier_features,)
        The :math:`b_j`, for the cosine-Gaussian kernel.

    Raises
    ------
    ValueError
        When the training features do not vary, or no direction is left for the error.

    See Also
    --------
    NECO : Share of a feature vector in the principal space, without a kernel.

    Notes
    -----
    The authors choose the parameters for each network: "cosine" with 0.85 and "cosine-gaussian"
    with 0.8, 2.0 and 2048 for a ResNet-18 on CIFAR-10; 0.99, and 0.5, 3.0 and 4096, for a ResNet-50
    on ImageNet.

    References
    ----------
    .. [1] K. Fang, Q. Tao, K. Lv, M. He, X. Huang and J. Yang, "Kernel PCA for Out-of-Distribution
       Detection", NeurIPS 2024, equations 6, 8 and 9.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import KernelPCA
    >>> X = load_iris().data
    >>> KernelPCA(n_fourier_features=64, random_state=0).fit(X).score_samples(X).shape
    (150,)
    """

    kernel: str = parameter(StrOptions({"cosine", "cosine-gaussian"}), default="cosine-gaussian")
    explained_variance: float = parameter(FRACTION, default=0.8)
    gamma: float = parameter(POSITIVE, default=2.0, kw_only=True)
    n_fourier_features: int = parameter(at_least(1), default=2048, kw_only=True)

    _overfits = True

    @reads_chunks
    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        features = outputs.features
        if self.kernel == "cosine-gaussian":
            rng = numpy_rng(seed, Stream.FOURIER_FEATURES)
            size = features.shape[1], self.n_fourier_features
            self.frequencies_ = np.sqrt(2 * self.gamma) * rng.normal(size=size)
            self.phases_ = rng.uniform(0, 2 * np.pi, self.n_fourier_features)
        one_class = np.zeros(len(features), dtype=np.int64)
        mean = class_means(features, one_class, self._map)
        if len(features) < mean.shape[1]:
            # The same directions, from a decomposition that is quicker for few rows.
            _, singular, directions = np.linalg.svd(
                self._map(features[:]) - mean, full_matrices=False
            )
            values, vectors = np.square(singular)[::-1], directions[::-1].T
        else:
            values, vectors = np.linalg.eigh(scatter(features, mean, one_class, self._map))
        explained = np.cumsum(values[::-1]) / max(values.sum(), np.finfo(np.float64).tiny)
        n_components = 1 + np.searchsorted(explained, self.explained_variance)
        if n_components > len(values) or n_components == len(vectors):
            raise ValueError(
                f"n_features={features.shape[1]}: their {len(vectors)} mapped features leave no "
                f"direction beyond explained_variance={self.explained_variance} of the variance; "
                "give features that vary, or a smaller explained_variance"
            )
        self.mean_ = mean[0]
        self.components_ = np.ascontiguousarray(vectors[:, -n_components:])

    def _map(self, features: npt.NDArray) -> npt.NDArray[np.float64]:
        unit = unit_length(features.astype(np.float64))
        if self.kernel == "cosine":
            return unit
        scale = np.sqrt(2 / self.n_fourier_features)
        return scale * np.cos(unit @ self.frequencies_ + self.phases_)

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        centred = self._map(outputs.features) - self.mean_
        return -np.linalg.norm(centred - centred @ self.components_ @ self.components_.T, axis=1)
