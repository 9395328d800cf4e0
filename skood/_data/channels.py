"""Channel axis of images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["CHANNELS", "channels_are_last", "channels_first"]

# Values of the parameter `channels`, besides None, which infers the axis from the shape.
CHANNELS = ("first", "last")

# Longest last axis that may be either channels or columns of pixels.
_FEW = 16


def channels_are_last(shape: tuple[int, ...], channels: str | None = None) -> bool:
    """Whether images are (n, H, W, C), not (n, C, H, W).

    Parameters
    ----------
    shape : tuple of int
        Shape of an array with four axes.
    channels : {"first", "last"} or None, default=None
        Axis of the channels, if the user gave it.

    Raises
    ------
    ValueError
        If both orders are plausible and `channels` is None.
    """
    if channels is not None:
        return channels == "last"
    _, second, third, last = shape
    if last in (1, 3):
        return second not in (1, 3)
    if second not in (1, 3) and last <= _FEW and last < min(second, third):
        raise ValueError(
            f"X has shape {tuple(shape)}: it may hold images (n, H, W, C) of {last} channels, or "
            f"images (n, C, H, W) of {second} channels that are {last} pixels wide. If the "
            "channels come last, give np.moveaxis(X, -1, 1), or set channels='last' in the "
            "network or density; if they come first, set channels='first'"
        )
    return False


def channels_first(images: npt.NDArray, channels: str | None = None) -> npt.NDArray:
    """Return a view of (n, H, W), (n, C, H, W) or (n, H, W, C) images as (n, C, H, W)."""
    if images.ndim == 3:
        return images[:, None]
    return np.moveaxis(images, -1, 1) if channels_are_last(images.shape, channels) else images
