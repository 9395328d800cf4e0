"""Classifier that learns to be undecided about outliers."""

from __future__ import annotations

import numbers
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._parameters import Interval
from skood.classifiers import NeuralClassifier
from skood.classifiers._outputs import Outputs
from skood.training_time._base import log_max_proba
from skood.training_time._outliers import OutlierTrainingDetector

__all__ = ["OutlierExposure"]


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
    classifier : NeuralClassifier or None, default=None
        Architecture and training. The threshold is read from the rows that its
        `validation_fraction` holds out. None: ``ShallowConvNet(optimizer="adam",
        learning_rate=1e-3, weight_decay=0.0, validation_fraction=0.1)`` for images,
        ``MLP(validation_fraction=0.1)`` for rows.
        If `validation_fraction` is 0, a tenth of 500 rows or more is held out for the threshold.
    outliers : array-like, Tensor, Dataset, callable or None, default=None
        Outliers to train on, of shape (n_outliers, ...), items as in X. A callable makes them, as
        :func:`skood.datasets.synthetic_outliers` does: it takes the training rows, (n, d) or
        (n, C, H, W), and `random_state`. With either, rows with y == -1 are not trained on. None:
        the rows with y == -1.
    outlier_weight : float, default=0.5
        :math:`\lambda`.
    outlier_ratio : float, default=2.0
        Outliers in a batch for each in-distribution row.
    contamination : float, default=0.05
        Part of the in-distribution data that the threshold takes as outliers.
    memory : str, joblib.Memory or None, default=None
        Where trained classifiers are cached. Needs an integer `random_state`.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown. "auto" shows it on a terminal or in a notebook, for work of more
        than a few seconds.
    random_state : int, RandomState instance or None, default=None
        Seed.

    Attributes
    ----------
    classifier_ : NeuralClassifier
        The trained classifier.
    classes_ : ndarray of shape (n_classes,)
        Labels of the in-distribution classes.
    history_ : dict of str to list of float
        Of each epoch: "loss" and its terms "cross_entropy" and "outlier_exposure" (with its
        weight); where rows were held out, "validation_loss" and "validation_cross_entropy".
    offset_ : float
        Threshold of `predict`, in nats.
    input_shape_ : tuple of int
        Shape of an item, (C, H, W) or (d,).
    n_features_in_ : int
        Values in an item.

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

    _parameter_constraints: dict = {
        **OutlierTrainingDetector._parameter_constraints,
        "outlier_weight": [Interval(numbers.Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        classifier: NeuralClassifier | None = None,
        outliers: Any = None,
        outlier_weight: float = 0.5,
        outlier_ratio: float = 2.0,
        *,
        contamination: float = 0.05,
        memory: str | joblib.Memory | None = None,
        verbose: bool | int | str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.classifier = classifier
        self.outliers = outliers
        self.outlier_weight = outlier_weight
        self.outlier_ratio = outlier_ratio
        self.contamination = contamination
        self.memory = memory
        self.verbose = verbose
        self.random_state = random_state

    def _outlier_terms(self, inliers: Tensor, outliers: Tensor) -> dict[str, Tensor]:
        if not len(outliers):
            return {}
        cross_entropy = torch.logsumexp(outliers, 1) - outliers.mean(1)
        return {"outlier_exposure": self.outlier_weight * cross_entropy}

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return log_max_proba(outputs)
