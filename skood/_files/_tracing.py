"""Export of a network's forward pass with torch.export, with marks that a program keeps."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim
from torch.overrides import TorchFunctionMode

from skood._torch.dropout import DROPOUTS
from skood.classifiers._forward import ForwardPass
from skood.classifiers._returned import EMBEDDINGS, layer_named, pick

__all__ = ["FEATURES", "NotExportable", "chosen_output", "exported"]

# Layer of a program whose output is what a function `features_from` returns.
FEATURES = "features_from_function"


class NotExportable(ValueError):
    """Raised if a network cannot become a program; the message is the reason."""


@torch.library.custom_op(
    "skood::layer", mutates_args=(), schema="(Tensor given, Tensor made, str name) -> Tensor"
)
def _layer(given: Tensor, made: Tensor, name: str) -> Tensor:
    """Mark the output of a layer in an exported graph."""
    return made.clone()


@_layer.register_fake
def _(given: Tensor, made: Tensor, name: str) -> Tensor:
    return torch.empty_strided(made.size(), made.stride(), dtype=made.dtype, device=made.device)


@torch.library.custom_op(
    "skood::linear", mutates_args=(), schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor"
)
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Mark a linear layer whose rows are aligned while data are scored."""
    return F.linear(x, weight, bias)


@_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


@torch.library.custom_op(
    "skood::dropout",
    mutates_args=(),
    schema="(Tensor x, str function, float p, bool inplace) -> Tensor",
)
def _dropout(x: Tensor, function: str, p: float, inplace: bool) -> Tensor:
    """Mark a dropout in eval mode."""
    return x.clone()


@_dropout.register_fake
def _(x: Tensor, function: str, p: float, inplace: bool) -> Tensor:
    return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=x.device)


class _Marks(TorchFunctionMode):
    """Marks the calls that a scoring pass may change: by `_AlignedRows` and by `Subnetwork`.

    These are not all linear layers and dropouts: calls inside of other functions are unchanged.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.linear and not types:
            return _marked_linear(*args, **kwargs)
        if function in DROPOUTS.values() and not kwargs["training"]:
            inplace = kwargs["inplace"]
            return torch.ops.skood.dropout(args[0], function.__name__, kwargs["p"], inplace)
        return function(*args, **kwargs)


def _marked_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.skood.linear(input, weight, bias)


def chosen_output(network: ForwardPass, returned: Any) -> Tensor:
    """Return the logits, or the features of an extractor, among the values that are returned."""
    fields = EMBEDDINGS if network.is_extractor else ["logits"]
    return pick(returned, network.output, fields, network.name)


class _Traced(nn.Module):
    """The forward pass that is exported: output and named features of a network."""

    def __init__(self, network: ForwardPass) -> None:
        super().__init__()
        self.module = network.module
        self.forward_pass = network
        # Inside torch.export 2.4, modules are proxies that differ from the modules themselves.
        layer = layer_named(network.module, network.features_from)
        names = (name for name, part in network.module.named_modules() if part is layer)
        self.named_layer = next(names, None)

    def forward(self, x: Any) -> tuple[Tensor, Tensor | None]:
        network = self.forward_pass
        source = network.features_from
        seen: list[Any] = []

        def mark(name: str) -> Callable[..., Tensor | None]:
            def note(layer: nn.Module, args: tuple, kwargs: dict, made: Any) -> Tensor | None:
                if not isinstance(made, Tensor):
                    marked = None
                else:
                    given = args[0] if args else next(iter(kwargs.values()), None)
                    given = given if isinstance(given, Tensor) else made
                    marked = torch.ops.skood.layer(given, made, name)
                if name == self.named_layer:
                    seen.append(made if marked is None else marked)
                return marked

            return note

        hooks = [
            layer.register_forward_hook(mark(name), with_kwargs=True)
            for name, layer in self.module.named_modules()
            if name and not isinstance(layer, torch.jit.ScriptModule)
        ]
        try:
            with _Marks():
                returned = network.module(**x) if isinstance(x, dict) else network.module(x)
        finally:
            for hook in hooks:
                hook.remove()
        found = chosen_output(network, returned)
        features = None
        if callable(source):
            features = source(returned)
        elif isinstance(source, tuple):
            features = source[1](seen[-1])
        if features is not None:
            features = torch.ops.skood.layer(features, features, FEATURES)
        return found, features


def exported(network: ForwardPass, example: Any, fixed_batch: bool) -> Any:
    """Return the exported program, for any number of items, and if possible tokens."""
    batch = Dim("batch")
    if fixed_batch:
        return _export(network, example, None)
    if not isinstance(example, dict):
        return _export(network, example, {0: batch})
    sizes = [x.shape[1] for x in example.values() if x.ndim > 1 and not x.is_floating_point()]
    length: Any = Dim("length") if sizes else None
    for attempt in range(2 if sizes else 0):
        shapes = {
            name: {0: batch, 1: length} if x.ndim > 1 and x.shape[1] == sizes[0] else {0: batch}
            for name, x in example.items()
        }
        try:
            return _export(network, example, shapes)
        except NotExportable as error:
            # A network with embedded positions has a largest number of tokens.
            longest = _LONGEST.search(str(error.__cause__))
            if attempt or not longest:
                break
            length = Dim("length", max=int(longest[1]))
    return _export(network, example, {name: {0: batch} for name in example})


_LONGEST = re.compile(r"length = Dim\('length', (?:min=\d+, )?max=(\d+)\)")


def _export(network: ForwardPass, example: Any, shapes: Any) -> Any:
    traced = _Traced(network)
    # Modules of exported programs refuse `eval`; the network is in eval mode.
    traced.training = False
    try:
        with _quiet():
            return torch.export.export(
                traced, (example,), dynamic_shapes={"x": shapes}, strict=False
            )
    except Exception as error:
        raise NotExportable(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Return the reason why torch.export failed."""
    text = " ".join(str(error).split())
    if re.search(r"batch (as dynamic but your code spec|was inferred to be a const)", text):
        return (
            "its forward pass fixes the number of items in a batch, as len(x) does and x.shape[0] "
            "does not"
        )
    if "DataDependent" in type(error).__name__:
        return "its forward pass branches on the values of tensors"
    if len(text) > _LONGEST_REASON:
        text = text[:_LONGEST_REASON] + "..."
    return f"torch.export ended in {type(error).__name__}: {text}"


_LONGEST_REASON = 300


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings, logs and graphs that torch.export prints; its errors have their own text."""
    before = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
