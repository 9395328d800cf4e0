"""Detectors that read logits or probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr

from skood import functional as F
from skood._estimator.parameters import POSITIVE, at_least, estimator, parameter
from skood._moments import ClassMeans
from skood.classifiers._outputs import Outputs
from skood.posthoc._explained import ExplainedByClasses, largest_alone, softmax_of
from skood.posthoc._outputs_detector import OutputsDetector
from skood.posthoc._partial_fit import LearnsFromSums

__all__ = ["GEN", "MSP", "Energy", "Entropy", "KLMatching", "MaxLogit"]


@estimator
class MSP(ExplainedByClasses, OutputsDetector):
    r"""Maximum softmax probability, :math:`\max_k p_k(x)`.

    The baseline of out-of-distribution detection with a classifier. The probabilities of a
    multilabel network are the sigmoids of its logits.

    References
    ----------
    .. [1] D. Hendrycks, K. Gimpel, "A Baseline for Detecting Misclassified and
       Out-of-Distribution Examples in Neural Networks", ICLR 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skood import MSP
    >>> X, y = load_iris(return_X_y=True)
    >>> MSP(LogisticRegression(max_iter=1000)).fit(X, y).score_samples(X[:2]).round(2)
    array([0.98, 0.97])
    """

    _takes_multilabel = True

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.msp(outputs.log_proba)

    def _shares(self, outputs: Outputs) -> tuple[npt.NDArray[np.float64] | float, npt.NDArray]:
        proba = np.exp(outputs.log_proba)
        largest = largest_alone(proba)
        if outputs.multilabel:
            return 0.0, largest
        # The probability of all classes, 1 up to rounding, minus the competitors.
        return proba.sum(1), largest - proba


@estimator
class MaxLogit(ExplainedByClasses, OutputsDetector):
    r"""Largest logit, :math:`\max_k f_k(x)`.

    Notes
    -----
    If the classifier gives only probabilities, their logarithms serve as logits. The score is then
    the logarithm of :class:`MSP` and ranks items like MSP.

    References
    ----------
    .. [1] D. Hendrycks, S. Basart, M. Mazeika, A. Zou, J. Kwon, M. Mostajabi, J. Steinhardt,
       D. Song, "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022.

    Examples
    --------
    >>> import torch
    >>> from skood import MaxLogit
    >>> network = torch.nn.Linear(2, 3)
    >>> MaxLogit(network).fit(torch.randn(9, 2)).score_samples(torch.zeros(1, 2)).shape
    (1,)
    """

    _takes_multilabel = True

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.max_logit(outputs.logits)

    def _shares(self, outputs: Outputs) -> tuple[npt.NDArray[np.float64] | float, npt.NDArray]:
        return 0.0, largest_alone(outputs.logits)


@estimator
class Energy(ExplainedByClasses, OutputsDetector):
    r"""Negative free energy of the logits, :math:`T \log \sum_k \exp(f_k(x) / T)`.

    For a multilabel network, JointEnergy: :math:`T \sum_k \log (1 + \exp(f_k(x) / T))`.

    Parameters
    ----------
    temperature : float, default=1.0
        Temperature T.

    Raises
    ------
    ValueError
        If the classifier gives only probabilities. The energy of their logarithms is 0 at T = 1
        and an entropy at other T.

    References
    ----------
    .. [1] W. Liu, X. Wang, J. D. Owens, Y. Li, "Energy-based Out-of-distribution Detection",
       NeurIPS 2020, equation 4.
    .. [2] H. Wang, W. Liu, A. Bocchieri, Y. Li, "Can multi-label classification networks know what
       they don't know?", NeurIPS 2021, equation 6.

    Examples
    --------
    >>> import torch
    >>> from skood import Energy
    >>> network = torch.nn.Linear(2, 3)
    >>> Energy(network).fit(torch.randn(9, 2)).score_samples(torch.zeros(1, 2)).shape
    (1,)
    >>> Energy(temperature=2.0).score_outputs(logits=[[0.0, 0.0], [0.0, 8.0]]).round(3)
    array([1.386, 8.036])
    """

    temperature: float = parameter(POSITIVE, default=1.0)

    _needs_logits = True
    _takes_multilabel = True

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        energy = F.joint_energy if outputs.multilabel else F.energy
        return energy(outputs.logits, self.temperature)

    def _shares(self, outputs: Outputs) -> tuple[npt.NDArray[np.float64] | float, npt.NDArray]:
        t = self.temperature
        if outputs.multilabel:
            return 0.0, t * np.logaddexp(0, outputs.logits / t)
        # E = f_k - T log p_k for each class, and the p_k sum to 1.
        return 0.0, softmax_of(outputs.logits, t) * F.energy(outputs.logits, t)[:, None]


@estimator
class Entropy(ExplainedByClasses, OutputsDetector):
    r"""Negative Shannon entropy of the probabilities, :math:`\sum_k p_k \log p_k`, in nats.

    Notes
    -----
    Probabilities are not clipped, because clipping changes the ranking of confident rows.

    References
    ----------
    .. [1] R. Chan, M. Rottmann, H. Gottschalk, "Entropy Maximization and Meta Classification
       for Out-of-Distribution Detection in Semantic Segmentation", ICCV 2021.

    Examples
    --------
    >>> import torch
    >>> from skood import Entropy
    >>> network = torch.nn.Linear(2, 3)
    >>> Entropy(network).fit(torch.randn(9, 2)).score_samples(torch.zeros(1, 2)).shape
    (1,)
    """

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.entropy(outputs.log_proba)

    def _shares(self, outputs: Outputs) -> tuple[npt.NDArray[np.float64] | float, npt.NDArray]:
        return 0.0, np.exp(outputs.log_proba) * outputs.log_proba


@estimator
class GEN(ExplainedByClasses, OutputsDetector):
    r"""Generalised entropy, :math:`-\sum_{m \le M} p_{(m)}^\gamma (1 - p_{(m)})^\gamma`.

    The sum is over the M largest probabilities.

    Parameters
    ----------
    gamma : float, default=0.1
        Exponent; small values give more weight to small probabilities.
    n_top : int, default=100
        Number M of probabilities; all of them if there are fewer.

    Notes
    -----
    The paper takes the sum. Some implementations take the mean, which only rescales the score, and
    clip probabilities at 1e-7, which changes the ranking of confident rows.

    References
    ----------
    .. [1] X. Liu, Y. Lochman, C. Zach, "GEN: Pushing the Limits of Softmax-Based
       Out-of-Distribution Detection", CVPR 2023.

    Examples
    --------
    >>> import torch
    >>> from skood import GEN
    >>> network = torch.nn.Linear(2, 3)
    >>> GEN(network).fit(torch.randn(9, 2)).score_samples(torch.zeros(1, 2)).shape
    (1,)
    """

    gamma: float = parameter(POSITIVE, default=0.1)
    n_top: int = parameter(at_least(1), default=100)

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.generalized_entropy(outputs.log_proba, self.gamma, self.n_top)

    def _shares(self, outputs: Outputs) -> tuple[npt.NDArray[np.float64] | float, npt.NDArray]:
        proba = np.exp(outputs.log_proba)
        rank = np.argsort(np.argsort(-proba, axis=1, kind="stable"), axis=1)
        terms = -(proba**self.gamma) * (1 - proba) ** self.gamma
        return 0.0, np.where(rank < self.n_top, terms, 0.0)


@estimator
class KLMatching(ExplainedByClasses, LearnsFromSums, OutputsDetector):
    r"""Divergence from the nearest mean prediction, :math:`-\min_k KL(p(x) \,\|\, d_k)`, in nats.

    :math:`d_k` is the mean prediction over the training rows that are predicted as class k. A class
    that is never predicted has no :math:`d_k`. Labels are not used.

    Attributes
    ----------
    templates_ : ndarray of shape (n_templates, n_classes)
        The :math:`d_k`.

    Notes
    -----
    The authors average over held-out rows. A network is more confident on its training rows, which
    makes the :math:`d_k` closer to one-hot. To follow the authors, give a trained classifier in a
    ``FrozenEstimator`` and fit on rows that the classifier was not trained on.

    References
    ----------
    .. [1] D. Hendrycks, S. Basart, M. Mazeika, A. Zou, J. Kwon, M. Mostajabi, J. Steinhardt,
       D. Song, "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022.

    Examples
    --------
    >>> import torch
    >>> from skood import KLMatching
    >>> network = torch.nn.Linear(2, 3)
    >>> KLMatching(network).fit(torch.randn(9, 2)).score_samples(torch.zeros(1, 2)).shape
    (1,)
    """

    _needs = "data"

    _summed = ("logits", "log_proba")
    _from_sums = ("templates_",)

    def _new_sums(self) -> dict[str, Any]:
        return {"probabilities": ClassMeans()}

    def _add(
        self, sums: dict[str, Any], outputs: Outputs, class_indices: npt.NDArray[np.integer]
    ) -> None:
        sums["probabilities"].add(np.exp(outputs.log_proba), outputs.logits.argmax(1))

    def _learn_sums(self, sums: dict[str, Any], outputs: Outputs) -> None:
        found = sums["probabilities"]
        self.templates_ = np.maximum(found.means[found.counts > 0], np.finfo(np.float64).tiny)

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.kl_matching(outputs.log_proba, self.templates_)

    def _shares(self, outputs: Outputs) -> tuple[npt.NDArray[np.float64] | float, npt.NDArray]:
        proba = np.exp(outputs.log_proba)
        terms = np.stack([rel_entr(proba, template) for template in self.templates_], 1)
        nearest = terms.sum(2).argmin(1)
        return 0.0, -terms[np.arange(len(terms)), nearest]
