"""Multiscale flow between images and latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skood.density._flow_layers import Coupling, Mixing, squeeze, unsqueeze

__all__ = ["ImageFlowNetwork"]


class ImageFlowNetwork(nn.Module):
    """Invertible map of images to latents of the same number of values.

    Each scale turns blocks of 2 x 2 pixels into channels and applies its transforms, an ActNorm, a
    1x1 convolution and a coupling each; half of the channels are then latents, the other half goes
    on. The last scale turns all pixels into channels, and has 1x1 convolutions only at its end.

    Parameters
    ----------
    item_shape : (int, int, int)
        (C, H, W).
    n_transforms : sequence of int
        Transforms of each scale. Scales that cannot halve height or width are left out, of those
        before the last one.
    n_filters : sequence of int
        Channels of the conditioners of each scale.
    ends_mixed : bool
        Whether the last scale ends with an ActNorm and a 1x1 convolution, as the others do.
    **coupling : dict
        Parameters of :class:`Coupling`.
    """

    def __init__(
        self,
        item_shape: tuple[int, ...],
        n_transforms: Sequence[int],
        *,
        n_filters: Sequence[int],
        ends_mixed: bool,
        **coupling: Any,
    ) -> None:
        super().__init__()
        self.n_values = item_shape[0] * item_shape[1] * item_shape[2]
        channels, height, width = item_shape
        self.factors: list[tuple[int, int]] = []
        # Shapes (h, w, c) of the latents of each scale.
        self.latent_shapes: list[tuple[int, int, int]] = []
        self.scales = nn.ModuleList()

        def transforms(scale: int, *, is_pixel: bool) -> Iterator[nn.Module]:
            for k in range(n_transforms[scale]):
                yield Mixing(channels, mixes=not is_pixel)
                yield Coupling(
                    channels,
                    is_flipped=k % 2 == 1,
                    is_pixel=is_pixel,
                    n_filters=n_filters[scale],
                    **coupling,
                )

        for scale in range(len(n_transforms) - 1):
            factors = 2 - height % 2, 2 - width % 2
            if factors == (1, 1) or max(height, width) == 2:
                break
            height, width = height // factors[0], width // factors[1]
            channels *= factors[0] * factors[1]
            layers = [*transforms(scale, is_pixel=False), Mixing(channels, mixes=True)]
            self.scales.append(nn.ModuleList(layers))
            self.factors.append(factors)
            channels //= 2
            self.latent_shapes.append((height, width, channels))
        self.factors.append((height, width))
        channels *= height * width
        self.latent_shapes.append((1, 1, channels))
        layers = list(transforms(-1, is_pixel=True))
        if ends_mixed:
            layers.append(Mixing(channels, mixes=True))
        self.scales.append(nn.ModuleList(layers))

    def forward(self, x: Tensor, *, initializes: bool = False) -> tuple[Tensor, Tensor]:
        """Map images to latents.

        Parameters
        ----------
        x : Tensor of shape (b, C, H, W)
        initializes : bool, default=False
            Whether each ActNorm is set to normalise its input.

        Returns
        -------
        z : Tensor of shape (b, D)
        log_det : Tensor of shape (b,), float64
        """
        h = x.permute(0, 2, 3, 1)
        log_det = x.new_zeros(len(x), dtype=torch.float64)
        latents = []
        for k, layers in enumerate(self.scales):
            h = squeeze(h, self.factors[k])
            n_pixels = h.shape[1] * h.shape[2]
            for layer in layers:
                if isinstance(layer, Mixing):
                    if initializes:
                        layer.initialize(h)
                    h = layer(h)
                    log_det = log_det + n_pixels * layer.log_det()
                else:
                    h, log_derivative = layer(h)
                    log_det = log_det + log_derivative.flatten(1).sum(1, dtype=torch.float64)
            if k < len(self.scales) - 1:
                out, h = h.chunk(2, -1)
                latents.append(out.flatten(1))
        return torch.cat((*latents, h.flatten(1)), 1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Map latents (b, D) to images (b, C, H, W)."""
        *latents, h = self.split_latents(z)
        for k in reversed(range(len(self.scales))):
            if k < len(latents):
                h = torch.cat((latents[k], h), -1)
            for layer in reversed(self.scales[k]):
                h = layer.inverse(h)
            h = unsqueeze(h, self.factors[k])
        return h.permute(0, 3, 1, 2)

    def split_latents(self, z: Tensor) -> list[Tensor]:
        """Latents of each scale, (b, h, w, c)."""
        sizes = [h * w * c for h, w, c in self.latent_shapes]
        parts = z.split(sizes, 1)
        return [
            part.unflatten(1, shape) for part, shape in zip(parts, self.latent_shapes, strict=True)
        ]
