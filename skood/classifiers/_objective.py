"""Training of a classifier's network: the task, and the objective."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood._checked_data import CheckedData
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

    A method with another loss overrides ``loss``, and whatever else differs.

    Parameters
    ----------
    task : Task
        The network and the data.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.network = task.network
        self.classifier = task.classifier
        self.data = task.data
        self.class_indices = task.class_indices
        self.reads_slowly = not task.data.in_memory

    def network_input(
        self, items: npt.NDArray | Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Normalise items in the units of X, and augment them if a generator is given."""
        return self.classifier.network_input(items, self.device, generator)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    def read(self, rows: npt.NDArray[np.integer]) -> tuple[npt.NDArray, ...]:
        return self.data.take(rows), self.class_indices[rows]

    def prepare(
        self, items: tuple[npt.NDArray, ...], generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        values, class_indices = items
        x = self.network_input(values, generator)
        return x, torch.from_numpy(class_indices).to(self.device)

    def loss(self, *batch: Tensor) -> Tensor | dict[str, Tensor]:
        x, class_index = batch
        return self.cross_entropy(self.network(x).float(), class_index)

    def cross_entropy(self, logits: Tensor, class_index: Tensor) -> Tensor:
        """Cross-entropy of each row, of smoothed labels in training, shape (b,)."""
        smoothing = self.classifier.label_smoothing if self.training else 0.0
        return F.cross_entropy(logits, class_index, reduction="none", label_smoothing=smoothing)

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network, and return its penultimate features as well, with their gradients."""
        seen: list[Tensor] = []
        hook = last_linear(self.network).register_forward_pre_hook(
            lambda layer, args: seen.append(args[0])
        )
        try:
            logits = self.network(x)
        finally:
            hook.remove()
        return seen[0], logits
