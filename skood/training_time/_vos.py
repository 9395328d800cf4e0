"""Classifier trained on virtual outliers, which are drawn around the features of each class."""

from __future__ import annotations

import numbers
import warnings

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Chi2

from skood._estimator.parameters import POSITIVE, Interval, at_least, estimator, parameter
from skood._torch.seeding import Stream, isolated_rng
from skood.classifiers._network_classifier import last_linear
from skood.classifiers._objective import ClassifierObjective, Task
from skood.classifiers._outputs import Outputs
from skood.functional import energy
from skood.training_time._base import ClassifierTrainingDetector

__all__ = ["VOS"]

# Variance added to every direction of the features.
_RIDGE = 1e-4
# Smallest weight of a class in the energy, so that its logarithm is finite.
_SMALLEST_WEIGHT = 1e-6


@estimator
class VOS(ClassifierTrainingDetector):
    r"""Virtual outlier synthesis: a classifier that learns to separate synthetic outliers.

    A Gaussian with mean :math:`\mu_k` and a covariance :math:`\Sigma` shared by all classes
    describes the penultimate features of each class k. Of `n_candidates` draws from each Gaussian,
    those with the lowest density are virtual outliers v. A logistic regression :math:`\phi` on the
    weighted energy E separates them from the data, and is trained together with the network [1]_.
    The loss is

    .. math:: \mathbb{E}[-\log p_y(x)] + \beta \, \mathbb{E}[\text{BCE}(\phi(E), \text{is } x)],
        \qquad E = -\log \sum_k \max(w_k, 0) \exp f_k

    with logits f of data and virtual outliers, and learned weights w. As in the released code, the
    score is the unweighted negative energy, :math:`\log \sum_k \exp f_k(x)`, in nats.

    Parameters
    ----------
    n_queue : int, default=1000
        Number of latest features of each class that the Gaussians are fitted to, at most the
        number of rows of the class.
    start_fraction : float, default=0.4
        Fraction of the training before virtual outliers start, at the beginning of an epoch. The
        paper starts at epoch 40 of 100.
    n_candidates : int, default=10000
        Draws from the Gaussian of each class per step.
    n_outliers_per_class : int, default=1
        Draws of each class that are virtual outliers.
    uncertainty_weight : float, default=0.1
        :math:`\beta`.

    Attributes
    ----------
    history_ : dict of str to list of float
        Of each epoch: "loss" and its terms "cross_entropy" and "uncertainty" (times its weight; 0
        before virtual outliers start); if rows were held out, "validation_loss" and
        "validation_cross_entropy".

    See Also
    --------
    EnergyRegularized : Learns the energies of real outliers.
    skood.posthoc.Energy : The same score of a classifier trained with cross-entropy.

    Notes
    -----
    :math:`\Sigma` is the covariance of all queues around their means, plus 1e-4 on its diagonal.
    The density of a Gaussian decreases with the Mahalanobis distance from its mean. The squared
    distance of a draw has a chi-squared distribution and is independent of its direction, so only
    distances are drawn for all candidates, and directions for the largest distances. The result has
    the distribution of the farthest of `n_candidates` draws.

    The negative energy is a convex function of the features: averaged over all directions, it is
    higher around a class mean than at the mean. This limits how far training can lower it for
    virtual outliers.

    As in the released code, the logistic regression has two outputs, and its cross-entropy is
    averaged over rows and virtual outliers together; the paper adds two averages. Virtual outliers
    start with an epoch, after all queues are full; `fit` warns if there were none. The validation
    loss has no virtual outliers, so the weights of the last epoch are kept. The classifier's
    `patience` and `compile` have no effect.

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

    n_queue: int = parameter(at_least(2), default=1000)
    start_fraction: float = parameter(Interval(numbers.Real, 0, 1, closed="left"), default=0.4)
    n_candidates: int = parameter(at_least(1), default=10000)
    n_outliers_per_class: int = parameter(at_least(1), default=1)
    uncertainty_weight: float = parameter(POSITIVE, default=0.1)

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
                f"VOS made no virtual outliers in {len(self.history_['loss'])} epochs, so its "
                "classifier was trained on cross-entropy alone. They start with an epoch, after "
                f"start_fraction={self.start_fraction} of the training, when each class has "
                f"n_queue={self.n_queue} features, or one for each of its rows. Give the "
                "classifier more max_epochs, or lower n_queue or start_fraction",
                stacklevel=6,
            )

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return energy(outputs.logits)


class _VOSObjective(ClassifierObjective):
    """Cross-entropy of the classes, and of the separation of data from virtual outliers."""

    # A hook reads the features, and virtual outliers cost more than a compiler saves.
    compiles = False

    # The validation loss has no virtual outliers and would favour epochs before they start.
    epochs_compare = False

    couples_rows = "virtual outliers depend on the features of all rows"

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
        """Replace the oldest features of each class."""
        of_class = F.one_hot(class_index, len(self.queues))
        # Position of each row among the rows of its class in this batch.
        number = of_class.cumsum(0).gather(1, class_index[:, None])[:, 0] - 1
        # If a class has more rows than its queue has places, the last rows stay.
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
        """Return the class means and the Cholesky factor of the covariance, for full queues."""
        features = self.queues.double()
        is_queued = torch.arange(features.shape[1], device=features.device) < self.n_queued[:, None]
        mean = features.sum(1) / self.n_queued[:, None]
        centered = ((features - mean[:, None]) * is_queued[:, :, None]).flatten(0, 1)
        covariance = centered.T @ centered / self.n_queued.sum()
        covariance.diagonal().add_(_RIDGE)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        # The loss becomes NaN, and the training loop raises an error with advice.
        return mean, torch.where(failed == 0, factor, torch.nan)

    def uncertainty(self, logits: Tensor, outliers: Tensor) -> Tensor:
        """Cross-entropy of the logistic regression, shape (b + n_outliers,)."""
        of_outliers = last_linear(self.network)(outliers)
        weight = self.class_weight.clamp_min(_SMALLEST_WEIGHT)
        negative_energy = torch.logsumexp(torch.cat([logits, of_outliers]) + weight.log(), 1)
        is_inlier = (torch.arange(len(negative_energy), device=logits.device) < len(logits)).long()
        estimate = self.logistic_regression(negative_energy[:, None])
        return F.cross_entropy(estimate, is_inlier, reduction="none")
