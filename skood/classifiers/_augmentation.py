"""Random changes of training images, drawn for each image of a batch independently."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["AUGMENTATIONS", "augment", "augmentations_of"]

# All augmentations, in the order in which they are applied.
AUGMENTATIONS = ("flip", "alternating_flip", "crop", "translate", "rotate", "resized_crop")

_DEGREES = 10.0
_SMALLEST_AREA = 0.95
_LARGEST_RATIO = 4 / 3


def augmentations_of(given: str | Collection[str] | None, auto: Collection[str]) -> tuple[str, ...]:
    """Return the augmentations that the parameter of an architecture stands for.

    Parameters
    ----------
    given : str, collection of str or None
    auto : collection of str
        What "auto" stands for.

    Raises
    ------
    ValueError
        If one of them is unknown.
    """
    if given is None:
        return ()
    given = {"auto": auto, "crop_flip": ("crop", "flip")}.get(str(given), given)
    names = {given} if isinstance(given, str) else set(given)
    if names - set(AUGMENTATIONS):
        raise ValueError(
            f"augmentation={given!r}; expected 'auto', 'crop_flip', None, or one or several of "
            f"{', '.join(map(repr, AUGMENTATIONS))}"
        )
    if {"flip", "alternating_flip"} <= names:
        raise ValueError(f"augmentation={given!r}; expected only one kind of flip")
    return tuple(name for name in AUGMENTATIONS if name in names)


def augment(x: Tensor, names: Collection[str], generator: torch.Generator, epoch: int) -> Tensor:
    """Augment each image of a batch independently.

    Parameters
    ----------
    x : Tensor of shape (n, C, H, W)
        Black is 0.
    names : collection of str
        Result of `augmentations_of`.
    generator : torch.Generator
        On the device of `x`.
    epoch : int
        From 0, for alternating flips.
    """
    n, _, height, width = x.shape
    rows = torch.arange(height, device=x.device).expand(n, height)
    columns = torch.arange(width, device=x.device).expand(n, width)
    flipped = None
    if "flip" in names:
        flipped = torch.rand((n, 1), generator=generator, device=x.device) < 0.5
    elif "alternating_flip" in names:
        flipped = _alternating(x, epoch)
    if flipped is not None:
        columns = torch.where(flipped, columns.flip(1), columns)
    for name, divisor, mode in (("crop", 8, "constant"), ("translate", 16, "reflect")):
        if name in names:
            margin = max(1, height // divisor)
            x = F.pad(x, (margin, margin, margin, margin), mode)
            shape = 2, n, 1
            offset = torch.randint(0, 2 * margin + 1, shape, generator=generator, device=x.device)
            rows, columns = rows + offset[0], columns + offset[1]
    if {"flip", "alternating_flip", "crop", "translate"} & set(names):
        image = torch.arange(n, device=x.device)[:, None, None]
        x = x[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if {"rotate", "resized_crop"} & set(names):
        x = _warp(x, names, generator)
    return x


def _alternating(x: Tensor, epoch: int) -> Tensor:
    """Return which images are mirrored in this epoch, shape (n, 1).

    Half of the images are mirrored in even epochs, the others in odd epochs (Jordan 2024,
    arXiv:2404.00498, section 3.6). The half depends on the sum of an image's pixels, so that it is
    the same in every epoch.
    """
    total = x.double().sum((1, 2, 3)) * 65536
    return (total.round().long()[:, None] + epoch) % 2 == 1


def _warp(x: Tensor, names: Collection[str], generator: torch.Generator) -> Tensor:
    """Rotate about the center, and enlarge a random part to the whole image, bilinearly."""
    n, _, height, width = x.shape

    def uniform(low: float | Tensor, high: float | Tensor) -> Tensor:
        drawn = torch.rand(n, generator=generator, device=x.device)
        return low + (high - low) * drawn

    angle, zero, one = (torch.full((n,), value, device=x.device) for value in (0.0, 0.0, 1.0))
    part_height, part_width, down, right = one, one, zero, zero
    if "rotate" in names:
        angle = uniform(-math.radians(_DEGREES), math.radians(_DEGREES))
    if "resized_crop" in names:
        area = uniform(_SMALLEST_AREA, 1.0)
        # A part of this area with a larger ratio would not lie inside the image.
        largest = torch.log((1 / area).clamp(max=_LARGEST_RATIO))
        ratio = torch.exp(uniform(-largest, largest))
        part_height, part_width = (area / ratio).sqrt(), (area * ratio).sqrt()
        down, right = (uniform(part - 1, 1 - part) for part in (part_height, part_width))
    # Output coordinates are mapped to the part, and then rotated; a pixel's height and width are
    # equal, while coordinates run from -1 to 1 along both axes.
    cosine, sine, aspect = angle.cos(), angle.sin(), height / width
    rotation = torch.stack([cosine, -sine * aspect, sine / aspect, cosine], 1).view(n, 2, 2)
    part = torch.stack([part_width, zero, right, zero, part_height, down], 1).view(n, 2, 3)
    grid = F.affine_grid(rotation @ part, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)
