"""Diffusion model: a density from its score functions."""

from __future__ import annotations

import numbers
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._estimator.internal import internal
from skood._estimator.parameters import (
    Interval,
    StrOptions,
    at_least,
    estimator,
    parameter,
)
from skood._torch.preprocessing import Preprocessing
from skood.density._denoiser import Denoiser, rademacher
from skood.density._diffusion_network import AveragedNetwork, NoiseNetwork
from skood.density._evidence import normal_points
from skood.density._neural_density import NeuralDensity
from skood.density._noise_parameters import NoiseParameters
from skood.density._noise_schedule import mean_and_std
from skood.density._pixels import ImageOrRowParameters
from skood.density._probability_flow import denoise, log_density

__all__ = ["Diffusion"]

# Most features of rows for which traces are exact by default.
_EXACT_FEATURES = 64
# Side from which images are read in patches by default.
_PATCHED_SIDE = 16
# Times in validation for each item, divided by its number of values.
_VALIDATION_DRAWS = 256


@estimator
class Diffusion(NoiseParameters, ImageOrRowParameters, NeuralDensity):
    r"""Diffusion model: density of rows or images.

    A stochastic differential equation (SDE) [1]_ adds noise to items, :math:`x_t = \psi(t) x +
    \sigma(t) \epsilon`, and a network learns to predict the noise, :math:`\hat\epsilon(x_t, t)`.
    The prediction is :math:`-\sigma` times the *score function*, the gradient of the log-density
    of noisy items; the score functions of all times determine the density. Training minimises the
    mean of :math:`\|\epsilon - \hat\epsilon\|^2` (denoising score matching).

    Parameters
    ----------
    n_filters : tuple of int, default=(32, 64)
        For images: channels of each scale of a U-Net. Each scale halves height and width, and the
        last has self-attention.
    n_blocks : int, default=2
        Number of residual blocks, for images per scale.
    hidden_features : int, default=128
        For rows: width of the residual blocks.
    patch_size : int or None, default=None
        For images: side of the patches that the network reads as channels. None: 2 where height and
        width are even and more than 16, else 1.
    dropout : float, default=0.0
        Fraction of the hidden channels that is dropped in training.
    weighting : {"likelihood", "uniform"}, default="likelihood"
        Distribution of the times in training. With "likelihood", which gives small noise more
        weight, the loss is a bound on the log-density [2]_; "uniform" is used in [1]_ and [3]_.
    ema_decay : float, default=0.999
        Decay of the moving average of the weights in each step. The averaged weights are validated
        and kept.
    n_steps : int, default=25
        Runge-Kutta steps of a log-density or sample; each takes four passes of the network.
    n_probes : int, "exact" or "auto", default="auto"
        Number of random vectors, the same for every item, that estimate the trace of the network's
        Jacobian in each pass [1]_. "exact" computes the trace, with a pass for each value of an
        item. "auto" is "exact" for rows of up to 64 features, else 1.
    n_levels : int or None, default=256
        For images: number of values of a pixel, equally spaced in `value_range`. Training adds
        uniform noise to spread each value over its bin. None models continuous values as they are.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, with averaged weights.
    history_ : dict of str to list of float
        Loss of each epoch in nats per item: "loss" and, where rows were held out,
        "validation_loss". With the weighting "likelihood", they are upper bounds on minus the mean
        log-density.

    See Also
    --------
    ImageFlow, NeuralSplineFlow : Densities that need one pass of a network.
    skood.likelihood.LocalIntrinsicDimension : Detector on a flow or a diffusion model.

    Notes
    -----
    The network reads pixels in [-1, 1], or standardised rows. A score is the log-density at the
    noise of `t_score`, by the probability-flow ODE ([1]_, equation 39), in the units of X. With
    levels, the density is multiplied by the volume of a bin. Errors come from the steps of the ODE
    (by default 0.003 nats for each value of a normal distribution) and from the probes.

    The network depends on the time through :math:`\sigma / \psi` alone, and noisy items are scaled
    to :math:`x_t / \sqrt{\psi^2 + \sigma^2}` before it reads them [4]_. With the weighting
    "likelihood", the two SDEs therefore differ only in their range of noise, and in the units of
    `score_function`; with "uniform", also in the weights of the noise levels.

    References
    ----------
    .. [1] Y. Song, J. Sohl-Dickstein, D. P. Kingma, A. Kumar, S. Ermon, B. Poole, "Score-Based
       Generative Modeling through Stochastic Differential Equations", ICLR 2021.
    .. [2] D. P. Kingma, T. Salimans, B. Poole, J. Ho, "Variational Diffusion Models",
       NeurIPS 2021, equation 14.
    .. [3] H. Kamkari et al., "A Geometric Explanation of the Likelihood OOD Detection Paradox",
       ICML 2024.
    .. [4] T. Karras, M. Aittala, T. Aila, S. Laine, "Elucidating the Design Space of
       Diffusion-Based Generative Models", NeurIPS 2022, table 1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood.density import Diffusion
    >>> X = load_iris().data
    >>> diffusion = Diffusion(max_steps=20, n_steps=4, random_state=0).fit(X)
    >>> diffusion.score_samples(X[:3]).shape
    (3,)
    >>> diffusion.score_function(X[:3], 0.1).shape
    (3, 4)
    """

    n_filters: tuple[int, ...] = parameter(tuple, list, default=(32, 64))
    n_blocks: int = parameter(at_least(1), default=2)
    hidden_features: int = parameter(at_least(1), default=128, kw_only=True)
    patch_size: int | None = parameter(at_least(1), None, default=None, kw_only=True)
    dropout: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.0, kw_only=True
    )
    weighting: str = parameter(
        StrOptions({"likelihood", "uniform"}), default="likelihood", kw_only=True
    )
    ema_decay: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.999, kw_only=True
    )
    n_steps: int = parameter(at_least(1), default=25, kw_only=True)
    n_probes: int | str = parameter(
        at_least(1),
        StrOptions({"exact", "auto"}),
        default="auto",
        kw_only=True,
    )
    n_levels: int | None = parameter(at_least(2), None, default=256, kw_only=True)
    max_steps: int | None = parameter(default=5000, kw_only=True)
    learning_rate: float = parameter(default=1e-3, kw_only=True)
    clip_norm: float | None = parameter(default=1.0, kw_only=True)

    def _make_preprocessing(self, data: CheckedData) -> Preprocessing:
        self.dtype_ = data.dtype
        self._check_schedule()
        return Preprocessing(
            self,
            data,
            image_shape=self.image_shape,
            value_range=self.value_range,
            has_range=data.is_image or self.image_shape is not None,
        )

    def _learn(self, data: CheckedData) -> None:
        self.noise_range_ = self.log_ratios()
        if not data.is_image:
            self._preprocessing.learn_moments(data)

    def _make_network(self, item_shape: tuple[int, ...]) -> nn.Module:
        network = NoiseNetwork(
            item_shape,
            n_filters=self.n_filters,
            n_blocks=self.n_blocks,
            hidden_features=self.hidden_features,
            patch_size=self._patch_size(item_shape),
            dropout=self.dropout,
        )
        return AveragedNetwork(network, self.ema_decay)

    def _patch_size(self, item_shape: tuple[int, ...]) -> int:
        sides = item_shape[1:]
        if self.patch_size is None:
            even = all(side % 2 == 0 and side > _PATCHED_SIDE for side in sides)
            return 2 if even else 1
        if any(side % self.patch_size for side in sides):
            raise ValueError(
                f"patch_size={self.patch_size} does not divide the height and width of images of "
                f"shape {item_shape}; give one that does, or None"
            )
        return self.patch_size

    def _trained(self, network: nn.Module) -> nn.Module:
        return network.average.module

    def _after_step(self, module: nn.Module) -> None:
        module.update()

    def _tensor(self, items: npt.NDArray, device: torch.device) -> Tensor:
        """Pixels in [-1, 1], or standardised rows, float32."""
        x = self._preprocessing.tensor(items, device)
        if self.value_range_ is None:
            return x
        # With the range "minmax", later data may lie beyond black and white.
        return 2 * x.clamp(0, 1) - 1

    def _mutate(self, x: Tensor, data: CheckedData, generator: torch.Generator) -> Tensor:
        if self.value_range_ is None:
            return self._swap_values(x, data, generator)
        return self._redraw_pixels(x, generator, self.n_levels, lowest=-1.0)

    def _log_volume(self) -> float:
        """Logarithm of the volume of a bin, or of a unit of X, in units of x."""
        if self.value_range_ is None:
            return -float(np.log(self.scale_).sum())
        low, high = self.value_range_
        side = 2 / (high - low) if self.n_levels is None else 2 / (self.n_levels - 1)
        return float(np.prod(self._preprocessing.item_shape) * np.log(side))

    def _log_prob(self, module: nn.Module, x: Tensor, class_indices: Tensor | None) -> Tensor:
        r"""Bound on the log-density, (b,), from a time for each item, or several in validation.

        Items with the smallest noise are latents with a normal decoder. The three terms are the
        log-likelihood of the decoder, the loss along the path, and the divergence at its end [2]_.
        """
        low, high = self.log_ratios()
        n_values = x[0].numel()
        # The bound of an item with few values has a larger variance over times.
        n_draws = 1 if module.training else max(1, _VALIDATION_DRAWS // n_values)
        x = x.repeat(n_draws, *[1] * (x.ndim - 1))
        if module.training:
            place, noise = torch.rand(len(x), 1, device=x.device)[:, 0], torch.randn_like(x)
            if self.n_levels is not None and self.value_range_ is not None:
                x = x + (2 * torch.rand_like(x) - 1) / (self.n_levels - 1)
        else:
            points = normal_points(len(x), 1 + n_values).to(x.device)
            place, noise = torch.special.ndtr(points[:, 0]), points[:, 1:].view_as(x)
        if self.weighting == "likelihood":
            log_ratio = low + (high - low) * place
        else:
            log_ratio = self._schedule().log_ratio(self.t_min + (1 - self.t_min) * place).to(x)
        psi, sigma = (a.view(-1, *[1] * (x.ndim - 1)) for a in mean_and_std(log_ratio))
        error = module(psi * x + sigma * noise, log_ratio) - noise
        path = (high - low) * error.square().flatten(1).sum(1, dtype=torch.float64)
        decoder = n_values * (low + 0.5 * np.log(2 * np.pi * np.e))
        shrunk, kept = (float(a) ** 2 for a in mean_and_std(torch.tensor(high).double()))
        end = 0.5 * (
            shrunk * x.square().flatten(1).sum(1, dtype=torch.float64)
            + n_values * (kept - 1 - np.log(kept))
        )
        bounds = self._log_volume() - decoder - path - end
        return bounds.view(n_draws, -1).mean(0)

    def _marginal(self, module: nn.Module, x: Tensor) -> Tensor:
        """Log-density by the probability-flow ODE, (b,), float64."""
        probes = None
        n_probes = self.n_probes
        if n_probes == "auto":
            n_probes = "exact" if x.ndim == 2 and x.shape[1] <= _EXACT_FEATURES else 1
        if n_probes != "exact":
            probes = rademacher((self.n_steps, int(n_probes), *x.shape[1:])).to(x.device)
        density = log_density(module, x, self._scored_log_ratios(), self.n_steps, probes)
        return density + self._log_volume()

    @internal
    def denoiser(self, module: nn.Module) -> Denoiser:
        """Return the tensor interface; called by a function that `map` applies.

        Parameters
        ----------
        module : Module
            The trained network.
        """
        self._check_trained()
        return Denoiser(
            module, self._schedule(), self.log_ratios(), partial(self._marginal, module)
        )

    def score_function(self, X: Any, t: float) -> npt.NDArray[np.float64]:
        r"""Score function at a time: gradient of the log-density of noisy items.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        t : float
            Time, from `t_min` to 1.

        Returns
        -------
        ndarray of shape (n_samples, \*item_shape), float64
            :math:`\nabla \log p_t` at :math:`\psi(t) x`, in units of the network: pixels in [-1, 1]
            or standardised rows. :math:`p_t` is the density of :math:`x_t`; with sde="ve",
            :math:`\psi = 1`.

        Raises
        ------
        ValueError
            When `t` is a time that is not modelled, or X does not match the X of `fit`.
        """
        self.check_time(t)
        log_ratio = self._schedule().log_ratio(torch.tensor(t))
        return self.map(X, lambda module, x: self.denoiser(module).score(x, log_ratio))

    def _draw(self, module: nn.Module, n_samples: int, generator: torch.Generator) -> Tensor:
        device = generator.device
        self._check_trained()
        low, high = self.log_ratios()
        grid = torch.linspace(high, low, self.n_steps + 1, device=device)
        shape = n_samples, *self._preprocessing.item_shape
        x = denoise(module, torch.randn(shape, generator=generator, device=device), grid)
        if self.value_range_ is None:
            return x
        x = ((x + 1) / 2).clamp(0, 1)
        if self.n_levels is not None:
            x = (x * (self.n_levels - 1)).round() / (self.n_levels - 1)
        return x
