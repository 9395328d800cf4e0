"""Energy after the penultimate features are pruned or scaled."""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from skood._parameters import Interval, StrOptions, estimator, parameter
from skood.classifiers._outputs import Outputs
from skood.posthoc._base import OutputsDetector
from skood.posthoc._models import require_logits

__all__ = ["ASH", "LTS", "SCALE", "energy", "number_kept", "ratio"]


@estimator
class ASH(OutputsDetector):
    r"""Energy after activation shaping: all but the largest activations are set to zero.

    Of D activations the :math:`k = D - round(q D)` largest are kept, q being the percentile.
    What is kept stays as it is ("p"), is set to :math:`\sum z / k` ("b"), or is multiplied by
    :math:`\exp(\sum z / \sum z_{kept})` ("s").

    Parameters
    ----------
    percentile : float, default=65.0
        Part of the activations, in percent, that is set to zero.
    variant : {"s", "b", "p"}, default="s"
        Treatment of the activations that are kept.

    Notes
    -----
    The penultimate features are shaped, after the pooling, as in OpenOOD and pytorch-ood. They
    are assumed to be non-negative, as after a ReLU.
    For "s" the authors take percentiles of 90 to 99; 65 is pytorch-ood's default for all three.
    The best one depends on the network: it is worth a search.

    References
    ----------
    .. [1] A. Djurisic, N. Bozanic, A. Ashok, R. Liu, "Extremely Simple Activation Shaping for
       Out-of-Distribution Detection", ICLR 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import ASH, MLP
    >>> X, y = load_iris(return_X_y=True)
    >>> ASH(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    percentile: float = parameter(Interval(numbers.Real, 0, 100, closed="left"), default=65.0)
    variant: str = parameter(StrOptions({"s", "b", "p"}), default="s")

    _reads = "head"

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        features = outputs.features
        weight, bias = self._head
        n_kept = number_kept(features.shape[1], self.percentile)
        kept = np.argpartition(-features, n_kept - 1, axis=1)[:, :n_kept]
        values = np.take_along_axis(features, kept, 1)
        total = features.sum(1, keepdims=True)
        if self.variant == "b":
            values = np.broadcast_to(total / n_kept, values.shape)
        elif self.variant == "s":
            values = values * np.exp(ratio(total, values.sum(1, keepdims=True)))
        shaped = np.zeros_like(features)
        np.put_along_axis(shaped, kept, values, 1)
        return energy(shaped @ weight.T + bias)


@estimator
class SCALE(OutputsDetector):
    r"""Energy of scaled activations, :math:`\log\sum_k \exp(e^r W z + b)_k`.

    :math:`r = \sum z / \sum z_{top}`, the top being the :math:`k = D - round(q D)` largest
    activations; nothing is set to zero.

    Parameters
    ----------
    percentile : float, default=85.0
        q, in percent.

    References
    ----------
    .. [1] K. Xu, R. Chen, G. Franchi, A. Yao, "Scaling for Training Time and Post-hoc
       Out-of-distribution Detection Enhancement", ICLR 2024.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, SCALE
    >>> X, y = load_iris(return_X_y=True)
    >>> SCALE(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    percentile: float = parameter(Interval(numbers.Real, 0, 100, closed="left"), default=85.0)

    _reads = "head"

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        features = outputs.features
        weight, bias = self._head
        n_top = number_kept(features.shape[1], self.percentile)
        r = ratio(features.sum(1), top_sum(features, n_top))
        return energy(np.exp(r)[:, None] * (features @ weight.T) + bias)


@estimator
class LTS(OutputsDetector):
    r"""Energy of scaled logits, :math:`\log\sum_k \exp(s f)_k` with :math:`s = r^2`.

    :math:`r = \sum z^+ / \sum z^+_{top}`, the top being the :math:`\max(1, D - round((1 - p)
    D))` largest activations.

    Parameters
    ----------
    top_fraction : float, default=0.05
        Part p of the activations that is the top.

    References
    ----------
    .. [1] A. Djurisic, R. Liu, M. Nikolic, "Logit Scaling for Out-of-Distribution Detection",
       2024, arXiv:2409.01175.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import LTS, MLP
    >>> X, y = load_iris(return_X_y=True)
    >>> LTS(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    top_fraction: float = parameter(Interval(numbers.Real, 0, 1, closed="right"), default=0.05)

    _reads = "features"

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        require_logits(outputs, self.classifier_, type(self).__name__)
        positive = np.maximum(outputs.features, 0.0)
        n_top = number_kept(positive.shape[1], 100 * (1 - self.top_fraction))
        scale = ratio(positive.sum(1), top_sum(positive, n_top)) ** 2
        return energy(scale[:, None] * outputs.logits)


def energy(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log of the summed exponentials of each row."""
    return logsumexp(logits, axis=1)


def number_kept(n_features: int, percentile: float) -> int:
    """Activations above the percentile, at least one; halves are rounded to even."""
    return max(1, n_features - round(n_features * percentile / 100))


def top_sum(features: npt.NDArray[np.float64], n_top: int) -> npt.NDArray[np.float64]:
    """Sum of the `n_top` largest entries of each row."""
    return np.partition(features, -n_top, axis=1)[:, -n_top:].sum(1)


def ratio(total: npt.NDArray[np.float64], part: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return total / part, and 1 where all activations are zero."""
    return np.divide(total, part, out=np.ones_like(total), where=part != 0)
