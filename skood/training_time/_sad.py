"""Deep semi-supervised anomaly detection: Deep SVDD that also trains on known outliers."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._data.labels import check_labels, is_outlier
from skood._data.outliers import MOST_OUTLIERS, other_convention
from skood._estimator.parameters import POSITIVE, estimator, parameter
from skood.classifiers._objective import ClassifierObjective, Task
from skood.training_time._pretraining import batches_of_all, with_outliers
from skood.training_time._svdd import HypersphereDetector, HypersphereObjective

__all__ = ["DeepSAD"]

# Added to a squared distance before it is inverted.
_SMALL = 1e-6


@estimator
class DeepSAD(HypersphereDetector):
    r"""Deep semi-supervised anomaly detection.

    A network phi without bias terms is trained to map the data close to a center c, as in
    :class:`DeepSVDD`, and known outliers far from c. With n unlabelled rows x, mostly normal, and m
    labelled rows :math:`\tilde x` with the labels :math:`\tilde y = +1` (normal) and -1 (outlier),
    the objective is

    .. math:: \frac{1}{n + m} \sum_{i=1}^{n} \lVert \varphi(x_i) - c \rVert^2
        + \frac{\eta}{n + m} \sum_{j=1}^{m}
        \left(\lVert \varphi(\tilde x_j) - c \rVert^2 + 10^{-6}\right)^{\tilde y_j}

    (equation 7 of [1]_, whose last term is the `weight_decay` of the backbone). The score is
    :math:`-\lVert \varphi(x) - c \rVert^2`.

    Parameters
    ----------
    eta : float, default=1.0
        Weight :math:`\eta` of a labelled row; unlabelled rows have the weight 1.
    normal_label : int, str or None, default=None
        Label in y of rows that are known to be normal. Rows with y == -1 are known outliers, and
        rows with any other label are unlabelled. None: no row is known to be normal.

    Attributes
    ----------
    center_ : ndarray of shape (n_latent,), float64
        c, the mean output for all training rows, outliers included, before this training.
    history_ : dict of str to list of float
        Of each epoch: "loss" and, if rows were held out, "validation_loss", of in-distribution rows
        alone.

    See Also
    --------
    DeepSVDD : The same without known outliers; states why the network has no bias terms.

    Notes
    -----
    Unlike most detectors, this one trains on rows with y == -1. Without such rows and without
    `normal_label`, it is ``DeepSVDD`` with the objective "one-class". A y without -1 is refused if
    its labels, `normal_label` excepted, are 0 and less than 35 % ones, are booleans, or contain a
    name such as "anomaly", since anomalies would be trained on as normal data;
    ``np.where(is_ood, -1, y)`` marks them.

    With ``normal_label=1``, y has the labels of the authors' code: 1 for normal, -1 for anomalous
    and 0 for unlabelled rows. The classifiers of :mod:`sklearn.semi_supervised` mark *unlabelled*
    rows by -1 instead: relabel them, for example with ``np.where(y == -1, 0, 1)``. For the default
    eta = 1, labels of normal rows make no difference.

    An autoencoder of `n_pretraining_epochs` learns all rows, known outliers included.

    With known outliers, each epoch reads every row, in random order; its last batch is filled up
    with the first rows of the epoch. The data are standardised with the moments of the
    in-distribution rows.

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
    >>> labels[:10] = 1  # Ten rows are known to be normal.
    >>> weighted = DeepSAD(backbone, n_latent=8, eta=2.0, normal_label=1, random_state=0)
    >>> weighted.fit(X[rows], labels[rows]).predict(X[:1])
    array([1])
    """

    eta: float = parameter(POSITIVE, default=1.0)
    normal_label: int | str | None = parameter(
        numbers.Integral, str, None, default=None, kw_only=True
    )

    _trains_on_outliers = True
    _unused = ("label_smoothing", "patience")

    @property
    def _needs_outliers_marked(self) -> bool:
        return True

    def _split_outliers(
        self, data: CheckedData, y: Any
    ) -> tuple[CheckedData, npt.NDArray | None, CheckedData | None]:
        if self.normal_label is None:
            return super()._split_outliers(data, y)
        if y is None:
            raise self._missing_label("y is None")
        labels = check_labels(y, len(data))
        if is_outlier(labels).any():
            return super()._split_outliers(data, y)
        # A rare label 1 is no sign of anomalies if it is the label of normal rows.
        found = other_convention(labels[labels != self.normal_label], largest=MOST_OUTLIERS)
        if found is not None:
            raise ValueError(found)
        return data, labels, None

    def _training_labels(self, y: npt.NDArray | None) -> npt.NDArray | None:
        """Return 1 for rows known to be normal and 0 for others; None if all or none are known."""
        if self.normal_label is None:
            return None
        is_normal = np.zeros(0, bool) if y is None else np.asarray(y == self.normal_label)
        if not is_normal.any():
            raise self._missing_label("no such label is in y")
        return None if is_normal.all() else is_normal.astype(int)

    def _missing_label(self, problem: str) -> ValueError:
        return ValueError(
            f"normal_label={self.normal_label!r} is given, but {problem}; give y with this label "
            "for rows known to be normal, -1 for known outliers and any other label for unlabelled "
            "rows, or normal_label=None if no row is known to be normal"
        )

    def _make_objective(self, task: Task) -> ClassifierObjective:
        if task.outliers is None and self.normal_label is None:
            return HypersphereObjective(task, self._encoder)
        return _DeepSADObjective(task, self)


class _DeepSADObjective(HypersphereObjective):
    """Distances of unlabelled, normal and outlying rows (class indices 0, 1 and 2)."""

    couples_rows = None

    def __init__(self, task: Task, detector: DeepSAD) -> None:
        if detector.normal_label is not None and not len(task.classes):
            task = replace(task, class_indices=np.ones_like(task.class_indices))
        everything, self.outlier_rows = with_outliers(task)
        super().__init__(everything, detector._encoder)
        # Held-out rows contain no outliers.
        self.epochs_compare = task.outliers is None
        self.eta = detector.eta

    def epoch_batches(
        self, rows: npt.NDArray[np.integer], batch_size: int, rng: np.random.Generator
    ) -> Sequence[npt.NDArray[np.integer]]:
        if len(self.outlier_rows):
            # All rows, since there may be very few outliers.
            return batches_of_all(np.concatenate([rows, self.outlier_rows]), batch_size, rng)
        return super().epoch_batches(rows, batch_size, rng)

    def loss(self, *batch: Tensor) -> Tensor:
        x, kind = batch
        distance2 = self.squared_distance(x)
        labelled = distance2 + _SMALL
        labelled = self.eta * torch.where(kind == 2, labelled.reciprocal(), labelled)
        return torch.where(kind == 0, distance2, labelled)
