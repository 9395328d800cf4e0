"""Diffusion model: a density known by its scores."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils import Tags
from torch import Tensor, nn

from skood._checked_data import CheckedData
from skood._data import check_data
from skood._internal import internal
from skood._parameters import Interval, StrOptions, estimator, fit_context, parameter
from skood._torch.batching import batch_multiple, map_batches, scoring_batch_size
from skood._torch.preprocessing import Learned, Preprocessing
from skood._torch.seeding import Stream, draw_seed, torch_rng
from skood.density._base import NeuralDensity
from skood.density._diffusion_network import AveragedNetwork, NoiseNetwork
from skood.density._evidence import normal_points
from skood.density._noise_schedule import VariancePreserving, mean_and_std
from skood.density._probability_flow import denoise, log_density, noise_and_trace

__all__ = ["Denoiser", "Diffusion"]

# Most features of rows whose traces are computed exactly by default.
_EXACT_FEATURES = 64
# Side from which images are read in patches by default.
_PATCHED_SIDE = 16
# Times in validation for each item, divided by its number of values.
_VALIDATION_DRAWS = 256
# Items that `sample` draws together.
_SAMPLES_AT_ONCE = 256


@estimator
class Diffusion(NeuralDensity):
    r"""Density of rows or images known by its scores: a diffusion model.

    Noise is added to items by the variance-preserving SDE [1]_, :math:`x_t = \psi(t) x + \sigma(t)
    \epsilon`, and a network learns to find it, :math:`\hat\epsilon(x_t, t)`. This is minus
    :math:`\sigma` times the *score*, the gradient of the log-density of noisy items, and the scores
    at all times make up the density. Training minimises the mean of :math:`\|\epsilon -
    \hat\epsilon\|^2` (denoising score matching).

    Parameters
    ----------
    n_filters : tuple of int, default=(32, 64)
        For images: channels of each scale of a U-Net, which halves height and width from one to the
        next; self-attention is in the last.
    n_blocks : int, default=2
        Residual blocks, for images in each scale.
    hidden_features : int, default=128
        For rows: width of the residual blocks.
    patch_size : int or None, default=None
        For images: side of the patches that the network reads as channels. None: 2 where height and
        width are even and more than 16, else 1.
    dropout : float, default=0.0
        Part of the hidden channels dropped in training.
    beta_min : float, default=0.1
        Rate of noise at time 0.
    beta_max : float, default=20.0
        Rate of noise at time 1.
    t_min : float, default=1e-05
        Time of the smallest noise, by default of a standard deviation of 0.001, below which nothing
        is modelled. Bits per dimension of images with many equal pixels suffer from a larger one:
        one of 256 levels is 0.008.
    weighting : {"likelihood", "uniform"}, default="likelihood"
        How times are drawn in training: so that the loss is a bound on the log-density [2]_, which
        weighs small noise more, or uniformly, as in [1]_ and [3]_.
    ema_decay : float, default=0.999
        Part that the moving average of the weights keeps in each step; the average is what is
        validated and kept.
    n_steps : int, default=25
        Runge-Kutta steps of a log-density or sample; each takes four passes of the network.
    n_probes : int, "exact" or "auto", default="auto"
        Random vectors that estimate the trace of the network's Jacobian in each pass [1]_; they are
        the same for every item. "exact" computes it, with a pass for each value of an item. "auto"
        is "exact" for rows of up to 64 features, else 1.
    n_levels : int or None, default=256
        For images: number of values of a pixel, equally spaced in `value_range`. Training adds
        uniform noise to spread each value over its bin. None models continuous values as they are.
    value_range : (float, float), "minmax" or None, default=None
        Values of black and white. None: 0..255 for uint8 images, 0..1 for images of floats, and an
        error for other images; rows are standardised. "minmax": the range of the training data.
    image_shape : (int, int, int) or None, default=None
        Shape (C, H, W) of images given as flat rows.
    max_steps : int or None, default=5000
        Largest number of training steps.
    learning_rate : float, default=0.001
        Peak learning rate.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, with averaged weights.
    history_ : dict of str to list of float
        Loss of each epoch in nats per item: "loss" and, with a validation part, "validation_loss".
        With the weighting "likelihood", upper bounds on minus the mean log-density.
    value_range_ : tuple of float or None
        Values of black and white; None for rows.
    mean_, scale_ : ndarray of shape (d,)
        Mean and standard deviation of rows.
    dtype_ : numpy dtype
        Dtype of the training data and of samples.

    See Also
    --------
    ImageFlow, NeuralSplineFlow : Densities in one pass.
    skood.likelihood.LocalIntrinsicDimension : Detector on a flow or a diffusion model.

    Notes
    -----
    The network reads pixels in [-1, 1], or standardised rows. A score is the log-density of items
    with the smallest noise, by the probability-flow ODE ([1]_, equation 39), in the units of X;
    with levels, times the volume of a bin. It is exact up to the steps of the ODE (0.003 nats for
    each value of a normal distribution with the default) and the probes.

    References
    ----------
    .. [1] Y. Song, J. Sohl-Dickstein, D. P. Kingma, A. Kumar, S. Ermon, B. Poole, "Score-Based
       Generative Modeling through Stochastic Differential Equations", ICLR 2021.
    .. [2] D. P. Kingma, T. Salimans, B. Poole, J. Ho, "Variational Diffusion Models",
       NeurIPS 2021, equation 14.
    .. [3] H. Kamkari et al., "A Geometric Explanation of the Likelihood OOD Detection Paradox",
       ICML 2024.

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
    n_blocks: int = parameter(Interval(numbers.Integral, 1, None, closed="left"), default=2)
    hidden_features: int = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), default=128, kw_only=True
    )
    patch_size: int | None = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), None, default=None, kw_only=True
    )
    dropout: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.0, kw_only=True
    )
    beta_min: float = parameter(
        Interval(numbers.Real, 0, None, closed="neither"), default=0.1, kw_only=True
    )
    beta_max: float = parameter(
        Interval(numbers.Real, 0, None, closed="neither"), default=20.0, kw_only=True
    )
    t_min: float = parameter(
        Interval(numbers.Real, 0, 1, closed="neither"), default=1e-5, kw_only=True
    )
    weighting: str = parameter(
        StrOptions({"likelihood", "uniform"}), default="likelihood", kw_only=True
    )
    ema_decay: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.999, kw_only=True
    )
    n_steps: int = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), default=25, kw_only=True
    )
    n_probes: int | str = parameter(
        Interval(numbers.Integral, 1, None, closed="left"),
        StrOptions({"exact", "auto"}),
        default="auto",
        kw_only=True,
    )
    n_levels: int | None = parameter(
        Interval(numbers.Integral, 2, None, closed="left"), None, default=256, kw_only=True
    )
    value_range: tuple[float, float] | str | None = parameter(
        "array-like", StrOptions({"minmax"}), None, default=None, kw_only=True
    )
    image_shape: tuple[int, int, int] | None = parameter(
        "array-like", None, default=None, kw_only=True
    )
    max_steps: int | None = parameter(default=5000, kw_only=True)
    learning_rate: float = parameter(default=1e-3, kw_only=True)
    clip_norm: float | None = parameter(default=1.0, kw_only=True)

    value_range_ = Learned("value_range")
    mean_ = Learned("mean")
    scale_ = Learned("scale")

    def _open(self, X: Any, *, reset: bool) -> CheckedData:
        data = check_data(self, X, reset=reset, min_samples=2 if reset else 1)
        if reset:
            is_image = data.is_image or self.image_shape is not None
            self.dtype_ = data.dtype
            self._preprocessing = Preprocessing(
                self,
                data,
                image_shape=self.image_shape,
                value_range=self.value_range,
                has_range=is_image,
            )
            self._preprocessing.check_in_memory(data)
        return self._preprocessing.open(data)

    def _build(self, data: CheckedData) -> nn.Module:
        if not data.is_image:
            self._preprocessing.learn_moments(data)
        network = NoiseNetwork(
            data.item_shape,
            n_filters=self.n_filters,
            n_blocks=self.n_blocks,
            hidden_features=self.hidden_features,
            patch_size=self._patch_size(data.item_shape),
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

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Diffusion:
        """Train the model.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            In-distribution data: rows (n, d) or images (n, H, W), (n, C, H, W) or (n, H, W, C).
        y : ignored

        Returns
        -------
        self
        """
        super().fit(X, y)
        self.module_ = self.module_.average.module
        return self

    def _after_step(self, module: nn.Module) -> None:
        module.update()

    def _tensor(self, items: npt.NDArray, device: torch.device) -> Tensor:
        """Pixels in [-1, 1], or standardised rows, float32."""
        x = self._preprocessing.tensor(items, device)
        if self.value_range_ is None:
            return x
        # The range "minmax" lets later data lie beyond black and white.
        return 2 * x.clamp(0, 1) - 1

    def _mutate(self, x: Tensor, data: CheckedData, generator: torch.Generator) -> Tensor:
        if self.value_range_ is None:
            return self._swap_values(x, data, generator)
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.mutation_rate
        drawn = torch.rand(x.shape, generator=generator, device=x.device)
        if self.n_levels is not None:
            drawn = (drawn * self.n_levels).floor() / (self.n_levels - 1)
        return torch.where(kept, x, 2 * drawn - 1)

    def _log_volume(self) -> float:
        """Logarithm of the volume, in units of x, over which scores integrate the density of X."""
        if self.value_range_ is None:
            return -float(np.log(self.scale_).sum())
        low, high = self.value_range_
        side = 2 / (high - low) if self.n_levels is None else 2 / (self.n_levels - 1)
        return float(np.prod(self._preprocessing.item_shape) * np.log(side))

    @internal
    def log_ratios(self) -> tuple[float, float]:
        """Logarithms of the smallest and the largest noise, relative to the item."""
        low, high = self._schedule().log_ratio(torch.tensor([self.t_min, 1.0]))
        return float(low), float(high)

    @internal
    def check_time(self, t: float) -> None:
        """Raise for a time that the model, fitted or not, knows no noise of.

        Parameters
        ----------
        t : float
        """
        if not self.t_min <= t <= 1:
            raise ValueError(
                f"t={t!r}; expected a time from t_min={self.t_min!r}, below which nothing is "
                "modelled, to 1"
            )

    def _schedule(self) -> VariancePreserving:
        return VariancePreserving(self.beta_min, self.beta_max)

    def _log_prob(self, module: nn.Module, x: Tensor, class_indices: Tensor | None) -> Tensor:
        r"""Bound on the log-density from a time for each item, in validation several, (b,).

        Items with the smallest noise are the latents of a decoder with noise of that size, whose
        log-likelihood is the first of three terms; those of the path and its end follow [2]_.
        """
        low, high = self.log_ratios()
        n_values = x[0].numel()
        # The bound of few values varies more from one time to another.
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
        with torch.inference_mode(False):
            density = log_density(module, x.clone(), self.log_ratios(), self.n_steps, probes)
        return density + self._log_volume()

    @internal
    def map_noise(
        self,
        data: CheckedData,
        function: Callable[[Denoiser, Tensor], Any],
        *,
        doing: str,
        **options: Any,
    ) -> Any:
        """Apply a function of the model and its input to every item.

        Parameters
        ----------
        data : CheckedData
        function : callable
            Takes a `Denoiser` and items as the network reads them, (b, ...); returns a tensor, or
            several, with a row for each item.
        doing : str
            What the progress bar says.
        **options : object
            Passed to `map_batches`.
        """
        module, device = self._ready()
        denoiser = Denoiser(
            module, self._schedule(), self.log_ratios(), partial(self._marginal, module)
        )
        data = self._open(data, reset=False)

        def of_items(items: npt.NDArray) -> Any:
            with torch.inference_mode(False), torch.no_grad():
                return function(denoiser, self._tensor(items, device).clone())

        return map_batches(
            of_items,
            data,
            scoring_batch_size(device, data.item_shape),
            **{
                "device": device,
                "multiple_of": batch_multiple(data.item_shape),
                "n_workers": self.n_workers,
                "verbose": self.verbose,
                "description": f"{type(self).__name__} {doing}",
                **options,
            },
        )

    def score_function(self, X: Any, t: float) -> npt.NDArray[np.float64]:
        r"""Score at a time: gradient of the log-density of noisy items.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        t : float
            Time, from `t_min` to 1.

        Returns
        -------
        ndarray of shape (n_samples, \*item_shape), float64
            :math:`\nabla \log p_t` at :math:`\psi(t) x`, in units of the network: pixels in [-1, 1]
            or standardised rows.

        Raises
        ------
        ValueError
            When `t` is a time that is not modelled, or X does not match that of `fit`.
        """
        self.check_time(t)
        return self.map_noise(
            self._open(X, reset=False),
            lambda denoiser, x: denoiser.score(x, denoiser.log_ratio(t)),
            doing="scores",
        )

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> npt.NDArray:
        """Draw items from the model, by the probability-flow ODE.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d)
            In the shape, range and dtype of the training data; images with `n_levels` values.
        """
        module, device = self._ready(n_samples)
        generator = torch_rng(device, draw_seed(random_state), Stream.SAMPLES)
        low, high = self.log_ratios()
        grid = torch.linspace(high, low, self.n_steps + 1, device=device)
        drawn = []
        with torch.no_grad():
            for start in range(0, n_samples, _SAMPLES_AT_ONCE):
                shape = min(_SAMPLES_AT_ONCE, n_samples - start), *self._preprocessing.item_shape
                x = denoise(module, torch.randn(shape, generator=generator, device=device), grid)
                if self.value_range_ is not None:
                    x = ((x + 1) / 2).clamp(0, 1)
                    if self.n_levels is not None:
                        x = (x * (self.n_levels - 1)).round() / (self.n_levels - 1)
                drawn.append(self._preprocessing.inverse(x).cpu().numpy())
        values = np.concatenate(drawn)
        if self.dtype_.kind in "iu":
            values = values.round()
        return values.astype(self.dtype_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


class Denoiser:
    r"""The tensor interface of a trained diffusion model.

    An internal interface, stable within this package. Items x are as the network reads them,
    (b, ...), pixels in [-1, 1] or standardised rows; the noisy item of x at time t is
    :math:`\psi x + \sigma \epsilon`.

    Parameters
    ----------
    noise : callable
        The network: finds the noise in noisy items at a log-ratio.
    schedule : VariancePreserving
    log_ratios : (float, float)
        Smallest and largest noise.
    log_density : callable
        Log-density of items in nats, in the units of X, (b,), float64.
    """

    def __init__(
        self,
        noise: Callable[[Tensor, Tensor], Tensor],
        schedule: VariancePreserving,
        log_ratios: tuple[float, float],
        log_density: Callable[[Tensor], Tensor],
    ) -> None:
        self.noise = noise
        self.schedule = schedule
        self.log_ratios = log_ratios
        self.log_density = log_density

    def log_ratio(self, t: float) -> Tensor:
        """Logarithm of the noise at time t, a scalar, float64."""
        return self.schedule.log_ratio(torch.tensor(t))

    def noisy(self, x: Tensor, t: float, noise: Tensor) -> Tensor:
        """Add noise to items, as much as there is at time t."""
        psi, sigma = mean_and_std(self.log_ratio(t))
        return psi * x + sigma * noise

    def denoise(self, x: Tensor, t: float, n_steps: int) -> Tensor:
        """Take noise off noisy items of time t, in steps of the ODE to the smallest noise."""
        start = float(self.log_ratio(t))
        end = min(start, self.log_ratios[0]) if n_steps > 0 else start
        grid = torch.linspace(start, end, n_steps + 1, device=x.device)
        return denoise(self.noise, x, grid)

    def score(self, x: Tensor, log_ratio: Tensor) -> Tensor:
        r"""Gradient of the log-density of noisy items, at :math:`\psi x`; float64."""
        psi, sigma = mean_and_std(log_ratio)
        return -self.noise(psi * x, log_ratio).double() / sigma

    def dimension(self, x: Tensor, log_ratio: Tensor, probes: Tensor | None) -> Tensor:
        r"""Local intrinsic dimension by FLIPD at :math:`\psi x`, (b,), float64.

        :math:`D + \sigma^2 (\operatorname{tr} \nabla s + \|s\|^2)` with the score s (Kamkari et al.
        2024, "A Geometric View of Data Complexity", equation 11).

        Parameters
        ----------
        x : Tensor of shape (b, ...)
        log_ratio : Tensor, scalar
        probes : Tensor of shape (k, ...) or None
            As in `noise_and_trace`.
        """
        psi, sigma = mean_and_std(log_ratio)
        noise, trace = noise_and_trace(self.noise, psi * x, log_ratio, probes)
        length = noise.flatten(1).square().sum(1, dtype=torch.float64)
        return x[0].numel() - sigma * trace + length


def rademacher(shape: tuple[int, ...]) -> Tensor:
    """Signs, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return 2.0 * torch.randint(2, shape, generator=generator) - 1
