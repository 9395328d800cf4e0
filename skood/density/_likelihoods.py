"""Likelihoods p(x | z) of a variational autoencoder, independent over the values of an item."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from skood.density._logistic_mixture import level_log_prob

__all__ = ["Bernoulli", "DiscretizedLogistic", "Gaussian", "Likelihood"]


class Likelihood(ABC):
    r"""Distribution of x, values in [0, 1] or standardised rows, given a decoder's output.

    In the methods, `raw` is the decoder's output, of shape (b, \*item_shape), and `scale` a
    learned scale of shape (C, 1, 1) or (d,), None for a likelihood that has none.
    """

    # Initial scale; None for a likelihood without a scale.
    initial_scale: float | None = None
    # Whether `log_prob` is a probability only for x in [0, 1].
    is_bounded = True

    def location(self, raw: Tensor) -> Tensor:
        """Centre of the distribution, its mean where it is not discretised."""
        return raw.sigmoid()

    @abstractmethod
    def log_prob(self, x: Tensor, raw: Tensor, scale: Tensor | None) -> Tensor:
        r"""Logarithm of p(x | z) in nats, of each value, shape (b, \*item_shape)."""

    @abstractmethod
    def sample(self, location: Tensor, scale: Tensor | None, generator: torch.Generator) -> Tensor:
        r"""Draw x, shape (b, \*item_shape), around the result of the method `location`."""


class Bernoulli(Likelihood):
    """Bernoulli distribution; a grey value counts as a probability of white."""

    def log_prob(self, x: Tensor, raw: Tensor, scale: Tensor | None) -> Tensor:
        return -F.binary_cross_entropy_with_logits(raw, x, reduction="none")

    def sample(self, location: Tensor, scale: Tensor | None, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(location, generator=generator)


class Gaussian(Likelihood):
    """Normal distribution with a learned standard deviation, a density in the units of X.

    Parameters
    ----------
    unit : float or ndarray of shape (d,)
        One unit of x in the units of X.
    has_range : bool
        Whether x are values from 0 to 1, to which draws are clipped, or standardised rows.
    """

    is_bounded = False

    def __init__(self, unit: float | npt.NDArray[np.float64], *, has_range: bool) -> None:
        self.unit = unit
        self.has_range = has_range
        self.initial_scale = 0.1 if has_range else 0.5

    def location(self, raw: Tensor) -> Tensor:
        return raw.sigmoid() if self.has_range else raw

    def log_prob(self, x: Tensor, raw: Tensor, scale: Tensor | None) -> Tensor:
        assert scale is not None
        residual = (x - self.location(raw)) / scale
        unit = torch.as_tensor(self.unit, dtype=x.dtype, device=x.device)
        return -0.5 * (residual.square() + math.log(2 * math.pi)) - (scale * unit).log()

    def sample(self, location: Tensor, scale: Tensor | None, generator: torch.Generator) -> Tensor:
        noise = torch.randn(location.shape, generator=generator, device=location.device)
        drawn = location + scale * noise
        return drawn.clamp(0, 1) if self.has_range else drawn


class DiscretizedLogistic(Likelihood):
    """Logistic distribution with a learned scale, discretised to levels from 0 to 1.

    Parameters
    ----------
    n_levels : int
    """

    initial_scale = 0.1

    def __init__(self, n_levels: int) -> None:
        self.n_levels = n_levels

    def log_prob(self, x: Tensor, raw: Tensor, scale: Tensor | None) -> Tensor:
        assert scale is not None
        highest = self.n_levels - 1
        return level_log_prob(
            (highest * x).round(), highest * self.location(raw), highest * scale, self.n_levels
        )

    def sample(self, location: Tensor, scale: Tensor | None, generator: torch.Generator) -> Tensor:
        highest = self.n_levels - 1
        uniform = torch.rand(location.shape, generator=generator, device=location.device)
        drawn = location + scale * torch.logit(uniform, eps=1e-7)
        return (drawn * highest).round().clamp(0, highest) / highest
