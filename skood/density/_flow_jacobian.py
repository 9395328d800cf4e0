"""Derivative of the inverse of a multiscale flow, layer by layer.

The inverse is linearised once: a coupling becomes a factor for each changed value and the linear
part of its conditioner, whose rectifiers are fixed. Tangents then pass through convolutions alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood.density._flow_layers import Coupling, Mixing, unsqueeze
from skood.density._image_flow_network import ImageFlowNetwork

__all__ = ["InverseDerivative"]


class InverseDerivative:
    """The linearised map from latents to images.

    Parameters
    ----------
    network : ImageFlowNetwork
        In eval mode.
    z : Tensor of shape (b, D)
        No inference tensor.

    Attributes
    ----------
    x : Tensor of shape (b, C, H, W)
        The images.
    """

    def __init__(self, network: ImageFlowNetwork, z: Tensor) -> None:
        self.network = network
        # Layers of each scale, in the order of the inverse.
        self.scales: list[list[Mixing | CouplingDerivative]] = []
        *latents, h = network.split_latents(z)
        for k in reversed(range(len(network.scales))):
            if k < len(latents):
                h = torch.cat((latents[k], h), -1)
            layers: list[Mixing | CouplingDerivative] = []
            for layer in reversed(network.scales[k]):
                if isinstance(layer, Mixing):
                    h = layer.inverse(h)
                    layers.append(layer)
                else:
                    derivative = CouplingDerivative(layer, h)
                    h = derivative.x
                    layers.append(derivative)
            h = unsqueeze(h, network.factors[k])
            self.scales.append(layers)
        self.x = h.permute(0, 3, 1, 2)

    def push(self, tangents: Tensor) -> Tensor:
        """Multiply vectors (b, D) by the Jacobian."""
        *parts, pushed = (part[:, None] for part in self.network.split_latents(tangents))
        for k, layers in zip(reversed(range(len(self.scales))), self.scales, strict=True):
            if k < len(parts):
                pushed = torch.cat((parts[k], pushed), -1)
            for layer in layers:
                if isinstance(layer, Mixing):
                    pushed = layer.inverse_linear(pushed)
                else:
                    pushed = layer.push(pushed)
            pushed = self._unsqueeze(pushed, k)
        return pushed.permute(0, 1, 4, 2, 3).flatten(1)

    def jacobian(self) -> Tensor:
        """Jacobian, (b, D, D): a row for each value of an image, a column for each latent.

        The Jacobian of a coupling is computed first. It takes fewer tangents than there are
        latents, since half of the values enter the conditioner and few of them affect one pixel. A
        matrix product then pushes the tangents of all latents through the coupling. The latents of
        early scales pass few layers.
        """
        b = len(self.x)
        *shapes, last = self.network.latent_shapes
        tangents = self._identity(last)
        for k, layers in zip(reversed(range(len(self.scales))), self.scales, strict=True):
            if k < len(shapes):
                own, half = self._identity(shapes[k]), shapes[k][-1]
                tangents = torch.cat((F.pad(own, (0, half)), F.pad(tangents, (half, 0))), 1)
            for layer in layers:
                if isinstance(layer, Mixing):
                    tangents = layer.inverse_linear(tangents)
                else:
                    tangents = layer.push_all(tangents)
            tangents = self._unsqueeze(tangents, k)
        return tangents.permute(0, 4, 2, 3, 1).reshape(b, -1, tangents.shape[1])

    def _identity(self, shape: tuple[int, ...]) -> Tensor:
        """Return the unit tangents of values of a shape (h, w, c), (b, h w c, h, w, c)."""
        n = torch.Size(shape).numel()
        eye = torch.eye(n, dtype=self.x.dtype, device=self.x.device).view(n, *shape)
        return eye.expand(len(self.x), n, *shape)

    def _unsqueeze(self, tangents: Tensor, scale: int) -> Tensor:
        unsqueezed = unsqueeze(tangents.flatten(0, 1), self.network.factors[scale])
        return unsqueezed.unflatten(0, tangents.shape[:2])


class CouplingDerivative:
    """The linearised inverse of a coupling.

    Tangents have the shape (b, t, h, w, c).

    Parameters
    ----------
    layer : Coupling
    y : Tensor of shape (b, h, w, c)
        Output of the coupling.

    Attributes
    ----------
    x : Tensor of shape (b, h, w, c)
        Its input.
    """

    def __init__(self, layer: Coupling, y: Tensor) -> None:
        self.layer = layer
        self.first, *self.blocks, last = layer.conditioner
        given, changed = layer.split(y)
        h = self.first(given if layer.is_pixel else given.permute(0, 3, 1, 2))
        # Which hidden values are positive, before each layer of the blocks.
        self.gates: list[tuple[Tensor, Tensor]] = []
        for block in self.blocks:
            inner = block.first(F.relu(h))
            self.gates.append(((h > 0)[:, None], (inner > 0)[:, None]))
            h = h + block.second(F.relu(inner))
        parameters = layer.shaped(last(h))
        # One backward pass: each value depends on its own parameters alone.
        with torch.enable_grad():
            parameters = parameters.detach().requires_grad_()
            made, log_derivative = layer.inverse_of_changed(changed, parameters)
            (slopes,) = torch.autograd.grad(made.sum(), parameters)
        self.x = layer.join(given, made.detach())
        # Derivatives of the changed values with respect to their inputs and the last hidden layer.
        self.factor = log_derivative.detach().exp()[:, None]
        weight = last.weight.detach().flatten(1).unflatten(0, slopes.shape[-2:])
        self.readout = torch.einsum("bhwcp,cpf->bhwcf", slopes, weight)

    def push(self, tangents: Tensor) -> Tensor:
        """Push tangents of the output to tangents of the input."""
        given, changed = self.layer.split(tangents)
        through = changed * self.factor + self._through_conditioner(given)
        return self.layer.join(given, through)

    def push_all(self, tangents: Tensor) -> Tensor:
        """Compute `push` of many tangents by a matrix."""
        given, changed = self.layer.split(tangents)
        through = (given.flatten(2) @ self._conditioner_jacobian()).view_as(changed)
        return self.layer.join(given, through + changed * self.factor)

    def _conditioner_jacobian(self) -> Tensor:
        """Jacobian of changed with respect to given values, (b, h w n_given, h w n_changed)."""
        b, height, width, _ = self.x.shape
        n_given = self.layer.split(self.x)[0].shape[-1]
        reach = 0 if self.layer.is_pixel else 2 * len(self.blocks)
        # Values share a tangent if no pixel depends on two of them.
        periods = [min(side, 2 * reach + 1) for side in (height, width)]
        rows, columns = (
            torch.arange(side, device=self.x.device) % period
            for side, period in zip((height, width), periods, strict=True)
        )
        place = (rows[:, None] * periods[1] + columns)[..., None] * n_given
        place = place + torch.arange(n_given, device=self.x.device)
        seeds = F.one_hot(place, periods[0] * periods[1] * n_given).permute(3, 0, 1, 2)
        shared = self._through_conditioner(seeds[None].to(self.x.dtype))
        own = shared.unflatten(1, (*periods, n_given))[:, rows][:, :, columns]
        if periods != [height, width]:
            seen_rows, seen_columns = (
                _within(side, reach, like=self.x) for side in (height, width)
            )
            own = own * seen_rows[:, None, None, :, None, None]
            own = own * seen_columns[:, None, None, :, None]
        return own.reshape(b, height * width * n_given, -1)

    def _through_conditioner(self, tangents: Tensor) -> Tensor:
        """Push tangents (b or 1, t, h, w, n_given) to (b, t, h, w, n_changed)."""
        b, t = len(self.x), tangents.shape[1]
        h = tangents.flatten(0, 1)
        if not self.layer.is_pixel:
            h = h.permute(0, 3, 1, 2)
        h = _linear_part(self.first, h).unflatten(0, (-1, t))
        h = h.expand(b, *h.shape[1:])
        for block, (outer, inner) in zip(self.blocks, self.gates, strict=True):
            change = _linear_part(block.first, (h * outer).flatten(0, 1)).unflatten(0, (b, t))
            change = _linear_part(block.second, (change * inner).flatten(0, 1))
            h = h + change.unflatten(0, (b, t))
        if not self.layer.is_pixel:
            h = h.permute(0, 1, 3, 4, 2)
        return torch.einsum("bhwcf,bshwf->bshwc", self.readout, h)


def _within(side: int, reach: int, *, like: Tensor) -> Tensor:
    """1 where two positions are at most `reach` apart, else 0; shape (side, side)."""
    position = torch.arange(side, device=like.device)
    return ((position[:, None] - position).abs() <= reach).to(like.dtype)


def _linear_part(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer without its bias."""
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, layer.weight, padding=layer.padding)
    return F.linear(x, layer.weight)
