"""Pass of a hierarchical VAE through its layers of latents, from the top down."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from skood.density._evidence import latent_divergences

__all__ = ["Descent", "descend", "free_nats_at", "sum_at_least"]


class Descent(NamedTuple):
    """One draw of all latents, from the top down.

    Attributes
    ----------
    latents : Tensor of shape (b, n_latent)
        Columns of all layers, the bottom first.
    state : Tensor
        The same latents in the form that the network decodes.
    divergences : list of Tensor of shape (b, n), float64
        KL(q || p) in nats of each latent drawn from q, given the latents above; by layer, the top
        first.
    log_ratio : Tensor of shape (b,), float64
        Log p - log q in nats of the latents drawn from q.
    """

    latents: Tensor
    state: Tensor
    divergences: list[Tensor]
    log_ratio: Tensor

    @property
    def divergence(self) -> Tensor:
        """KL(q || p) in nats of all latents drawn from q, shape (b,), float64."""
        return sum_at_least(self.divergences, [0.0] * len(self.divergences), per="layer")


def descend(
    module: Any,
    features: list[Tensor] | None,
    noise: Tensor,
    k: int = 0,
    lower_latents: str = "sample",
) -> Descent:
    """Draw the layers above the k-th from q, and take the k lowest from the prior.

    Parameters
    ----------
    module : HierarchicalVAENetwork
    features : list of Tensor or None
        Features of x. None if no layer is drawn from q.
    noise : Tensor of shape (b, n_latent)
        Standard normal.
    k : int, default=0
    lower_latents : {"sample", "mode"}, default="sample"
        Whether the k lowest layers are drawn from their prior, or are its mode, each layer given
        the layers above it.
    """
    state = module.start(len(noise))
    latents: list[Tensor] = []
    divergences = []
    log_ratio = torch.zeros(len(noise), dtype=torch.float64, device=noise.device)
    layers = enumerate(zip(noise.split(module.n_latents, 1), module.latent_shapes, strict=True))
    for layer, (point, shape) in reversed(list(layers)):
        prior_mean, prior_log_variance = module.prior(layer, state)
        if layer < k and lower_latents == "mode":
            z = prior_mean
        elif layer < k:
            z = prior_mean + (prior_log_variance / 2).exp() * point.unflatten(1, shape)
        else:
            mean, log_variance = module.posterior(layer, features, state)
            z = mean + (log_variance / 2).exp() * point.unflatten(1, shape)
            # In units of the prior, which then is standard normal.
            inverse_scale = (-prior_log_variance / 2).exp()
            log_variance = (log_variance - prior_log_variance).flatten(1)
            mean = ((mean - prior_mean) * inverse_scale).flatten(1)
            divergences.append(latent_divergences(mean, log_variance))
            standardised = ((z - prior_mean) * inverse_scale).flatten(1)
            terms = point.square() + log_variance - standardised.square()
            log_ratio = log_ratio + 0.5 * terms.double().sum(1)
        latents.insert(0, z.flatten(1))
        state = module.joined(layer, state, z)
    return Descent(torch.cat(latents, 1), state, divergences, log_ratio)


def free_nats_at(n_steps: Tensor, free_nats: float, n_free_nats_steps: int | None) -> Tensor:
    """Free nats at a training step, 0 in the beginning.

    They are constant in the first half of `n_free_nats_steps` and fall linearly to 0 in the second
    half; None: they are constant.
    """
    if n_free_nats_steps is None:
        return torch.full_like(n_steps, free_nats, dtype=torch.float64)
    return free_nats * (2 - 2 * n_steps.double() / n_free_nats_steps).clamp(0, 1)


def sum_at_least(divergences: list[Tensor], least: list[Any], *, per: str) -> Tensor:
    """Sum divergences over all layers, each divergence raised to a least value.

    Parameters
    ----------
    divergences : list of Tensor of shape (b, n), float64
        Of each latent, by layer.
    least : list of float or Tensor of shape ()
        Least value in nats, by layer.
    per : {"layer", "latent"}
        Whether the sum over a layer or each latent is raised.

    Returns
    -------
    Tensor of shape (b,), float64
    """
    pairs = zip(divergences, least, strict=True)
    if per == "layer":
        layers = [terms.sum(1).clamp(min=value) for terms, value in pairs]
    else:
        layers = [terms.clamp(min=value).sum(1) for terms, value in pairs]
    return torch.stack(layers, 1).sum(1)
