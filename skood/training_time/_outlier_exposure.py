"""Classifier that learns to be undecided about outliers."""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._parameters import Interval, estimator, parameter
from skood.classifiers._outputs import Outputs
from skood.training_time._base import log_max_proba
from skood.training_time._outliers import OutlierTrainingDetector

__all__ = ["OutlierExposure"]


@estimator
class OutlierExposure(OutlierTrainingDetector):
    r"""Outlier Exposure: a classifier that also learns to be undecided about outliers.

    The network trains on in-distribution data D with cross-entropy, and on outliers O towards
    uniform probabilities of the K classes [1]_:

    .. math:: \mathbb{E}_{(x, y) \sim D} [-\log p_y(x)] +
        \lambda \, \mathbb{E}_{x \sim O} \Big[-\frac{1}{K} \sum_k \log p_k(x)\Big], \qquad
        -\frac{1}{K} \sum_k \log p_k = \log \sum_k \exp f_k - \frac{1}{K} \sum_k f_k \ge \log K.

    The score is the logarithm of the maximal softmax probability, :math:`\max_k \log p_k(x)`.

    **The network is trained on the outliers.** Rows with y == -1, which most detectors leave alone,
    are learned from here, unless `outliers` are given. Choose others than those you test on: scores
    of outliers like those seen in training say nothing about new ones.

    Parameters
    ----------
    outlier_weight : float, default=0.5
        :math:`\lambda`.
    outlier_ratio : float, default=2.0
        Outliers in a batch for each in-distribution row.

    Attributes
    ----------
    history_ : dict of str to list of float
        Of each epoch: "loss" and its terms "cross_entropy" and "outlier_exposure" (with its
        weight); where rows were held out, "validation_loss" and "validation_cross_entropy".

    See Also
    --------
    EnergyRegularized : Learns the energy of outliers instead.
    skood.datasets.synthetic_outliers : Makes outliers of in-distribution data.

    Notes
    -----
    There is no default for outliers, since everything depends on them: `fit` raises a ValueError
    without. In a search, where :class:`skood.model_selection.OODSplit` keeps rows with y == -1 for
    tests, and in a Pipeline with a callable, which sees X as the steps before leave it, give
    `outliers`. A callable must be a function of a module, or a ``functools.partial`` of one, for
    `memory` to hit.
    `outliers` is a parameter, which ``clone`` copies; a large set is best a Dataset that reads
    files.

    Each epoch goes through the outliers in a new order, so that none comes twice before all have
    come. Outliers pass through the classifier's augmentation and normalisation, whose moments are
    those of the in-distribution rows. Held-out rows hold no outliers, so the weights of the last
    epoch are kept and the classifier's `patience` has no effect.

    References
    ----------
    .. [1] D. Hendrycks, M. Mazeika and T. Dietterich, "Deep Anomaly Detection with Outlier
       Exposure", ICLR 2019, equation 1 and section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from skood import MLP, OutlierExposure
    >>> X, digit = load_digits(return_X_y=True)
    >>> y, seen = np.where(digit < 5, digit, -1), digit < 8
    >>> detector = OutlierExposure(MLP(max_epochs=10), random_state=0).fit(X[seen], y[seen])
    >>> scores = detector.score_samples(X)
    >>> bool(np.median(scores[digit >= 8]) < np.percentile(scores[digit < 5], 20))
    True
    """

    outlier_weight: float = parameter(
        Interval(numbers.Real, 0, None, closed="neither"), default=0.5
    )

    def _outlier_terms(self, inliers: Tensor, outliers: Tensor) -> dict[str, Tensor]:
        if not len(outliers):
            return {}
        cross_entropy = torch.logsumexp(outliers, 1) - outliers.mean(1)
        return {"outlier_exposure": self.outlier_weight * cross_entropy}

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return log_max_proba(outputs)
