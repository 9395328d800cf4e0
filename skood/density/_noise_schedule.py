"""The noise of a diffusion model as a function of time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["NoiseSchedule", "VarianceExploding", "VariancePreserving", "mean_and_std"]


class NoiseSchedule(ABC):
    r"""The noise that an SDE adds to an item until time t, from 0 to 1.

    .. math:: x_t = a (x + s \epsilon), \quad s = e^\lambda

    The noise level is :math:`\lambda`, the logarithm of the standard deviation of the noise
    relative to the item: it is the input of networks and the variable of integration. The SDEs
    differ in the times of the noise levels and in the factor a.
    """

    @abstractmethod
    def log_ratio(self, t: Tensor) -> Tensor:
        r""":math:`\lambda` at times t, float64."""

    @abstractmethod
    def time(self, log_ratio: Tensor) -> Tensor:
        """Undo `log_ratio`."""

    @abstractmethod
    def factor(self, log_ratio: Tensor) -> Tensor:
        r"""Return the factor a at each :math:`\lambda`."""


class VariancePreserving(NoiseSchedule):
    r"""The variance-preserving SDE (Song et al. 2021, equation 33).

    .. math:: x_t = \psi x + \sigma \epsilon, \quad \psi = e^{-B/2}, \quad \sigma^2 = 1 - e^{-B},
        \quad B(t) = \beta_0 t + (\beta_1 - \beta_0) t^2 / 2

    Parameters
    ----------
    beta_min, beta_max : float
        Rates of noise at times 0 and 1.
    """

    def __init__(self, beta_min: float, beta_max: float) -> None:
        self.beta_min = beta_min
        self.beta_max = beta_max

    def log_ratio(self, t: Tensor) -> Tensor:
        t = t.double()
        b = self.beta_min * t + (self.beta_max - self.beta_min) * t.square() / 2
        return torch.expm1(b).log() / 2

    def time(self, log_ratio: Tensor) -> Tensor:
        b = torch.log1p((2 * log_ratio.double()).exp())
        growth = self.beta_max - self.beta_min
        return 2 * b / (self.beta_min + (self.beta_min**2 + 2 * growth * b).sqrt())

    def factor(self, log_ratio: Tensor) -> Tensor:
        return mean_and_std(log_ratio)[0]


class VarianceExploding(NoiseSchedule):
    r"""The variance-exploding SDE with geometric noise (Song et al. 2021, appendix C).

    .. math:: x_t = x + \sigma \epsilon, \quad \sigma = \sigma_0 (\sigma_1 / \sigma_0)^t

    Parameters
    ----------
    sigma_min, sigma_max : float
        Standard deviations of the noise at times 0 and 1.
    """

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        self.low, self.high = math.log(sigma_min), math.log(sigma_max)

    def log_ratio(self, t: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * t.double()

    def time(self, log_ratio: Tensor) -> Tensor:
        return (log_ratio.double() - self.low) / (self.high - self.low)

    def factor(self, log_ratio: Tensor) -> Tensor:
        return torch.ones_like(log_ratio)


def mean_and_std(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\psi` and :math:`\sigma` at each :math:`\lambda`, with squares that add up to 1."""
    return torch.sigmoid(-2 * log_ratio).sqrt(), torch.sigmoid(2 * log_ratio).sqrt()


def log_normal(x: Tensor, variance: float) -> Tensor:
    """Log-density of N(0, variance) at rows x in nats, (b,), float64."""
    x = x.flatten(1).double()
    return -0.5 * (x.square() / variance + math.log(2 * math.pi * variance)).sum(1)
