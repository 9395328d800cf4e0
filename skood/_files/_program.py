"""A network as a list of operators, which runs without the source of its modules."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood._files._operators import NUMBERS, check_arguments, operator_named
from skood._files._structure import (
    Value,
    check_inputs,
    fits,
    is_value,
    list_in,
    name_of,
    require,
    resolved,
    values_in,
)
from skood._torch.dropout import DROPOUTS

__all__ = ["Layer", "Program"]

# Reshapes that copy nothing, and that fail if the strides of an input differ from the example's.
_VIEWS = ("aten.view.default", "aten._unsafe_view.default")

# Sizes beyond this cannot occur; products of them would grow without bound.
_LARGEST = 2**63


class Layer(nn.Module):
    """A module of the network that was stored, with its parameters; hooks see its output."""

    def forward(self, given: Tensor, made: Tensor) -> Tensor:
        """Return `made`, the output that the operators of the layer have computed."""
        return made


class _Step(NamedTuple):
    """One operator. `places` says which arguments are values of the graph."""

    function: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    places: list[tuple[int | str, Any]]
    result: int
    finished: tuple[int, ...]
    tracks: bool


class Program(nn.Module):
    """A network as a list of operators on its inputs, parameters and buffers.

    Modules of the network that was stored are modules of this one, under the same names and with
    the same parameters, and hooks on them run. No code is generated.

    Parameters
    ----------
    structure : dict
        As JSON holds it, and as `skood._files._export` makes it:

        - ``name``: class of the network that was stored, for people.
        - ``inputs``: name (None: the only argument) and shape of each input; None is any size, a
          pair is the smallest and the largest.
        - ``tensors``: name, kind ("parameter", "frozen" or "buffer") of each tensor.
        - ``nodes``: operators with ``op``, ``args``, ``kwargs`` and ``tracks`` (whether gradients
          pass). ``{"value": i}`` is the i-th of the inputs, the tensors and the results of nodes.
        - ``output``: values in lists and dicts.
    tensors : mapping of str to Tensor

    Raises
    ------
    ValueError
        If the structure is not one that `_export` makes.
    """

    def __init__(self, structure: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.program_structure = structure
        self._plan: Any = None
        for node in list_in(structure, "nodes"):
            if node["op"] == "layer":
                self._layer(name_of(node["args"][2]))
        seen: dict[int, nn.Parameter] = {}
        for name, kind in list_in(structure, "tensors"):
            path, _, leaf = name_of(name).rpartition(".")
            owner, tensor = self._layer(path), tensors[name]
            if hasattr(owner, leaf):
                raise ValueError(f"the network has two things of the name {name!r}")
            if kind == "buffer":
                owner.register_buffer(leaf, tensor)
            else:
                shared = seen.setdefault(
                    id(tensor), nn.Parameter(tensor, requires_grad=_trains(kind, tensor))
                )
                owner.register_parameter(leaf, shared)
        self.eval()
        self._steps()

    @property
    def has_fixed_batch(self) -> bool:
        """Whether the number of items in a batch is fixed."""
        return any(entry["shape"][0] is not None for entry in self.program_structure["inputs"])

    def extra_repr(self) -> str:
        return f"{self.program_structure['name']}, {len(self.program_structure['nodes'])} operators"

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        """Run the operators in order.

        Raises
        ------
        ValueError
            If the inputs have other names or shapes than in the network that was stored.
        """
        steps, tensors, output, n_values = self._steps()
        inputs = self._inputs(args, kwargs)
        own = [getattr(owner, leaf) for owner, leaf in tensors]
        values: list[Any] = [*inputs, *own, *[None] * (n_values - len(inputs) - len(own))]
        floating = next((t.dtype for t in (*own, *inputs) if t.is_floating_point()), None)
        values += [(own or inputs)[0].device, floating or torch.float32]
        for step in steps:
            args_, kwargs_ = step.args, step.kwargs
            if step.places:
                args_, kwargs_ = args_.copy(), kwargs_.copy()
                for place, template in step.places:
                    filled = _fill(template, values)
                    if isinstance(place, int):
                        args_[place] = filled
                    else:
                        kwargs_[place] = filled
            with contextlib.nullcontext() if step.tracks else torch.no_grad():
                values[step.result] = step.function(*args_, **kwargs_)
            for position in step.finished:
                values[position] = None
        return _fill(output, values)

    def _inputs(self, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> list[Tensor]:
        entries = self.program_structure["inputs"]
        names = [entry["name"] for entry in entries]
        if len(args) != names.count(None) or kwargs.keys() != {*names} - {None}:
            expected = "one tensor" if None in names else f"the fields {names}"
            came = f"the fields {sorted(kwargs)}" if kwargs else f"{len(args)} tensors"
            raise ValueError(f"the stored network takes {expected}, but {came} came")
        inputs = [args[0] if name is None else kwargs[name] for name in names]
        for x, entry in zip(inputs, entries, strict=True):
            shape = entry["shape"]
            if x.ndim != len(shape) or not all(map(fits, x.shape, shape)):
                expected = ", ".join("any" if n is None else str(n) for n in shape)
                field = "" if entry["name"] is None else f" for {entry['name']!r}"
                raise ValueError(
                    f"the stored network takes shape ({expected}){field}, but {tuple(x.shape)} came"
                )
        return inputs

    def _steps(self) -> tuple[list[_Step], list[tuple[nn.Module, str]], Any, int]:
        """Return operators, owners of tensors, output, and number of values."""
        if self._plan is None:
            self._plan = self._compile()
        return self._plan

    def _compile(self) -> tuple[list[_Step], list[tuple[nn.Module, str]], Any, int]:
        structure = self.program_structure
        inputs, tensors = list_in(structure, "inputs"), list_in(structure, "tensors")
        nodes = list_in(structure, "nodes")
        check_inputs(inputs)
        n_known = len(inputs) + len(tensors)
        n_values = n_known + len(nodes)
        output = resolved(structure["output"], n_values, n_values)
        last_use = {int(value): n_values for value in values_in(output)}
        steps: list[_Step] = []
        for position in reversed(range(len(nodes))):
            node, result = nodes[position], n_known + position
            args, kwargs = node["args"], node["kwargs"]
            function, args = self._function(node["op"], args, kwargs)
            made = [resolved(value, result, n_values) for value in args]
            named = {name: resolved(value, result, n_values) for name, value in kwargs.items()}
            places: list[tuple[int | str, Any]] = [*enumerate(made), *named.items()]
            places = [
                (place, value)
                for place, value in places
                if next(values_in(value), None) is not None
            ]
            used = {int(value) for _, value in places for value in values_in(value)}
            finished = tuple(
                value
                for value in sorted({*used, result})
                if value not in last_use and n_known <= value < n_values
            )
            last_use |= dict.fromkeys(used, result)
            tracks = node["tracks"] is True
            steps.append(_Step(function, made, named, places, result, finished, tracks))
        owners = []
        for name, _ in tensors:
            path, _, leaf = name.rpartition(".")
            owners.append((self.get_submodule(path), leaf))
        return steps[::-1], owners, output, n_values

    def _function(self, op: Any, args: Any, kwargs: Any) -> tuple[Callable[..., Any], list[Any]]:
        """Return the function of an operator, and its arguments."""
        if type(op) is not str or type(args) is not list or type(kwargs) is not dict:
            raise ValueError("an operator of the network is not complete")
        if op == "layer":
            given, made, name = args
            # The program itself would run forever.
            require(is_value(given) and is_value(made) and name != "" and not kwargs, op)
            return self.get_submodule(name), [given, made]
        if op == "getitem":
            require(len(args) == 2 and is_value(args[0]) and type(args[1]) is int, op)
            return _item, args
        if op == "linear":
            require(2 <= len(args) <= 3 and not kwargs, op)
            return F.linear, args
        if op == "dropout":
            # A function of torch.nn.functional, whose masks MCDropout turns on.
            require(len(args) == 4 and is_value(args[0]) and args[1] in DROPOUTS, op)
            return _Dropout(args[1]), [args[0], *args[2:]]
        group, _, name = op.partition(".")
        if group == "number":
            if name not in NUMBERS or kwargs:
                raise ValueError(f"the operator {op!r} is not one that a file may name")
            return _Number(name), args
        check_arguments(op, args, kwargs)
        return (torch.reshape if op in _VIEWS else operator_named(op)), args

    def _layer(self, path: str) -> nn.Module:
        """Return the module of this name; make it and its parents if need be."""
        module: nn.Module = self
        for part in path.split(".") if path else ():
            child = module._modules.get(part)
            if child is None:
                if hasattr(module, part):
                    raise ValueError(f"{path!r} cannot be the name of a layer")
                child = Layer()
                module.add_module(part, child)
            module = child
        return module

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plan": None}


class _Dropout:
    """A dropout in eval mode."""

    def __init__(self, name: str) -> None:
        self._function = DROPOUTS[name]

    def __call__(self, x: Tensor, p: float, inplace: bool) -> Tensor:
        dropped: Tensor = self._function(x, p=p, training=False, inplace=inplace)
        return dropped


class _Number:
    """Arithmetic with sizes, which stay small."""

    def __init__(self, name: str) -> None:
        self._function = NUMBERS[name]

    def __call__(self, *args: Any) -> Any:
        if not all(isinstance(value, (int, float)) for value in args):
            raise TypeError("arithmetic with sizes takes numbers")
        result = self._function(*args)
        if abs(result) >= _LARGEST:
            raise OverflowError("a size is too large")
        return result


def _item(values: Any, position: int) -> Any:
    if not isinstance(values, (tuple, list)):
        raise TypeError(f"the operator before returned a {type(values).__name__}, not a tuple")
    return operator.getitem(values, position)


def _trains(kind: str, tensor: Tensor) -> bool:
    if kind not in ("parameter", "frozen"):
        raise ValueError(f"{kind!r} is not a kind of tensor")
    return kind == "parameter" and (tensor.is_floating_point() or tensor.is_complex())


def _fill(template: Any, values: list[Any]) -> Any:
    if type(template) is Value:
        return values[template]
    if type(template) is list:
        return [_fill(part, values) for part in template]
    if type(template) is dict:
        return {name: _fill(part, values) for name, part in template.items()}
    return template
