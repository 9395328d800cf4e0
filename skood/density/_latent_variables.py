"""Base of the densities with latent variables, p(x) = integral of p(x | z) p(z) over z."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import StrOptions, at_least, estimator, parameter
from skood._torch.preprocessing import Preprocessing
from skood.density._likelihoods import Bernoulli, DiscretizedLogistic, Gaussian, Likelihood
from skood.density._neural_density import NeuralDensity
from skood.density._pixels import ImageOrRowParameters

__all__ = ["LatentVariableDensity"]


@estimator
class LatentVariableDensity(ImageOrRowParameters, NeuralDensity):
    """Base of the densities with latents z that are decoded to a likelihood p(x | z).

    A subclass writes ``_network``, ``_log_prob`` and ``_draw``. Its network has a method ``scale``,
    which returns the scale of the likelihood.

    Parameters
    ----------
    n_filters : tuple of int, default=(32, 64)
        For images: channels after each of the encoder's convolutions, which halve height and
        width; the decoder has them in reverse order.
    likelihood : {"auto", "bernoulli", "gaussian", "logistic"}, default="auto"
        p(x | z), independent over values. "bernoulli": values in [0, 1]; grey ones count as
        probabilities of white, so that the distribution is not normalised.
        "gaussian": with a learned standard deviation for each channel or feature. "logistic":
        discretised to `n_levels`, with a learned scale for each channel or feature. "auto":
        "logistic" for images, "gaussian" for rows.
    bound : {"importance", "elbo"}, default="importance"
        Lower bound on log p(x) that `score_samples` returns: the importance-weighted bound, or
        the training objective.
    n_importance_samples : int, default=64
        Draws of z per score, preferably a power of 2; each one costs a pass of the decoder.
    n_levels : int, default=256
        Number of values of a pixel, for the likelihood "logistic". Pixels are rounded to the
        nearest of `n_levels` equally spaced values in `value_range`.
    value_range : (float, float), "minmax" or None, default=None
        Values of black and white. None: 0..255 for uint8, 0..1 for floats, and an error for
        anything else. "minmax": the range of the training data, to which later data are clipped
        unless the likelihood is "gaussian". With "gaussian", rows are standardised instead unless
        a range is given.

    Attributes
    ----------
    likelihood_ : str
        The likelihood that "auto" stands for.
    """

    n_filters: tuple[int, ...] = parameter(tuple, list, default=(32, 64), kw_only=True)
    hidden_features: tuple[int, ...] | None = parameter(
        tuple, list, None, default=None, kw_only=True
    )
    likelihood: str = parameter(
        StrOptions({"auto", "bernoulli", "gaussian", "logistic"}), default="auto", kw_only=True
    )
    bound: str = parameter(StrOptions({"importance", "elbo"}), default="importance", kw_only=True)
    n_importance_samples: int = parameter(at_least(1), default=64, kw_only=True)
    n_levels: int = parameter(at_least(2), default=256, kw_only=True)
    learning_rate: float = parameter(default=1e-3, kw_only=True)
    lr_schedule: str = parameter(default="constant", kw_only=True)
    patience: int | None = parameter(default=5, kw_only=True)

    # Widths for images, if `hidden_features` is None.
    _features_of_images: ClassVar[tuple[int, ...]] = (16,)

    _samples_at_once = 1024

    def _make_preprocessing(self, data: CheckedData) -> Preprocessing:
        is_image = data.is_image or self.image_shape is not None
        self.dtype_ = data.dtype
        self.likelihood_ = self.likelihood
        if self.likelihood == "auto":
            self.likelihood_ = "logistic" if is_image else "gaussian"
        return Preprocessing(
            self,
            data,
            image_shape=self.image_shape,
            value_range=self.value_range,
            has_range=is_image or self.likelihood_ != "gaussian" or self.value_range is not None,
        )

    def _learn(self, data: CheckedData) -> None:
        if self.value_range_ is None:
            self._preprocessing.learn_moments(data)
        self._likelihood = self._make_likelihood()

    def _make_network(self, item_shape: tuple[int, ...]) -> nn.Module:
        is_image = len(item_shape) == 3
        hidden_features = self.hidden_features
        if hidden_features is None:
            hidden_features = self._features_of_images if is_image else (128, 128)
        network = self._network(item_shape, hidden_features)
        return network.to(memory_format=torch.channels_last) if is_image else network

    @abstractmethod
    def _network(self, item_shape: tuple[int, ...], hidden_features: tuple[int, ...]) -> nn.Module:
        """Make the untrained network; ``_likelihood`` is known."""

    def _make_likelihood(self) -> Likelihood:
        if self.likelihood_ == "bernoulli":
            return Bernoulli()
        if self.likelihood_ == "logistic":
            return DiscretizedLogistic(self.n_levels)
        if self.value_range_ is None:
            return Gaussian(self.scale_, has_range=False)
        low, high = self.value_range_
        return Gaussian(high - low, has_range=True)

    def _tensor(self, items: npt.NDArray, device: torch.device) -> Tensor:
        """Values in [0, 1], or standardised rows, float32."""
        x = self._preprocessing.tensor(items, device)
        if self._likelihood.is_bounded:
            # With the range "minmax", later data may lie beyond black and white.
            x = x.clamp(0, 1)
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def _mutate(self, x: Tensor, data: CheckedData, generator: torch.Generator) -> Tensor:
        if self.value_range_ is None:
            return self._swap_values(x, data, generator)
        return self._redraw_pixels(x, generator)

    def _log_likelihood(self, module: nn.Module, x: Tensor, raw: Tensor) -> Tensor:
        """Return log p(x | z) in nats, shape (b,), float64, from the decoder's output."""
        with torch.autocast(x.device.type, enabled=False):
            log_prob = self._likelihood.log_prob(x, raw.float(), module.scale())
            return log_prob.flatten(1).double().sum(1)

    @property
    def _is_differentiable(self) -> bool:  # type: ignore[override]
        return getattr(self, "likelihood_", self.likelihood) == "gaussian"
