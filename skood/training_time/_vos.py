"""Classifier that is trained on virtual outliers, drawn around the features of each class."""

from __future__ import annotations

import numbers
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.special import logsumexp
from torch import Tensor, nn
from torch.distributions import Chi2

from skood._parameters import Interval, estimator, parameter
from skood._torch.seeding import Stream, isolated_rng
from skood.classifiers._network_classifier import last_linear
from skood.classifiers._objective import ClassifierObjective, Task
from skood.classifiers._outputs import Outputs
from skood.training_time._base import ClassifierTrainingDetector

__all__ = ["VOS"]

# Variance that is added to every direction of the features.
_RIDGE = 1e-4
# Smallest weight of a class in the energy, whose logarithm is finite.
_SMALLEST_WEIGHT = 1e-6


@estimator
class VOS(ClassifierTrainingDetector):
    r"""Virtual outlier synthesis: a classifier that learns the energy of outliers it makes up.

    The penultimate features of each class k are described by a Gaussian with mean :math:`\mu_k` and
    a covariance :math:`\Sigma` that all classes share. Of `n_candidates` draws from each Gaussian
    those with the lowest density are virtual outliers v. A logistic regression
    :math:`\phi` on the weighted energy E learns to tell them from the data, and shapes both with
    the network [1]_. The loss is

    .. math:: \mathbb{E}[-\log p_y(x)] + \beta \, \mathbb{E}[\text{BCE}(\phi(E), \text{is } x)],
        \qquad E = -\log \sum_k \max(w_k, 0) \exp f_k

    with logits f of data and virtual outliers, and weights w that are learned. The score is
    the plain negative energy, :math:`\log \sum_k \exp f_k(x)`, in nats, as in the released code.

    Parameters
    ----------
    n_queue : int, default=1000
        Latest features of each class that the Gaussians are fitted to; as many as the class has
        rows, if these are fewer.
    start_fraction : float, default=0.4
        Part of the training after which virtual outliers are made, at the beginning of an epoch.
        The paper starts at epoch 40 of 100.
    n_candidates : int, default=10000
        Draws from the Gaussian of each class in a step.
    n_outliers_per_class : int, default=1
        Virtual outliers among them.
    uncertainty_weight : float, default=0.1
        :math:`\beta`.

    Attributes
    ----------
    history_ : dict of str to list of float
        Of each epoch: "loss" and its terms "cross_entropy" and "uncertainty" (with its weight; 0
        until virtual outliers are made); where rows were held out, "validation_loss" and
        "validation_cross_entropy".

    See Also
    --------
    EnergyRegularized : Learns the energy of real outliers.
    skood.posthoc.Energy : The same score of a classifier that was trained as usual.

    Notes
    -----
    :math:`\Sigma` is the covariance of all queues around their means, plus 1e-4 on its diagonal.
    The density of a Gaussian falls with the Mahalanobis distance from its mean, whose square has a
    chi-squared distribution and says nothing of the direction. So the distances of all candidates
    are drawn, and directions of the largest alone: the same distribution as that of the farthest of
    `n_candidates` draws, at less cost.

    As a function of the features, the negative energy is convex: averaged over all directions it is
    higher around a mean than at it, which limits how low that of virtual outliers can be made.

    As in the released code, the logistic regression has two outputs, and its cross-entropy is
    averaged over rows and virtual outliers together; the paper adds two averages. Virtual outliers
    begin once all queues are full, and with an epoch; `fit` warns if there were none. The
    validation loss has none of them, so the weights of the last epoch are kept and the classifier's
    `patience` has no effect; nor has `compile`.

    References
    ----------
    .. [1] X. Du, Z. Wang, M. Cai and Y. Li, "VOS: Learning What You Don't Know by Virtual Outlier
       Synthesis", ICLR 2022, section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, VOS
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = VOS(MLP((16,), max_epochs=20), random_state=0).fit(X, y)
    >>> detector.score_samples(X).shape, detector.predict_class(X[:1])
    ((150,), array([0]))
    """

    n_queue: int = parameter(Interval(numbers.Integral, 2, None, closed="left"), default=1000)
    start_fraction: float = parameter(Interval(numbers.Real, 0, 1, closed="left"), default=0.4)
    n_candidates: int = parameter(Interval(numbers.Integral, 1, None, closed="left"), default=10000)
    n_outliers_per_class: int = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), default=1
    )
    uncertainty_weight: float = parameter(
        Interval(numbers.Real, 0, None, closed="neither"), default=0.1
    )

    _unused = ("patience",)

    def _make_objective(self, task: Task) -> ClassifierObjective:
        if self.n_outliers_per_class > self.n_candidates:
            raise ValueError(
                f"n_outliers_per_class={self.n_outliers_per_class} of "
                f"n_candidates={self.n_candidates}; expected no more outliers than candidates"
            )
        return _VOSObjective(task, self)

    def _check_training(self) -> None:
        if not any(self.history_.get("uncertainty", ())):
            warnings.warn(
                f"VOS made no virtual outliers in {len(self.history_['loss'])} epochs, so that its "
                "classifier was trained on cross-entropy alone. They begin with an epoch, after "
                f"start_fraction={self.start_fraction} of the training, once there are "
                f"n_queue={self.n_queue} features of each class, or as many as it has rows. Give "
                "the classifier more max_epochs, or lower n_queue or start_fraction",
                stacklevel=5,
            )

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return logsumexp(outputs.logits, axis=1)


class _VOSObjective(ClassifierObjective):
    """Cross-entropy of the classes, and of telling the energies of data and virtual outliers."""

    # Features come by a hook, and virtual outliers cost more than what a compiler saves.
    compiles = False

    # The validation loss has no virtual outliers and would favour epochs before they start.
    epochs_compare = False

    queues: Tensor
    n_queued: Tensor
    n_seen: Tensor
    is_synthesizing: Tensor

    def __init__(self, task: Task, detector: VOS) -> None:
        super().__init__(task)
        self.detector = detector
        rows, classifier = task.training_rows, task.classifier
        epochs = classifier.max_epochs
        if classifier.max_steps is not None:
            steps_per_epoch = max(1, len(rows) // classifier.batch_size)
            epochs = min(epochs, -(-classifier.max_steps // steps_per_epoch))
        self.first_epoch = round(detector.start_fraction * epochs)
        with isolated_rng(self.device, task.seed, Stream.UNCERTAINTY):
            self.class_weight = nn.Parameter(torch.rand(len(task.classes), device=self.device))
            self.logistic_regression = nn.Linear(1, 2, device=self.device)
        n_queued = np.minimum(np.bincount(task.class_indices[rows]), detector.n_queue)
        shape = len(task.classes), int(n_queued.max()), last_linear(task.network).in_features
        self.register_buffer("queues", torch.zeros(shape, device=self.device))
        self.register_buffer("n_queued", torch.as_tensor(n_queued, device=self.device))
        self.register_buffer("n_seen", torch.zeros_like(self.n_queued))
        self.register_buffer("is_synthesizing", torch.tensor(False))
        self.synthesizes = False

    def parameter_groups(self) -> list[dict[str, Any]]:
        # Apart, since all the parameters of a group must get their first gradient in one step.
        own = [self.class_weight, *self.logistic_regression.parameters()]
        return [{"params": list(self.network.parameters())}, {"params": own}]

    def start_epoch(self, epoch: int, *, resumed: bool) -> None:
        if not resumed and epoch >= self.first_epoch:
            self.is_synthesizing.fill_(bool((self.n_seen >= self.n_queued).all()))
        self.synthesizes = bool(self.is_synthesizing)

    def loss(self, *batch: Tensor) -> dict[str, Tensor]:
        x, class_index = batch
        features, logits = self.features_and_logits(x)
        logits = logits.float()
        terms = {"cross_entropy": self.cross_entropy(logits, class_index)}
        if not self.training:
            return terms
        uncertainty = logits.new_zeros(1)
        with torch.autocast(x.device.type, enabled=False):
            self.enqueue(features.detach().float(), class_index)
            if self.synthesizes:
                uncertainty = self.uncertainty(logits, self.virtual_outliers())
        return {**terms, "uncertainty": self.detector.uncertainty_weight * uncertainty}

    @torch.no_grad()
    def enqueue(self, features: Tensor, class_index: Tensor) -> None:
        """Put features in the place of the oldest ones of their class."""
        of_class = F.one_hot(class_index, len(self.queues))
        # Number of each row among those of its class in this batch.
        number = of_class.cumsum(0).gather(1, class_index[:, None])[:, 0] - 1
        # Of more rows than a queue has places the last ones stay.
        is_kept = number >= (of_class.sum(0) - self.n_queued)[class_index]
        place = (self.n_seen[class_index] + number) % self.n_queued[class_index]
        self.queues[class_index[is_kept], place[is_kept]] = features[is_kept]
        self.n_seen += of_class.sum(0)

    @torch.no_grad()
    def virtual_outliers(self) -> Tensor:
        """Draw the candidates of lowest density, shape (n_classes * n_outliers_per_class, d)."""
        mean, factor = self.gaussians()
        n_classes, n_features = mean.shape
        squared = Chi2(mean.new_tensor(float(n_features))).sample(
            torch.Size([n_classes, self.detector.n_candidates])
        )
        distance = squared.topk(self.detector.n_outliers_per_class, 1).values.sqrt()
        direction = torch.randn(*distance.shape, n_features, dtype=mean.dtype, device=mean.device)
        steps = distance[:, :, None] * F.normalize(direction, dim=2) @ factor.T
        return (mean[:, None] + steps).flatten(0, 1).float()

    def gaussians(self) -> tuple[Tensor, Tensor]:
        """Mean of each class and the Cholesky factor of their covariance, of full queues."""
        features = self.queues.double()
        is_queued = torch.arange(features.shape[1], device=features.device) < self.n_queued[:, None]
        mean = features.sum(1) / self.n_queued[:, None]
        centered = ((features - mean[:, None]) * is_queued[:, :, None]).flatten(0, 1)
        covariance = centered.T @ centered / self.n_queued.sum()
        covariance.diagonal().add_(_RIDGE)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        # The loss becomes NaN, of which the training loop says what to do.
        return mean, torch.where(failed == 0, factor, torch.nan)

    def uncertainty(self, logits: Tensor, outliers: Tensor) -> Tensor:
        """Cross-entropy of telling data from virtual outliers, shape (b + n_outliers,)."""
        of_outliers = last_linear(self.network)(outliers)
        weight = self.class_weight.clamp_min(_SMALLEST_WEIGHT)
        negative_energy = torch.logsumexp(torch.cat([logits, of_outliers]) + weight.log(), 1)
        is_inlier = (torch.arange(len(negative_energy), device=logits.device) < len(logits)).long()
        estimate = self.logistic_regression(negative_energy[:, None])
        return F.cross_entropy(estimate, is_inlier, reduction="none")
