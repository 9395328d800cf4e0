"""Steps off the manifold of a decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skood._torch.jacobian import forward_jacobian
from skood.density._generator import Generator

__all__ = ["DIRECTIONS", "move_off_manifold", "normal_vectors", "reduced_normal_vectors"]


def move_off_manifold(
    model: Generator,
    x: Tensor,
    class_indices: Tensor | None,
    draw_direction: Callable[[Tensor, torch.Generator], Tensor],
    distance: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    r"""Move each item orthogonally to the tangents of the manifold at its latents.

    Parameters
    ----------
    model : Generator
        Its decoder defines the manifold.
    x : Tensor of shape (b, \*item_shape)
    class_indices : Tensor of shape (b,) or None
        Class indices of the model; None uses the most probable ones if it is conditional.
    draw_direction : callable
        Takes Jacobians of shape (b, D, d), returns unit vectors of shape (b, D).
    distance : (float, float)
        Smallest and largest length of a step, drawn uniformly.
    generator : torch.Generator
        On the device of x.

    Returns
    -------
    Tensor of shape (b, \*item_shape)
        Clipped to [0, 1] if x has that range.
    """
    z, class_indices = model.encode(x, class_indices)
    jacobian = forward_jacobian(lambda z: model.decode(z, class_indices), z)
    direction = draw_direction(jacobian, generator).view_as(x)
    low, high = distance
    options = {"generator": generator, "device": x.device}
    uniform = torch.rand((len(x),), **options)
    sign = 1 - 2 * torch.randint(2, (len(x),), **options)
    step = sign * (low + (high - low) * uniform)
    moved = x + step.view(-1, *[1] * (x.ndim - 1)) * direction
    return moved.clamp(0, 1) if model.has_range else moved


def _uniform(jacobian: Tensor, generator: torch.Generator) -> Tensor:
    """Draw unit vectors that are uniform in the null space of the transposed Jacobian."""
    noise = torch.randn(jacobian.shape[:2], generator=generator, device=jacobian.device)
    return normal_vectors(jacobian, noise)


def _reduced(jacobian: Tensor, generator: torch.Generator) -> Tensor:
    """Draw unit vectors as the released code of OODGen does."""
    uniform = torch.rand(jacobian.shape[:2], generator=generator, device=jacobian.device)
    return reduced_normal_vectors(jacobian, 2 * uniform - 1)


def _mixed(jacobian: Tensor, generator: torch.Generator) -> Tensor:
    """Draw each unit vector in one of the two ways, with equal probability."""
    first, second = _uniform(jacobian, generator), _reduced(jacobian, generator)
    coin = torch.randint(2, (len(jacobian), 1), generator=generator, device=jacobian.device)
    return torch.where(coin == 0, first, second)


# Keyed by the values of the parameter `directions` of BoundarySampler.
DIRECTIONS = {"mixed": _mixed, "uniform": _uniform, "reduced": _reduced}


def normal_vectors(jacobian: Tensor, noise: Tensor) -> Tensor:
    """Make unit vectors orthogonal to all columns of a Jacobian.

    Parameters
    ----------
    jacobian : Tensor of shape (b, D, d)
        With d < D; may be rank-deficient.
    noise : Tensor of shape (b, D)
        Standard normal, for vectors that are uniform on the sphere of the null space.

    Returns
    -------
    Tensor of shape (b, D)
    """
    basis = torch.linalg.qr(jacobian)[0]
    normal = noise[:, :, None]
    # A second projection removes the rounding errors of the first.
    for _ in range(2):
        normal = normal - basis @ (basis.mT @ normal)
    return torch.nn.functional.normalize(normal[:, :, 0], dim=1)


def reduced_normal_vectors(jacobian: Tensor, weights: Tensor) -> Tensor:
    r"""Add vectors of the reduced row echelon basis of the null space, as in the released code.

    With the first d rows A and the other rows B of the Jacobian, vector j of the basis has column j
    of :math:`-A^{-\top} B^\top` as its first d values, then 1 as value d + j and 0 elsewhere. Each
    vector is scaled to length 1 before the weighted sum.

    Parameters
    ----------
    jacobian : Tensor of shape (b, D, d)
        With d < D.
    weights : Tensor of shape (b, D)
        Only the last D - d are used.

    Returns
    -------
    Tensor of shape (b, D)
        Unit vectors.
    """
    d = jacobian.shape[2]
    first, rest = jacobian.double().mT.split([d, jacobian.shape[1] - d], dim=2)
    pivots = -torch.linalg.pinv(first) @ rest
    free = weights[:, d:, None].double() / (1 + pivots.square().sum(1)).sqrt()[:, :, None]
    normal = torch.cat([pivots @ free, free], 1)[:, :, 0]
    return torch.nn.functional.normalize(normal, dim=1).to(weights.dtype)
