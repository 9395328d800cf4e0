"""OpenMax: recalibrated logits, by extreme value theory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from skood import functional as F
from skood._estimator.parameters import StrOptions, at_least, estimator, parameter
from skood.classifiers._outputs import Outputs
from skood.functional._logits import SHIFT
from skood.posthoc._outputs_detector import OutputsDetector

__all__ = ["OpenMax"]


@estimator
class OpenMax(OutputsDetector):
    r"""Negative probability of the unknown class, from recalibrated logits.

    For each class, a Weibull distribution is fitted by maximum likelihood to the `n_tail`
    largest distances between the mean logits of the class and its training rows. With
    :math:`\omega_k` its distribution function at the distance of a row, the `alpha` largest
    logits, of rank r = 0, 1, ..., become :math:`f_k (1 - \omega_k (\alpha - r) / \alpha)`. The sum
    of the differences is the logit of the unknown class.

    Parameters
    ----------
    n_tail : int, default=20
        Number of distances that the tail is fitted to.
    alpha : int, default=3
        Number of logits that are recalibrated.
    rows : {"correct", "all"}, default="correct"
        Training rows of a class: only the correctly predicted ones, as in the paper, or all.

    Attributes
    ----------
    centres_ : ndarray of shape (n_classes, n_classes)
        Mean logits of each class.
    weibull_ : ndarray of shape (n_classes, 3)
        Shape, scale and smallest tail distance of each class.

    Raises
    ------
    ValueError
        If the classifier gives only probabilities, because probabilities of 0 would dominate the
        distances between their logarithms; or if a class has too few rows for its tail.

    References
    ----------
    .. [1] A. Bendale, T. E. Boult, "Towards Open Set Deep Networks", CVPR 2016, algorithms 1
       and 2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, OpenMax
    >>> X, y = load_iris(return_X_y=True)
    >>> OpenMax(MLP(max_epochs=20, random_state=0)).fit(X, y).score_samples(X).shape
    (150,)
    """

    n_tail: int = parameter(at_least(2), default=20)
    alpha: int = parameter(at_least(1), default=3)
    rows: str = parameter(StrOptions({"correct", "all"}), default="correct", kw_only=True)

    _needs = "labels"
    _needs_logits = True

    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        logits = outputs.logits.astype(np.float64)
        predicted = logits.argmax(1)
        centres, weibull = [], []
        for k in range(logits.shape[1]):
            used = class_indices == k
            if self.rows == "correct":
                used = used & (predicted == k)
            tail = np.empty(0)
            if used.any():
                centre = logits[used].mean(0)
                tail = np.sort(np.linalg.norm(logits[used] - centre, axis=1))[-self.n_tail :]
            if len(tail) < 2 or tail[-1] - tail[0] <= 1e-9 * tail[-1]:
                correct = "correctly classified " if self.rows == "correct" else ""
                raise ValueError(
                    f"class {self._label_of(k)} has {used.sum()} {correct}training "
                    "rows; OpenMax fits a tail to at least 2 different distances in each class. "
                    "Train the classifier better, give more rows, or rows='all'"
                )
            centres.append(centre)
            weibull.append((*fit_weibull(tail - tail[0] + SHIFT), tail[0]))
        self.centres_, self.weibull_ = np.array(centres), np.array(weibull)

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.openmax(outputs.logits, self.centres_, self.weibull_, self.alpha)


def fit_weibull(x: npt.NDArray[np.float64]) -> tuple[float, float]:
    r"""Maximum-likelihood shape and scale of a Weibull distribution.

    The shape c is the root of :math:`\sum x^c \log x / \sum x^c - 1/c - \overline{\log x}`,
    the scale :math:`(\overline{x^c})^{1/c}`.
    """
    largest = x.max()
    if SHIFT < 10 * np.finfo(np.float64).eps * largest:
        raise ValueError(
            f"logits of training rows lie up to {largest:.3g} from the mean of their class, too "
            "far to fit a tail to; rescale X, for instance with StandardScaler"
        )
    log_x = np.log1p((x - largest) / largest)

    def slope(shape: float) -> float:
        weight = np.exp(shape * log_x)
        return float((weight * log_x).sum() / weight.sum() - 1 / shape - log_x.mean())

    # The slope rises from minus infinity to max(log x) - mean(log x).
    high = 2.0
    while slope(high) < 0:
        high *= 2
    shape = brentq(slope, 1e-6, high, xtol=1e-12, rtol=1e-14)
    return shape, largest * float(np.exp(shape * log_x).mean() ** (1 / shape))
