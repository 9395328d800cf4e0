"""Base of the networks that model the data: checks, training, batched scoring."""

from __future__ import annotations

import math
import numbers
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import DensityMixin, clone
from sklearn.utils import Tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skood._checked_data import CheckedData
from skood._data import check_scores
from skood._internal import internal
from skood._parameters import Interval, StrOptions, estimator, fit_context, parameter
from skood._torch.batching import batch_multiple, map_batches, scoring_batch_size
from skood._torch.device import resolve_device
from skood._torch.estimator import NeuralEstimator
from skood._torch.objective import Objective
from skood._torch.seeding import isolated_rng
from skood._torch.settings import TrainingSettings
from skood._torch.training import hold_out, train
from skood.density._conditioning import ClassConditioning
from skood.density._objective import DensityObjective, sum_over_item

__all__ = ["NeuralDensity", "NeuralModel"]


@estimator
class NeuralModel(NeuralEstimator, metaclass=ABCMeta):
    """Base of the networks that model the data themselves: densities and autoencoders.

    A subclass writes ``_open`` (what data it takes), ``_build`` (its network) and ``_tensor`` (an
    array of items as the network's input), and trains by ``_train``.

    Parameters
    ----------
    learning_rate : float, default=0.002
        Peak learning rate.
    optimizer : {"adam", "rmsprop"}, default="adam"
        Optimization algorithm.
    betas : tuple of float, default=(0.9, 0.999)
        Decay rates of Adam's moments.
    lr_schedule : {"cosine", "exponential", "constant"}, default="cosine"
        "cosine" warms up and decays to 1 % of `learning_rate`; "exponential" multiplies it by
        `lr_decay` after every step.
    lr_decay : float, default=0.999995
        See `lr_schedule`.
    validation_fraction : float, default=0.1
        Part of the data kept out of training; the weights of the epoch with the lowest loss on
        it are kept.
    precision : {"auto", "bf16", "fp32"}, default="auto"
        Precision of training; "auto" is bfloat16 where the hardware has it. The likelihood is
        always computed, and items are always scored, in float32.
    compile : bool or "auto", default=False
        Compile the training step with ``torch.compile``; "auto" does for long runs.
    """

    learning_rate: float = parameter(default=2e-3, kw_only=True)
    optimizer: str = parameter(StrOptions({"adam", "rmsprop"}), default="adam", kw_only=True)
    betas: tuple[float, float] = parameter(tuple, default=(0.9, 0.999), kw_only=True)
    lr_schedule: str = parameter(
        StrOptions({"cosine", "exponential", "constant"}), default="cosine", kw_only=True
    )
    lr_decay: float = parameter(
        Interval(numbers.Real, 0, 1, closed="right"), default=0.999995, kw_only=True
    )
    validation_fraction: float = parameter(default=0.1, kw_only=True)
    compile: bool | str = parameter(default=False, kw_only=True)

    @abstractmethod
    def _open(self, X: Any, *, reset: bool) -> CheckedData:
        """Check X and bring it into the shape the network takes."""

    @internal
    def check_input(self, X: Any) -> None:
        """Raise the errors of `fit` about parameters and X, without training.

        Parameters
        ----------
        X : array-like, Tensor, Dataset or CheckedData of shape (n_samples, ...)
        """
        trial = clone(self)
        trial._validate_params()
        trial._open(X, reset=True)

    @abstractmethod
    def _build(self, data: CheckedData) -> nn.Module:
        """Make the untrained network, and set what else is learned from the data alone."""

    @abstractmethod
    def _tensor(self, items: npt.NDArray, device: torch.device) -> Tensor:
        """Turn items into the network's input."""

    def _train(
        self,
        data: CheckedData,
        make_objective: Callable[[nn.Module, torch.device], Objective],
        *,
        depends_on: Any = None,
        description: str,
    ) -> None:
        """Set ``module_`` and ``history_``.

        Parameters
        ----------
        data : CheckedData
            As the network reads them.
        make_objective : callable
            Takes the untrained network and its device.
        depends_on : object, default=None
            Whatever else training depends on, for the name of the checkpoint.
        description : str
            What the progress bar says.
        """
        device = resolve_device(self.device)
        seed, checkpoint = self._seed_and_checkpoint(data, depends_on, device)
        with isolated_rng(device, seed):
            network = self._build(data).to(device)
        try:
            self.history_ = train(
                make_objective(network, device),
                *hold_out(len(data), self.validation_fraction, seed),
                TrainingSettings.of(self),
                seed=seed,
                device=device,
                checkpoint=checkpoint,
                description=description,
            )
        except KeyboardInterrupt:
            # A second Ctrl-C ends the fit, but the network has been trained.
            self.module_ = network
            raise
        self.module_ = network

    def _map(
        self, X: Any, function: Callable[[nn.Module, Tensor], Tensor], doing: str = "scores"
    ) -> npt.NDArray[np.float64]:
        """Apply a function of the network and its input to every item of X."""
        module, device = self._ready()
        return self._map_items(
            self._open(X, reset=False),
            lambda items: function(module, self._tensor(items, device)),
            doing,
        )

    def _map_items(
        self, data: CheckedData, function: Callable[[npt.NDArray], Tensor], doing: str
    ) -> npt.NDArray[np.float64]:
        """Apply a function of arrays of items, in batches of one size."""
        device = resolve_device(self.device)
        return map_batches(
            lambda items: function(items).double(),
            data,
            scoring_batch_size(device, self._preprocessing.item_shape),
            multiple_of=batch_multiple(self._preprocessing.item_shape),
            device=device,
            n_workers=self.n_workers,
            verbose=self.verbose,
            description=f"{type(self).__name__} {doing}",
        )

    def _ready(self, n_samples: int = 1) -> tuple[nn.Module, torch.device]:
        """Network in eval mode on its device, for scoring or for drawing `n_samples`."""
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r}; expected at least 1")
        device = resolve_device(self.device)
        return self.module_.to(device).eval(), device

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = False
        return tags


@estimator
class NeuralDensity(ClassConditioning, DensityMixin, NeuralModel):
    """Base of the densities that are torch networks.

    A subclass declares its own parameters and writes ``_open`` (what data it takes), ``_build``
    (its network), ``_tensor`` (an array of items as the network's input), ``_log_prob`` and
    ``_mutate``.

    Parameters
    ----------
    mutation_rate : float, default=0.0
        Probability with which each value of a training batch is replaced, redrawn for every
        batch: a sub-pixel by a draw from all levels, an entry of a row by a training value of the
        same feature. For background models.
    reg_weight : float, default=0.0
        Weight of the sum of squared kernel weights, added once to the mean loss of a batch, in
        nats per item. For background models.
    """

    mutation_rate: float = parameter(
        Interval(numbers.Real, 0, 1, closed="both"), default=0.0, kw_only=True
    )
    reg_weight: float = parameter(
        Interval(numbers.Real, 0, None, closed="left"), default=0.0, kw_only=True
    )

    # Whether log p(x) has a gradient by x.
    _is_differentiable = False

    # What the columns of `score_statistics` are.
    statistics_names: ClassVar[tuple[str, ...]] = ("log_prob",)

    @abstractmethod
    def _log_prob(self, module: nn.Module, x: Tensor, class_indices: Tensor | None) -> Tensor:
        """Log-probability in nats, shape (b,) or, pixel by pixel, (b, H, W)."""

    @abstractmethod
    def _mutate(self, x: Tensor, data: CheckedData, generator: torch.Generator) -> Tensor:
        """Perturb a batch at rate ``mutation_rate``."""

    def _initialize(self, module: nn.Module, *batch: Tensor) -> None:
        """Prepare the untrained network on the first batch; nothing by default."""

    def _after_step(self, module: nn.Module) -> None:
        """Act after an update of the weights; nothing by default."""

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
        data = self._open(X, reset=True)
        class_indices = self._learn_classes(y, len(data))
        name = type(self).__name__
        self._train(
            data,
            lambda network, device: DensityObjective(network, self, data, class_indices, device),
            depends_on=class_indices,
            description=f"{name} (mutation {self.mutation_rate:g})" if self.mutation_rate else name,
        )
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
        scores = self._map(X, lambda module, x: sum_over_item(self._marginal(module, x).double()))
        check_scores(self, scores)
        return scores

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-density of X in nats.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        y : None
            Ignored.

        Returns
        -------
        float
        """
        return float(self.score_samples(X).mean())

    def bits_per_dim(self, X: Any) -> npt.NDArray[np.float64]:
        """Negative log-density in bits for each value.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            -log2 p(x) / D, with D values in an item; log2(n_levels) for a uniform model of levels.
        """
        return -self.score_samples(X) / (math.log(2) * self.n_features_in_)

    def score_statistics(self, X: Any) -> npt.NDArray[np.float64]:
        """Statistics of the model at each item, which tell more of it than log p(x) alone.

        They are those that :class:`~skood.likelihood.DensityOfStates` reads.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_statistics), float64
            In nats; what each column holds is in `statistics_names`. "log_prob" is log p(x).
        """
        statistics = self._map(X, self._statistics, "statistics")
        check_scores(self, statistics.sum(1))
        return statistics

    def _statistics(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return what `statistics_names` names, shape (b, n_statistics), float64."""
        return sum_over_item(self._marginal(module, x).double())[:, None]

    @available_if(lambda self: self._is_differentiable)
    def log_density_gradient(self, X: Any) -> npt.NDArray[np.float64]:
        r"""Gradient of log p(x) with respect to x.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, \*item_shape), float64
            In nats per unit of the network's input: per standard deviation of a feature of rows,
            or per range from black to white of a pixel. Images are (C, H, W).
        """

        def gradient(module: nn.Module, x: Tensor) -> Tensor:
            with torch.inference_mode(False), torch.enable_grad():
                x = x.clone().requires_grad_()
                return torch.autograd.grad(self._marginal(module, x).sum(), x)[0]

        gradients = self._map(X, gradient, "gradients")
        check_scores(self, gradients.reshape(len(gradients), -1).sum(1))
        return gradients

    def _marginal(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return the log-probability of x, marginalised over the classes of a conditional model."""
        return self._log_prob(module, x, None)

    def _swap_values(self, x: Tensor, data: CheckedData, generator: torch.Generator) -> Tensor:
        """Replace values of rows by training values of their feature, at rate `mutation_rate`."""
        rows = torch.randint(len(data), (len(x),), generator=generator, device=x.device)
        donors = self._tensor(data.take(rows.cpu().numpy()), x.device)
        # Each column is permuted independently, so that replacements do not come from one row.
        order = torch.rand(donors.shape, generator=generator, device=x.device).argsort(0)
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.mutation_rate
        return torch.where(kept, x, donors.gather(0, order))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.conditional
        return tags
