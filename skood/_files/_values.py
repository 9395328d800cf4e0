"""Encoding of Python's own values."""

from __future__ import annotations

import math
import struct
from collections import Counter
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from skood._files._codec import Codec, DamagedFile, Reader, Writer, field

__all__ = ["CODECS"]

_MOST_OF_ONE_HASH = 1000


def _is(*types: type) -> Any:
    return lambda value: type(value) in types


def _encode_int(value: int, writer: Writer) -> dict[str, Any]:
    return {"hex": hex(value)}


def _decode_int(node: dict[str, Any], reader: Reader) -> int:
    return int(field(node, "hex", str), 16)


def _encode_float(value: float, writer: Writer) -> dict[str, Any]:
    # The bits of a NaN have no decimal digits.
    return {"shown": str(value), "hex": struct.pack(">d", value).hex()}


def _decode_float(node: dict[str, Any], reader: Reader) -> float:
    value: float = struct.unpack(">d", bytes.fromhex(field(node, "hex", str)))[0]
    if math.isfinite(value):
        raise DamagedFile("it has a finite number as hexadecimal digits")
    return value


def _encode_complex(value: complex, writer: Writer) -> dict[str, Any]:
    return {"parts": [writer.node(value.real), writer.node(value.imag)]}


def _decode_complex(node: dict[str, Any], reader: Reader) -> complex:
    real, imaginary = field(node, "parts", list)
    return complex(reader.value(real, float), reader.value(imaginary, float))


def _encode_bytes(value: bytes | bytearray, writer: Writer) -> dict[str, Any]:
    return {"array": writer.array(np.frombuffer(value, np.uint8))}


def _decode_bytes(node: dict[str, Any], reader: Reader) -> bytes:
    return reader.array(field(node, "array", str)).tobytes()


def _decode_bytearray(node: dict[str, Any], reader: Reader) -> bytearray:
    return bytearray(_decode_bytes(node, reader))


def _encode_items(value: Any, writer: Writer) -> dict[str, Any]:
    return {"items": [writer.node(item, str(k)) for k, item in enumerate(value)]}


def _decode_items(node: dict[str, Any], reader: Reader) -> list[Any]:
    return [reader.value(item) for item in field(node, "items", list)]


def _hashable(items: list[Any]) -> list[Any]:
    """Return items for a set or dict; raise if many have one hash, for which a set takes hours."""
    counts = Counter(map(hash, items))
    if counts and max(counts.values()) > _MOST_OF_ONE_HASH:
        raise DamagedFile(f"more than {_MOST_OF_ONE_HASH} keys have the same hash")
    return items


def _encode_set(value: Any, writer: Writer) -> dict[str, Any]:
    # The order of a set differs between processes.
    try:
        return _encode_items(sorted(value), writer)
    except TypeError:
        return _encode_items(sorted(value, key=lambda item: (str(type(item)), repr(item))), writer)


def _decode_keys(node: dict[str, Any], reader: Reader) -> list[Any]:
    return _hashable(_decode_items(node, reader))


def _encode_dict(value: dict[Any, Any], writer: Writer) -> dict[str, Any]:
    return {
        "items": [
            [writer.node(key, "key"), writer.node(item, str(key)[:40])]
            for key, item in value.items()
        ]
    }


def _decode_dict(node: dict[str, Any], reader: Reader) -> dict[Any, Any]:
    pairs = [(reader.value(key), reader.value(item)) for key, item in field(node, "items", list)]
    made = dict(zip(_hashable([key for key, _ in pairs]), (item for _, item in pairs), strict=True))
    if len(made) != len(pairs):
        raise DamagedFile("a key occurs twice in a dict")
    return made


def _encode_range(value: range | slice, writer: Writer) -> dict[str, Any]:
    return {"parts": [writer.node(part) for part in (value.start, value.stop, value.step)]}


def _decode_range(node: dict[str, Any], reader: Reader) -> range:
    start, stop, step = (reader.value(part, int) for part in field(node, "parts", list))
    return range(start, stop, step)


def _decode_slice(node: dict[str, Any], reader: Reader) -> slice:
    start, stop, step = (reader.value(part) for part in field(node, "parts", list))
    return slice(start, stop, step)


def _encode_path(value: PurePath, writer: Writer) -> dict[str, Any]:
    return {"text": str(value)}


def _decode_path(node: dict[str, Any], reader: Reader) -> Path:
    return Path(field(node, "text", str))


CODECS = [
    Codec("int", _is(int), _encode_int, _decode_int, shared=False),
    Codec("float", _is(float), _encode_float, _decode_float, shared=False),
    Codec("complex", _is(complex), _encode_complex, _decode_complex, shared=False),
    Codec("bytes", _is(bytes), _encode_bytes, _decode_bytes),
    Codec("bytearray", _is(bytearray), _encode_bytes, _decode_bytearray),
    Codec(
        "tuple",
        _is(tuple),
        _encode_items,
        lambda node, reader: tuple(_decode_items(node, reader)),
    ),
    Codec("list", _is(list), _encode_items, _decode_items),
    Codec(
        "set",
        _is(set),
        _encode_set,
        lambda node, reader: set(_hashable(_decode_items(node, reader))),
    ),
    Codec(
        "frozenset",
        _is(frozenset),
        _encode_set,
        lambda node, reader: frozenset(_decode_keys(node, reader)),
    ),
    Codec("dict", _is(dict), _encode_dict, _decode_dict),
    Codec("range", _is(range), _encode_range, _decode_range),
    Codec("slice", _is(slice), _encode_range, _decode_slice),
    Codec(
        "path",
        lambda value: isinstance(value, PurePath),
        _encode_path,
        _decode_path,
    ),
]
