"""Variational metric learning: balanced batches, the two terms of the loss, and the objective."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood._checked_data import CheckedData
from skood.classifiers import NeuralClassifier
from skood.classifiers._network_classifier import last_linear
from skood.classifiers._objective import ClassifierObjective

if TYPE_CHECKING:
    from skood.training_time._vmdls import VMDLS

__all__ = [
    "MetricLearningObjective",
    "class_balanced_batches",
    "class_divergence",
    "triplet_margin_loss",
]

# The margin before it grows.
_FIRST_MARGIN = 0.15
# Steps before the margin grows and the KL term counts: an epoch of 50 000 rows in batches of 80.
_FIRST_STEPS = 500
# Between these bounds of the logarithm of a variance, exp is finite.
_LOG_VARIANCES = -15.0, 15.0


def class_balanced_batches(
    class_indices: npt.NDArray[np.integer],
    n_classes_per_batch: int,
    n_samples_per_batch: int,
    rng: np.random.Generator,
) -> list[npt.NDArray[np.intp]]:
    """Divide rows into batches with the same number of rows of each of a few classes.

    Parameters
    ----------
    class_indices : ndarray of shape (n,)
    n_classes_per_batch : int
        Different classes in a batch, drawn at random; all of them, where there are fewer.
    n_samples_per_batch : int
        Rows of each of these. A class goes through its rows in random order before one comes again.
    rng : numpy Generator

    Returns
    -------
    list of ndarray of shape (n_classes_per_batch * n_samples_per_batch,)
        Rows, class by class. There are as many batches as the n rows would fill, and at least one.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.training_time import class_balanced_batches
    >>> labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2])
    >>> batches = class_balanced_batches(labels, 2, 2, np.random.default_rng(0))
    >>> [labels[batch].tolist() for batch in batches]
    [[1, 1, 2, 2], [2, 2, 0, 0]]
    """
    classes = np.unique(class_indices)
    rows_of = {k: np.flatnonzero(class_indices == k) for k in classes}
    waiting = {k: np.empty(0, np.intp) for k in classes}
    n_classes = min(n_classes_per_batch, len(classes))

    def next_rows(k: int) -> npt.NDArray[np.intp]:
        while len(waiting[k]) < n_samples_per_batch:
            waiting[k] = np.concatenate([waiting[k], rng.permutation(rows_of[k])])
        rows, waiting[k] = np.split(waiting[k], [n_samples_per_batch])
        return rows

    n_batches = max(1, len(class_indices) // (n_classes * n_samples_per_batch))
    return [
        np.concatenate([next_rows(k) for k in rng.choice(classes, n_classes, replace=False)])
        for _ in range(n_batches)
    ]


def triplet_margin_loss(
    embeddings: Tensor, class_index: Tensor, margin: float | Tensor, *, gap: float = 0.1
) -> Tensor:
    r"""Triplet loss with a margin between classes, over all triplets of a batch.

    For every anchor a, every other row p of its class and every row n of another class, with d the
    Euclidean distance,

    .. math:: t = \max(0, d_{ap} - d_{an} + \text{gap}) + \max(0, M - d_{an})

    and the loss is the mean of the :math:`t > 0`.

    Parameters
    ----------
    embeddings : Tensor of shape (b, d)
    class_index : Tensor of shape (b,)
    margin : float or Tensor of shape ()
        M, the distance between classes that is asked for.
    gap : float, default=0.1
        How much nearer rows of the same class have to be.

    Returns
    -------
    Tensor of shape ()
        0 where no t is positive, as in a batch of a single class.

    Notes
    -----
    The number of triplets grows with b cubed, 2.9 million for 400 rows of 20 classes, but none of
    them is visited: with the distances :math:`d_{an}` of an anchor in ascending order, the sum over
    n is that of the first few, so that time and memory grow with b squared only.

    References
    ----------
    .. [1] O. Dinari and O. Freifeld, "Variational- and Metric-based Deep Latent Space for
       Out-of-Distribution Detection", UAI 2022.

    Examples
    --------
    >>> import torch
    >>> from skood.training_time import triplet_margin_loss
    >>> z = torch.tensor([[0.0], [1.0], [3.0]])
    >>> triplet_margin_loss(z, torch.tensor([0, 0, 1]), margin=4.0)
    tensor(1.5000)
    """
    # By matrix products, small distances would be rounding errors of large norms.
    distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    same = class_index[:, None] == class_index
    itself = torch.eye(len(same), dtype=torch.bool, device=same.device)
    positive = same & ~itself
    # Row a: the d_an in ascending order, then infinity.
    negatives = distances.masked_fill(same, math.inf).sort(1).values
    sums = F.pad(negatives.masked_fill(negatives.isinf(), 0.0).cumsum(1), (1, 0))
    limits = distances + gap
    n_near = torch.searchsorted(negatives.detach(), limits.detach())
    nearer = n_near * limits - sums.gather(1, n_near)
    apart = F.relu(margin - negatives).sum(1)
    total = torch.where(positive, nearer, 0.0).sum() + (apart * positive.sum(1)).sum()
    reach = limits.detach().clamp(min=margin)
    n_active = torch.where(positive, torch.searchsorted(negatives.detach(), reach), 0).sum()
    return total / n_active.clamp(min=1)


def class_divergence(
    z: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    class_index: Tensor,
    class_means: Tensor,
    *,
    scale: float = 0.1,
) -> Tensor:
    r"""Kullback-Leibler divergence of q(z | x) from a Gaussian of its class, by one draw.

    The mean over the classes of the batch, and in each over its rows and all latent dimensions, of

    .. math:: \log \mathcal{N}(z; \mu(x), \sigma(x)) - \log \mathcal{N}(z; m_y, \text{scale})

    in nats per dimension.

    Parameters
    ----------
    z : Tensor of shape (b, n_latent)
        Draws from q(z | x).
    mean, log_variance : Tensor of shape (b, n_latent)
        Of q(z | x).
    class_index : Tensor of shape (b,)
    class_means : Tensor of shape (n_classes, n_latent)
        The m.
    scale : float, default=0.1
        Standard deviation of the Gaussian of a class.

    Returns
    -------
    Tensor of shape ()

    References
    ----------
    .. [1] O. Dinari and O. Freifeld, "Variational- and Metric-based Deep Latent Space for
       Out-of-Distribution Detection", UAI 2022.

    Examples
    --------
    >>> import torch
    >>> from skood.training_time import class_divergence
    >>> z, zeros = torch.tensor([[0.1]]), torch.zeros(1, 1)
    >>> class_divergence(z, zeros, zeros, torch.tensor([0]), zeros)
    tensor(-1.8076)
    """
    log_q = -(log_variance + (z - mean).square() / log_variance.exp()) / 2
    log_p = -math.log(scale) - ((z - class_means[class_index]) / scale).square() / 2
    of_rows = (log_q - log_p).mean(1)
    zeros = of_rows.new_zeros(len(class_means))
    sums = zeros.index_add(0, class_index, of_rows)
    counts = zeros.index_add(0, class_index, torch.ones_like(of_rows))
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum()


class MetricLearningObjective(ClassifierObjective):
    """Metric and KL terms of draws from q(z | x), in batches balanced by class."""

    # The margin grows, and the loss with it.
    epochs_compare = False

    margin: Tensor
    kl_weight: Tensor
    class_means: Tensor
    class_sums: Tensor
    class_counts: Tensor

    def __init__(
        self,
        network: nn.Module,
        classifier: NeuralClassifier,
        data: CheckedData,
        class_indices: npt.NDArray[np.int64],
        detector: VMDLS,
        n_training: int,
    ) -> None:
        super().__init__(network, classifier, data, class_indices)
        self.detector = detector
        n_classes = min(detector.n_classes_per_batch, len(classifier.classes_))
        n_steps = max(1, n_training // (n_classes * detector.n_samples_per_batch))
        n_epochs = min(classifier.max_epochs, -(-(classifier.max_steps or math.inf) // n_steps))
        default = int(min(-(-_FIRST_STEPS // n_steps), n_epochs // 3))
        self.margin_start, self.kl_start = (
            default if epoch is None else epoch
            for epoch in (detector.margin_start_epoch, detector.kl_start_epoch)
        )
        # Tensors, since a compiled step would be recompiled for every Python number.
        for name in ("margin", "kl_weight"):
            self.register_buffer(name, torch.zeros((), device=self.device), persistent=False)
        shape = len(classifier.classes_), detector.n_latent
        for name in ("class_means", "class_sums"):
            self.register_buffer(name, torch.zeros(shape, device=self.device))
        self.register_buffer("class_counts", torch.zeros(shape[0], 1, device=self.device))

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
        heads = list(last_linear(self.network).parameters())
        return [
            {"params": self._body()},
            {"params": heads, "lr_scale": self.detector.head_lr_scale},
        ]

    def _body(self) -> list[nn.Parameter]:
        heads = {id(parameter) for parameter in last_linear(self.network).parameters()}
        return [p for p in self.network.parameters() if id(p) not in heads]

    def start_epoch(self, epoch: int, *, resumed: bool) -> None:
        detector = self.detector
        growth = detector.margin_step * max(0, epoch - self.margin_start + 1)
        self.margin.fill_(min(detector.margin, _FIRST_MARGIN + growth))
        self.kl_weight.fill_(detector.kl_weight if epoch >= self.kl_start else 0.0)
        for parameter in self._body():
            parameter.requires_grad_(epoch >= detector.n_head_epochs)
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
