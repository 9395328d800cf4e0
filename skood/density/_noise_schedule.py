"""The noise of a diffusion model as a function of time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["VariancePreserving", "mean_and_std"]


class VariancePreserving:
    r"""The noise that the variance-preserving SDE adds until time t, from 0 to 1.

    .. math:: x_t = \psi x + \sigma \epsilon, \quad \psi = e^{-B/2}, \quad \sigma^2 = 1 - e^{-B},
        \quad B(t) = \beta_0 t + (\beta_1 - \beta_0) t^2 / 2

    (Song et al. 2021, equation 33). The noise level depends on :math:`\lambda = \log(\sigma /
    \psi)` alone, the logarithm of the standard deviation of the noise relative to the item:
    :math:`\lambda` is the input of networks and the variable of integration.

    Parameters
    ----------
    beta_min, beta_max : float
        Rates of noise at times 0 and 1.
    """

    def __init__(self, beta_min: float, beta_max: float) -> None:
        self.beta_min = beta_min
        self.beta_max = beta_max

    def log_ratio(self, t: Tensor) -> Tensor:
        r""":math:`\lambda` at times t, float64."""
        t = t.double()
        b = self.beta_min * t + (self.beta_max - self.beta_min) * t.square() / 2
        return torch.expm1(b).log() / 2

    def time(self, log_ratio: Tensor) -> Tensor:
        """Undo `log_ratio`."""
        b = torch.log1p((2 * log_ratio.double()).exp())
        growth = self.beta_max - self.beta_min
        return 2 * b / (self.beta_min + (self.beta_min**2 + 2 * growth * b).sqrt())


def mean_and_std(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\psi` and :math:`\sigma` at each :math:`\lambda`."""
    return torch.sigmoid(-2 * log_ratio).sqrt(), torch.sigmoid(2 * log_ratio).sqrt()


def log_normal(x: Tensor, variance: float) -> Tensor:
    """Log-density of N(0, variance) at rows x in nats, (b,), float64."""
    x = x.flatten(1).double()
    return -0.5 * (x.square() / variance + math.log(2 * math.pi * variance)).sum(1)
