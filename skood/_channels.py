"""The axis of images that holds their channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["CHANNELS", "channels_are_last", "channels_first"]

# Values of the parameter `channels`; None recognises the axis.
CHANNELS = ("first", "last")

# Up to so many entries, a last axis may be channels as well as columns of pixels.
_FEW = 16


def channels_are_last(shape: tuple[int, ...], channels: str | None = None) -> bool:
    """Tell (n, H, W, C) from (n, C, H, W).

    Parameters
    ----------
    shape : tuple of int
        Of an array with four axes.
    channels : {"first", "last"} or None, default=None
        Where the channels are, if somebody has said so.

    Raises
    ------
    ValueError
        When both readings are plausible and nobody has said which one holds.
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
            "channels come last, give np.moveaxis(X, -1, 1), or channels='last' of the network "
            "or density; if they come first, channels='first'"
        )
    return False


def channels_first(images: npt.NDArray, channels: str | None = None) -> npt.NDArray:
    """View of (n, H, W), (n, C, H, W) or (n, H, W, C) images as (n, C, H, W)."""
    if images.ndim == 3:
        return images[:, None]
    return np.moveaxis(images, -1, 1) if channels_are_last(images.shape, channels) else images
