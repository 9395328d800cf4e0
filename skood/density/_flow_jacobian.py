"""Jacobian of the inverse of a multiscale flow, layer by layer.

Differentiating the whole inverse would send a tangent for each latent through every conditioner.
Here a coupling's own Jacobian is found first, with fewer tangents, since only half of the values
enter its conditioner, few of them matter to one pixel, and the latents of early scales pass few
layers; a matrix product then takes the tangents through it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood.density._flow_layers import Coupling, Mixing, ResidualBlock, unsqueeze
from skood.density._image_flow_network import ImageFlowNetwork

__all__ = ["inverse_jacobian"]


def inverse_jacobian(network: ImageFlowNetwork, z: Tensor) -> tuple[Tensor, Tensor]:
    """Map latents to images, and differentiate.

    Parameters
    ----------
    network : ImageFlowNetwork
        In eval mode.
    z : Tensor of shape (b, D)

    Returns
    -------
    x : Tensor of shape (b, C, H, W)
    jacobian : Tensor of shape (b, D, D)
        Its column j is the derivative by the latent j; rows follow the values of x.
    """
    *latents, h = network.split_latents(z)
    # A tangent for each latent met so far, (b, t, h, w, c).
    tangents = _identity(h)
    for k in reversed(range(len(network.scales))):
        if k < len(latents):
            own = _identity(latents[k])
            h = torch.cat((latents[k], h), -1)
            half = own.shape[-1]
            tangents = torch.cat((F.pad(own, (0, half)), F.pad(tangents, (half, 0))), 1)
        for layer in reversed(network.scales[k]):
            if isinstance(layer, Mixing):
                h, tangents = layer.inverse(h), layer.inverse_linear(tangents)
            else:
                h, tangents = _through_coupling(layer, h, tangents)
        h = unsqueeze(h, network.factors[k])
        tangents = unsqueeze(tangents.flatten(0, 1), network.factors[k])
        tangents = tangents.unflatten(0, (len(z), -1))
    jacobian = tangents.permute(0, 4, 2, 3, 1).flatten(1, 3)
    return h.permute(0, 3, 1, 2), jacobian


def _identity(x: Tensor) -> Tensor:
    """Tangents of the values of x themselves, (b, h w c, h, w, c)."""
    shape = x.shape[1:]
    eye = torch.eye(shape.numel(), dtype=x.dtype, device=x.device)
    return eye.view(-1, *shape).expand(len(x), -1, *shape)


def _through_coupling(layer: Coupling, y: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Undo a coupling, and take tangents (b, t, h, w, c) of its output to those of its input."""
    given, changed = layer.split(y)
    parameters = layer.parameters_of(given)
    # One backward pass: each value depends on its own parameters alone.
    with torch.inference_mode(False), torch.enable_grad():
        parameters = parameters.clone().requires_grad_()
        made, log_derivative = layer.inverse_of_changed(changed.clone(), parameters)
        (slopes,) = torch.autograd.grad(made.sum(), parameters)
    own = _conditioner_jacobian(layer, given, slopes)
    given_tangents, changed_tangents = layer.split(tangents)
    through = changed_tangents * log_derivative.detach().exp()[:, None]
    through = through + (given_tangents.flatten(2) @ own).view_as(through)
    return layer.join(given, made.detach()), layer.join(given_tangents, through)


def _conditioner_jacobian(layer: Coupling, given: Tensor, slopes: Tensor) -> Tensor:
    """Differentiate the changed values by the given ones, through the parameters.

    Parameters
    ----------
    layer : Coupling
    given : Tensor of shape (b, h, w, n_given)
    slopes : Tensor of shape (b, h, w, n_changed, n_parameters)
        Derivative of each changed value by its parameters.

    Returns
    -------
    Tensor of shape (b, h w n_given, h w n_changed)
    """
    b, height, width, n_given = given.shape
    n_blocks = sum(isinstance(part, ResidualBlock) for part in layer.conditioner)
    reach = 0 if layer.is_pixel else 2 * n_blocks
    # Values that are farther apart than the pixels that both reach share a tangent.
    periods = [min(side, 2 * reach + 1) for side in (height, width)]
    rows, columns = (
        (torch.arange(side, device=given.device) % period)
        for side, period in zip((height, width), periods, strict=True)
    )
    n_shared = periods[0] * periods[1] * n_given
    place = (rows[:, None] * periods[1] + columns)[..., None] * n_given
    place = place + torch.arange(n_given, device=given.device)
    seeds = F.one_hot(place, n_shared).to(given.dtype).permute(3, 0, 1, 2)
    hidden = _hidden_tangents(layer.conditioner, given, seeds, is_pixel=layer.is_pixel)
    weight = layer.conditioner[-1].weight.flatten(1).unflatten(0, slopes.shape[-2:])
    readout = torch.einsum("bhwcp,cpf->bhwcf", slopes, weight)
    shared = torch.einsum("bhwcf,bshwf->bshwc", readout, hidden)
    shared = shared.unflatten(1, (*periods, n_given))
    own = shared[:, rows][:, :, columns]
    if periods != [height, width]:
        reached = _within(height, reach, given), _within(width, reach, given)
        own = own * (reached[0][:, None, None, :, None, None] * reached[1][:, None, None, :, None])
    return own.reshape(b, height * width * n_given, -1)


def _within(side: int, reach: int, like: Tensor) -> Tensor:
    """1 where two positions are at most `reach` apart, else 0; shape (side, side)."""
    position = torch.arange(side, device=like.device)
    return ((position[:, None] - position).abs() <= reach).to(like.dtype)


def _hidden_tangents(
    conditioner: nn.Sequential, given: Tensor, seeds: Tensor, *, is_pixel: bool
) -> Tensor:
    """Take tangents (s, h, w, n_given) to the input of the last layer, (b, s, h, w, n_filters)."""
    n_seeds = len(seeds)
    if not is_pixel:
        given, seeds = given.permute(0, 3, 1, 2), seeds.permute(0, 3, 1, 2)
    first, *blocks = conditioner[:-1]
    h = first(given)
    # The first layer is linear, so its tangents are the same for every item.
    tangents = _linear_part(first, seeds).repeat(len(given), *[1] * (seeds.ndim - 1))
    for block in blocks:
        inner = block.first(F.relu(h))
        change = _linear_part(block.first, _gated(tangents, h, n_seeds))
        change = _linear_part(block.second, _gated(change, inner, n_seeds))
        tangents = tangents + change
        h = h + block.second(F.relu(inner))
    if not is_pixel:
        tangents = tangents.permute(0, 2, 3, 1)
    return tangents.unflatten(0, (-1, n_seeds))


def _linear_part(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer without its bias."""
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, layer.weight, padding=layer.padding)
    return F.linear(x, layer.weight)


def _gated(tangents: Tensor, h: Tensor, n_seeds: int) -> Tensor:
    """Take tangents (b s, ...) through relu(h), h of shape (b, ...)."""
    gates = (h > 0)[:, None]
    return (tangents.unflatten(0, (-1, n_seeds)) * gates).flatten(0, 1)
