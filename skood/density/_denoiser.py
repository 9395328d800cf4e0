"""Tensor interface of a trained diffusion model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skood.density._noise_schedule import NoiseSchedule, mean_and_std
from skood.density._probability_flow import ancestral_sample, denoise, noise_and_trace

__all__ = ["Denoiser", "rademacher"]


class Denoiser:
    r"""The tensor interface of a trained diffusion model.

    An internal interface, stable within this package. Items x (b, ...) are the network's input,
    pixels in [-1, 1] or standardised rows. The network reads the noisy item of x at time t as
    :math:`\psi x + \sigma \epsilon` with :math:`\psi^2 + \sigma^2 = 1`, whatever the SDE.

    Parameters
    ----------
    noise : callable
        The network, which predicts the noise in noisy items at a log-ratio.
    schedule : NoiseSchedule
    log_ratios : (float, float)
        Smallest and largest log-ratio of the noise.
    log_density : callable
        Log-density of items in nats, in the units of X, (b,), float64.
    """

    def __init__(
        self,
        noise: Callable[[Tensor, Tensor], Tensor],
        schedule: NoiseSchedule,
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
        """Noisy items of time t, as the network reads them."""
        psi, sigma = mean_and_std(self.log_ratio(t))
        return psi * x + sigma * noise

    def denoise(self, x: Tensor, t: float, n_steps: int, draws: Tensor | None = None) -> Tensor:
        r"""Remove the noise of time t from items, in steps to the smallest noise.

        Parameters
        ----------
        x : Tensor of shape (b, ...)
            Noisy items, as from `noisy`.
        t : float
        n_steps : int
            Without steps, the mean of the items that may be x without noise.
        draws : Tensor of shape (n_steps, \*item_shape) or None
            Standard normal numbers, for steps of the reverse-time SDE. None: steps of the ODE.
        """
        start = float(self.log_ratio(t))
        end = min(start, self.log_ratios[0]) if n_steps > 0 else start
        grid = torch.linspace(start, end, n_steps + 1, device=x.device)
        if draws is not None:
            return ancestral_sample(self.noise, x, grid, draws)
        return denoise(self.noise, x, grid)

    def score(self, x: Tensor, log_ratio: Tensor) -> Tensor:
        r"""Gradient of the log-density of the SDE's noisy items, at the noise-free one; float64."""
        psi, _ = mean_and_std(log_ratio)
        return -self.noise(psi * x, log_ratio).double() / self.std(log_ratio)

    def std(self, log_ratio: Tensor) -> Tensor:
        """Return the standard deviation of the noise in the SDE's noisy items."""
        return self.schedule.factor(log_ratio) * log_ratio.exp()

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
