"""Base of the estimators that wrap a user's trained module."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from skood._data.checked_data import CheckedData
from skood._data.validation import check_data, check_in_range
from skood._estimator.docs_link import DocumentationLinkMixin
from skood._estimator.internal import internal
from skood._estimator.parameters import StrOptions, at_least, estimator, parameter
from skood._torch.shared_module import SharedModule
from skood.classifiers._inputs import device_of, dtype_of
from skood.classifiers._network import Network
from skood.classifiers._reading import Reading

__all__ = ["ModuleHandle", "per_channel"]


@estimator
class ModuleHandle(DocumentationLinkMixin, SharedModule):
    """Base of the estimators that wrap a trained module, which `clone` shares.

    ``_network_settings`` of a subclass defines how the output is read.

    Parameters
    ----------
    mean, std : float or array-like of float, default=None
        Mean and standard deviation for the normalisation of each channel of images in [0, 1].
        None: the module normalises its input, or X is already normalised.
    value_range : (float, float), default=None
        Values of black and white, which are scaled to 0 and 1. None: 0..255 for uint8; floats are
        unchanged, and must lie in [0, 1] if `mean` or `std` is given.
    image_shape : tuple of int, default=None
        (C, H, W) of images given as flat rows.
    channels : {"first", "last"}, default=None
        Axis of the channels in X. None recognises 1 or 3 channels in the last axis.
    batch_size : int, default=None
        Number of items in a batch, to bound the memory. None: chosen by the size of an item.

    Attributes
    ----------
    reading_ : object
        How the output of the module is read, as determined by `fit` or by a detector.
    n_features_in_ : int
        Number of values in an item of X.
    """

    module: nn.Module | torch.export.ExportedProgram = parameter(
        nn.Module, torch.export.ExportedProgram
    )
    output: Any = parameter(str, numbers.Integral, callable, None, default=None)
    mean: Any = parameter("array-like", Tensor, numbers.Real, None, default=None, kw_only=True)
    std: Any = parameter("array-like", Tensor, numbers.Real, None, default=None, kw_only=True)
    value_range: Any = parameter(tuple, list, None, default=None, kw_only=True)
    image_shape: tuple[int, int, int] | None = parameter(
        tuple, list, None, default=None, kw_only=True
    )
    channels: str | None = parameter(
        StrOptions({"first", "last"}), None, default=None, kw_only=True
    )
    batch_size: int | None = parameter(at_least(1), None, default=None, kw_only=True)

    # Detectors pass their checked data to such a model instead of an array.
    _reads_checked_data = True

    def fit(self, X: Any, y: Any = None) -> Any:
        """Determine how the network's output is read, on the first items of X, without training.

        Parameters
        ----------
        X : array-like, Tensor, Dataset, DataLoader or dict of shape (n_samples, ...)
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the network does not accept X, or does not return one vector per item.
        """
        data = check_data(self, X, reset=True, any_shape=True, channels=self.channels)
        self.reading_ = self._new_network().read(data)
        return self

    @internal
    def network(self) -> Network:
        """Return the trained network."""
        return self._new_network(getattr(self, "reading_", None))

    def _new_network(self, reading: Reading | None = None) -> Network:
        module = _runnable(self.module)
        if reading is None:
            self._validate_params()
            _check_not_lazy(module)
        std = 1.0 if self.std is None else np.asarray(self.std, dtype=np.float64)
        constants = (self.mean, self.std, self.value_range, self.image_shape)
        return Network(
            module,
            lambda module, reading: (
                lambda data: self._open(data, reading),
                self._make_tensor(module, reading),
            ),
            reading=reading,
            output=self.output,
            step=1 / torch.as_tensor(std, device=device_of(module)),
            settings=tuple(None if v is None else tuple(np.ravel(v).tolist()) for v in constants),
            batch_size=self.batch_size,
            **self._network_settings(),
        )

    def _network_settings(self) -> dict[str, Any]:
        """Return further parameters of the network."""
        return {}

    def _check(self, X: Any) -> CheckedData:
        """Check data without comparison to an earlier X, since there may have been no `fit`."""
        return check_data(BaseEstimator(), X, reset=True, any_shape=True, channels=self.channels)

    def _open(self, data: CheckedData, reading: Reading) -> CheckedData:
        if data.has_fields:
            return data
        if self.image_shape is not None and not data.is_image:
            return data.reshape(tuple(self.image_shape))
        return data.reshape(data.came_as) if reading.as_given else data

    def _make_tensor(self, module: nn.Module, reading: Reading) -> Callable[[Any], Any]:
        """Return the function that converts items to the module's input."""
        device, dtype = device_of(module), dtype_of(module)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        mean, std = (
            None if value is None else torch.as_tensor(value, dtype=exact, device=device)
            for value in (self.mean, self.std)
        )

        def field(values: npt.NDArray) -> Tensor:
            x = torch.from_numpy(values).to(device)
            if x.is_floating_point():
                return x.to(dtype)
            return x if x.dtype in (torch.bool, torch.uint8) else x.long()

        def tensor(items: Any) -> Any:
            if isinstance(items, dict):
                return {name: field(values) for name, values in items.items()}
            x = torch.from_numpy(items).to(device)
            if reading.integers:
                return x.long()
            x = self._scaled(x.to(exact), items)
            x = x if mean is None else x - per_channel(mean, x)
            x = x if std is None else x / per_channel(std, x)
            return x.to(dtype)

        if self.mean is not None or self.std is not None or self.value_range is not None:
            return self._refusing_fields(tensor)
        return tensor

    def _refusing_fields(self, tensor: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def checked(items: Any) -> Any:
            if isinstance(items, dict):
                raise ValueError(
                    "mean, std and value_range apply to one array of pixels, but X is a dict of "
                    "fields; give X['pixel_values'] alone, or leave mean and std to the processor"
                )
            return tensor(items)

        return checked

    def _scaled(self, x: Tensor, items: npt.NDArray) -> Tensor:
        """Scale pixels to [0, 1] if their range is known; raise an error if it should be known."""
        scaled, accepted = self.pixel_ranges(items.dtype, items.ndim)
        if accepted is not None:
            check_in_range(items, accepted)
        if scaled is None:
            return x
        low, high = scaled
        return (x - low) / (high - low)

    @internal
    def pixel_ranges(
        self, dtype: np.dtype, n_axes: int
    ) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
        """Return the values that become 0 and 1, and the range that X must lie in, if any.

        Parameters
        ----------
        dtype : dtype
            Of X.
        n_axes : int
            Number of axes of a batch in the shape that the module takes.

        Raises
        ------
        ValueError
            If the range should be known.
        """
        if self.value_range is not None:
            low, high = map(float, self.value_range)
            return (low, high), (low, high)
        if dtype == np.uint8:
            return (0.0, 255.0), None
        if n_axes == 4 and dtype.kind in "iub":
            raise ValueError(
                f"X has pixels of dtype {dtype}, which have no range of their own; give "
                f"{type(self).__name__}(module, value_range=(low, high)), the values of black and "
                "white, or X as floats in the range that the network was trained on"
            )
        are_pixels = n_axes == 4 and (self.mean is not None or self.std is not None)
        # Grey images without a channel axis; a signal would hardly have such a mean.
        are_grey = n_axes == 3 and self.mean is not None and 0 < np.min(self.mean) < 1
        return None, (0.0, 1.0) if are_pixels or are_grey else None


# Runnable module of each exported program.
_programs: WeakKeyDictionary[torch.export.ExportedProgram, nn.Module] = WeakKeyDictionary()


def _runnable(module: nn.Module | torch.export.ExportedProgram) -> nn.Module:
    """Return the module to run: the module of a program, or the uncompiled module."""
    if isinstance(module, torch.export.ExportedProgram):
        if module not in _programs:
            _programs[module] = module.module()
        return _programs[module]
    # A compiled module ignores hooks on its layers.
    return getattr(module, "_orig_mod", module)


def _check_not_lazy(module: nn.Module) -> None:
    lazy = next((name for name, weight in module.named_parameters() if is_lazy(weight)), None)
    if lazy is not None:
        raise ValueError(
            f"the parameter {lazy!r} of {type(module).__name__} has no values yet: its layer is "
            "lazy, and the network has never run, so that it cannot be trained; train it, or load "
            "its weights"
        )


def per_channel(value: Tensor, x: Tensor) -> Tensor:
    if value.numel() not in (1, x.shape[1]):
        raise ValueError(
            f"X has items of shape {tuple(x.shape[1:])}, but mean or std has "
            f"{value.numel()} values; expected one per channel or feature, or a single one"
        )
    if x.ndim == 4 and float(value.max()) > 1:
        raise ValueError(
            f"mean or std has values up to {float(value.max()):g}, but the "
            "mean and std of pixels in [0, 1] are expected: divide them by 255"
        )
    return value.reshape(-1, *[1] * (x.ndim - 2)) if x.ndim > 2 else value
