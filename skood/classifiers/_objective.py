"""Training objective of a classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood._checked_data import CheckedData
from skood._torch.objective import Objective
from skood.classifiers._network_classifier import last_linear

if TYPE_CHECKING:
    from skood.classifiers._base import NeuralClassifier

__all__ = ["ClassifierObjective"]


class ClassifierObjective(Objective):
    """Cross-entropy of a network on augmented and normalised items.

    Methods with another objective override ``loss`` and whatever else differs.

    Parameters
    ----------
    network : Module
        Outputs logits; on its device.
    classifier : NeuralClassifier
        Supplies augmentation, normalisation and label smoothing.
    data : CheckedData
        As preprocessed by the classifier.
    class_indices : ndarray of shape (n,)
        Class indices of the items of `data`.
    """

    def __init__(
        self,
        network: nn.Module,
        classifier: NeuralClassifier,
        data: CheckedData,
        class_indices: npt.NDArray[np.int64],
    ) -> None:
        super().__init__()
        self.network = network
        self.classifier = classifier
        self.data = data
        self.class_indices = class_indices
        self.reads_slowly = not data.in_memory

    def network_input(
        self, items: npt.NDArray | Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Normalise items in the units of X, and augment them if a generator is given."""
        return self.classifier._batch(items, self.device, generator)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def read(self, rows: npt.NDArray[np.integer]) -> tuple[npt.NDArray, ...]:
        return self.data.take(rows), self.class_indices[rows]

    def prepare(
        self, items: tuple[npt.NDArray, ...], generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        images, class_indices = items
        x = self.network_input(images, generator)
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
