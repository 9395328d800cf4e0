"""Deep semi-supervised anomaly detection: Deep SVDD that also trains on known outliers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._checked_data import CheckedData
from skood._parameters import POSITIVE, estimator, parameter
from skood.classifiers._objective import ClassifierObjective, Task
from skood.training_time._svdd import HypersphereDetector, HypersphereObjective

__all__ = ["DeepSAD"]

# Added to a squared distance before it is inverted.
_SMALL = 1e-6


@estimator
class DeepSAD(HypersphereDetector):
    r"""Deep semi-supervised anomaly detection.

    A network phi without bias terms is trained to map the data close to a center c, as in
    :class:`DeepSVDD`, and known outliers far from c. With n in-distribution rows x and m known
    outliers :math:`\tilde x`, the rows with y == -1, the objective is

    .. math:: \frac{1}{n + m} \sum_{i=1}^{n} \lVert \varphi(x_i) - c \rVert^2
        + \frac{\eta}{n + m} \sum_{j=1}^{m}
        \left(\lVert \varphi(\tilde x_j) - c \rVert^2 + 10^{-6}\right)^{-1}

    (equation 7 of [1]_, whose last term is the `weight_decay` of the backbone). The score is
    :math:`-\lVert \varphi(x) - c \rVert^2`.

    Parameters
    ----------
    eta : float, default=1.0
        Weight of a known outlier; other rows have the weight 1.

    Attributes
    ----------
    center_ : ndarray of shape (n_latent,), float64
        c, the mean output for all training rows, outliers included, before training.
    history_ : dict of str to list of float
        Of each epoch: "loss" and, if rows were held out, "validation_loss", of in-distribution rows
        alone.

    See Also
    --------
    DeepSVDD : The same without known outliers; states why the network has no bias terms.

    Notes
    -----
    Unlike most detectors, this one trains on rows with y == -1. Without such rows it is
    ``DeepSVDD`` with the objective "one-class". All other labels are ignored: these rows count as
    unlabelled data, mostly normal. A y without -1 is refused if it consists of 0 and less than 35 %
    ones, of booleans, or contains a name such as "anomaly", since anomalies would be trained on as
    normal data; ``np.where(is_ood, -1, y)`` marks them. The authors weight rows that are known to
    be normal by eta too, which makes no difference for their default, eta = 1.

    Each epoch reads every row, in random order; its last batch is filled up with the first rows of
    the epoch. The data are standardised with the moments of the in-distribution rows.

    If rows are held out and outliers are known, the weights of the last epoch are kept, and
    `patience` of the backbone has no effect: held-out rows contain no outliers, so their loss
    cannot select the best epoch.

    References
    ----------
    .. [1] L. Ruff, R. A. Vandermeulen, N. Goernitz, A. Binder, E. Mueller, K.-R. Mueller
       and M. Kloft, "Deep Semi-Supervised Anomaly Detection", ICLR 2020. arXiv:1906.02694. Code:
       https://github.com/lukasruff/Deep-SAD-PyTorch

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, DeepSAD
    >>> X, y = load_iris(return_X_y=True)
    >>> rows = np.r_[:50, 50:55]  # The first class, and five known outliers.
    >>> labels = np.where(y == 0, 0, -1)
    >>> backbone = MLP((32,), optimizer="adam", learning_rate=1e-3, max_epochs=30)
    >>> detector = DeepSAD(backbone, n_latent=8, random_state=0).fit(X[rows], labels[rows])
    >>> bool(detector.score_samples(X[y == 0]).min() > detector.score_samples(X[y == 1]).max())
    True
    """

    eta: float = parameter(POSITIVE, default=1.0)

    _trains_on_outliers = True
    _unused = ("label_smoothing", "patience")

    @property
    def _needs_outliers_marked(self) -> bool:
        return True

    def _make_objective(self, task: Task) -> ClassifierObjective:
        if task.outliers is None:
            return HypersphereObjective(task)
        return _DeepSADObjective(task, task.outliers, self.eta)


class _DeepSADObjective(HypersphereObjective):
    """Distances of inliers (class index 0) and inverse distances of outliers (class index 1)."""

    epochs_compare = False

    couples_rows = None

    def __init__(self, task: Task, outliers: CheckedData, eta: float) -> None:
        n_inliers, n_outliers = len(task.data), len(outliers)
        everything = replace(
            task,
            data=CheckedData.concatenate([task.data, outliers]),
            class_indices=np.repeat([0, 1], [n_inliers, n_outliers]),
        )
        super().__init__(everything)
        self.outlier_rows = np.arange(n_inliers, n_inliers + n_outliers)
        self.eta = eta

    def epoch_batches(
        self, rows: npt.NDArray[np.integer], batch_size: int, rng: np.random.Generator
    ) -> Sequence[npt.NDArray[np.integer]]:
        # All rows, since there may be very few outliers.
        order = rng.permutation(np.concatenate([rows, self.outlier_rows]))
        size = min(batch_size, len(order))
        n_batches = math.ceil(len(order) / size)
        return np.split(np.resize(order, n_batches * size), n_batches)

    def loss(self, *batch: Tensor) -> Tensor:
        x, class_index = batch
        distance2 = self.squared_distance(x)
        return torch.where(class_index == 1, self.eta / (distance2 + _SMALL), distance2)
