"""Conversion of items of X to the input of a network, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._data.validation import check_in_range, resolve_value_range

__all__ = ["Learned", "Preprocessing"]


class Preprocessing:
    r"""Scales pixels to [0, 1], and standardises rows.

    Parameters
    ----------
    owner : object
        Estimator whose class error messages name.
    data : CheckedData
        Training data.
    image_shape : sequence of int or None, default=None
        Shape (C, H, W) in which the network reads flat rows.
    value_range : (float, float), "minmax" or None, default=None
        Values of black and white, as in :func:`~skood._data.validation.resolve_value_range`. With
        "minmax", later data may lie outside.
    has_range : bool or None, default=None
        Whether values have a range; None: True for images, False for rows.

    Attributes
    ----------
    input_shape, item_shape : tuple of int
        Shape of an item in X, and in the network's input.
    value_range : (float, float) or None
        Values of black and white; None for rows, which are standardised instead.
    mean, scale : ndarray of shape (d,) or (C, 1, 1)
        Set by `learn_moments`: mean and standard deviation of each feature in the units of X, or
        of each channel of pixels in [0, 1].
    """

    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    def __init__(
        self,
        owner: object,
        data: CheckedData,
        *,
        image_shape: Any = None,
        value_range: Any = None,
        has_range: bool | None = None,
    ) -> None:
        self.owner_name = type(owner).__name__
        self.input_shape = data.item_shape
        if image_shape is not None and not data.is_image:
            if len(image_shape) != 3:
                raise ValueError(f"image_shape={image_shape!r} must be (C, H, W)")
            data = data.reshape(tuple(image_shape))
        self.item_shape = data.item_shape
        self.stated_range = value_range
        if has_range is None:
            has_range = data.is_image
        self.value_range = resolve_value_range(data, value_range) if has_range else None

    def open(self, data: CheckedData) -> CheckedData:
        """Return the data with items of shape `item_shape`.

        Raises
        ------
        ValueError
            When the dtype of X implies a different pixel range than in fit.
        """
        if data.item_shape != self.item_shape:
            data = data.reshape(self.item_shape)
        if (
            self.value_range is not None
            and self.stated_range is None
            and resolve_value_range(data, None) != self.value_range
        ):
            low, high = self.value_range
            raise ValueError(
                f"X has pixels of dtype {data.dtype}, but {self.owner_name} was fitted on "
                f"pixels from {low:g} to {high:g} (uint8 is taken as 0..255, floats as 0..1); "
                "convert X, or state one range for both with value_range=(low, high)"
            )
        return data

    def check_in_memory(self, data: CheckedData) -> None:
        """Raise if data in memory lie outside their range; streamed data are checked when read."""
        for items in data.chunks() if data.in_memory else ():
            self._check(items)

    def _check(self, items: npt.NDArray | Tensor, margin: float = 0.0) -> None:
        if self.value_range is not None and not isinstance(self.stated_range, str):
            low, high = self.value_range
            beyond = margin * (high - low)
            check_in_range(items, (low - beyond, high + beyond))

    def learn_moments(self, data: CheckedData) -> None:
        """Compute mean and standard deviation of each feature of rows, or channel of images."""
        axes = (0, 2, 3) if data.is_image else (0,)
        # With the first item subtracted, a constant feature is exactly 0.
        origin = self._scaled(data.take(np.arange(1))).mean(axes, keepdims=True)
        count, mean, squares = 0, np.zeros_like(origin), np.zeros_like(origin)
        for items in data.chunks():
            values = self._scaled(items) - origin
            n = values.size // values.shape[1]
            chunk_mean = values.mean(axes, keepdims=True)
            # Chan et al. (1983): squared deviations from the mean avoid the cancellation of
            # squared values when all values are far from 0.
            difference = chunk_mean - mean
            squares += np.square(values - chunk_mean).sum(axes, keepdims=True)
            squares += np.square(difference) * (count * n / (count + n))
            mean += difference * (n / (count + n))
            count += n
        mean, scale = (mean + origin)[0], np.sqrt(squares / count)[0]
        if not np.isfinite(scale).all():
            raise ValueError(
                "the values of X are so large that their squares overflow; rescale X, for example "
                "with scikit-learn's StandardScaler"
            )
        # A standard deviation of the size of rounding errors means a constant feature.
        varies = scale > 10 * np.finfo(np.float64).eps * np.abs(mean)
        self.mean, self.scale = mean, np.where(varies, scale, 1.0)

    def _scaled(self, items: npt.NDArray) -> npt.NDArray[np.float64]:
        """Scale pixels to [0, 1], leave rows unchanged; float64."""
        values = items.astype(np.float64)
        if self.value_range is None:
            return values
        self._check(values)
        low, high = self.value_range
        return (values - low) / (high - low)

    def tensor(
        self, items: npt.NDArray | Tensor, device: torch.device, *, margin: float = 0.0
    ) -> Tensor:
        r"""Convert items to pixels in [0, 1] or standardised rows, float32, on `device`.

        Parameters
        ----------
        items : ndarray or Tensor of shape (b, \*item_shape)
            In the units of X.
        device : torch.device
        margin : float, default=0.0
            How far pixels may lie beyond black and white, as a fraction of the range.

        Returns
        -------
        Tensor of shape (b, \*item_shape)
        """
        if self.value_range is None:
            rows = (
                items if isinstance(items, Tensor) else torch.from_numpy(items.astype(np.float64))
            )
            mean, scale = self._moments(rows.device, torch.float64)
            return ((rows.double() - mean) / scale).float().to(device)
        self._check(items, margin)
        if not isinstance(items, Tensor):
            # uint8 and other dtypes that torch supports are converted on the device.
            if items.dtype.kind not in "fu" or items.dtype.itemsize > 4 or not items.dtype.isnative:
                items = items.astype(np.float32)
            items = torch.from_numpy(np.ascontiguousarray(items))
        low, high = self.value_range
        return (items.to(device, non_blocking=True).float() - low) / (high - low)

    def standardized(self, x: Tensor) -> Tensor:
        """Standardise each channel of pixels in [0, 1]; return rows unchanged."""
        if self.value_range is None:
            return x
        mean, scale = self._moments(x.device, x.dtype)
        return ((x - mean) / scale).contiguous(memory_format=torch.channels_last)

    def inverse(self, x: Tensor) -> Tensor:
        r"""Undo `tensor`.

        Parameters
        ----------
        x : Tensor of shape (b, \*item_shape)
            Pixels in [0, 1] or standardised rows.

        Returns
        -------
        Tensor of shape (b, \*input_shape), float64
            In the units of X.
        """
        x = x.double()
        if self.value_range is None:
            mean, scale = self._moments(x.device, torch.float64)
            return mean + scale * x
        low, high = self.value_range
        # White is exactly `high`, so that samples lie in the range.
        return (low * (1 - x) + high * x).reshape(len(x), *self.input_shape)

    def _moments(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return (
            torch.as_tensor(self.mean, dtype=dtype, device=device),
            torch.as_tensor(self.scale, dtype=dtype, device=device),
        )


class Learned:
    """Fitted attribute of an estimator that is stored in its ``_preprocessing``.

    Parameters
    ----------
    name : str
        Name of the attribute of :class:`Preprocessing`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, estimator: Any, owner: type) -> Any:
        return self if estimator is None else getattr(estimator._preprocessing, self.name)

    def __set__(self, estimator: Any, value: Any) -> None:
        setattr(estimator._preprocessing, self.name, value)
