"""Energy after the penultimate features are clipped, or the last layer's weights pruned."""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt

from skood import functional as F
from skood._estimator.parameters import Interval, StrOptions, estimator, parameter
from skood.classifiers._outputs import Outputs
from skood.posthoc._outputs_detector import OutputsDetector

__all__ = ["DICE", "VRA", "ReAct"]


@estimator
class ReAct(OutputsDetector):
    r"""Energy after clipping large activations, :math:`\log\sum_k \exp(W \min(z, c) + b)_k`.

    Parameters
    ----------
    percentile : float, default=90.0
        Percentile of all training activations that defines c.

    Attributes
    ----------
    threshold_ : float
        The clipping value c.

    References
    ----------
    .. [1] Y. Sun, C. Guo, Y. Li, "ReAct: Out-of-distribution Detection With Rectified
       Activations", NeurIPS 2021.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, ReAct
    >>> X, y = load_iris(return_X_y=True)
    >>> ReAct(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    percentile: float = parameter(Interval(numbers.Real, 0, 100, closed="both"), default=90.0)

    _reads = "head"
    _needs = "data"

    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        self.threshold_ = float(np.percentile(outputs.features, self.percentile))

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.energy(outputs.logits_of(F.react(outputs.features, self.threshold_)))


@estimator
class VRA(OutputsDetector):
    r"""Energy after variational rectification, :math:`\log\sum_k \exp(W g(z) + b)_k`.

    .. math::

        g(z) = 0 \text{ if } z < \alpha, \quad z \text{ if } \alpha \le z \le \beta, \quad
        \beta \text{ if } z > \beta

    Parameters
    ----------
    low : float, default=60.0
        Percentile of the training activations that defines alpha.
    high : float, default=95.0
        Percentile of the training activations that defines beta.
    suppress : {"zero", "clip"}, default="zero"
        What happens to activations below alpha: "zero" sets them to 0, as in the paper; "clip"
        sets them to alpha, as in public implementations.
    per_feature : bool, default=False
        Whether each feature has its own thresholds.

    Attributes
    ----------
    thresholds_ : ndarray of shape (2,) or (2, n_features)
        alpha and beta.

    References
    ----------
    .. [1] M. Xu, Z. Lian, B. Liu, J. Tao, "VRA: Variational Rectified Activation for
       Out-of-distribution Detection", NeurIPS 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, VRA
    >>> X, y = load_iris(return_X_y=True)
    >>> VRA(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    low: float = parameter(Interval(numbers.Real, 0, 100, closed="both"), default=60.0)
    high: float = parameter(Interval(numbers.Real, 0, 100, closed="both"), default=95.0)
    suppress: str = parameter(StrOptions({"zero", "clip"}), default="zero", kw_only=True)
    per_feature: bool = parameter("boolean", default=False, kw_only=True)

    _reads = "head"
    _needs = "data"

    def _check_parameters(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}; give low <= high")

    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        axis = 0 if self.per_feature else None
        features = outputs.features.astype(np.float64) if self.per_feature else outputs.features
        self.thresholds_ = np.percentile(features, [self.low, self.high], axis=axis)

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        low, high = self.thresholds_
        shaped = F.vra(outputs.features, low, high, self.suppress)
        return F.energy(outputs.logits_of(shaped))


@estimator
class DICE(OutputsDetector):
    r"""Energy of a sparse last layer, :math:`\log\sum_k \exp((W \odot M) z + b)_k`.

    M keeps the weights whose mean contribution over the training data, :math:`E[z] \odot W`, is
    above a percentile of all contributions.

    Parameters
    ----------
    percentile : float, default=90.0
        Percentage of the weights that is set to zero.

    Attributes
    ----------
    weight_ : ndarray of shape (n_classes, n_features)
        The sparse weights.

    References
    ----------
    .. [1] Y. Sun, Y. Li, "DICE: Leveraging Sparsification for Out-of-Distribution Detection",
       ECCV 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import DICE, MLP
    >>> X, y = load_iris(return_X_y=True)
    >>> DICE(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    percentile: float = parameter(Interval(numbers.Real, 0, 100, closed="both"), default=90.0)

    _reads = "head"
    _needs = "data"

    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        contribution = outputs.features.mean(0, dtype=np.float64) * outputs.weight
        kept = contribution > np.percentile(contribution, self.percentile)
        self.weight_ = outputs.weight * kept

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.energy(outputs.features @ self.weight_.T + outputs.bias)
