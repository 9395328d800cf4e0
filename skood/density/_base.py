"""What every neural density does: check, train, score in batches, travel between devices."""

from __future__ import annotations

import numbers
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import DensityMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d
from torch import Tensor, nn

from skood._data import Source, check_scores
from skood._parameters import Interval, StrOptions, fit_context
from skood._torch.batching import map_batches, scoring_batch_size
from skood._torch.device import resolve_device
from skood._torch.estimator import NeuralEstimator
from skood._torch.seeding import draw_seed, isolated_rng
from skood._torch.training import TrainingSettings, train

__all__ = ["NeuralDensity", "standardization", "swap_columns"]


class NeuralDensity(DensityMixin, NeuralEstimator, metaclass=ABCMeta):
    """Base of the densities that are torch networks.

    A subclass names its own parameters in ``__init__``, takes those below as ``**training``, and
    writes ``_open`` (what data it takes), ``_build`` (its network), ``_tensor`` (an array of items
    as the network's input), ``_log_prob`` and ``_mutate``.

    Parameters
    ----------
    mutation_rate : float, default=0.0
        Probability with which each value of a training batch is replaced, drawn afresh for every
        batch: of pixels by a draw from all levels, of rows by one from the training values of its
        feature. For background models.
    reg_weight : float, default=0.0
        Weight of the sum of squared kernel weights, added once to the mean loss of a batch, in
        nats per item. For background models.
    max_epochs : int, default=100
        Passes over the training data, if `max_steps` does not end training before.
    max_steps : int or None, default=None
        Batches to train on at most.
    batch_size : int, default=128
        Items in a training batch.
    learning_rate : float, default=0.002
        At its highest.
    optimizer : {"adam", "rmsprop"}, default="adam"
        What follows the gradient.
    betas : tuple of float, default=(0.9, 0.999)
        Decay rates of Adam's moments.
    lr_schedule : {"cosine", "exponential", "constant"}, default="cosine"
        "cosine" warms up and decays to 1 % of `learning_rate`; "exponential" multiplies it by
        `lr_decay` after every step.
    lr_decay : float, default=0.999995
        See `lr_schedule`.
    clip_norm : float or None, default=None
        Largest norm of a gradient; longer ones are scaled down.
    validation_fraction : float, default=0.1
        Part of the data kept out of training; the weights of the epoch with the lowest loss on
        it are kept.
    patience : int or None, default=None
        Epochs without a lower validation loss after which training stops.
    precision : {"auto", "bf16", "fp32"}, default="auto"
        Precision of training; "auto" is bfloat16 where the hardware has it. The likelihood is
        always computed, and items are always scored, in float32.
    compile : bool or "auto", default=False
        Compile the training step with ``torch.compile``; "auto" does for long runs.
    device : str, torch.device or None, default=None
        None takes CUDA where there is one.
    checkpoint_dir : str, Path or None, default=None
        Folder to save training to, every minute and at its end; a fit with the same parameters
        and data resumes from there.
    verbose : int, default=0
        1 shows progress bars.
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, batches and whatever else training draws.
    """

    _parameter_constraints: dict = {
        **NeuralEstimator._parameter_constraints,
        "mutation_rate": [Interval(numbers.Real, 0, 1, closed="both")],
        "reg_weight": [Interval(numbers.Real, 0, None, closed="left")],
        "optimizer": [StrOptions({"adam", "rmsprop"})],
        "betas": [tuple],
        "lr_schedule": [StrOptions({"cosine", "exponential", "constant"})],
        "lr_decay": [Interval(numbers.Real, 0, 1, closed="right")],
    }

    def __init__(
        self,
        *,
        mutation_rate: float = 0.0,
        reg_weight: float = 0.0,
        max_epochs: int = 100,
        max_steps: int | None = None,
        batch_size: int = 128,
        learning_rate: float = 2e-3,
        optimizer: str = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        lr_schedule: str = "cosine",
        lr_decay: float = 0.999995,
        clip_norm: float | None = None,
        validation_fraction: float = 0.1,
        patience: int | None = None,
        precision: str = "auto",
        compile: bool | str = False,
        device: str | torch.device | None = None,
        checkpoint_dir: Any = None,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.mutation_rate = mutation_rate
        self.reg_weight = reg_weight
        self.max_epochs = max_epochs
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.betas = betas
        self.lr_schedule = lr_schedule
        self.lr_decay = lr_decay
        self.clip_norm = clip_norm
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.precision = precision
        self.compile = compile
        self.device = device
        self.checkpoint_dir = checkpoint_dir
        self.verbose = verbose
        self.random_state = random_state

    @abstractmethod
    def _open(self, X: Any, *, reset: bool) -> Source:
        """Check X and bring it into the shape the network takes."""

    @abstractmethod
    def _build(self, source: Source) -> nn.Module:
        """Make the untrained network, and set what else is learned from the data alone."""

    @abstractmethod
    def _tensor(self, items: npt.NDArray, device: torch.device) -> Tensor:
        """Turn items into the network's input."""

    @abstractmethod
    def _log_prob(self, module: nn.Module, x: Tensor, condition: Tensor | None) -> Tensor:
        """Log-probability in nats, shape (b,) or, pixel by pixel, (b, H, W)."""

    @abstractmethod
    def _mutate(self, x: Tensor, source: Source, generator: torch.Generator) -> Tensor:
        """Perturb a batch at rate ``mutation_rate``."""

    def _initialize(self, module: nn.Module, *batch: Tensor) -> None:
        """Prepare the untrained network on the first batch; nothing by default."""

    # Parameter of the densities that can model p(x | y).
    conditional: bool = False

    def _condition(self, y: Any, n_items: int) -> npt.NDArray[np.integer] | None:
        """Class numbers to condition on; None for a model of p(x)."""
        if not self.conditional:
            return None
        if y is None:
            raise ValueError(
                f"{type(self).__name__}(conditional=True) models p(x | y) and requires y to be "
                "passed to fit, but the target y is None"
            )
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        if len(y) != n_items:
            raise ValueError(f"y has {len(y)} labels for {n_items} items; expected one for each")
        self.classes_, numbers_, counts = np.unique(y, return_inverse=True, return_counts=True)
        self.class_log_prior_ = np.log(counts / n_items)
        return numbers_

    def _draw_classes(self, n_items: int, generator: torch.Generator) -> Tensor | None:
        """Draw class numbers as they occur in training, for a conditional model."""
        if not self.conditional:
            return None
        prior = torch.as_tensor(np.exp(self.class_log_prior_), device=generator.device)
        return torch.multinomial(prior, n_items, replacement=True, generator=generator)

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> NeuralDensity:
        """Train the density.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            In-distribution data.
        y : array-like of shape (n_samples,), default=None
            Class labels, used by a conditional model only.

        Returns
        -------
        self
        """
        source = self._open(X, reset=True)
        condition = self._condition(y, len(source))
        device = resolve_device(self.device)
        seed = draw_seed(self.random_state)
        settings = TrainingSettings.of(self)
        with isolated_rng(device, seed):
            module = self._build(source).to(device)

        def fetch(
            rows: npt.NDArray[np.integer], generator: torch.Generator | None
        ) -> tuple[Tensor, ...]:
            x = self._tensor(source.take(rows), device)
            if generator is not None and self.mutation_rate > 0:
                x = self._mutate(x, source, generator)
            if condition is None:
                return (x,)
            return x, torch.as_tensor(condition[rows], device=device)

        def loss(x: Tensor, condition: Tensor | None = None) -> Tensor:
            return -_sum(self._log_prob(module, x, condition))

        reg_weight = torch.tensor(float(self.reg_weight), device=device)

        def penalty() -> Tensor:
            return reg_weight * sum(kernel.square().sum() for kernel in _kernels(module))

        self.history_ = train(
            module,
            loss,
            fetch,
            len(source),
            settings,
            seed=seed,
            device=device,
            penalty=penalty if self.reg_weight > 0 else None,
            initialize=lambda *batch: self._initialize(module, *batch),
            checkpoint=self._checkpoint(source, condition, seed),
            description=f"{type(self).__name__} (mutation {self.mutation_rate:g})"
            if self.mutation_rate
            else type(self).__name__,
        )
        self.module_ = module
        return self

    def score_samples(self, X: Any) -> npt.NDArray[np.float64]:
        """Log-density of each row or image.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            log p(x) in nats. The same for an item whatever batch it is scored in.
        """
        scores = self._map(X, lambda module, x: _sum(self._marginal(module, x).double()))
        check_scores(self, scores)
        return scores

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-density of X in nats; `y` is ignored."""
        return float(self.score_samples(X).mean())

    def _map(
        self, X: Any, function: Callable[[nn.Module, Tensor], Tensor]
    ) -> npt.NDArray[np.float64]:
        """Apply a function of the network and its input to every item of X."""
        module, device = self._ready()
        source = self._open(X, reset=False)
        return map_batches(
            lambda items: function(module, self._tensor(items, device)).double(),
            source,
            scoring_batch_size(device),
            verbose=self.verbose,
            description=f"{type(self).__name__} scores",
        )

    def _ready(self, n_samples: int = 1) -> tuple[nn.Module, torch.device]:
        """Network in eval mode on its device, for scoring or for drawing `n_samples`."""
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r}; expected at least 1")
        device = resolve_device(self.device)
        return self.module_.to(device).eval(), device

    def _marginal(self, module: nn.Module, x: Tensor) -> Tensor:
        """Log-probability of x, any classes summed out."""
        return self._log_prob(module, x, None)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = False
        tags.target_tags.required = self.conditional
        return tags


def standardization(
    rows: npt.NDArray,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and scale of each column, shape (d,); the scale of a constant one is 1."""
    rows = rows.astype(np.float64)
    mean, scale = rows.mean(0), rows.std(0)
    # The mean of equal values can be off by a rounding error, which is no scale.
    varies = scale > 10 * np.finfo(np.float64).eps * np.abs(mean)
    return mean, np.where(varies, scale, 1.0)


def swap_columns(x: Tensor, donors: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Replace each entry of x, at probability `rate`, by one of its column in `donors`."""
    # Each column in an order of its own, so that no two entries come from one row together.
    order = torch.rand(donors.shape, generator=generator, device=x.device).argsort(0)
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= rate
    return torch.where(kept, x, donors.gather(0, order))


def _sum(log_prob: Tensor) -> Tensor:
    """Sum over all axes but the first."""
    return log_prob.reshape(len(log_prob), -1).sum(1)


def _kernels(module: nn.Module) -> list[Tensor]:
    """Kernels of a network's convolutions and linear layers, as its forward pass uses them."""
    kernels = []
    for layer in module.modules():
        if hasattr(layer, "kernel"):
            kernels.append(layer.kernel())
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            mask = getattr(layer, "mask", None)
            kernels.append(layer.weight if mask is None else layer.weight * mask)
    return kernels
