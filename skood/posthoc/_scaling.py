"""Energy after the penultimate features are pruned or scaled."""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt

from skood import functional as F
from skood._estimator.parameters import Interval, StrOptions, estimator, parameter
from skood.classifiers._outputs import Outputs
from skood.posthoc._outputs_detector import OutputsDetector

__all__ = ["ASH", "LTS", "SCALE"]


@estimator
class ASH(OutputsDetector):
    r"""Energy after activation shaping: all but the largest activations are set to zero.

    Of D activations, the :math:`k = D - round(q D)` largest are kept; q is the percentile. The kept
    activations are unchanged ("p"), set to :math:`\sum z / k` ("b"), or multiplied by
    :math:`\exp(\sum z / \sum z_{kept})` ("s").

    Parameters
    ----------
    percentile : float, default=65.0
        Percentage of the activations that is set to zero.
    variant : {"s", "b", "p"}, default="s"
        How the kept activations change.

    Notes
    -----
    The penultimate features are shaped, after the pooling, as in OpenOOD. They
    are assumed to be non-negative, as after a ReLU. For "s", the authors use percentiles from 90 to
    99; pytorch-ood's default is 65 for all variants. The best percentile depends on the network.

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
        shaped = F.ash(outputs.features, self.percentile, self.variant)
        return F.energy(outputs.logits_of(shaped))


@estimator
class SCALE(OutputsDetector):
    r"""Energy of scaled activations, :math:`\log\sum_k \exp(e^r W z + b)_k`.

    :math:`r = \sum z / \sum z_{top}`, where the top are the :math:`D - round(q D)` largest of D
    activations. No activation is set to zero.

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
        return F.energy(outputs.logits_of(F.scale(outputs.features, self.percentile)))


@estimator
class LTS(OutputsDetector):
    r"""Energy of scaled logits, :math:`\log\sum_k \exp(s f)_k` with :math:`s = r^2`.

    :math:`r = \sum z^+ / \sum z^+_{top}`, where the top are the
    :math:`\max(1, D - round((1 - p) D))` largest of D activations.

    Parameters
    ----------
    top_fraction : float, default=0.05
        Fraction p of the activations that forms the top.

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
    _needs_logits = True

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.energy(F.lts(outputs.features, outputs.logits, self.top_fraction))
