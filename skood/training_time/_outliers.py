"""Training with outliers in every batch, for Outlier Exposure and related methods."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._data.validation import check_data
from skood._estimator.parameters import POSITIVE, estimator, parameter
from skood._torch.seeding import Stream, numpy_rng
from skood.classifiers._objective import ClassifierObjective, Task
from skood.training_time._base import ClassifierTrainingDetector

__all__ = ["OutlierTrainingDetector"]


@estimator
class OutlierTrainingDetector(ClassifierTrainingDetector):
    """Base of the detectors that also train a classifier on outliers.

    A subclass writes ``_outlier_terms`` and ``_score``.

    Parameters
    ----------
    outliers : array-like, Tensor, Dataset, callable or None, default=None
        Outliers to train on, of shape (n_outliers, ...), with items as in X; or a function that
        makes them, such as :func:`skood.datasets.synthetic_outliers`, from the training rows,
        (n, d) or (n, C, H, W), and `random_state`. Rows with y == -1 are then not trained on. None:
        the rows with y == -1.
    outlier_ratio : float, default=2.0
        Number of outliers in a batch per in-distribution row.
    """

    outliers: Any = parameter("array-like", callable, None, default=None)
    outlier_ratio: float = parameter(POSITIVE, default=2.0, kw_only=True)

    _trains_on_outliers = True
    _unused = ("patience",)

    @property
    def _needs_outliers_marked(self) -> bool:
        return self.outliers is None

    def _training_outliers(
        self, known: CheckedData | None, seed: int
    ) -> CheckedData | Callable[[CheckedData], CheckedData]:
        if self.outliers is not None:
            if callable(self.outliers):
                return partial(_make, self.outliers, seed)
            return _opened(self.outliers)
        if known is None:
            raise ValueError(
                f"{type(self).__name__} trains on outliers, but y marks none and outliers=None; "
                'give rows with y == -1 ("-1" among strings), for example '
                "np.where(is_ood, -1, y); or give outliers=, a set of outliers or a function that "
                "makes them, such as skood.synthetic_outliers"
            )
        return known

    @abstractmethod
    def _outlier_terms(self, inliers: Tensor, outliers: Tensor) -> dict[str, Tensor]:
        """Compute the terms that are added to the cross-entropy of the inliers.

        Parameters
        ----------
        inliers : Tensor of shape (b, n_classes)
            Logits, float32.
        outliers : Tensor of shape (m, n_classes)
            Logits of the outliers; m is 0 in validation.

        Returns
        -------
        dict of str to Tensor
            Named terms of the loss, none of them empty.
        """

    def _make_objective(self, task: Task) -> ClassifierObjective:
        return _OutlierObjective(task, self)


def _make(make: Callable[..., Any], seed: int, inliers: CheckedData) -> CheckedData:
    random_state = int(numpy_rng(seed, Stream.TRAINING_OUTLIERS).integers(2**31 - 1))
    return _opened(make(inliers.take(np.arange(len(inliers))), random_state=random_state))


def _opened(outliers: Any) -> CheckedData:
    try:
        return check_data(BaseEstimator(), outliers, reset=True)
    except ValueError as error:
        raise ValueError(f"the outliers, here called X, cannot be read: {error}") from error


class _OutlierObjective(ClassifierObjective):
    """Cross-entropy of the inliers, and terms of the outliers that are added to every batch."""

    # Held-out rows contain no outliers, so their loss cannot select the best epoch.
    epochs_compare = False

    couples_rows = "the loss has separate means over the inliers and the outliers of a batch"

    def __init__(self, task: Task, detector: OutlierTrainingDetector) -> None:
        assert task.outliers is not None, "_training_outliers returned some"
        everything = CheckedData.concatenate([task.data, task.outliers])
        super().__init__(replace(task, data=everything))
        self.n_inliers, self.n_outliers = len(task.data), len(task.outliers)
        self.detector = detector

    def epoch_batches(
        self, rows: npt.NDArray[np.integer], batch_size: int, rng: np.random.Generator
    ) -> Sequence[npt.NDArray[np.integer]]:
        """Append outliers to batches of inliers; no outlier recurs before all have been used."""
        batches = super().epoch_batches(rows, batch_size, rng)
        n_added = max(1, round(self.detector.outlier_ratio * len(batches[0])))
        n_all = n_added * len(batches)
        passes = [rng.permutation(self.n_outliers) for _ in range(-(-n_all // self.n_outliers))]
        added = self.n_inliers + np.concatenate(passes)[:n_all].reshape(len(batches), n_added)
        return [np.concatenate(parts) for parts in zip(batches, added, strict=True)]

    def read(self, rows: npt.NDArray[np.integer]) -> tuple[npt.NDArray, ...]:
        """Fetch inliers and then outliers, and the class indices of the inliers."""
        return self.data.take(rows), self.class_indices[rows[rows < self.n_inliers]]

    def loss(self, *batch: Tensor) -> dict[str, Tensor]:
        x, class_index = batch
        logits = self.network(x).float()
        inliers, outliers = logits[: len(class_index)], logits[len(class_index) :]
        terms = self.detector._outlier_terms(inliers, outliers)
        return {"cross_entropy": self.cross_entropy(inliers, class_index), **terms}
