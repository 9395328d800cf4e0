"""Classifier that is also trained on mixtures of items, so that it is uncertain between classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood import functional
from skood._estimator.parameters import POSITIVE, estimator, parameter
from skood.classifiers._objective import ClassifierObjective
from skood.classifiers._outputs import Outputs
from skood.training_time._base import ClassifierTrainingDetector

__all__ = ["RegMixup"]


@estimator
class RegMixup(ClassifierTrainingDetector):
    r"""Mixup as a regulariser: cross-entropy of the items, and of mixtures of pairs of items.

    In every batch, item i is mixed with a random item j,
    :math:`\tilde x = \lambda x_i + (1 - \lambda) x_j`, with one :math:`\lambda` for the batch from
    the distribution :math:`\mathrm{Beta}(\alpha, \alpha)`. With the cross-entropy
    :math:`\ell(x, y) = -\log p_y(x)` the loss is [1]_

    .. math:: \frac{1}{1 + \eta} \Big( \ell(x_i, y_i) + \eta \big( \lambda \, \ell(\tilde x, y_i)
        + (1 - \lambda) \, \ell(\tilde x, y_j) \big) \Big).

    The score is the negative free energy of the logits, :math:`\log \sum_k \exp f_k(x)`, in nats.

    Parameters
    ----------
    alpha : float, default=20.0
        :math:`\alpha`. The larger it is, the closer :math:`\lambda` is to 0.5.
    mixup_weight : float, default=1.0
        :math:`\eta`, the weight of the mixtures.

    See Also
    --------
    skood.posthoc.Energy : The same score of a classifier that was trained as usual.

    Notes
    -----
    The paper (equation 4) adds the two terms; the released code takes their mean, as above, which
    scales the learning rate. The authors use :math:`\alpha = 20` on CIFAR-10 and 10 on CIFAR-100.
    Their score, the Dempster-Shafer uncertainty :math:`K / (K + \sum_k \exp f_k)`, orders items as
    the free energy does. Validation has no mixtures.

    References
    ----------
    .. [1] F. Pinto, H. Yang, S.-N. Lim, P. Torr and P. K. Dokania, "RegMixup: Mixup as a
       Regularizer Can Surprisingly Improve Accuracy and Out Distribution Robustness", NeurIPS 2022,
       equation 4.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, RegMixup
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = RegMixup(MLP((16,), max_epochs=20), random_state=0).fit(X, y)
    >>> detector.score_samples(X).shape, detector.predict_class(X[:1])
    ((150,), array([0]))
    """

    alpha: float = parameter(POSITIVE, default=20.0)
    mixup_weight: float = parameter(POSITIVE, default=1.0)

    _couples_rows = "the loss mixes the rows of a batch"

    def _loss(self, objective: ClassifierObjective, x: Tensor, class_index: Tensor) -> Tensor:
        if not objective.training:
            return objective.cross_entropy(objective.network(x).float(), class_index)
        share = torch.distributions.Beta(self.alpha, self.alpha).sample()
        partner = torch.randperm(len(x), device=x.device)
        mixed = share * x + (1 - share) * x[partner]
        logits, of_mixed = objective.network(torch.cat([x, mixed])).float().chunk(2)
        mixup = share * objective.cross_entropy(of_mixed, class_index)
        mixup = mixup + (1 - share) * objective.cross_entropy(of_mixed, class_index[partner])
        plain = objective.cross_entropy(logits, class_index)
        return (plain + self.mixup_weight * mixup) / (1 + self.mixup_weight)

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return functional.energy(outputs.logits)
