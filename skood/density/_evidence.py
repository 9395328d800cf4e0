"""Lower bounds on log p(x) of a model with latents, from draws of q(z | x)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

__all__ = [
    "divergence",
    "importance_bound",
    "latent_divergences",
    "lower_bound",
    "normal_points",
    "weigh",
]


def lower_bound(
    log_likelihood: Callable[[Tensor], Tensor],
    mean: Tensor,
    log_variance: Tensor,
    points: Tensor,
    *,
    importance_weighted: bool,
) -> Tensor:
    r"""Lower bound on log p(x), with z_k = mean + standard deviation * points_k.

    Parameters
    ----------
    log_likelihood : callable
        Takes z of shape (b, n_latent), returns log p(x | z) in nats, shape (b,), float64.
    mean, log_variance : Tensor of shape (b, n_latent)
        Mean and log-variance of q(z | x), a normal distribution.
    points : Tensor of shape (K, n_latent)
        Quasi-random points of a standard normal distribution, the same for every item.
    importance_weighted : bool
        Whether the bound is :math:`\log \frac{1}{K} \sum_k p(x|z_k) p(z_k) / q(z_k|x)` (Burda
        et al. 2016, equation 8), or the mean of log p(x | z_k) minus KL(q || p) (Kingma and
        Welling 2014, equation 10).

    Returns
    -------
    Tensor of shape (b,), float64
        In nats.
    """
    log_likelihoods, log_weights = weigh(log_likelihood, mean, log_variance, points)
    if importance_weighted:
        return importance_bound(log_weights)
    return log_likelihoods.mean(0) - divergence(mean, log_variance)


def weigh(
    log_likelihood: Callable[[Tensor], Tensor], mean: Tensor, log_variance: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the log-weights of the draws in `lower_bound`, which has the same parameters.

    Returns
    -------
    log_likelihoods, log_weights : Tensor of shape (K, b), float64
        Log p(x | z_k), and the same plus log p(z_k) - log q(z_k | x).
    """
    log_likelihoods, log_weights = [], []
    for point in points:
        z = mean + (log_variance / 2).exp() * point
        log_likelihoods.append(log_likelihood(z))
        # log p(z) - log q(z | x), whose constants cancel.
        ratio = 0.5 * (point.square() + log_variance - z.square()).double().sum(1)
        log_weights.append(log_likelihoods[-1] + ratio)
    return torch.stack(log_likelihoods), torch.stack(log_weights)


def importance_bound(log_weights: Tensor) -> Tensor:
    """Importance-weighted bound (b,) from the log-weights (K, b) of draws."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, variance) from N(0, I) in nats, shape (b,)."""
    return latent_divergences(mean, log_variance).sum(1)


def latent_divergences(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Terms of `divergence`, one for each latent, shape (b, n_latent), float64."""
    mean, log_variance = mean.double(), log_variance.double()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


@lru_cache(maxsize=8)
def normal_points(n_points: int, n_dimensions: int) -> Tensor:
    """Scrambled Sobol points of a standard normal distribution, shape (n_points, n_dimensions).

    Dimensions beyond the 21 201 of a Sobol sequence are pseudo-random.
    """
    n_sobol = min(n_dimensions, torch.quasirandom.SobolEngine.MAXDIM)
    # Tensors created in inference mode could not be used in a later backward pass.
    with torch.inference_mode(False):
        engine = torch.quasirandom.SobolEngine(n_sobol, scramble=True, seed=0)
        uniform = engine.draw(n_points, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        points = torch.special.ndtri(uniform).float()
        if n_sobol == n_dimensions:
            return points
        generator = torch.Generator().manual_seed(0)
        rest = torch.randn(n_points, n_dimensions - n_sobol, generator=generator)
        return torch.cat([points, rest], 1)
