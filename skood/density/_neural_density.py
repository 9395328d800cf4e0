"""Base of the densities that are networks, and their training objective."""

from __future__ import annotations

import math
import numbers
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import DensityMixin
from sklearn.utils import Tags
from sklearn.utils.metaestimators import available_if
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._data.chunks import row_slices
from skood._data.validation import check_scores
from skood._estimator.parameters import NONNEGATIVE, Interval, estimator, fit_context, parameter
from skood._progress import tracked
from skood._torch.seeding import Stream, draw_seed, torch_rng
from skood._torch.threads import computing
from skood.density._base import ModelObjective, NeuralModel
from skood.density._conditioning import ClassConditioning

__all__ = ["DensityObjective", "LogDensityMixin", "NeuralDensity", "sum_over_item"]


class DensityObjective(ModelObjective):
    """Negative log-likelihood of a density, in nats, of mutated items and with a penalty.

    The parameters are described in :class:`ModelObjective`.
    """

    couples_rows = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # A tensor, since a compiled step would be recompiled for every Python number.
        weight = torch.tensor(float(self.model.reg_weight), device=self.device)
        self.register_buffer("reg_weight", weight, persistent=False)

    def prepare(
        self, items: tuple[npt.NDArray, ...], generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        x, *class_indices = super().prepare(items, generator)
        if generator is not None and self.model.mutation_rate > 0:
            x = self.model._mutate(x, self.data, generator)
        return x, *class_indices

    def start(self, *batch: Tensor) -> None:
        self.model._initialize(self.network, *batch)

    def after_step(self) -> None:
        self.model._after_step(self.network)

    def penalty(self) -> Tensor | None:
        if self.model.reg_weight == 0:
            return None
        return self.reg_weight * sum(kernel.square().sum() for kernel in _kernels(self.network))


class LogDensityMixin(DensityMixin):
    """Mixin of the densities, whose scores are log-densities in nats."""

    score_samples: Callable[[Any], npt.NDArray[np.float64]]

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


@estimator
class NeuralDensity(ClassConditioning, LogDensityMixin, NeuralModel):
    """Base of the densities that are torch networks.

    A subclass declares its own parameters and writes ``_make_preprocessing``, ``_build`` (its
    network), ``_log_prob``, ``_mutate`` and ``_draw``.

    Parameters
    ----------
    mutation_rate : float, default=0.0
        Probability with which each value of a training batch is replaced, redrawn for every
        batch: a sub-pixel by a draw from all levels, an entry of a row by a training value of the
        same feature, a symbol by one of the other symbols. For background models.
    reg_weight : float, default=0.0
        Weight of the sum of squared kernel weights, added once to the mean loss of a batch, in
        nats per item. For background models.

    Attributes
    ----------
    dtype_ : numpy dtype
        Dtype of the training data and of samples.
    """

    mutation_rate: float = parameter(
        Interval(numbers.Real, 0, 1, closed="both"), default=0.0, kw_only=True
    )
    reg_weight: float = parameter(NONNEGATIVE, default=0.0, kw_only=True)

    _objective = DensityObjective

    # Whether log p(x) can be differentiated with respect to x.
    _is_differentiable = False

    # Names of the columns of `score_statistics`.
    statistics_names: ClassVar[tuple[str, ...]] = ("log_prob",)

    # Most items that `sample` draws together; None: all of them.
    _samples_at_once: ClassVar[int | None] = 256

    @abstractmethod
    def _log_prob(self, module: nn.Module, x: Tensor, class_indices: Tensor | None) -> Tensor:
        """Log-probability in nats, shape (b,) or, pixel by pixel, (b, H, W)."""

    @abstractmethod
    def _mutate(self, x: Tensor, data: CheckedData, generator: torch.Generator) -> Tensor:
        """Perturb a batch at rate ``mutation_rate``."""

    @abstractmethod
    def _draw(self, module: nn.Module, n_samples: int, generator: torch.Generator) -> Tensor:
        """Draw pixels in [0, 1] or standardised rows."""

    def _initialize(self, module: nn.Module, *batch: Tensor) -> None:
        """Prepare the untrained network on the first batch; nothing by default."""

    def _after_step(self, module: nn.Module) -> None:
        """Act after an update of the weights; nothing by default."""

    def _loss(self, network: nn.Module, x: Tensor, class_indices: Tensor | None = None) -> Tensor:
        return -sum_over_item(self._log_prob(network, x, class_indices))

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> NeuralDensity:
        """Train the density.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            In-distribution data.
        y : array-like of shape (n_samples,), default=None
            Class labels, for a conditional model only.

        Returns
        -------
        self
        """
        data = self._open(X, reset=True)
        name = type(self).__name__
        self._train(
            data,
            self._learn_classes(y, len(data)),
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
        scores = self.map(X, self._log_density)
        check_scores(self, scores)
        return scores

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
        """Statistics of the model at each item, log p(x) among them.

        :class:`~skood.likelihood.DensityOfStates` scores by all of them.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_statistics), float64
            In nats; `statistics_names` names the columns. "log_prob" is log p(x).
        """
        statistics = self.map(X, self._statistics, doing="statistics")
        check_scores(self, statistics.sum(1))
        return statistics

    def _statistics(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return the columns of `score_statistics`, shape (b, n_statistics), float64."""
        return self._log_density(module, x)[:, None]

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

        @torch.enable_grad()
        def gradient(module: nn.Module, x: Tensor) -> Tensor:
            x = x.requires_grad_()
            return torch.autograd.grad(self._marginal(module, x).sum(), x)[0]

        gradients = self.map(X, gradient, doing="gradients")
        check_scores(self, gradients.reshape(len(gradients), -1).sum(1))
        return gradients

    def _marginal(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return the log-probability of x, marginalised over the classes of a conditional model."""
        return self._log_prob(module, x, None)

    def _log_density(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return log p(x) in nats, (b,), float64."""
        return sum_over_item(self._marginal(module, x).double())

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> npt.NDArray:
        """Draw items from the model.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d)
            In the shape and range of the training data, with their values where a pixel has
            `n_levels` of them, and of the dtype `dtype_`. A conditional model draws the classes by
            their training frequencies.
        """
        module, device = self._ready()
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r}; expected at least 1")
        generator = torch_rng(device, draw_seed(random_state), Stream.SAMPLES)
        slices: Iterable[slice] = list(row_slices(n_samples, self._samples_at_once or n_samples))
        if n_samples > (self._samples_at_once or n_samples):
            slices = tracked(
                slices, description="drawing samples", unit="batch", verbose=self.verbose
            )
        drawn = []
        for rows in slices:
            with computing, torch.inference_mode():
                x = self._draw(module, rows.stop - rows.start, generator)
                drawn.append(self._preprocessing.inverse(x).cpu().numpy())
        return self._as_given(np.concatenate(drawn))

    def _as_given(self, values: npt.NDArray) -> Any:
        """Return samples in the units of X as values of its dtype."""
        dtype = self.dtype_
        if dtype.kind in "biu":
            # Draws of standardised rows may exceed the range of the dtype.
            info = None if dtype.kind == "b" else np.iinfo(dtype)
            values = values.round().clip(*((info.min, info.max) if info else (0, 1)))
        return values.astype(dtype)

    def _swap_values(self, x: Tensor, data: CheckedData, generator: torch.Generator) -> Tensor:
        """Replace values of rows by training values of their feature, at rate `mutation_rate`."""
        rows = torch.randint(len(data), (len(x),), generator=generator, device=x.device)
        donors = self._tensor(data.take(rows.cpu().numpy()), x.device)
        # Each column is permuted independently, so that replacements do not come from one row.
        order = torch.rand(donors.shape, generator=generator, device=x.device).argsort(0)
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.mutation_rate
        return torch.where(kept, x, donors.gather(0, order))

    def _redraw_pixels(
        self,
        x: Tensor,
        generator: torch.Generator,
        n_levels: int | None = None,
        lowest: float = 0.0,
    ) -> Tensor:
        """Replace pixels by uniform draws of `lowest` to 1, at rate `mutation_rate`.

        Draws have `n_levels` equally spaced values, if that is not None.
        """
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.mutation_rate
        drawn = torch.rand(x.shape, generator=generator, device=x.device)
        if n_levels is not None:
            drawn = (drawn * n_levels).floor() / (n_levels - 1)
        return torch.where(kept, x, lowest + (1 - lowest) * drawn)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.conditional
        return tags


def sum_over_item(log_prob: Tensor) -> Tensor:
    """Sum over all axes but the first."""
    return log_prob.reshape(len(log_prob), -1).sum(1)


def _kernels(module: nn.Module) -> list[Tensor]:
    """Kernels of layers that learn, without biases, as the forward pass uses them."""
    kernels = []
    for layer in module.modules():
        if not any(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
            continue
        if hasattr(layer, "kernel"):
            kernels.append(layer.kernel())
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            mask = getattr(layer, "mask", None)
            kernels.append(layer.weight if mask is None else layer.weight * mask)
        elif isinstance(layer, nn.Embedding):
            # A linear layer on one-hot vectors.
            kernels.append(layer.weight)
    return kernels
