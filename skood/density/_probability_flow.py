r"""Likelihoods and samples of a diffusion model by its probability-flow ODE.

With :math:`s = \sigma / \psi = e^\lambda` and :math:`y = x_t / \psi`, an item with noise of the
standard deviation s, the ODE is :math:`dy / ds = \hat\epsilon`, the predicted noise (Karras et al.
2022, equation 4), and

.. math:: \frac{d \log p(y)}{d\lambda} = -s \operatorname{tr} \nabla_y \hat\epsilon

Both are integrated over :math:`\lambda` by the classical Runge-Kutta method with steps of equal
size, so that the result for an item does not depend on the others. `ancestral_sample` follows the
reverse-time SDE instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from skood.density._noise_schedule import log_normal, mean_and_std

__all__ = ["Noise", "ancestral_sample", "denoise", "log_density", "noise_and_trace"]

# Predicts the noise in noisy items (b, ...), at one log-ratio; the same shape.
Noise = Callable[[Tensor, Tensor], Tensor]


def noise_and_trace(
    noise: Noise, x: Tensor, log_ratio: Tensor, probes: Tensor | None
) -> tuple[Tensor, Tensor]:
    r"""Noise in items, and the trace of its Jacobian.

    Parameters
    ----------
    noise : callable
        Maps noisy items, row by row, to their noise.
    x : Tensor of shape (b, ...)
    log_ratio : Tensor, scalar
    probes : Tensor of shape (k, \*item_shape) or None
        Vectors v whose entries have mean 0 and variance 1: the trace is estimated by the mean of
        v'Jv (Hutchinson). None computes the trace, with a vector for each value of an item.

    Returns
    -------
    noise : Tensor of shape (b, ...)
    trace : Tensor of shape (b,), float64
    """
    with torch.no_grad():
        found, pull = torch.func.vjp(lambda x: noise(x, log_ratio), x)

        def product(probe: Tensor) -> Tensor:
            return (probe * pull(probe.expand_as(x))[0]).flatten(1).sum(1, dtype=torch.float64)

        if probes is not None:
            return found, torch.stack([product(probe) for probe in probes]).mean(0)
        n_values = x[0].numel()
        basis = torch.eye(n_values, dtype=x.dtype, device=x.device).view(n_values, *x.shape[1:])
        return found, torch.func.vmap(product)(basis).sum(0)


def log_density(
    noise: Noise, x: Tensor, log_ratios: tuple[float, float], n_steps: int, probes: Tensor | None
) -> Tensor:
    r"""Log-density of items under the model at the smallest noise.

    Parameters
    ----------
    noise : callable
        See `noise_and_trace`.
    x : Tensor of shape (b, ...)
        Items, which count as items with the smallest noise.
    log_ratios : (float, float)
        Smallest and largest log-ratio; at the largest, noisy items are standard normal.
    n_steps : int
        Each computes four times noise and trace.
    probes : Tensor of shape (n_steps, k, \*item_shape) or None
        Probes of each step.

    Returns
    -------
    Tensor of shape (b,), float64
        In nats, in units of x.
    """
    y = x
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    grid = torch.linspace(*log_ratios, n_steps + 1, dtype=x.dtype, device=x.device)
    for step in range(n_steps):
        of_step = None if probes is None else probes[step]

        def slopes(y: Tensor, log_ratio: Tensor, probes: Tensor | None = of_step) -> list[Tensor]:
            psi, s = mean_and_std(log_ratio)[0], log_ratio.exp()
            found, trace = noise_and_trace(noise, psi * y, log_ratio, probes)
            return [s * found, s * psi * trace]

        y, gain = _runge_kutta(slopes, y, grid[step], grid[step + 1])
        total = total + gain
    return log_normal(y, 1 + math.exp(2 * log_ratios[1])) + total


def denoise(noise: Noise, x: Tensor, log_ratios: Tensor) -> Tensor:
    r"""Follow the ODE to less noise, and subtract the predicted rest at the end.

    Parameters
    ----------
    noise : callable
        See `noise_and_trace`.
    x : Tensor of shape (b, ...)
        Noisy items.
    log_ratios : Tensor of shape (n_steps + 1,)
        Decreasing, from the log-ratio of x.

    Returns
    -------
    Tensor of shape (b, ...)
        Items without noise.
    """

    def slopes(y: Tensor, log_ratio: Tensor) -> list[Tensor]:
        return [log_ratio.exp() * noise(mean_and_std(log_ratio)[0] * y, log_ratio)]

    y = x / mean_and_std(log_ratios[0])[0]
    for start, end in pairwise(log_ratios):
        (y,) = _runge_kutta(slopes, y, start, end)
    last = log_ratios[-1]
    return y - last.exp() * noise(mean_and_std(last)[0] * y, last)


def ancestral_sample(noise: Noise, x: Tensor, log_ratios: Tensor, draws: Tensor) -> Tensor:
    r"""Follow the reverse-time SDE to less noise, and subtract the predicted rest at the end.

    A step from s to s' draws from the normal distribution of y' given y and the item, with the item
    that the network predicts (Song et al. 2021, appendix F),

    .. math:: y' = y - \frac{s^2 - s'^2}{s} \hat\epsilon
        + \sqrt{\frac{s'^2 (s^2 - s'^2)}{s^2}} z

    Parameters
    ----------
    noise : callable
        See `noise_and_trace`.
    x : Tensor of shape (b, ...)
        Noisy items.
    log_ratios : Tensor of shape (n_steps + 1,)
        Decreasing, from the log-ratio of x.
    draws : Tensor of shape (n_steps, \*item_shape)
        Standard normal z of each step, the same for every item.

    Returns
    -------
    Tensor of shape (b, ...)
        Items without noise.
    """
    y = x / mean_and_std(log_ratios[0])[0]
    for draw, (start, end) in zip(draws, pairwise(log_ratios), strict=True):
        # The part of the variance that the step removes.
        removed = -torch.expm1(2 * (end - start))
        y = y - start.exp() * removed * noise(mean_and_std(start)[0] * y, start)
        y = y + end.exp() * removed.sqrt() * draw
    last = log_ratios[-1]
    return y - last.exp() * noise(mean_and_std(last)[0] * y, last)


def _runge_kutta(
    slopes: Callable[[Tensor, Tensor], list[Tensor]], y: Tensor, start: Tensor, end: Tensor
) -> list[Tensor]:
    """Take one step of the classical method.

    Parameters
    ----------
    slopes : callable
        Takes y and the time; returns the slopes of y and of the integrals along its path.
    y : Tensor
    start, end : Tensor, scalar

    Returns
    -------
    list of Tensor
        y at `end`, and the integrals.
    """
    length, middle = end - start, (start + end) / 2
    first = slopes(y, start)
    second = slopes(y + length / 2 * first[0], middle)
    third = slopes(y + length / 2 * second[0], middle)
    fourth = slopes(y + length * third[0], end)
    gains = [
        length / 6 * (a + 2 * b + 2 * c + d)
        for a, b, c, d in zip(first, second, third, fourth, strict=True)
    ]
    return [y + gains[0], *gains[1:]]
