"""From items as the user has them to features and logits, as one module."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._export._scores import TensorOutputs
from skood._torch.packing import tensors_of
from skood.classifiers import NeuralClassifier
from skood.classifiers._inputs import dtype_of, readable
from skood.classifiers._module import ModuleHandle, per_channel
from skood.classifiers._network import Network
from skood.classifiers._network_classifier import NetworkClassifier

__all__ = ["NetworkOutputs", "Rows", "Source"]


class Source(nn.Module):
    """Base of the modules that compute outputs from items of X.

    Parameters
    ----------
    data : CheckedData
        Example items, which have the shape, the axes and the dtype of the graph's input.
    input_shape : tuple of int
        Shape in which the network takes an item.
    limits : (float, float) or None
        Smallest and largest value that detectors accept; None for no limits but infinity.
    """

    limits: Tensor | None

    def __init__(
        self,
        data: CheckedData,
        input_shape: tuple[int, ...],
        limits: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.channels_last = data.channels_last
        self.input_shape = tuple(input_shape)
        limits = _limits(data.dtype, limits)
        # Numbers in the code would be rounded to float32 by ONNX's exporter.
        as_tensor = None if limits is None else torch.tensor(limits, dtype=_of_torch(data.dtype))
        self.register_buffer("limits", as_tensor)

    def items(self, X: Tensor) -> Tensor:
        """Return the items in the shape that the network takes."""
        if self.channels_last:
            X = X.movedim(-1, 1)
        return X.reshape(X.shape[0], *self.input_shape)

    def accepted(self, X: Tensor) -> Tensor | None:
        """Whether a detector accepts each item; None if it accepts all."""
        if self.limits is None:
            return None
        low, high = self.limits
        return ((X >= low) & (X <= high)).flatten(1).all(1)


def _limits(dtype: np.dtype, accepted: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the smallest and the largest value of X that is accepted, if there are others."""
    is_float = dtype.kind == "f"
    of_dtype = np.finfo(dtype) if is_float else np.iinfo(np.uint8 if dtype == np.bool_ else dtype)
    possible = float(of_dtype.min), float(of_dtype.max)
    if accepted is None:
        return possible if is_float else None
    low, high = accepted
    return None if low <= possible[0] and possible[1] <= high else accepted


def _of_torch(dtype: np.dtype) -> torch.dtype:
    """Return the precision in which values of X are compared."""
    return torch.float64 if dtype.itemsize > 4 or dtype.kind != "f" else torch.float32


class Rows(Source):
    """Rows of X as features."""

    def __init__(self, data: CheckedData) -> None:
        super().__init__(data, (data.n_values,))

    def forward(self, X: Tensor) -> TensorOutputs:
        features = self.items(X).double()
        return TensorOutputs(features, features[:, :0])


@dataclass
class _Conversion:
    """How items of X become the input of a network.

    Parameters
    ----------
    shape : tuple of int
        Shape in which the network takes an item.
    exact, dtype : torch.dtype
        Precision of the conversion, and of the input.
    scaled : (float, float) or None
        Values that become 0 and 1.
    accepted : (float, float) or None
        Values that X must lie between.
    mean, std : Tensor or None
    integers : bool
        Whether the network takes whole numbers.
    """

    shape: tuple[int, ...]
    exact: torch.dtype
    dtype: torch.dtype
    scaled: tuple[float, float] | None
    accepted: tuple[float, float] | None
    mean: Tensor | None
    std: Tensor | None
    integers: bool = False

    @classmethod
    def of(
        cls, model: NetworkClassifier | ModuleHandle, network: Network, data: CheckedData
    ) -> _Conversion:
        if isinstance(model, NeuralClassifier):
            return cls.of_ours(model)
        assert isinstance(model, ModuleHandle)
        return cls.of_module(model, network, data)

    @classmethod
    def of_ours(cls, model: NeuralClassifier) -> _Conversion:
        known = model._preprocessing
        # Rows are standardised in float64.
        exact = torch.float64 if known.value_range is None else torch.float32
        return cls(
            known.item_shape,
            exact,
            torch.float32,
            known.value_range,
            None if isinstance(known.stated_range, str) else known.value_range,
            torch.as_tensor(known.mean, dtype=exact),
            torch.as_tensor(known.scale, dtype=exact),
        )

    @classmethod
    def of_module(cls, model: ModuleHandle, network: Network, data: CheckedData) -> _Conversion:
        shape = network.open(data).item_shape
        example = torch.empty((1, *shape))
        scaled, accepted = model.pixel_ranges(data.dtype, example.ndim)
        dtype = dtype_of(network.module)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        mean, std = (
            None
            if value is None
            else per_channel(torch.as_tensor(value, dtype=exact, device="cpu"), example)
            for value in (model.mean, model.std)
        )
        integers = network.read(data).integers
        return cls(shape, exact, dtype, scaled, accepted, mean, std, integers)


class NetworkOutputs(Source):
    """Features and logits of a network.

    Parameters
    ----------
    model : NeuralClassifier or ModuleHandle
        Fitted.
    data : CheckedData
        Example items.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, model: NetworkClassifier | ModuleHandle, data: CheckedData) -> None:
        network = model.network()
        network.read(data)
        conversion = _Conversion.of(model, network, data)
        super().__init__(data, conversion.shape, conversion.accepted)
        self.conversion = conversion
        self.register_buffer("mean", conversion.mean)
        self.register_buffer("std", conversion.std)
        # A copy, because the user's network may be on a GPU and in training mode.
        self._network = copy.copy(network)
        module = copy.deepcopy(network.module).cpu().requires_grad_(False)
        # Networks from torch.export have a fixed mode and raise.
        with contextlib.suppress(NotImplementedError):
            module.eval()
        for tensor in tensors_of(module).values():
            # The file formats store tensors in this order.
            tensor.data = tensor.data.contiguous()
        self.module = self._network.module = module
        self._network.checks_head = False

    def forward(self, X: Tensor) -> TensorOutputs:
        network = self._network
        features, logits, _ = network.forward(self._converted(self.items(X)))
        features, logits = readable(features).double(), readable(logits).double()
        if network.is_extractor:
            return TensorOutputs(features, logits[:, :0])
        return TensorOutputs(features, logits, network.multilabel)

    def _converted(self, x: Tensor) -> Tensor:
        conversion = self.conversion
        if conversion.integers:
            return x.long()
        x = x.to(conversion.exact)
        if conversion.scaled is not None:
            low, high = conversion.scaled
            x = (x - low) / (high - low)
        x = x if self.mean is None else x - self.mean
        x = x if self.std is None else x / self.std
        return x.to(conversion.dtype)
