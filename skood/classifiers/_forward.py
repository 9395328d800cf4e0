"""Forward pass of a network: from its input to features and logits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._torch.batching import evaluating
from skood._torch.device import is_out_of_memory
from skood.classifiers._head import check_head, weights_of
from skood.classifiers._inputs import (
    device_of,
    dtype_of,
    is_exported,
    mismatch,
    n_items_of,
    readable,
)
from skood.classifiers._reading import Reading
from skood.classifiers._returned import (
    EMBEDDINGS,
    NoLogitsError,
    as_features,
    as_logits,
    layer_named,
    named_features,
    pick,
    unlinked,
)

__all__ = ["ForwardPass"]


@dataclass(eq=False, repr=False)
class ForwardPass:
    """A trained module, its preprocessing, and how its output is read.

    Parameters
    ----------
    module : Module
    make_input : callable
        Takes the module and a `Reading`; returns a function that reshapes checked data for the
        module, and a function that converts items to the module's input on its device.
    reading : Reading or None, default=None
        How the module's output is read; None determines it on the first data.
    output : str, int, callable or None, default=None
        The logits among the returned values.
    features_from : str, callable, tuple of both or None, default=None
        Name of the layer whose output is the features, a function of what the module returns, or a
        layer and a function of its output.
    multilabel : bool, default=False
        Whether an item may have several labels.
    is_extractor : bool, default=False
        Whether the output is a feature vector, so that there is no head.
    checks_head : bool, default=True
        Whether the output of the head is compared with the output of the module in every pass. A
        graph that is traced cannot branch on the result.
    step : Tensor or float, default=1.0
        Change of the module's input for a perturbation of size 1: 1 for pixels in [0, 1], the
        standard deviation of each feature for rows.
    settings : tuple, default=()
        Further values that the outputs depend on, for the cache.
    batch_size : int or None, default=None
        Number of items in a batch; None chooses it by device and size of an item.
    n_workers : int or None, default=None
        Number of processes that read streamed data.
    verbose : {"auto"}, bool or int, default="auto"
    """

    module: nn.Module
    make_input: Callable[[nn.Module, Reading], tuple[Callable, Callable]]
    _: KW_ONLY
    reading: Reading | None = None
    output: Any = None
    features_from: Any = None
    multilabel: bool = False
    is_extractor: bool = False
    checks_head: bool = True
    step: Tensor | float = 1.0
    settings: tuple = ()
    batch_size: int | None = None
    n_workers: int | None = None
    verbose: bool | int | str = "auto"

    @property
    def device(self) -> torch.device:
        return device_of(self.module)

    @property
    def dtype(self) -> torch.dtype:
        return dtype_of(self.module)

    @property
    def fixed_batch_size(self) -> int | None:
        """Batch size of an exported network, if the user gives one."""
        return self.batch_size if is_exported(self.module) else None

    @property
    def name(self) -> str:
        return type(self.module).__name__

    @property
    def n_classes(self) -> int:
        """Number of columns of the logits."""
        n_outputs = self._known.n_outputs
        return 2 if n_outputs == 1 and not self._keeps_one else n_outputs

    @property
    def last_layer(self) -> nn.Module | None:
        """The layer that computes the logits, if there is one."""
        head = self._known.head
        return None if head is None else self.module.get_submodule(head.name)

    @property
    def _known(self) -> Reading:
        assert self.reading is not None, "`read` comes first"
        return self.reading

    @property
    def _keeps_one(self) -> bool:
        return self.multilabel or self.is_extractor or self._known.certain

    @property
    def head(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Weight (n_classes, d) and bias (n_classes,) that map features to logits."""
        layer, head = self.last_layer, self._known.head
        assert layer is not None and head is not None and head.is_linear
        # In training mode, torch's spectral_norm changes its buffers when the weight is read.
        with evaluating(self.module):
            weight, bias = (head.scale * values for values in weights_of(layer))
        if len(weight) == 1 and not self._keeps_one:
            weight, bias = np.vstack([0 * weight, weight]), np.append(0.0, bias)
        return weight, bias

    @contextlib.contextmanager
    def read_as(self, reading: Reading) -> Iterator[None]:
        """Read the module in this way inside the block, as a trial."""
        self.reading = reading
        try:
            yield
        finally:
            self.reading = None

    def check_finite(self, logits: Tensor | npt.NDArray, which: str = "the ") -> None:
        """Raise an error for logits that are NaN or infinite."""
        values = readable(logits).cpu().numpy() if isinstance(logits, Tensor) else logits
        wrong = ~np.isfinite(values).all(1)
        if wrong.any():
            raise ValueError(
                f"the network {self.name} makes logits that are NaN or inf for {wrong.sum()} of "
                f"{which}{len(logits)} items of X; rescale X to the values that the network was "
                "trained on, or look for NaN among its weights"
            )

    def open(self, data: CheckedData) -> CheckedData:
        """Reshape data for the module."""
        return self.make_input(self.module, self._known)[0](data)

    def tensor(self, items: Any) -> Any:
        """Convert items of opened data to an input of the module, on its device."""
        return self.make_input(self.module, self._known)[1](items)

    def input_of(self, data: CheckedData) -> Any:
        """Return all of the data as one input of the module."""
        data = self.open(data)
        return self.tensor(data.take(np.arange(len(data))))

    def call(self, x: Any) -> Any:
        """Run the module, and return what it returns.

        Raises
        ------
        ValueError
            If it fails; the message describes X and the input that the module expects.
        """
        try:
            return self.module(**x) if isinstance(x, dict) else self.module(x)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            advice = ""
            if is_exported(self.module) and self.batch_size is None:
                advice = (
                    "; if it was exported for one batch size, give it as "
                    "PretrainedClassifier(module, batch_size=...)"
                )
            raise ValueError(
                f"{mismatch(self.module, x)}. Its forward pass ended in {type(error).__name__}: "
                f"{error}{advice}"
            ) from error

    def output_of(self, returned: Any, n_items: int) -> Tensor:
        """Return the logits, or the features of an extractor, among the returned values."""
        if self.is_extractor:
            found = pick(returned, self.output, EMBEDDINGS, self.name)
            return as_features(found, n_items, self.name)
        found = pick(returned, self.output, ["logits"], self.name)
        try:
            return as_logits(found, n_items, self.name)
        except NoLogitsError as error:
            if found is returned:
                raise
            # A network that names its logits is not an encoder.
            raise ValueError(str(error)) from error

    def forward(
        self, x: Any, layers: Sequence[nn.Module] = ()
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run the module once.

        Parameters
        ----------
        x : Tensor or dict of Tensor
            Result of `tensor`.
        layers : sequence of Module
            Layers whose outputs are returned as well.

        Returns
        -------
        features : Tensor of shape (b, d)
            d is 0 if the features are unknown.
        logits : Tensor of shape (b, n_classes)
        activations : list of Tensor
            Output of each of `layers`.
        """
        reading, n_items = self._known, n_items_of(x)
        seen: dict[nn.Module, tuple[Any, Any]] = {}

        def note(layer: nn.Module) -> Callable[..., None]:
            # In a graph that is traced, a hook is called with a copy of the layer.
            def hook(_: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
                seen[layer] = args[0] if args else next(iter(kwargs.values()), None), output

            return hook

        head_layer = self.last_layer
        named_layer = layer_named(self.module, self.features_from)
        wanted = [layer for layer in (head_layer, named_layer, *layers) if layer is not None]
        hooks = [layer.register_forward_hook(note(layer), with_kwargs=True) for layer in {*wanted}]
        made: list[Tensor] = []
        if head_layer is not None and not reading.certain:
            # An in-place operation may follow the layer.
            hooks.append(head_layer.register_forward_hook(lambda *a: made.append(a[2].clone())))
        try:
            returned = self.call(x)
        finally:
            for hook in hooks:
                hook.remove()
        for layer in wanted:
            if layer not in seen:
                raise ValueError(
                    f"the layer {layer} is part of the network but does not run in its forward "
                    "pass; name another layer"
                )
        output = self.output_of(returned, n_items)
        features, logits = output, output
        if not self.is_extractor:
            given = None if head_layer is None else seen[head_layer][0]
            features, logits = self._features_and_logits(output, given, made[-1] if made else None)
            if self.features_from is not None:
                outputs = [seen[named_layer][1]] if named_layer is not None else []
                named = named_features(self.features_from, returned, outputs, n_items)
                assert named is not None
                features = named
        return features, logits, [seen[layer][1] for layer in layers]

    def _features_and_logits(
        self, output: Tensor, given: Tensor | None, made: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return features and logits of a pass.

        Parameters
        ----------
        output : Tensor of shape (b, n_outputs)
        given, made : Tensor or None
            Input and output of the head; None without a head. The output of a head that is certain
            is not needed.
        """
        reading, features, logits = self._known, output.new_empty((output.shape[0], 0)), output
        if reading.head is None or given is None:
            stated = self.output is not None and not self.multilabel
            link = "none" if stated and reading.link == "sigmoid" else reading.link
            logits = unlinked(output, link)
        elif made is None:
            features = given
        else:
            position = reading.head.position(made, output)
            z = reading.head.scale * reading.head.reduce(made, position)
            if self.checks_head:
                check_head(reading.head, z, output, self.name)
            features = reading.head.reduce(given, position)
            logits = output if reading.head.link == "none" else z
        if logits.shape[1] == 1 and not self._keeps_one:
            logits = F.pad(logits, (1, 0))
        return features, logits

    def gradient(self, x: Any, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradient of a loss of the logits with respect to x, and features and logits.

        No gradients of parameters are computed.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ValueError(
                "a detector that perturbs its input needs a gradient by the input, but X holds "
                f"{'dicts of fields' if isinstance(x, dict) else 'whole numbers'}, without one; "
                "give pixels or rows as an array of floats, or use a detector without perturbation"
            )
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.clone().requires_grad_()
            # The network gets a copy, which it may change in place.
            features, logits, _ = self.forward(leaf.clone())
            (gradient,) = self.differentiate(loss(logits), [leaf])
        return gradient, features.detach(), logits.detach()

    def differentiate(self, value: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the gradients of a number that was computed from the network's outputs."""
        try:
            return torch.autograd.grad(value, inputs)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"{self.name} passes no gradient back from its logits ({error}), for example "
                "because it is quantised or changes its tensors in place; use a detector that "
                "needs no gradient, or give the network before it was quantised"
            ) from error

    def perturbed(self, x: Tensor, direction: Tensor, size: float) -> Tensor:
        """Move x along `direction` by `size`, in [0, 1] pixel units."""
        step = self.step
        if isinstance(step, Tensor):
            step = step.to(x.dtype)
            if x.ndim > 2 and step.ndim == 1:
                step = step.reshape(-1, *[1] * (x.ndim - 2))
        return x + size * step * direction
