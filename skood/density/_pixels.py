"""Parameters of the estimators that read pixels."""

from __future__ import annotations

from typing import Any

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import StrOptions, estimator, parameter
from skood._torch.preprocessing import Learned

__all__ = ["ImageOrRowParameters", "ImageParameters"]


@estimator
class ImageParameters:
    """Mixin of the estimators that read images, or rows as images.

    Parameters
    ----------
    value_range : (float, float), "minmax" or None, default=None
        Values of black and white. None: 0..255 for uint8, 0..1 for floats, and an error for
        anything else. "minmax": the range of the training data, to which later data are clipped.
    image_shape : (int, int, int), "row" or None, default=None
        Shape (C, H, W) of images given as flat rows. "row" reads a row as an image.

    Attributes
    ----------
    value_range_ : tuple of float
        Values of black and white.
    """

    value_range: tuple[float, float] | str | None = parameter(
        "array-like", StrOptions({"minmax"}), None, default=None, kw_only=True
    )
    image_shape: tuple[int, int, int] | str | None = parameter(
        "array-like", StrOptions({"row"}), None, default=None, kw_only=True
    )

    value_range_ = Learned("value_range")

    def _shape_of_rows(self, data: CheckedData, row_shape: tuple[int, int, int]) -> Any:
        """Return the shape (C, H, W) of images given as flat rows; None for images with axes.

        Parameters
        ----------
        data : CheckedData
        row_shape : (int, int, int)
            The shape for ``image_shape="row"``.
        """
        stated, shape = self.image_shape, data.item_shape
        if data.is_image:
            if stated is not None and shape != tuple(stated):
                raise ValueError(
                    f"X has images of shape {shape}, but image_shape={stated!r}; leave it at None "
                    "for images that come with their axes"
                )
            return None
        if stated is None:
            raise ValueError(
                f"X has rows of {shape[0]} values, but {type(self).__name__} models images: give "
                "image_shape=(C, H, W) if the rows are flat images, or image_shape='row' if they "
                "are not"
            )
        return row_shape if isinstance(stated, str) else stated


@estimator
class ImageOrRowParameters:
    """Mixin of the models that scale the pixels of images, and standardise rows.

    Parameters
    ----------
    value_range : (float, float), "minmax" or None, default=None
        Values of black and white. None: 0..255 for uint8 images, 0..1 for images of floats, and an
        error for other images; rows are standardised. "minmax": the range of the training data, to
        which later data are clipped.
    image_shape : (int, int, int) or None, default=None
        Shape (C, H, W) of images given as flat rows.

    Attributes
    ----------
    value_range_ : tuple of float or None
        Values of black and white; None for standardised rows.
    mean_, scale_ : ndarray of shape (d,)
        Mean and standard deviation of rows without a range of values.
    """

    value_range: tuple[float, float] | str | None = parameter(
        "array-like", StrOptions({"minmax"}), None, default=None, kw_only=True
    )
    image_shape: tuple[int, int, int] | None = parameter(
        "array-like", None, default=None, kw_only=True
    )

    value_range_ = Learned("value_range")
    mean_ = Learned("mean")
    scale_ = Learned("scale")
