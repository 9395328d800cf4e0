"""Tensor interface of a trained diffusion model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skood.density._noise_schedule import VariancePreserving, mean_and_std
from skood.density._probability_flow import denoise, noise_and_trace

__all__ = ["Denoiser", "rademacher"]


class Denoiser:
    r"""The tensor interface of a trained diffusion model.

    An internal interface, stable within this package. Items x (b, ...) are the network's input,
    pixels in [-1, 1] or standardised rows; the noisy item of x at time t is
    :math:`\psi x + \sigma \epsilon`.

    Parameters
    ----------
    noise : callable
        The network, which predicts the noise in noisy items at a log-ratio.
    schedule : VariancePreserving
    log_ratios : (float, float)
        Smallest and largest log-ratio of the noise.
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
        """Add the noise of time t to items."""
        psi, sigma = mean_and_std(self.log_ratio(t))
        return psi * x + sigma * noise

    def denoise(self, x: Tensor, t: float, n_steps: int) -> Tensor:
        """Remove the noise of time t from items, by steps of the ODE to the smallest noise."""
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
