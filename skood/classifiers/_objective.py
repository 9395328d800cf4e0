"""Training of a classifier's network: the task, and the objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._torch.objective import Objective
from skood.classifiers._architecture import Architecture
from skood.classifiers._network_classifier import last_linear

__all__ = ["ClassifierObjective", "Task"]


@dataclass(frozen=True, eq=False)
class Task:
    """An untrained network, and the data to train it on.

    Parameters
    ----------
    network : Module
        The untrained network, on its device.
    classifier : NeuralClassifier
        The estimator that trains the network, with the parameters of the training.
    data : CheckedData
        In-distribution items, in the shape that the network reads.
    class_indices : ndarray of shape (n,)
        Class index of each item; 0 without labels.
    classes : ndarray of shape (n_classes,)
        Label of each class index; empty without labels.
    held_out : ndarray
        Rows of `data` that are not trained on.
    inliers : CheckedData
        The items of `data`, in the shape of X.
    outliers : CheckedData or None
        Outliers to train on, in the shape that the network reads.
    seed : int
        Seed of the fit.

    See Also
    --------
    ClassifierObjective : Objective of a task.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP
    >>> from skood.training_time import ClassifierTrainingDetector
    >>> class Counted(ClassifierTrainingDetector):
    ...     def _make_objective(self, task):
    ...         self.n_trained_ = len(task.training_rows)
    ...         return super()._make_objective(task)
    ...
    ...     def _score(self, outputs):
    ...         return outputs.log_proba.max(axis=1)
    >>> X, y = load_iris(return_X_y=True)
    >>> Counted(MLP((8,), max_epochs=1, validation_fraction=0.2)).fit(X, y).n_trained_
    120
    """

    network: nn.Module
    classifier: Architecture
    data: CheckedData
    class_indices: npt.NDArray[np.int64]
    classes: npt.NDArray
    held_out: npt.NDArray[np.integer]
    inliers: CheckedData
    outliers: CheckedData | None
    seed: int

    @property
    def training_rows(self) -> npt.NDArray[np.integer]:
        """Rows of `data` that are trained on."""
        return np.setdiff1d(np.arange(len(self.data)), self.held_out)


class ClassifierObjective(Objective):
    """Cross-entropy of a network on augmented and normalised items.

    A method with another loss overrides ``loss``, and whatever else differs. The parameters of an
    objective are trained; checkpoints contain its parameters and its buffers.

    Parameters
    ----------
    task : Task
        Network and data.

    See Also
    --------
    ClassifierTrainingDetector : Its ``_loss`` suffices for a loss without state.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP
    >>> from skood.training_time import ClassifierObjective, ClassifierTrainingDetector
    >>> class CenterObjective(ClassifierObjective):
    ...     # Center loss (Wen et al. 2016); `features_and_logits` registers a hook.
    ...     compiles = False
    ...
    ...     def __init__(self, task):
    ...         super().__init__(task)
    ...         shape = len(task.classes), task.network[-1].in_features
    ...         self.centers = torch.nn.Parameter(torch.zeros(shape, device=self.device))
    ...
    ...     def loss(self, x, class_index):
    ...         features, logits = self.features_and_logits(x)
    ...         distance = (features - self.centers[class_index]).square().sum(1)
    ...         cross_entropy = self.cross_entropy(logits.float(), class_index)
    ...         return {"cross_entropy": cross_entropy, "center": 0.01 * distance}
    >>> class CenterLoss(ClassifierTrainingDetector):
    ...     def _make_objective(self, task):
    ...         return CenterObjective(task)
    ...
    ...     def _score(self, outputs):
    ...         return outputs.logits.max(axis=1)
    >>> X, y = load_iris(return_X_y=True)
    >>> list(CenterLoss(MLP((8,), max_epochs=2), random_state=0).fit(X, y).history_)
    ['loss', 'cross_entropy', 'center']
    """

    couples_rows: str | None = None

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.network = task.network
        self.classifier = task.classifier
        self.data = task.data
        self.class_indices = task.class_indices
        self.reads_slowly = not task.data.in_memory

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    def network_input(
        self, items: npt.NDArray | Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Convert items of X to the network's input; augment them if a generator is given.

        Parameters
        ----------
        items : ndarray or Tensor of shape (b, ...)
        generator : torch.Generator or None
            On the device.

        Returns
        -------
        Tensor of shape (b, ...)
        """
        return self.classifier.network_input(items, self.device, generator, self.epoch)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of the network's parameters, and one of all other parameters.

        Returns
        -------
        list of dict
        """
        groups = self.classifier.parameter_groups(self.network, self.epoch)
        grouped = {id(parameter) for group in groups for parameter in group["params"]}
        others = [p for p in self.parameters() if id(p) not in grouped]
        return [*groups, {"params": others}] if others else groups

    def read(self, rows: npt.NDArray[np.integer]) -> tuple[npt.NDArray, ...]:
        """Fetch the items of a batch and their class indices.

        Parameters
        ----------
        rows : ndarray of shape (b,)

        Returns
        -------
        tuple of ndarray
        """
        return self.data.take(rows), self.class_indices[rows]

    def prepare(
        self, items: tuple[npt.NDArray, ...], generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        """Convert a batch to the network's input and class indices, on the device.

        Parameters
        ----------
        items : tuple of ndarray
            Result of `read`.
        generator : torch.Generator or None
            Draws the augmentation; None for validation items.

        Returns
        -------
        tuple of Tensor
        """
        values, class_indices = items
        x = self.network_input(values, generator)
        return x, torch.from_numpy(class_indices).to(self.device)

    def loss(self, *batch: Tensor) -> Tensor | dict[str, Tensor]:
        """Compute the cross-entropy of a batch.

        Parameters
        ----------
        *batch : Tensor
            Result of `prepare`.

        Returns
        -------
        Tensor of shape (b,), or dict of str to Tensor
        """
        x, class_index = batch
        return self.cross_entropy(self.network(x).float(), class_index)

    def cross_entropy(self, logits: Tensor, class_index: Tensor) -> Tensor:
        """Compute the cross-entropy of each row, in training with label smoothing.

        Parameters
        ----------
        logits : Tensor of shape (b, n_classes)
        class_index : Tensor of shape (b,)

        Returns
        -------
        Tensor of shape (b,)
        """
        smoothing = self.classifier.label_smoothing if self.training else 0.0
        return F.cross_entropy(logits, class_index, reduction="none", label_smoothing=smoothing)

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network, and return its penultimate features too; gradients pass through both.

        Parameters
        ----------
        x : Tensor of shape (b, ...)

        Returns
        -------
        features : Tensor of shape (b, d)
        logits : Tensor of shape (b, n_classes)
        """
        seen: list[Tensor] = []
        hook = last_linear(self.network).register_forward_pre_hook(
            lambda layer, args: seen.append(args[0])
        )
        try:
            logits = self.network(x)
        finally:
            hook.remove()
        return seen[0], logits
