"""Encoding of trained modules: as a program, or as weights for a module that the loader gives."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from skood._files._codec import Codec, DamagedFile, Reader, Writer, check_attribute, field
from skood._files._export import to_program
from skood._files._program import Program
from skood._files._tracing import FEATURES, NotExportable, chosen_output
from skood._torch.batching import evaluating
from skood._torch.packing import content_of, tensors_of
from skood.classifiers import FeatureExtractor, PretrainedClassifier
from skood.classifiers._inputs import copies_of, device_of, dtype_of, n_items_of
from skood.classifiers._module import ModuleHandle
from skood.classifiers._network import Network
from skood.classifiers._reading import Reading
from skood.classifiers._returned import tolerance

__all__ = ["CODECS"]

_CLASSES = {cls.__name__: cls for cls in (FeatureExtractor, PretrainedClassifier)}

# Numbers of items in the batches on which a program is compared with its network.
_BATCHES: tuple[int, ...] = (1, 2, 5)


@dataclass(eq=False)
class _Weights:
    """A network of which only the weights are stored."""

    name: str
    module: nn.Module


def _encode_handle(handle: ModuleHandle, writer: Writer) -> dict[str, Any]:
    params = handle.get_params(deep=False)
    params.pop("module")
    network = _network_of(handle, writer)
    if any(".quantized" in type(layer).__module__ for layer in network.module.modules()):
        writer.refuse(
            f"holds the network {network.name} with quantised layers, whose packed weights a file "
            "cannot hold; give the network before it was quantised"
        )
    example = None
    if writer.modules == "weights":
        stored: Any = _weights_of(network.module, writer)
        example = _what_it_computes(network) if hasattr(handle, "reading_") else None
    else:
        stored = _program_of(network, writer)
        if stored is not network.module:
            params["output"] = None if params["output"] is None else 0
            if not isinstance(params.get("features_from"), (str, type(None))):
                params["features_from"] = FEATURES
    attributes = {
        name: value for name, value in vars(handle).items() if name not in (*params, "module")
    }
    return {
        "class": type(handle).__name__,
        "module": writer.node(stored, "module"),
        "example": writer.node(example, "example"),
        "params": {name: writer.node(value, name) for name, value in params.items()},
        "attributes": {name: writer.node(value, name) for name, value in attributes.items()},
    }


def _decode_handle(node: dict[str, Any], reader: Reader) -> ModuleHandle:
    name = field(node, "class", str)
    if name not in _CLASSES:
        raise DamagedFile(f"{name[:80]!r} is no handle of a network")
    module = reader.value(field(node, "module"), nn.Module)
    params = {name: reader.value(value) for name, value in field(node, "params", dict).items()}
    handle = _CLASSES[name](module, **params)
    handle._validate_params()
    for name, value in field(node, "attributes", dict).items():
        check_attribute(type(handle), name)
        setattr(handle, name, reader.value(value, *((Reading,) if name == "reading_" else ())))
    network = handle.network()
    if network.reading is not None:
        # Raises an error if the layer that the reading names is absent.
        _ = network.last_layer
    example = reader.value(field(node, "example"))
    if example is not None:
        _check_output(network, *example)
    return handle


def _network_of(handle: ModuleHandle, writer: Writer) -> Network:
    """Return the network of a handle.

    A handle that has not read data, such as a parameter of a fitted detector, reads its module as a
    fitted handle of the same module does.
    """
    network = handle.network()
    if network.reading is not None:
        return network
    for fitted in _handles_in(writer.estimator, set()):
        other = fitted.network()
        if other.reading is not None and _is_same(network.module, other.module):
            network.module, network.reading = other.module, other.reading
            break
    return network


def _handles_in(value: Any, seen: set[int]) -> Iterator[ModuleHandle]:
    """Yield the handles inside an estimator."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, ModuleHandle):
        yield value
    elif isinstance(value, (BaseEstimator, dict)):
        for part in (vars(value) if isinstance(value, BaseEstimator) else value).values():
            yield from _handles_in(part, seen)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _handles_in(part, seen)


def _is_same(module: nn.Module, other: nn.Module) -> bool:
    """Whether two modules are one, or copies: handles in a pickle have copies each."""
    if module is other:
        return True
    if type(module) is not type(other):
        return False
    try:
        return content_of(module) == content_of(other)
    except Exception:
        # Such modules cannot be pickled, so that they are no copies from a pickle.
        return False


def _program_of(network: Network, writer: Writer) -> Program:
    """Return the program of a network, made once for each file."""
    source = network.features_from
    as_it_is = not callable(network.output) and isinstance(source, (str, type(None)))
    if isinstance(network.module, Program) and as_it_is:
        return network.module
    key = (id(network.module), str(network.output), repr(source))
    if key in writer.kept:
        return writer.kept[key]
    what = f"holds the network {network.name}, "
    if network.reading is None or not network.reading.inputs:
        writer.refuse(
            what + "which has not read data, so that its input is unknown; call fit before save, "
            'or save the weights alone with skood.save(..., modules="weights")'
        )
    try:
        program = _checked_program(network)
    except NotExportable as error:
        writer.refuse(
            what + f"which cannot be stored as a program: {error}. Store its weights alone with "
            'skood.save(..., modules="weights"), and give the network to skood.load(..., modules=)'
        )
    writer.kept[key] = program
    return program


def _checked_program(network: Network) -> Program:
    """Export a network, and compare the program with it.

    Raises
    ------
    NotExportable
        If the outputs or the gradients differ.
    """
    n_fixed = network.fixed_batch_size
    with evaluating(network.module):
        try:
            sizes = _BATCHES
            program = to_program(network, _example(network, 3))
        except NotExportable:
            if n_fixed is None:
                raise
            example = _example(network, n_fixed)
            sizes = (n_fixed,)
            program = to_program(network, example, fixed_batch=True)
        for n_items in sizes:
            x = _example(network, n_items)
            _compare(network, program, x, "outputs")
            if isinstance(x, Tensor) and x.is_floating_point():
                _compare(network, program, x, "gradients")
    return program


def _compare(network: Network, program: Program, x: Any, what: str) -> None:
    def expected(x: Any) -> Tensor:
        return chosen_output(network, network.call(copies_of(x, range(n_items_of(x)))))

    def found(x: Any) -> Tensor:
        x = copies_of(x, range(n_items_of(x)))
        returned = program(**x) if isinstance(x, dict) else program(x)
        output: Tensor = returned if network.output is None else returned[0]
        return output

    if what == "outputs":
        with torch.no_grad():
            want, got = expected(x), found(x)
    else:
        try:
            want = _gradient(expected, x)
        except (RuntimeError, ValueError):
            # Detectors that need a gradient have an error of their own for such networks.
            return
        got = _gradient(found, x)
    if got.shape != want.shape:
        raise NotExportable(
            f"for {len(want)} items, its {what} have shape {tuple(want.shape)}, but the program's "
            f"{what} have shape {tuple(got.shape)}"
        )
    size = float(want.abs().nan_to_num().amax())
    far = _distance(got, want)
    if far > 10 * tolerance(want.dtype) * size:
        raise NotExportable(
            f"its {what} for {len(want)} items differ from the program's {what} by up to "
            f"{far / (size or 1):.2g} of their size, for example because it draws random numbers, "
            "or its forward pass depends on values or on the number of items"
        )


def _gradient(function: Any, x: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def _example(network: Network, n_items: int) -> Any:
    """Make an input of the network, of values in the range of the data that it has read."""
    assert network.reading is not None, "`_network_of` looks for it"
    generator = torch.Generator().manual_seed(n_items)
    device, dtype = device_of(network.module), dtype_of(network.module)
    parts = {}
    for name, shape, kind, low, high in network.reading.inputs:
        u = torch.rand((n_items, *shape), generator=generator, dtype=torch.float64)
        # A mask may not be 0 for all tokens.
        u[:, :1] = 1.0
        if kind == "float":
            parts[name] = (low + u * (high - low)).to(device, dtype)
        else:
            values = (low + u * (high - low)).round()
            parts[name] = values.to(device, getattr(torch, kind))
    return parts[None] if None in parts else parts


def _what_it_computes(network: Network) -> tuple[Any, Tensor]:
    """Return an example of a network's input and output."""
    x = _example(network, network.fixed_batch_size or 2)
    with evaluating(network.module), torch.no_grad():
        returned = network.call(copies_of(x, range(n_items_of(x))))
        return x, chosen_output(network, returned).detach()


def _weights_of(module: nn.Module, writer: Writer) -> _Weights:
    """Return the weights of a network, named by its class, once for each file."""
    key = ("weights", id(module))
    if key not in writer.kept:
        taken = {weights.name for weights in writer.kept.values() if isinstance(weights, _Weights)}
        kind = type(module).__name__
        names = itertools.chain([kind], (f"{kind}-{number}" for number in itertools.count(2)))
        writer.kept[key] = _Weights(next(name for name in names if name not in taken), module)
    return writer.kept[key]


def _encode_weights(weights: _Weights, writer: Writer) -> dict[str, Any]:
    module = weights.module
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    writer.note(f"skood.load needs modules={{{weights.name!r}: a module of the class {kind}}}")
    return {
        "name": weights.name,
        "class": kind,
        "tensors": {name: writer.node(tensor, name) for name, tensor in tensors_of(module).items()},
    }


def _decode_weights(node: dict[str, Any], reader: Reader) -> nn.Module:
    name, kind = field(node, "name", str), field(node, "class", str)
    tensors = {
        name: reader.value(value, Tensor) for name, value in field(node, "tensors", dict).items()
    }
    if name not in reader.modules:
        raise ValueError(
            f"it holds the weights of a network alone; give skood.load(..., modules={{{name!r}: "
            f"module}}), where module has the architecture of the network, a {kind}"
        )
    module = copy.deepcopy(reader.modules[name])
    _fill(module, tensors, name)
    return module.eval() if reader.device is None else module.eval().to(reader.device)


def _fill(module: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    """Replace the values of a module's parameters and buffers."""
    own = tensors_of(module)
    unlike = sorted(own.keys() ^ tensors.keys()) or [
        key
        for key, tensor in own.items()
        if (tensor.shape, tensor.dtype) != (tensors[key].shape, tensors[key].dtype)
    ]
    if unlike:
        first = unlike[0]
        came, stored = (
            f"{tuple(part[first].shape)}, {part[first].dtype}" if first in part else "nothing"
            for part in (own, tensors)
        )
        raise ValueError(
            f"modules[{name!r}] has another architecture than the network that was saved: "
            f"{len(unlike)} parameters and buffers differ, for example {first!r}, for which it has "
            f"{came}, but the file {stored}"
        )
    with torch.no_grad():
        for key, tensor in own.items():
            # The layout decides the order of sums.
            laid_out = torch.empty_like(tensors[key], device=tensor.device)
            tensor.data = laid_out.copy_(tensors[key])


def _check_output(network: Network, example: Any, output: Tensor) -> None:
    """Raise an error if a module does not compute what the network that was saved computed."""
    device = device_of(network.module)
    is_dict = isinstance(example, dict)
    x = {key: x.to(device) for key, x in example.items()} if is_dict else example.to(device)
    with torch.no_grad():
        found = chosen_output(network, network.call(x)).cpu()
    size = float(output.abs().nan_to_num().amax())
    far = float("inf") if found.shape != output.shape else _distance(found, output)
    if far > 100 * tolerance(output.dtype) * size:
        raise ValueError(
            f"the module {network.name} takes the weights of the network that was saved, but "
            "computes other values from them: its layers, their settings or their order differ. "
            "Give a module that is made by the same code with the same settings"
        )


def _distance(first: Tensor, second: Tensor) -> float:
    """Return the largest difference; NaN at the same places are equal."""
    difference = (first.double() - second.double()).abs()
    difference[first.isnan() & second.isnan()] = 0
    return float(difference.nan_to_num(torch.inf).amax())


def _encode_program(program: Program, writer: Writer) -> dict[str, Any]:
    tensors = tensors_of(program)
    structure = program.program_structure
    return {
        "structure": structure,
        "tensors": {name: writer.node(tensors[name], name) for name, _ in structure["tensors"]},
    }


def _decode_program(node: dict[str, Any], reader: Reader) -> Program:
    tensors = {
        name: reader.value(value, Tensor) for name, value in field(node, "tensors", dict).items()
    }
    program = Program(field(node, "structure", dict), tensors)
    return program if reader.device is None else program.to(reader.device)


def _encode_module(module: nn.Module, writer: Writer) -> dict[str, Any]:
    if writer.modules != "weights":
        writer.refuse(
            "is a bare module, whose input is unknown; save its weights alone with "
            'skood.save(..., modules="weights"), or wrap it in PretrainedClassifier or '
            "FeatureExtractor if it is a classifier or an encoder"
        )
    return {"weights": writer.node(_weights_of(module, writer))}


CODECS = [
    Codec("handle", lambda value: type(value) in _CLASSES.values(), _encode_handle, _decode_handle),
    Codec("program", lambda value: type(value) is Program, _encode_program, _decode_program),
    Codec("weights", lambda value: type(value) is _Weights, _encode_weights, _decode_weights),
    Codec(
        "module",
        lambda value: isinstance(value, nn.Module),
        _encode_module,
        lambda node, reader: reader.value(field(node, "weights"), nn.Module),
    ),
]
