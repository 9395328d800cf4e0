"""Classifier trained on the direction of its logits, so that their length adds no confidence."""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import POSITIVE, estimator, parameter
from skood.classifiers import NeuralClassifier
from skood.classifiers._objective import ClassifierObjective
from skood.classifiers._outputs import Outputs
from skood.functional import log_msp
from skood.training_time._base import ClassifierTrainingDetector

__all__ = ["LogitNorm"]


@estimator
class LogitNorm(ClassifierTrainingDetector):
    r"""Logit normalisation: cross-entropy of logits that all have the same length.

    Cross-entropy decreases as the logits f(x) grow, even for rows that are classified correctly;
    the network becomes overconfident. The loss [1]_

    .. math:: -\log \frac{\exp(f_y(x) / (\tau \lVert f(x) \rVert))}
        {\sum_k \exp(f_k(x) / (\tau \lVert f(x) \rVert))}

    depends on the direction of the logits alone. The score is the logarithm of the maximum softmax
    probability of the plain logits,

    .. math:: \max_k \log \frac{\exp f_k(x)}{\sum_j \exp f_j(x)}.

    Parameters
    ----------
    classifier : NeuralClassifier or None, default=None
        Architecture and training. The threshold is set on the rows that its `validation_fraction`
        holds out; if that is 0, on a tenth of 500 rows or more. None:
        ``ShallowConvNet(optimizer="adam", learning_rate=1e-3, weight_decay=0.0,
        validation_fraction=0.1)`` for images, ``MLP(learning_rate=0.005,
        validation_fraction=0.1)`` for rows.
    temperature : float, default=0.04
        :math:`\tau`; the length of the logits in the loss is :math:`1 / \tau`.

    See Also
    --------
    skood.posthoc.MSP : The same score of a classifier trained with cross-entropy.

    Notes
    -----
    1e-7 is added to the length, as in the released code. The authors and OpenOOD score the plain
    logits too, and `predict_proba` is their softmax. The loss leaves the logits' length free; it
    grows during training, faster at high learning rates. If most rows get probability 1, lower the
    classifier's `learning_rate`. At 0.05, the default of :class:`~skood.classifiers.MLP`, a network
    may learn nothing; `fit` warns if the loss does not fall below the loss of equal probabilities.

    References
    ----------
    .. [1] H. Wei, R. Xie, H. Cheng, L. Feng, B. An and Y. Li, "Mitigating Neural Network
       Overconfidence with Logit Normalization", ICML 2022, equation 4.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, LogitNorm
    >>> X, y = load_iris(return_X_y=True)
    >>> network = MLP((16,), max_epochs=20, learning_rate=0.01)
    >>> detector = LogitNorm(network, random_state=0).fit(X, y)
    >>> detector.score_samples(X).shape, detector.predict_class(X[:1])
    ((150,), array([0]))
    """

    temperature: float = parameter(POSITIVE, default=0.04)

    _couples_rows = None

    def _default_architecture(self, data: CheckedData) -> NeuralClassifier:
        default = super()._default_architecture(data)
        # The gradient is at first 1 / temperature times the gradient of cross-entropy.
        return default if data.is_image else default.set_params(learning_rate=0.005)

    def _check_training(self) -> None:
        losses = self.history_["loss"]
        chance = math.log(len(self.classes_))
        if losses and losses[-1] >= chance:
            warnings.warn(
                f"the training loss of LogitNorm ends at {losses[-1]:.3g}, which is no better than "
                f"{chance:.3g}, the loss of equal probabilities of {len(self.classes_)} classes. "
                f"Its gradient is up to 1 / temperature = {1 / self.temperature:g} times the "
                "gradient of cross-entropy: lower the classifier's learning_rate="
                f"{self.classifier_.learning_rate:g}, or train for more epochs",
                stacklevel=6,
            )

    def _loss(self, objective: ClassifierObjective, x: Tensor, class_index: Tensor) -> Tensor:
        logits = objective.network(x).float()
        length = logits.norm(dim=1, keepdim=True) + 1e-7
        return objective.cross_entropy(logits / (self.temperature * length), class_index)

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return log_msp(outputs.logits)
