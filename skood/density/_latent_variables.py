"""Densities of latent variables, p(x) = integral of p(x | z) p(z) over z: what they share."""

from __future__ import annotations

import numbers
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils import Tags
from torch import Tensor, nn

from skood._checked_data import CheckedData
from skood._data import check_data
from skood._parameters import Interval, StrOptions, estimator, parameter
from skood._torch.preprocessing import Learned, Preprocessing
from skood.density._base import NeuralDensity
from skood.density._likelihoods import Bernoulli, DiscretizedLogistic, Gaussian, Likelihood

__all__ = ["LatentVariableDensity"]


@estimator
class LatentVariableDensity(NeuralDensity):
    """Base of the densities with latents z that are decoded to a likelihood p(x | z).

    A subclass writes ``_network`` and ``_log_prob``. Its network has a method ``scale``, the scale
    of the likelihood. The parameters are described in :class:`~skood.density.VAE`.
    """

    n_filters: tuple[int, ...] = parameter(tuple, list, default=(32, 64), kw_only=True)
    hidden_features: tuple[int, ...] | None = parameter(
        tuple, list, None, default=None, kw_only=True
    )
    likelihood: str = parameter(
        StrOptions({"auto", "bernoulli", "gaussian", "logistic"}), default="auto", kw_only=True
    )
    bound: str = parameter(StrOptions({"importance", "elbo"}), default="importance", kw_only=True)
    n_importance_samples: int = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), default=64, kw_only=True
    )
    n_levels: int = parameter(
        Interval(numbers.Integral, 2, None, closed="left"), default=256, kw_only=True
    )
    value_range: tuple[float, float] | str | None = parameter(
        "array-like", StrOptions({"minmax"}), None, default=None, kw_only=True
    )
    image_shape: tuple[int, int, int] | None = parameter(
        "array-like", None, default=None, kw_only=True
    )
    learning_rate: float = parameter(default=1e-3, kw_only=True)
    lr_schedule: str = parameter(default="constant", kw_only=True)
    patience: int | None = parameter(default=5, kw_only=True)

    # What `hidden_features=None` stands for where items are images.
    _features_of_images: ClassVar[tuple[int, ...]] = (16,)

    value_range_ = Learned("value_range")
    mean_ = Learned("mean")
    scale_ = Learned("scale")

    def _open(self, X: Any, *, reset: bool) -> CheckedData:
        data = check_data(self, X, reset=reset, min_samples=2 if reset else 1)
        if reset:
            is_image = data.is_image or self.image_shape is not None
            self.dtype_ = data.dtype
            self.likelihood_ = self.likelihood
            if self.likelihood == "auto":
                self.likelihood_ = "logistic" if is_image else "gaussian"
            self._preprocessing = Preprocessing(
                self,
                data,
                image_shape=self.image_shape,
                value_range=self.value_range,
                has_range=is_image
                or self.likelihood_ != "gaussian"
                or self.value_range is not None,
            )
            self._preprocessing.check_in_memory(data)
        return self._preprocessing.open(data)

    def _build(self, data: CheckedData) -> nn.Module:
        if self.value_range_ is None:
            self._preprocessing.learn_moments(data)
        self._likelihood = self._make_likelihood()
        hidden_features = self.hidden_features
        if hidden_features is None:
            hidden_features = self._features_of_images if data.is_image else (128, 128)
        network = self._network(data.item_shape, hidden_features)
        return network.to(memory_format=torch.channels_last) if data.is_image else network

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
            # The range "minmax" lets later data lie beyond black and white.
            x = x.clamp(0, 1)
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def _mutate(self, x: Tensor, data: CheckedData, generator: torch.Generator) -> Tensor:
        if self.value_range_ is None:
            return self._swap_values(x, data, generator)
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.mutation_rate
        return torch.where(kept, x, torch.rand(x.shape, generator=generator, device=x.device))

    def _log_likelihood(self, module: nn.Module, x: Tensor, raw: Tensor) -> Tensor:
        """Return log p(x | z) in nats, shape (b,), float64, from the decoder's output."""
        with torch.autocast(x.device.type, enabled=False):
            log_prob = self._likelihood.log_prob(x, raw.float(), module.scale())
            return log_prob.flatten(1).double().sum(1)

    def _draw_items(
        self, module: nn.Module, location: Tensor, generator: torch.Generator
    ) -> npt.NDArray:
        """Draw from p(x | z), in the units of X."""
        x = self._likelihood.sample(location, module.scale(), generator)
        return self._preprocessing.inverse(x).cpu().numpy()

    def _in_training_dtype(self, values: npt.NDArray) -> npt.NDArray:
        if self.dtype_.kind in "biu":
            # Draws of standardised rows may exceed the range of the dtype.
            info = None if self.dtype_.kind == "b" else np.iinfo(self.dtype_)
            values = values.round().clip(*((info.min, info.max) if info else (0, 1)))
        return values.astype(self.dtype_)

    @property
    def _is_differentiable(self) -> bool:  # type: ignore[override]
        return getattr(self, "likelihood_", self.likelihood) == "gaussian"

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
