"""The shape in which a density of images reads flat rows."""

from __future__ import annotations

from typing import Any

from skood._checked_data import CheckedData

__all__ = ["shape_of_rows"]


def shape_of_rows(
    density: Any, data: CheckedData, row_shape: tuple[int, int, int]
) -> tuple[int, int, int] | None:
    """Shape (C, H, W) of images given as flat rows; None for images with their axes.

    Parameters
    ----------
    density : estimator
        With the parameter ``image_shape``.
    data : CheckedData
    row_shape : (int, int, int)
        What ``image_shape="row"`` stands for.
    """
    stated = density.image_shape
    shape = data.item_shape
    if data.is_image:
        if stated is not None and shape != tuple(stated):
            raise ValueError(
                f"X has images of shape {shape}, but image_shape={stated!r}; leave it at None for "
                "images that come with their axes"
            )
        return None
    if stated is None:
        raise ValueError(
            f"X has rows of {shape[0]} values, but {type(density).__name__} models images: give "
            "image_shape=(C, H, W) if the rows are flat images, or image_shape='row' if they are "
            "not"
        )
    return row_shape if isinstance(stated, str) else stated
