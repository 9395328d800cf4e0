"""Detectors that relate a feature to the last layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from skood import functional as F
from skood._estimator.parameters import NONNEGATIVE, StrOptions, estimator, parameter
from skood._moments import ClassMeans
from skood.classifiers._outputs import Outputs
from skood.posthoc._base import in_float64
from skood.posthoc._covariance import as_float64, mean_row, scatter, whitening
from skood.posthoc._explained import ExplainedByClasses, ExplainedByDistance
from skood.posthoc._outputs_detector import OutputsDetector
from skood.posthoc._outputs_score import reads_chunks
from skood.posthoc._partial_fit import LearnsFromSums

__all__ = ["FDBD", "NCI", "PNML", "GradNorm"]


@estimator
class FDBD(ExplainedByClasses, OutputsDetector):
    r"""Mean distance to the decision boundaries, divided by the distance to the mean feature.

    .. math::

        \frac{1}{K - 1} \sum_{k \ne c} \frac{f_c - f_k}{\|w_c - w_k\|}
        \; / \; \|z - \mu\|, \qquad c = \arg\max f

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
        Mean of the training features.

    Notes
    -----
    Two classes with equal weights have no boundary between them; the mean omits this boundary.

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

    @reads_chunks
    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        self.mean_ = mean_row(outputs.features)
        self._separations = cdist(outputs.weight, outputs.weight)
        # A distance to the mean within rounding error would make the score arbitrarily large.
        spread = in_float64(lambda z: np.linalg.norm(z - self.mean_, axis=1), outputs.features)
        precision = np.finfo(np.float32)
        size = max(np.linalg.norm(self.mean_), spread.mean())
        self._smallest = float(max(precision.eps * size, precision.tiny))

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        features, logits = outputs.features, outputs.logits
        return F.fdbd(features, logits, self.mean_, self._separations, self._smallest)

    def _shares(self, outputs: Outputs) -> tuple[float, npt.NDArray[np.float64]]:
        logits = outputs.logits
        boundary = self._separations[logits.argmax(1)]
        gap = logits.max(1, keepdims=True) - logits
        distance = np.divide(gap, boundary, out=np.zeros_like(gap), where=boundary > 0)
        n_boundaries = np.maximum((boundary > 0).sum(1), 1)
        spread = np.linalg.norm(outputs.features - self.mean_, axis=1)
        spread = np.maximum(spread, self._smallest)
        return 0.0, distance / (n_boundaries * spread)[:, None]


@estimator
class NCI(ExplainedByDistance, LearnsFromSums, OutputsDetector):
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
        Mean of the training features.

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

    alpha: float = parameter(NONNEGATIVE, default=0.001)

    _reads = "head"
    _needs = "data"
    _from_sums = ("mean_",)

    def _new_sums(self) -> dict[str, Any]:
        return {"features": ClassMeans()}

    def _add(
        self, sums: dict[str, Any], outputs: Outputs, class_indices: npt.NDArray[np.integer]
    ) -> None:
        sums["features"].add(outputs.features, class_indices)

    def _learn_sums(self, sums: dict[str, Any], outputs: Outputs) -> None:
        self.mean_ = sums["features"].mean

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.nci(outputs.features, outputs.logits, self.mean_, outputs.weight, self.alpha)

    def _distances(self, outputs: Outputs) -> dict[str, npt.NDArray]:
        predicted = outputs.logits.argmax(1)
        direction = F.unit_length(outputs.features - self.mean_)
        products = outputs.weight[predicted] * direction
        return {
            "feature_contributions": products + self.alpha * np.abs(outputs.features),
            "classes": predicted,
        }


@estimator
class GradNorm(ExplainedByClasses, OutputsDetector):
    r"""Length of a gradient in the last layer, :math:`\|p - 1/K\|_1 \, \|z\|_1`.

    This is the L1 norm of the gradient of the cross-entropy between the uniform distribution and
    the softmax, with respect to the weights of the last layer. It needs no backward pass.

    Notes
    -----
    As in the paper, the gradient is a mean over classes; the authors' code takes the sum, which is
    K times larger.

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
        return F.gradnorm(outputs.features, outputs.log_proba)

    def _shares(self, outputs: Outputs) -> tuple[float, npt.NDArray[np.float64]]:
        proba = np.exp(outputs.log_proba)
        length = np.abs(outputs.features).sum(1)
        return 0.0, np.abs(proba - 1 / proba.shape[1]) * length[:, None]


@estimator
class PNML(OutputsDetector):
    r"""Negative regret of the predictive normalised maximum likelihood, in units of log K.

    .. math::

        -\log \sum_k \frac{p_k}{p_k + (1 - p_k) p_k^t} \; / \; \log K,
        \qquad t = \frac{g}{1 + g}, \quad g = u^\top (U^\top U)^{-1} u

    u is the feature scaled to length 1, U the matrix of the scaled training features, and p the
    softmax of the last layer applied to u.

    Parameters
    ----------
    probabilities : {"normalized", "raw"}, default="normalized"
        Whether p is computed from u, as in the authors' code, or from the unscaled feature.

    Notes
    -----
    The inverse omits directions in which the training features are zero up to rounding.

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

    @reads_chunks
    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        features = outputs.features
        one = np.zeros(len(features), dtype=np.int64)
        origin = np.zeros((1, features.shape[1]))
        self._whitening = whitening(
            scatter(features, origin, one, lambda z: F.unit_length(as_float64(z)))
        )

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        u = F.unit_length(outputs.features)
        logits = outputs.logits_of(u) if self.probabilities == "normalized" else outputs.logits
        return F.pnml(u, logits, self._whitening)
