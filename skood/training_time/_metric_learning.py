"""Training of VMDLS: variational metric learning of a latent space."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import NONNEGATIVE, POSITIVE, at_least, estimator, parameter
from skood.classifiers import MLP, ConvNet, NeuralClassifier
from skood.classifiers._network_classifier import last_linear
from skood.classifiers._objective import ClassifierObjective, Task
from skood.training_time._base import TrainingDetector
from skood.training_time._metric_losses import (
    class_balanced_batches,
    class_divergence,
    triplet_margin_loss,
)

__all__ = ["MetricLearningDetector", "MetricLearningObjective"]

# The margin before it grows.
_FIRST_MARGIN = 0.15
# Steps before the margin grows and the KL term counts: an epoch of 50 000 rows in batches of 80.
_FIRST_STEPS = 500
# Training has failed if the accuracy of the nearest class mean is less than this far above chance
# after at least this many epochs.
_ABOVE_CHANCE = 0.1
_EPOCHS_TO_JUDGE = 4
# Bounds of the logarithm of a variance, between which exp is finite.
_LOG_VARIANCES = -15.0, 15.0


@estimator
class MetricLearningDetector(TrainingDetector):
    r"""Base of VMDLS: a backbone with two heads, trained on the metric and the KL term.

    Parameters
    ----------
    backbone : NeuralClassifier or None, default=None
        Architecture and training; the two heads replace its last layer. The rows that its
        `validation_fraction` holds out calibrate the score and set the threshold; without held-out
        rows, all rows do. With `weights_init`, training is fine-tuning. `batch_size` and
        `label_smoothing` are not used. None: ``ConvNet(optimizer="adam", learning_rate=1e-3,
        weight_decay=1e-4, validation_fraction=0.1)`` for images, and
        :class:`~skood.classifiers.MLP` with the same parameters for rows.
    n_latent : int, default=32
        Number of latent dimensions.
    margin : float, default=32.0
        Final margin, the required distance between classes.
    margin_step : float, default=1.0
        Growth of the margin per epoch.
    margin_start_epoch : int or None, default=None
        Epoch, counted from 0, in which the margin first grows. None: the first epoch after 500
        steps, but no later than a third of the training, so that classes separate first. For MNIST
        and CIFAR-10 this is epoch 1. Steps that train the heads alone do not count.
    kl_weight : float, default=0.1
        Weight :math:`\lambda` of the KL term.
    kl_start_epoch : int or None, default=None
        Epoch, counted from 0, in which the KL term starts; it keeps classes in place. None: the
        default of `margin_start_epoch`.
    n_classes_per_batch : int, default=10
        Number of classes in a training batch.
    n_samples_per_batch : int, default=8
        Number of rows per class in a training batch.
    normalize_embeddings : bool, default=False
        Whether the metric term uses z scaled to unit length, as in the authors' code. Distances are
        then at most 2, and a larger margin has no effect.
    n_head_epochs : int, default=0
        Fine-tuning in two phases, for a backbone with `weights_init`: number of first epochs in
        which only the heads are trained. All weights are trained in the remaining epochs of the
        backbone's `max_epochs`. See Notes.
    head_learning_rate : float or None, default=None
        Learning rate of the heads in the first `n_head_epochs` epochs. The backbone's
        `learning_rate` applies to all weights afterwards, and its `lr_schedule` to both rates.
        None: `head_lr_scale` times the backbone's `learning_rate`.
    head_lr_scale : float, default=1.0
        Learning rate of the heads as a multiple of the backbone's learning rate, in all epochs in
        which `head_learning_rate` does not apply.
    """

    backbone: NeuralClassifier | None = parameter(NeuralClassifier, None, default=None)
    n_latent: int = parameter(at_least(1), default=32)
    margin: float = parameter(NONNEGATIVE, default=32.0)
    margin_step: float = parameter(NONNEGATIVE, default=1.0)
    margin_start_epoch: int | None = parameter(at_least(0), None, default=None)
    kl_weight: float = parameter(NONNEGATIVE, default=0.1)
    kl_start_epoch: int | None = parameter(at_least(0), None, default=None)
    n_classes_per_batch: int = parameter(at_least(2), default=10, kw_only=True)
    n_samples_per_batch: int = parameter(at_least(2), default=8, kw_only=True)
    normalize_embeddings: bool = parameter("boolean", default=False, kw_only=True)
    n_head_epochs: int = parameter(at_least(0), default=0, kw_only=True)
    head_learning_rate: float | None = parameter(POSITIVE, None, default=None, kw_only=True)
    head_lr_scale: float = parameter(POSITIVE, default=1.0, kw_only=True)

    _unused: ClassVar[tuple[str, ...]] = ("batch_size", "label_smoothing")

    def _default_architecture(self, data: CheckedData) -> NeuralClassifier:
        return (ConvNet if data.is_image else MLP)(
            optimizer="adam", learning_rate=1e-3, weight_decay=1e-4, validation_fraction=0.1
        )

    def _n_outputs(self, n_classes: int) -> int:
        return 2 * self.n_latent

    def _make_objective(self, task: Task) -> ClassifierObjective:
        counts = np.bincount(task.class_indices[task.training_rows], minlength=len(task.classes))
        if counts.min() < 2:
            label = task.classes[counts.argmin()].item()
            raise ValueError(
                f"y has {counts.min()} training row(s) of the class {label!r}, but VMDLS needs at "
                "least 2, for comparisons and a covariance; leave the class out, or lower "
                f"validation_fraction={task.classifier.validation_fraction}"
            )
        if task.classifier.patience is not None:
            raise ValueError(
                f"patience={task.classifier.patience} is given to the backbone, but the loss of "
                "VMDLS grows with its margin and cannot say when to stop; give patience=None"
            )
        if self.n_head_epochs and task.classifier.weights_init is None:
            raise ValueError(
                f"n_head_epochs={self.n_head_epochs} trains the heads on a backbone that keeps its "
                "weights, but the backbone has no trained weights; give it weights_init, or "
                "n_head_epochs=0"
            )
        if self.head_learning_rate is not None and not self.n_head_epochs:
            raise ValueError(
                f"head_learning_rate={self.head_learning_rate} is the rate of the first "
                "n_head_epochs epochs, but n_head_epochs=0; give n_head_epochs, or head_lr_scale "
                "for all epochs"
            )
        return MetricLearningObjective(task, self)

    def _check_training(self) -> None:
        accuracies = self.history_.get("validation_accuracy", [])
        chance = 1 / len(self.classes_)
        if len(accuracies) >= _EPOCHS_TO_JUDGE and accuracies[-1] < chance + _ABOVE_CHANCE:
            warnings.warn(
                "VMDLS did not separate the classes: in the latent space, "
                f"{100 * accuracies[-1]:.1f} % of the held-out rows are nearest to the mean of "
                f"their class, {100 * chance:.1f} % by chance. If the margin grows before the "
                "classes are apart, all latents collapse to one point: give a later "
                "margin_start_epoch or a smaller margin_step, or train for more epochs",
                stacklevel=6,
            )


class MetricLearningObjective(ClassifierObjective):
    """Metric and KL terms for draws from q(z | x), in batches balanced by class."""

    # The loss grows with the margin.
    epochs_compare = False

    couples_rows = "the loss compares the rows of a batch with each other"

    margin: Tensor
    kl_weight: Tensor
    class_means: Tensor
    class_sums: Tensor
    class_counts: Tensor

    def __init__(self, task: Task, detector: MetricLearningDetector) -> None:
        super().__init__(task)
        self.detector = detector
        n_classes = min(detector.n_classes_per_batch, len(task.classes))
        n_training = len(task.data) - len(task.held_out)
        n_steps = max(1, n_training // (n_classes * detector.n_samples_per_batch))
        classifier = task.classifier
        n_epochs = min(classifier.max_epochs, -(-(classifier.max_steps or math.inf) // n_steps))
        first = detector.n_head_epochs if detector.n_head_epochs < n_epochs else 0
        default = first + int(min(-(-_FIRST_STEPS // n_steps), (n_epochs - first) // 3))
        self.margin_start, self.kl_start = (
            default if epoch is None else epoch
            for epoch in (detector.margin_start_epoch, detector.kl_start_epoch)
        )
        # Tensors, since a compiled step would be recompiled for every Python number.
        for name in ("margin", "kl_weight"):
            self.register_buffer(name, torch.zeros((), device=self.device), persistent=False)
        shape = len(task.classes), detector.n_latent
        for name in ("class_means", "class_sums"):
            self.register_buffer(name, torch.zeros(shape, device=self.device))
        self.register_buffer("class_counts", torch.zeros(shape[0], 1, device=self.device))
        self.heads = list(last_linear(self.network).parameters())
        # Layers that the architecture itself fixes stay fixed in all epochs.
        self.body = [
            p for p in self.network.parameters() if p.requires_grad and not _is_in(p, self.heads)
        ]
        self.head_lr_scale = detector.head_lr_scale

    def epoch_batches(
        self, rows: npt.NDArray[np.integer], batch_size: int, rng: np.random.Generator
    ) -> list[npt.NDArray[np.integer]]:
        batches = class_balanced_batches(
            self.class_indices[rows],
            self.detector.n_classes_per_batch,
            self.detector.n_samples_per_batch,
            rng,
        )
        return [rows[batch] for batch in batches]

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = super().parameter_groups()
        for group in groups:
            group["params"] = [p for p in group["params"] if not _is_in(p, self.heads)]
        return [*groups, {"params": self.heads, "lr_scale": self.head_lr_scale}]

    def start_epoch(self, epoch: int, *, resumed: bool) -> None:
        detector = self.detector
        growth = detector.margin_step * max(0, epoch - self.margin_start + 1)
        self.margin.fill_(min(detector.margin, _FIRST_MARGIN + growth))
        self.kl_weight.fill_(detector.kl_weight if epoch >= self.kl_start else 0.0)
        heads_alone = epoch < detector.n_head_epochs
        for weight in self.body:
            weight.requires_grad_(not heads_alone)
        self.head_lr_scale = detector.head_lr_scale
        if heads_alone and detector.head_learning_rate is not None:
            self.head_lr_scale = detector.head_learning_rate / self.classifier.learning_rate
        if not resumed:
            seen = self.class_counts > 0
            means = self.class_sums / self.class_counts.clamp(min=1)
            self.class_means.copy_(torch.where(seen, means, self.class_means))
            self.class_sums.zero_()
            self.class_counts.zero_()

    def loss(self, *batch: Tensor) -> dict[str, Tensor]:
        x, class_index = batch
        mean, log_variance = self.network(x).float().chunk(2, 1)
        log_variance = log_variance.clamp(*_LOG_VARIANCES)
        z = mean
        if self.training:
            z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
            with torch.no_grad():
                self.class_sums.index_add_(0, class_index, z.detach())
                self.class_counts.index_add_(0, class_index, torch.ones_like(z[:, :1]))
        embeddings = F.normalize(z) if self.detector.normalize_embeddings else z
        divergence = class_divergence(z, mean, log_variance, class_index, self.class_means)
        return {
            "metric": triplet_margin_loss(embeddings, class_index, self.margin),
            "kl": self.kl_weight * divergence,
        }

    def metrics(self, *batch: Tensor) -> dict[str, Tensor]:
        x, class_index = batch
        mean = self.network(x)[:, : self.detector.n_latent]
        class_means = self.class_sums / self.class_counts.clamp(min=1)
        nearest = torch.cdist(mean, class_means).argmin(1)
        return {"accuracy": nearest == class_index}


def _is_in(parameter: nn.Parameter, parameters: list[nn.Parameter]) -> bool:
    return any(parameter is other for other in parameters)
