"""Detectors that compare a feature with the last layer."""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from scipy.special import softmax

from skood._checked_data import CheckedData
from skood._parameters import Interval, StrOptions, estimator, parameter
from skood.classifiers._outputs import Outputs
from skood.posthoc._base import OutputsDetector, in_float64
from skood.posthoc._covariance import as_float64, scatter, unit_rows, whitening

__all__ = ["FDBD", "NCI", "PNML", "GradNorm"]


@estimator
class FDBD(OutputsDetector):
    r"""Mean distance to the decision boundaries, divided by that to the mean feature.

    .. math::

        \frac{1}{K - 1} \sum_{k \ne c} \frac{f_c - f_k}{\|w_c - w_k\|}
        \; / \; \|z - \mu\|, \qquad c = \arg\max f

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
        Of the training features.

    Notes
    -----
    Classes whose weights are equal have no boundary between them and are left out of the mean.

    References
    ----------
    .. [1] L. Liu, Y. Qin, "Fast Decision Boundary based Out-of-Distribution Detector",
       ICML 2024.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import FDBD, MLP
    >>> X, y = load_iris(return_X_y=True)
    >>> FDBD(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    _reads = "head"
    _needs = "data"

    def _fit_on_outputs(
        self, outputs: Outputs, class_indices: npt.NDArray[np.int64], data: CheckedData
    ) -> None:
        self.mean_ = outputs.features.mean(0, dtype=np.float64)
        weight, _ = self._head
        self._apart = cdist(weight, weight)
        # Within rounding errors of the mean, the ratio would grow without bound.
        size = max(np.linalg.norm(self.mean_), in_float64(self._spread, outputs.features).mean())
        precision = np.finfo(np.float32)
        self._smallest_spread = float(max(precision.eps * size, precision.tiny))

    def _spread(self, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.linalg.norm(features - self.mean_, axis=1)

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        best = outputs.logits.argmax(1)
        gap = outputs.logits.max(1, keepdims=True) - outputs.logits
        boundary = self._apart[best]
        distance = np.divide(gap, boundary, out=np.zeros_like(gap), where=boundary > 0)
        n_boundaries = np.maximum((boundary > 0).sum(1), 1)
        spread = np.maximum(self._spread(outputs.features), self._smallest_spread)
        return distance.sum(1) / n_boundaries / spread


@estimator
class NCI(OutputsDetector):
    r"""Proximity to the weight of the predicted class, motivated by neural collapse.

    .. math::

        \frac{\langle w_c, z - \mu \rangle}{\|z - \mu\|} + \alpha \|z\|_1,
        \qquad c = \arg\max f

    Parameters
    ----------
    alpha : float, default=0.001
        Weight of the feature's length.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
        Of the training features.

    References
    ----------
    .. [1] L. Liu, Y. Qin, "Detecting Out-of-Distribution Through the Lens of Neural Collapse",
       CVPR 2025.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, NCI
    >>> X, y = load_iris(return_X_y=True)
    >>> NCI(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    alpha: float = parameter(Interval(numbers.Real, 0, None, closed="left"), default=0.001)

    _reads = "head"
    _needs = "data"

    def _fit_on_outputs(
        self, outputs: Outputs, class_indices: npt.NDArray[np.int64], data: CheckedData
    ) -> None:
        self.mean_ = outputs.features.mean(0, dtype=np.float64)

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        weight, _ = self._head
        centred = outputs.features - self.mean_
        towards = (weight[outputs.logits.argmax(1)] * centred).sum(1)
        length = np.linalg.norm(centred, axis=1)
        cosine = np.divide(towards, length, out=np.zeros_like(length), where=length > 0)
        return cosine + self.alpha * np.abs(outputs.features).sum(1)


@estimator
class GradNorm(OutputsDetector):
    r"""Length of a gradient in the last layer, :math:`\|p - 1/K\|_1 \, \|z\|_1`.

    This is the L1 norm of the gradient, in the weights of the last layer, of the cross-entropy
    between the uniform distribution and the softmax; it needs no backward pass.

    Notes
    -----
    The paper's equation, a mean over classes; the authors' code takes the sum, K times larger.

    References
    ----------
    .. [1] R. Huang, A. Geng, Y. Li, "On the Importance of Gradients for Detecting
       Distributional Shifts in the Wild", NeurIPS 2021, equation 8.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, GradNorm
    >>> X, y = load_iris(return_X_y=True)
    >>> GradNorm(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    _reads = "features"

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        proba = np.exp(outputs.log_proba)
        from_uniform = np.abs(proba - 1 / proba.shape[1]).sum(1)
        return from_uniform * np.abs(outputs.features).sum(1)


@estimator
class PNML(OutputsDetector):
    r"""Negative regret of the predictive normalised maximum likelihood, in units of log K.

    .. math::

        -\log \sum_k \frac{p_k}{p_k + (1 - p_k) p_k^t} \; / \; \log K,
        \qquad t = \frac{g}{1 + g}, \quad g = u^\top (U^\top U)^{-1} u

    u is the feature brought to length 1, U the matrix of those of the training data, and p the
    softmax of the last layer on u.

    Parameters
    ----------
    probabilities : {"normalized", "raw"}, default="normalized"
        Whether p comes from u, as in the authors' code, or from the feature itself.

    Notes
    -----
    Directions in which the training features are zero up to rounding are left out of the
    inverse.

    References
    ----------
    .. [1] K. Bibas, M. Feder, T. Hassner, "Single Layer Predictive Normalized Maximum
       Likelihood for Out-of-Distribution Detection", NeurIPS 2021.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, PNML
    >>> X, y = load_iris(return_X_y=True)
    >>> PNML(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    probabilities: str = parameter(StrOptions({"normalized", "raw"}), default="normalized")

    _overfits = True

    _reads = "head"
    _needs = "data"

    def _fit_on_outputs(
        self, outputs: Outputs, class_indices: npt.NDArray[np.int64], data: CheckedData
    ) -> None:
        features = outputs.features
        one = np.zeros(len(features), dtype=np.int64)
        origin = np.zeros((1, features.shape[1]))
        self._whitening = whitening(
            scatter(features, origin, one, lambda z: unit_rows(as_float64(z)))
        )

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        weight, bias = self._head
        normalized = unit_rows(outputs.features)
        logits = outputs.logits
        if self.probabilities == "normalized":
            logits = normalized @ weight.T + bias
        tiny = 1e-12
        p = np.clip(softmax(logits, axis=1), tiny, 1 - tiny)
        g = np.square(normalized @ self._whitening).sum(1)
        t = (g / (1 + g))[:, None]
        regret = np.log((p / (p + (1 - p) * p**t)).sum(1))
        return -regret / np.log(p.shape[1])
