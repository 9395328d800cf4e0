"""The structure of a program, as JSON holds it: checks and constants."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch

__all__ = [
    "OWN_DEVICE",
    "OWN_DTYPE",
    "Value",
    "check_inputs",
    "fits",
    "is_value",
    "list_in",
    "name_of",
    "require",
    "resolved",
    "values_in",
]

# Device and floating-point dtype of the parameters, as constants among the arguments.
OWN_DEVICE: dict[str, Any] = {"own": "device"}
OWN_DTYPE: dict[str, Any] = {"own": "dtype"}

_PART = re.compile(r"[A-Za-z_]\w*|\d+", re.ASCII)

_CONSTANTS: dict[str, dict[str, Any]] = {
    "float": {name: float(name) for name in ("inf", "-inf", "nan")},
    "dtype": {
        str(value).removeprefix("torch."): value
        for value in (
            *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
            *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
            *(torch.complex64, torch.complex128),
        )
    },
    "layout": {"strided": torch.strided},
    "memory_format": {
        "contiguous": torch.contiguous_format,
        "preserve": torch.preserve_format,
        "channels_last": torch.channels_last,
        "channels_last_3d": torch.channels_last_3d,
    },
}


class Value(int):
    """Position of a value of the graph."""


def require(is_right: bool, op: str) -> None:
    """Raise a ValueError if the arguments of an operator are wrong."""
    if not is_right:
        raise ValueError(f"the arguments of the operator {op!r} are wrong")


def list_in(structure: Any, part: str) -> list[Any]:
    """Return a part that has to be a list."""
    found = structure[part]
    if type(found) is not list:
        raise ValueError(f"the part {part!r} of the network is not a list")
    return found


def name_of(name: Any) -> str:
    """Check the name of a layer or tensor: identifiers and numbers between dots."""
    parts = name.split(".") if type(name) is str else [""]
    if name != "" and not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(f"{str(name)[:80]!r} is not the name of a layer or tensor")
    return name


def check_inputs(inputs: list[Any]) -> None:
    """Check names and shapes of the inputs."""
    names = [entry["name"] for entry in inputs]
    known = all(name is None or (type(name) is str and name.isidentifier()) for name in names)
    shapes = [n for entry in inputs for n in list_in(entry, "shape")]
    sized = all(n is None or all(type(end) is int for end in _ends(n)) for n in shapes)
    ranked = all(entry["shape"] for entry in inputs)
    single = names == [None] or None not in names
    if not (inputs and known and sized and ranked and single) or len(set(names)) != len(names):
        raise ValueError("the inputs of the network are not described as they should be")


def fits(n: int, want: Any) -> bool:
    """Whether an axis has the size that the network takes."""
    low, high = (n, n) if want is None else _ends(want)
    # torch.export gives 2 as the smallest number where it means any.
    return low <= max(n, 2) and n <= high


def _ends(want: Any) -> list[Any]:
    """Return the smallest and largest size of an axis."""
    return want if type(want) is list and len(want) == 2 else [want, want]


def is_value(given: Any) -> bool:
    """Whether an argument is a single value of the graph."""
    return type(given) is dict and [*given] == ["value"]


def resolved(given: Any, n_known: int, n_values: int, depth: int = 0) -> Any:
    """Replace references and constants of JSON; raise for anything else."""
    if given is None or type(given) in (bool, int, float, str):
        return given
    if type(given) is list and depth < 20:
        return [resolved(part, n_known, n_values, depth + 1) for part in given]
    if type(given) is not dict:
        raise ValueError("an argument of the network is of an unknown kind")
    if given == OWN_DEVICE:
        return Value(n_values)
    if given == OWN_DTYPE:
        return Value(n_values + 1)
    if [*given] == ["fields"] and depth < 20 and type(given["fields"]) is dict:
        fields = given["fields"].items()
        return {name: resolved(part, n_known, n_values, depth + 1) for name, part in fields}
    ((kind, value),) = given.items()
    if kind == "value" and type(value) is int and 0 <= value < n_known:
        return Value(value)
    if kind in _CONSTANTS and type(value) is str and value in _CONSTANTS[kind]:
        return _CONSTANTS[kind][value]
    raise ValueError(f"an argument of the network is of the unknown kind {kind!r}")


def values_in(template: Any) -> Iterator[Value]:
    """Yield the values of the graph in an argument."""
    if isinstance(template, Value):
        yield template
    elif isinstance(template, list):
        for part in template:
            yield from values_in(part)
    elif isinstance(template, dict):
        for part in template.values():
            yield from values_in(part)
