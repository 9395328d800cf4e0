"""Detectors that compare features with training features, guided by the logits."""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt
import torch

from skood import functional as F
from skood._parameters import Interval, at_least, estimator, parameter
from skood._torch.seeding import Stream, numpy_rng
from skood.classifiers._outputs import Outputs
from skood.posthoc._neighbours import MORE_NEIGHBOURS, at_most, largest_products
from skood.posthoc._outputs_detector import OutputsDetector

__all__ = ["SHE", "NNGuide"]


@estimator
class SHE(OutputsDetector):
    r"""Simplified Hopfield energy, :math:`\langle z, m_c \rangle`, c the predicted class.

    :math:`m_c` is the mean feature of the training rows of class c that are predicted as c, or of
    all rows of the class if none is.

    Attributes
    ----------
    patterns_ : ndarray of shape (n_classes, n_features)
        The :math:`m_c`.

    References
    ----------
    .. [1] J. Zhang, Q. Fu, X. Chen, L. Du, Z. Li, G. Wang, X. Liu, S. Han, D. Zhang,
       "Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization with
       Modern Hopfield Energy", ICLR 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, SHE
    >>> X, y = load_iris(return_X_y=True)
    >>> SHE(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    _reads = "features"
    _needs = "labels"

    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        predicted = outputs.logits.argmax(1)
        patterns = []
        for k in range(outputs.logits.shape[1]):
            of_class = class_indices == k
            correct = of_class & (predicted == k)
            if not of_class.any():
                raise ValueError(
                    f"no training row is of class {self._label_of(k)}; SHE needs training rows of "
                    "every class of the classifier"
                )
            rows = outputs.features[correct if correct.any() else of_class]
            patterns.append(rows.mean(0, dtype=np.float64))
        self.patterns_ = np.array(patterns)

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.she(outputs.features, outputs.logits, self.patterns_)


@estimator
class NNGuide(OutputsDetector):
    r"""Energy, guided by the nearest training features.

    .. math::

        E(z) \; \frac{1}{k} \sum_{i \in top\text{-}k}
        \left\langle \frac{z}{\|z\|}, E(z_i) \frac{z_i}{\|z_i\|} \right\rangle,
        \qquad E = \log\sum_j \exp f_j

    The neighbours are the training rows with the k largest products.

    Parameters
    ----------
    n_neighbors : int, default=10
        Number k of neighbours; at most the number of rows in the bank.
    bank_fraction : float, default=1.0
        Fraction of the training rows, drawn at random, that forms the bank.

    Attributes
    ----------
    bank_ : ndarray of shape (n_bank, n_features)
        Normalised training features times their energy.
    n_neighbors_ : int
        The k that is used, at most the number of rows in the bank.

    Notes
    -----
    Features are always scaled to length 1, as in the paper.

    References
    ----------
    .. [1] J. Park, Y. G. Jung, A. B. J. Teoh, "Nearest Neighbor Guidance for
       Out-of-Distribution Detection", ICCV 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, NNGuide
    >>> X, y = load_iris(return_X_y=True)
    >>> NNGuide(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    n_neighbors: int = parameter(at_least(1), default=10)
    bank_fraction: float = parameter(Interval(numbers.Real, 0, 1, closed="right"), default=1.0)

    _reads = "features"
    _needs = "data"
    _needs_logits = True

    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        n_bank = max(1, int(self.bank_fraction * len(outputs)))
        self.n_neighbors_ = at_most(self.n_neighbors, n_bank, "rows in the bank")
        if n_bank < len(outputs):
            rng = numpy_rng(seed, Stream.BANK)
            outputs = outputs[np.sort(rng.choice(len(outputs), n_bank, replace=False))]
        energy = F.energy(outputs.logits)[:, None]
        # In the dtype of the network's features, float32 for almost all networks.
        self.bank_ = F.unit_length(outputs.features) * energy.astype(outputs.features.dtype)

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        features = F.unit_length(outputs.features)
        k = self.n_neighbors_
        _, rows = largest_products(
            features.astype(self.bank_.dtype),
            torch.from_numpy(self.bank_),
            min(k + MORE_NEIGHBOURS, len(self.bank_)),
        )
        guidance = np.empty(len(features))
        for i, z in enumerate(features):
            products = (self.bank_[rows[i]].astype(np.float64) * z).sum(1)
            guidance[i] = np.sort(products)[-k:].mean()
        return F.energy(outputs.logits) * guidance
