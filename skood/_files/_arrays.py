"""Encoding of the values of numpy and torch."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._data.lazy_rows import LazyRows
from skood._files._codec import Codec, DamagedFile, Reader, Writer, field
from skood._files._container import has_numpy_dtype

__all__ = ["CODECS"]

# Kinds of dtype whose items are plain bytes.
_PLAIN = re.compile(r"[<>|=][biufcSUmM]\d{1,9}(\[\d*[A-Za-z]{1,2}(/\d+)?\])?")
_BIT_GENERATORS = {
    cls.__name__: cls
    for cls in (
        np.random.MT19937,
        np.random.PCG64,
        np.random.PCG64DXSM,
        np.random.Philox,
        np.random.SFC64,
    )
}
_TORCH_DTYPES = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}


def _encode_dtype(dtype: np.dtype[Any], writer: Writer) -> Any:
    """Return the name of a dtype, or its fields."""
    if dtype.names is not None:
        fields = [dtype.fields[name][:2] for name in dtype.names]  # type: ignore[index]
        return {
            "names": list(dtype.names),
            "formats": [_encode_plain(kind, writer) for kind, _ in fields],
            "offsets": [offset for _, offset in fields],
            "itemsize": dtype.itemsize,
        }
    return "object" if dtype.kind == "O" else _encode_plain(dtype, writer)


def _encode_plain(dtype: np.dtype[Any], writer: Writer) -> str:
    if dtype.metadata or not _PLAIN.fullmatch(dtype.str):
        writer.refuse(f"has the dtype {dtype!r}, which skood.save does not store")
    return dtype.str


def _decode_dtype(node: Any) -> np.dtype[Any]:
    if type(node) is dict:
        return np.dtype(
            {
                "names": field(node, "names", list),
                "formats": [_decode_plain(kind) for kind in field(node, "formats", list)],
                "offsets": field(node, "offsets", list),
                "itemsize": field(node, "itemsize", int),
            }
        )
    return np.dtype(object) if node == "object" else _decode_plain(node)


def _decode_plain(node: Any) -> np.dtype[Any]:
    if type(node) is not str or not _PLAIN.fullmatch(node):
        raise DamagedFile(f"{str(node)[:80]!r} is not a dtype")
    return np.dtype(node)


def _encode_array(array: npt.NDArray[Any], writer: Writer) -> dict[str, Any]:
    array = np.asarray(array)
    # The order of sums in a product depends on the layout: the axes by their strides.
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    node: dict[str, Any] = {"dtype": _encode_dtype(array.dtype, writer)}
    if array.flags.c_contiguous:
        axes = sorted(axes)
    elif axes != sorted(axes):
        node["axes"] = axes
    array = np.ascontiguousarray(array.transpose(axes)).reshape([array.shape[a] for a in axes])
    if array.dtype == object:
        items = [writer.node(item, str(k)) for k, item in enumerate(array.ravel().tolist())]
        return {**node, "shape": list(array.shape), "items": items}
    if not has_numpy_dtype(array.dtype):
        # Bytes of each item, which safetensors has no name for.
        node["shape"] = list(array.shape)
        array = array.reshape(-1).view(np.uint8)
    return {**node, "array": writer.array(array)}


def _decode_array(node: dict[str, Any], reader: Reader) -> npt.NDArray[Any]:
    dtype = _decode_dtype(field(node, "dtype"))
    array: npt.NDArray[Any]
    if dtype.hasobject:
        shape, nodes = field(node, "shape", list), field(node, "items", list)
        if math.prod(_sizes(shape)) != len(nodes):
            raise DamagedFile("an array has more or fewer items than its shape")
        array = np.empty(len(nodes), object)
        for k, item in enumerate(nodes):
            array[k] = reader.value(item)
        array = array.reshape(shape)
    else:
        array = reader.array(field(node, "array", str))
        if "shape" in node:
            array = _of_bytes(array, dtype, _sizes(field(node, "shape", list)))
        if array.dtype != dtype:
            raise DamagedFile(f"an array of {dtype} has the dtype {array.dtype}")
    if "axes" in node:
        array = array.transpose(np.argsort(_permutation(field(node, "axes", list), array.ndim)))
    return array


def _of_bytes(array: npt.NDArray[Any], dtype: np.dtype[Any], shape: list[int]) -> npt.NDArray[Any]:
    if dtype.itemsize == 0:
        if array.size or math.prod(shape) > 2**20:
            raise DamagedFile("an array of empty items has bytes, or too many items")
        return np.zeros(shape, dtype)
    if array.dtype != np.uint8 or array.size != math.prod(shape) * dtype.itemsize:
        raise DamagedFile("an array has more or fewer bytes than its shape")
    return array.view(dtype).reshape(shape)


def _sizes(shape: list[Any]) -> list[int]:
    if not all(type(n) is int and n >= 0 for n in shape):
        raise DamagedFile("an array has a shape that is not made of sizes")
    return shape


def _permutation(axes: list[Any], n: int) -> list[int]:
    if not all(type(axis) is int for axis in axes) or sorted(axes) != list(range(n)):
        raise DamagedFile("the axes of an array are no permutation")
    return axes


def _encode_scalar(value: np.generic, writer: Writer) -> dict[str, Any]:
    if value.dtype.hasobject:
        writer.refuse(f"is a {type(value).__name__}, which skood.save does not store")
    return {
        "dtype": _encode_dtype(value.dtype, writer),
        "shown": str(value)[:40],
        "hex": np.asarray(value).tobytes().hex(),
    }


def _decode_scalar(node: dict[str, Any], reader: Reader) -> np.generic:
    dtype = _decode_dtype(field(node, "dtype"))
    content = bytes.fromhex(field(node, "hex", str))
    if dtype.hasobject or len(content) != dtype.itemsize:
        raise DamagedFile(f"a number of {dtype} has {len(content)} bytes")
    value: np.generic = (np.frombuffer(content, dtype) if content else np.zeros(1, dtype))[0]
    return value


def _encode_tensor(tensor: Tensor, writer: Writer) -> dict[str, Any]:
    if type(tensor) not in (Tensor, nn.Parameter):
        writer.refuse(f"is a {type(tensor).__name__}, which skood.save does not store")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        writer.refuse("is not a dense tensor with values; store tensor.to_dense() instead")
    node: dict[str, Any] = {}
    if tensor.requires_grad:
        node["requires_grad"] = True
    if isinstance(tensor, nn.Parameter):
        node["parameter"] = True
    if tensor.is_complex():
        node["complex"] = True
        tensor = torch.view_as_real(tensor.detach().resolve_conj())
    tensor = tensor.detach()
    axes = sorted(range(tensor.ndim), key=lambda axis: (-tensor.stride(axis), axis))
    in_order = tensor.permute(axes)
    if (
        in_order.is_contiguous()
        and tensor.stride() != torch.empty(tensor.shape, device="meta").stride()
    ):
        # channels_last, for example; convolutions compute in the order of the strides.
        node |= {"shape": list(tensor.shape), "strides": list(tensor.stride())}
        tensor = in_order
    return {**node, "array": writer.tensor(tensor)}


def _decode_tensor(node: dict[str, Any], reader: Reader) -> Tensor:
    tensor = reader.tensor(field(node, "array", str))
    if "strides" in node:
        shape, strides = (_sizes(field(node, name, list)) for name in ("shape", "strides"))
        last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if math.prod(shape) != tensor.numel() or last >= max(tensor.numel(), 1):
            raise DamagedFile("the strides of a tensor do not fit its values")
        tensor = tensor.as_strided(shape, strides)
    if node.get("complex"):
        tensor = torch.view_as_complex(tensor)
    requires_grad = bool(node.get("requires_grad"))
    if node.get("parameter"):
        return nn.Parameter(tensor, requires_grad=requires_grad)
    return tensor.requires_grad_(requires_grad)


def _encode_random_state(value: np.random.RandomState, writer: Writer) -> dict[str, Any]:
    return {"state": writer.node(value.get_state(legacy=False), "state")}


def _decode_random_state(node: dict[str, Any], reader: Reader) -> np.random.RandomState:
    made = np.random.RandomState(0)
    made.set_state(reader.value(field(node, "state"), dict))
    return made


def _encode_generator(value: np.random.Generator, writer: Writer) -> dict[str, Any]:
    kind = type(value.bit_generator).__name__
    if kind not in _BIT_GENERATORS:
        writer.refuse(f"has a {kind}, which skood.save does not store")
    return {"generator": kind, "state": writer.node(value.bit_generator.state, "state")}


def _decode_generator(node: dict[str, Any], reader: Reader) -> np.random.Generator:
    kind = field(node, "generator", str)
    if kind not in _BIT_GENERATORS:
        raise DamagedFile(f"{kind[:80]!r} is no generator of random numbers")
    made = _BIT_GENERATORS[kind](0)
    made.state = reader.value(field(node, "state"), dict)
    return np.random.Generator(made)


def _encode_torch_generator(value: torch.Generator, writer: Writer) -> dict[str, Any]:
    if value.device.type != "cpu":
        writer.refuse("is a random generator on a GPU; give a seed instead")
    return {"array": writer.tensor(value.get_state())}


def _decode_torch_generator(node: dict[str, Any], reader: Reader) -> torch.Generator:
    made = torch.Generator()
    made.set_state(reader.tensor(field(node, "array", str)))
    return made


def _decode_torch_dtype(node: dict[str, Any], reader: Reader) -> torch.dtype:
    return _TORCH_DTYPES[field(node, "name", str)]


CODECS = [
    Codec(
        "ndarray",
        # Rows of a bank that lie in a memory map become an array.
        lambda value: type(value) in (np.ndarray, np.memmap, LazyRows),
        _encode_array,
        _decode_array,
    ),
    Codec(
        "scalar",
        lambda value: isinstance(value, np.generic),
        _encode_scalar,
        _decode_scalar,
    ),
    Codec(
        "dtype",
        lambda value: isinstance(value, np.dtype),
        lambda value, writer: {"of": _encode_dtype(value, writer)},
        lambda node, reader: _decode_dtype(field(node, "of")),
        shared=False,
    ),
    Codec("tensor", lambda value: isinstance(value, Tensor), _encode_tensor, _decode_tensor),
    Codec(
        "torch.dtype",
        lambda value: isinstance(value, torch.dtype),
        lambda value, writer: {"name": str(value).removeprefix("torch.")},
        _decode_torch_dtype,
        shared=False,
    ),
    Codec(
        "torch.device",
        lambda value: isinstance(value, torch.device),
        lambda value, writer: {"name": str(value)},
        lambda node, reader: torch.device(field(node, "name", str)),
    ),
    Codec(
        "random_state",
        lambda value: type(value) is np.random.RandomState,
        _encode_random_state,
        _decode_random_state,
    ),
    Codec(
        "generator",
        lambda value: type(value) is np.random.Generator,
        _encode_generator,
        _decode_generator,
    ),
    Codec(
        "torch.generator",
        lambda value: isinstance(value, torch.Generator),
        _encode_torch_generator,
        _decode_torch_generator,
    ),
]
