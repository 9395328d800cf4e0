"""Classifier that learns uniform probabilities for outliers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._estimator.parameters import POSITIVE, estimator, parameter
from skood.classifiers._outputs import Outputs
from skood.functional import log_msp
from skood.training_time._outliers import OutlierTrainingDetector

__all__ = ["OutlierExposure"]


@estimator
class OutlierExposure(OutlierTrainingDetector):
    r"""Outlier Exposure: a classifier that also learns uniform probabilities for outliers.

    The network is trained with cross-entropy on in-distribution data D, and with the cross-entropy
    from the uniform distribution over the K classes on outliers O [1]_:

    .. math:: \mathbb{E}_{(x, y) \sim D} [-\log p_y(x)] +
        \lambda \, \mathbb{E}_{x \sim O} \Big[-\frac{1}{K} \sum_k \log p_k(x)\Big], \qquad
        -\frac{1}{K} \sum_k \log p_k = \log \sum_k \exp f_k - \frac{1}{K} \sum_k f_k \ge \log K.

    The score is the logarithm of the maximum softmax probability, :math:`\max_k \log p_k(x)`.

    **The network is trained on outliers**: on `outliers`, or on the rows with y == -1, which most
    detectors ignore. Test on outliers of other kinds: the scores of outliers like those in training
    do not predict the scores of new ones.

    Parameters
    ----------
    outlier_weight : float, default=0.5
        :math:`\lambda`.

    Attributes
    ----------
    history_ : dict of str to list of float
        Of each epoch: "loss" and its terms "cross_entropy" and "outlier_exposure" (times its
        weight); if rows were held out, "validation_loss" and "validation_cross_entropy".

    See Also
    --------
    EnergyRegularized : Separates the energies of inliers and outliers instead.
    skood.datasets.synthetic_outliers : Makes outliers of in-distribution data.

    Notes
    -----
    There are no default outliers, since the result depends on them; without outliers, `fit` raises
    a ValueError. Give `outliers` in a search, where :class:`skood.model_selection.OODSplit` keeps
    rows with y == -1 for tests, and as a function in a Pipeline: the function receives X after the
    preceding steps. `memory` recognises a function of a module, or a ``functools.partial`` of one.
    ``clone`` copies `outliers`; give a large set as a Dataset that reads files.

    Each epoch uses the outliers in a new order; none recurs before all have been used. Outliers are
    augmented and normalised like other items, with the moments of the in-distribution rows.
    Held-out rows contain no outliers, so the weights of the last epoch are kept and the
    classifier's `patience` has no effect.

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

    outlier_weight: float = parameter(POSITIVE, default=0.5)

    def _outlier_terms(self, inliers: Tensor, outliers: Tensor) -> dict[str, Tensor]:
        if not len(outliers):
            return {}
        cross_entropy = torch.logsumexp(outliers, 1) - outliers.mean(1)
        return {"outlier_exposure": self.outlier_weight * cross_entropy}

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return log_msp(outputs.logits)
