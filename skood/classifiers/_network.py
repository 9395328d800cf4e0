"""The detectors' interface to a classifier's network: features and logits from one pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import joblib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._caching import cached
from skood._checked_data import CheckedData
from skood._torch.batching import evaluating, map_batches, scoring_batch_size
from skood._torch.packing import arrays_of, tensors_of

__all__ = ["Network", "Outputs"]

# A network's mode and hooks are shared, and it uses all cores: only one thread runs at a time.
_one_at_a_time = threading.RLock()


@dataclass(frozen=True)
class Outputs:
    """Outputs of a classifier for a data set.

    Attributes
    ----------
    logits : ndarray of shape (n, n_classes)
    log_proba : ndarray of shape (n, n_classes), nats
    features : ndarray of shape (n, d)
        Penultimate features, the input of the last linear layer; d is 0 for a classifier that
        is not a network.
    """

    logits: npt.NDArray
    log_proba: npt.NDArray
    features: npt.NDArray

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, rows: slice | npt.NDArray[np.integer]) -> Outputs:
        return Outputs(self.logits[rows], self.log_proba[rows], self.features[rows])

    def astype(self, dtype: npt.DTypeLike, order: Literal["K", "C"] = "K") -> Outputs:
        """Return the same numbers in another precision, or order in memory."""
        arrays = self.logits, self.log_proba, self.features
        return Outputs(*(array.astype(dtype, order=order, copy=False) for array in arrays))


class Network:
    """A trained module with its preprocessing.

    Parameters
    ----------
    module : Module
    last_layer : nn.Linear
        Maps the features to the logits.
    open : callable
        Checks data and brings them into the module's shape.
    tensor : callable
        Turns an array of items into the module's input, on its device.
    step : Tensor or float
        Change of the module's input for a perturbation of size 1: 1 for pixels in [0, 1],
        the standard deviation of each feature for rows.
    is_final : bool
        Whether the last layer's output must be the module's output; not if the user names it.
    settings : tuple
        Whatever else the outputs depend on, for the cache.
    n_workers : int or None, default=None
        Processes that read streamed data.
    verbose : {"auto"}, bool or int
    """

    def __init__(
        self,
        module: nn.Module,
        last_layer: nn.Linear,
        open: Callable[[CheckedData], CheckedData],
        tensor: Callable[[npt.NDArray], Tensor],
        *,
        step: Tensor | float = 1.0,
        is_final: bool = True,
        settings: tuple = (),
        n_workers: int | None = None,
        verbose: bool | int | str = "auto",
    ) -> None:
        self.module = module
        self.last_layer = last_layer
        self.open = open
        self.tensor = tensor
        self.step = step
        self.is_final = is_final
        self.settings = settings
        self.n_workers = n_workers
        self.verbose = verbose

    @property
    def device(self) -> torch.device:
        return self.last_layer.weight.device

    @property
    def head(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Weight (n_classes, d) and bias (n_classes,) of the last layer."""
        weight = self.last_layer.weight.detach().double().cpu().numpy()
        if self.last_layer.bias is None:
            return weight, np.zeros(len(weight))
        return weight, self.last_layer.bias.detach().double().cpu().numpy()

    def forward(
        self, x: Tensor, layers: Sequence[nn.Module] = ()
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run the module once.

        Parameters
        ----------
        x : Tensor
            As returned by `tensor`.
        layers : sequence of Module
            Layers whose outputs to return as well.

        Returns
        -------
        features : Tensor of shape (b, d)
        logits : Tensor of shape (b, n_classes)
        activations : list of Tensor
            Output of each of `layers`.
        """
        seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

        def note(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen[layer] = args[0], output

        hooks = [layer.register_forward_hook(note) for layer in {self.last_layer, *layers}]
        try:
            output = self.module(x)
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ValueError(
                f"{_mismatch(self.module, x)}. Its forward pass ended in {type(error).__name__}: "
                f"{error}"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        missing = [layer for layer in (self.last_layer, *layers) if layer not in seen]
        if missing:
            raise ValueError(
                f"the layer {missing[0]} is part of the network but does not run in its forward "
                "pass; name another one"
            )
        features, logits = seen[self.last_layer]
        if logits.ndim == x.ndim == 4:
            raise ValueError(
                f"{_mismatch(self.module, x)}. It makes logits of shape {tuple(logits.shape)} of "
                "them, expected (batch, n_classes): give X as rows, or begin it with nn.Flatten"
            )
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(
                f"the last linear layer puts out shape {tuple(logits.shape)}; expected logits of "
                "shape (batch, n_classes) with at least 2 classes. Give last_layer= where the "
                "network has another one, and two outputs to a network with one"
            )
        if self.is_final and isinstance(output, Tensor) and output.shape != logits.shape:
            raise ValueError(
                f"the network puts out shape {tuple(output.shape)}, but its last linear layer "
                f"{tuple(logits.shape)}; give last_layer= that makes the logits"
            )
        return features, logits, [seen[layer][1] for layer in layers]

    def gradient(
        self, x: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradient in x of a loss of the logits, and the features and logits.

        No gradient is computed for the parameters.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone().requires_grad_()
            features, logits, _ = self.forward(x)
            (gradient,) = torch.autograd.grad(loss(logits), x)
        return gradient, features.detach(), logits.detach()

    def perturbed(self, x: Tensor, direction: Tensor, size: float) -> Tensor:
        """Move x along `direction` by `size`, in [0, 1] pixel units."""
        step = self.step
        if isinstance(step, Tensor):
            step = step.to(x.dtype)
            if x.ndim == 4 and step.ndim == 1:
                step = step.reshape(-1, 1, 1)
        return x + size * step * direction

    def map(
        self,
        function: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
        data: CheckedData,
        description: str,
    ) -> npt.NDArray | tuple[npt.NDArray, ...]:
        """Apply a function of the network's input to every item, in batches of one size."""

        def read(items: npt.NDArray) -> Tensor | tuple[Tensor, ...]:
            values = function(self.tensor(items))
            return tuple(map(_readable, values)) if isinstance(values, tuple) else _readable(values)

        data = self.open(data)
        with _one_at_a_time, evaluating(self.module):
            return map_batches(
                read,
                data,
                scoring_batch_size(self.device, is_image=data.is_image),
                device=self.device,
                n_workers=self.n_workers,
                verbose=self.verbose,
                description=description,
            )

    def outputs(self, data: CheckedData, memory: str | joblib.Memory | None = None) -> Outputs:
        """Return features and logits of every item, from a cache, an earlier pass or a new one.

        Parameters
        ----------
        data : CheckedData
        memory : str, joblib.Memory or None
            Disk cache, keyed by the content of the network and of the data.
        """
        with _one_at_a_time:
            known = self._recall(data)
            if known is None:
                if memory is None:
                    known = _compute(self, data, "")
                else:
                    compute = cached(memory, _compute, ignore=["network", "data"])
                    content = joblib.hash((self._content(), data.content()))
                    known = compute(self, data, content)
                data.network_outputs[self.module] = self._version(), known
        return known

    def _recall(self, data: CheckedData) -> Outputs | None:
        version, known = data.network_outputs.get(self.module, (None, None))
        if known is not None and version == self._version():
            return known
        if data.parent is None:
            return None
        parent, rows = data.parent
        known = self._recall(parent)
        return None if known is None else known[rows]

    def _version(self) -> tuple:
        """Return a key that changes whenever weights are changed in place or replaced."""
        tensors = tensors_of(self.module).values()
        return [(id(t), t._version) for t in tensors], id(self.last_layer), self.settings

    def _content(self) -> str:
        """Hash of the architecture and the weights, the same in every process."""
        layers = [(name, repr(layer)) for name, layer in self.module.named_modules()]
        last = next(name for name, m in self.module.named_modules() if m is self.last_layer)
        return joblib.hash((layers, last, arrays_of(self.module), self.settings))


def _mismatch(module: nn.Module, x: Tensor) -> str:
    """Describe the data and the input that the first layer with parameters expects."""
    items = f"rows of {x.shape[1]} values" if x.ndim == 2 else f"images of {tuple(x.shape[1:])}"
    said = f"X has {items} (C, H, W)" if x.ndim == 4 else f"X has {items}"
    said += f", {x.dtype}, which the network {type(module).__name__} does not take"
    layers = (
        layer for layer in module.modules() if next(layer.parameters(False), None) is not None
    )
    first = next(layers, None)
    if isinstance(first, nn.Linear):
        said += f"; its first layer takes rows of {first.in_features} values"
    elif isinstance(first, nn.Conv2d):
        said += f"; its first layer takes images of {first.in_channels} channel(s)"
    return said


def _readable(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _compute(network: Network, data: CheckedData, content: str) -> Outputs:
    def features_and_logits(x: Tensor) -> tuple[Tensor, Tensor]:
        features, logits, _ = network.forward(x)
        return features, logits

    features, logits = network.map(features_and_logits, data, "forward pass")
    wrong = ~np.isfinite(logits).all(1)
    if wrong.any():
        raise ValueError(
            f"the network {type(network.module).__name__} makes logits that are NaN or inf of "
            f"{wrong.sum()} of the {len(logits)} items of X; rescale X to the values that the "
            "network was trained on, or look for NaN among its weights"
        )
    log_proba = torch.log_softmax(torch.from_numpy(logits).double(), 1).numpy()
    return Outputs(logits, log_proba, features)
