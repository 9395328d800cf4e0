"""Classifier that learns high energies of outliers and low energies of inliers."""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import POSITIVE, Interval, estimator, parameter
from skood.classifiers._outputs import Outputs
from skood.functional import energy
from skood.training_time._outliers import OutlierTrainingDetector

__all__ = ["EnergyRegularized"]


@estimator
class EnergyRegularized(OutlierTrainingDetector):
    r"""Energy-bounded learning: a classifier that learns the energies of inliers and outliers.

    With the energy :math:`E(x) = -\log \sum_k \exp f_k(x)` of the logits f(x), the network trains
    on in-distribution data D with cross-entropy and with bounds on the energies of D and of
    outliers O [1]_:

    .. math:: \mathbb{E}_{(x, y) \sim D} [-\log p_y(x)] + \lambda \Big(
        \mathbb{E}_{x \sim D} \max(0, E(x) - m_\text{in})^2 +
        \mathbb{E}_{x \sim O} \max(0, m_\text{out} - E(x))^2 \Big).

    The score is the negative energy, :math:`\log \sum_k \exp f_k(x)`, in nats.

    **The network is trained on outliers**: on `outliers`, or on the rows with y == -1, which most
    detectors ignore. Test on outliers of other kinds: the scores of outliers like those in training
    do not predict the scores of new ones.

    Parameters
    ----------
    m_in : float, default=-6.0
        Energy in nats above which inliers are penalised.
    m_out : float, default=-2.0
        Energy in nats below which outliers are penalised; greater than `m_in`.
    energy_weight : float, default=0.1
        :math:`\lambda`.

    Attributes
    ----------
    history_ : dict of str to list of float
        Of each epoch: "loss" and its terms "cross_entropy", "energy_in" and "energy_out" (times
        their weight); if rows were held out, "validation_loss" and its terms except the last.

    See Also
    --------
    OutlierExposure : Learns uniform probabilities for outliers instead.
    skood.posthoc.Energy : The same score of a classifier trained with cross-entropy.
    skood.datasets.synthetic_outliers : Makes outliers of in-distribution data.

    Notes
    -----
    The default margins suit training from random weights, where all energies start near -log K for
    K classes. The authors fine-tune a trained network for 10 epochs, at a learning rate of 0.001
    and with margins around the mean energies under that network: ``m_in=-23, m_out=-5`` for
    CIFAR-10 and ``m_in=-27, m_out=-5`` for CIFAR-100. To fine-tune, give the trained network as the
    classifier's `weights_init`; from random weights, such distant margins can cost accuracy.

    The notes of :class:`OutlierExposure` on outliers apply here too.

    References
    ----------
    .. [1] W. Liu, X. Wang, J. D. Owens and Y. Li, "Energy-based Out-of-distribution Detection",
       NeurIPS 2020, equations 8 and 9.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from skood import MLP, EnergyRegularized
    >>> X, digit = load_digits(return_X_y=True)
    >>> y, seen = np.where(digit < 5, digit, -1), digit < 8
    >>> detector = EnergyRegularized(MLP(max_epochs=10), random_state=0).fit(X[seen], y[seen])
    >>> scores = detector.score_samples(X)
    >>> bool(np.median(scores[digit >= 8]) < np.percentile(scores[digit < 5], 20))
    True
    """

    m_in: float = parameter(Interval(numbers.Real, None, None, closed="neither"), default=-6.0)
    m_out: float = parameter(Interval(numbers.Real, None, None, closed="neither"), default=-2.0)
    energy_weight: float = parameter(POSITIVE, default=0.1)

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        if self.m_in >= self.m_out:
            raise ValueError(
                f"m_in={self.m_in} and m_out={self.m_out}; expected m_in < m_out, since the energy "
                "-log sum exp of the logits should be lower for inliers than for outliers"
            )
        return super()._fit(inliers, y, outliers, seed)

    def _outlier_terms(self, inliers: Tensor, outliers: Tensor) -> dict[str, Tensor]:
        too_high = F.relu(-torch.logsumexp(inliers, 1) - self.m_in)
        terms = {"energy_in": self.energy_weight * too_high.square()}
        if len(outliers):
            too_low = F.relu(self.m_out + torch.logsumexp(outliers, 1))
            terms["energy_out"] = self.energy_weight * too_low.square()
        return terms

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return energy(outputs.logits)
