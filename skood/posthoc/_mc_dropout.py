"""Uncertainty of the predictions of subnetworks drawn by dropout."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import StrOptions, at_least, estimator, parameter
from skood._torch.dropout import DROPOUTS, Subnetwork
from skood._torch.seeding import Stream
from skood.classifiers import MLP, ConvNet, NeuralClassifier
from skood.classifiers._inputs import copies_of, n_items_of
from skood.classifiers._network import Network
from skood.classifiers._outputs import Outputs
from skood.posthoc._base import check_magnitude, in_float64
from skood.posthoc._uncertainty import UNCERTAINTIES, Statistic, UncertaintyDetector

__all__ = ["MCDropout"]


@estimator
class MCDropout(UncertaintyDetector):
    r"""Uncertainty of the predictions of subnetworks drawn by dropout: Monte Carlo dropout.

    A network with active dropout is a distribution over subnetworks, an approximate posterior. With
    the class probabilities :math:`p_1(x), \dots, p_S(x)` of S subnetworks, the score is minus the
    entropy of their mean, or minus the mutual information of label and subnetwork, which measures
    their disagreement; both in nats:

    .. math::

        H\Big[\frac{1}{S} \sum_s p_s\Big], \qquad
        H\Big[\frac{1}{S} \sum_s p_s\Big] - \frac{1}{S} \sum_s H[p_s] \ge 0, \qquad
        H[p] = -\sum_k p_k \log p_k

    Parameters
    ----------
    classifier : classifier or Module, default=None
        A classifier of :mod:`skood.classifiers` or a trained torch module, with dropout. A
        classifier in :class:`sklearn.frozen.FrozenEstimator` is not trained again. None: a
        convolutional network for images and an MLP for rows, with a dropout rate of 0.5.
    n_samples : int, default=32
        Number S of subnetworks; at least 2 for the mutual information. Each costs a pass of the
        network, unless only the penultimate features have dropout.
    score_type : {"entropy", "mutual_information"}, default="entropy"
        "entropy" is also high between classes, where all subnetworks are uncertain;
        "mutual_information" is high only where the subnetworks differ.
    memory : str or joblib.Memory, default=None
        Where trained models and their outputs on the data are cached by content. The passes of
        subnetworks are not cached. The folder must be
        trusted, since its files are pickles, which can run code.
    random_state : int, RandomState instance or None, default=None
        Seed of the subnetworks, and for a model whose own ``random_state`` is None.

    Raises
    ------
    ValueError
        In `fit`, if the network has no dropout, or applies dropout to a tensor whose first axis is
        not the batch.

    See Also
    --------
    DeepEnsemble : The same scores of separately trained networks.
    Entropy : Entropy of the prediction of the whole network.

    Notes
    -----
    `fit` fixes the subnetworks. Each subnetwork has one mask per dropout layer, which all rows
    share, so that a score does not depend on the other rows or on their order. Over `random_state`,
    a row's score has the same distribution as with a separate mask for each row. Dropout of whole
    channels (``Dropout2d``) and alpha dropout are drawn as in training.

    Only torch's dropout layers and functions are active. All other layers stay in eval mode: batch
    normalisation, stochastic depth, and dropout inside attention weights and recurrent layers. A
    dropout function that a network calls only ``if self.training`` is not found.

    If only the penultimate features have dropout, as in `ConvNet`, the network runs once, shares
    this pass with other detectors, and only its last layer runs S times.

    MCD of pytorch-ood draws 30 masks for each row. Its score is the largest mean probability or, by
    default, the variance of the probabilities over the samples, averaged over the classes.

    References
    ----------
    .. [1] Y. Gal, Z. Ghahramani, "Dropout as a Bayesian Approximation: Representing Model
       Uncertainty in Deep Learning", ICML 2016.
    .. [2] N. Houlsby, F. Huszár, Z. Ghahramani, M. Lengyel, "Bayesian Active Learning for
       Classification and Preference Learning", 2011, arXiv:1112.5745, equation 2, for the mutual
       information.
    .. [3] L. Smith, Y. Gal, "Understanding Measures of Uncertainty for Adversarial Example
       Detection", UAI 2018.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, MCDropout
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = MCDropout(MLP(dropout=0.2, max_epochs=20, random_state=0), random_state=0)
    >>> detector.fit(X, y).score_samples(X).shape
    (150,)
    >>> detector.predict_class(X[:2])
    array([0, 0])
    """

    n_samples: int = parameter(at_least(1), default=32)
    score_type: str = parameter(StrOptions(set(UNCERTAINTIES)), default="entropy")

    _reads = "network"

    def _default_classifier(self, data: CheckedData) -> NeuralClassifier:
        return ConvNet(dropout=0.5) if data.is_image else MLP(dropout=0.5)

    def _check_parameters(self) -> None:
        self._check_enough(self.n_samples, "n_samples")

    def _learn_from_data(
        self, data: CheckedData, y: npt.NDArray | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        self._seed = seed
        self._feature_dropout = self._find_dropout(data)
        return None

    def _subnetwork(self, number: int) -> Subnetwork:
        return Subnetwork(self._seed, Stream.DROPOUT_MASKS, number)

    def _find_dropout(self, data: CheckedData) -> tuple[str, float] | None:
        """Return the dropout of the penultimate features if the network has no other."""
        network: Network = self.classifier_.network()
        subnetwork = self._subnetwork(0)
        shapes: list[list[tuple[int, ...]]] = []
        on_features: list[bool] = []

        def look(x: Tensor) -> Tensor:
            for n_rows in (2, 3):
                with subnetwork:
                    features, _, _ = network.forward(copies_of(x, [0] * n_rows))
                shapes.append(subnetwork.shapes)
                on_features.append(subnetwork.output is features)
            return torch.zeros(n_items_of(x))

        network.map(look, data.subset(np.arange(1)), "looking for dropout")
        module = type(network.module).__name__
        if not shapes[0]:
            raise ValueError(
                f"MCDropout needs a network with dropout, but {module} applies none, or only at "
                "rate 0; train a network with dropout, such as ConvNet(dropout=0.2) or "
                "MLP(dropout=0.2), or use DeepEnsemble, which needs no dropout"
            )
        for two, three in zip(*shapes, strict=True):
            if (two, three) != ((2, *two[1:]), (3, *two[1:])):
                raise ValueError(
                    f"{module} applies dropout to a tensor of shape {two} for a batch of 2, and of "
                    f"shape {three} for a batch of 3; expected only the batch as the first axis, "
                    "because all rows share a mask. Use DeepEnsemble, or a network with "
                    "batch_first=True"
                )
        reading = network.reading
        has_head = reading is not None and reading.head is not None and reading.head.is_linear
        alone = has_head and on_features[0] and len(shapes[0]) == 1
        return subnetwork.dropouts[0] if alone else None

    def _reduce(self, statistic: Statistic, data: CheckedData) -> npt.NDArray[np.float64]:
        network: Network = self.classifier_.network()
        subnetworks = [self._subnetwork(number) for number in range(self.n_samples)]
        if self._feature_dropout is not None:
            (name, rate), (weight, bias) = self._feature_dropout, network.head
            dropout = DROPOUTS[name]

            def on_features(outputs: Outputs) -> npt.NDArray[np.float64]:
                features = torch.from_numpy(outputs.features)
                logits = []
                for subnetwork in subnetworks:
                    with subnetwork:
                        logits.append(dropout(features, p=rate).numpy() @ weight.T + bias)
                return statistic(log_softmax(np.stack(logits, 1), axis=2))

            return in_float64(on_features, self._outputs(data))

        def whole_passes(x: Tensor) -> Tensor:
            logits = []
            for subnetwork in subnetworks:
                with subnetwork:
                    logits.append(network.forward(copies_of(x, range(n_items_of(x))))[1])
            samples = torch.stack(logits, 1).cpu().double().numpy()
            check_magnitude(samples)
            return torch.from_numpy(statistic(log_softmax(samples, axis=2)))

        return np.asarray(network.map(whole_passes, data, f"{self.n_samples} subnetworks"))
