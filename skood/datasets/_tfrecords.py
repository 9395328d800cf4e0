"""Files of TensorFlow, read without TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["parse_example", "read_tfrecords"]

# Types of fields in protocol buffers.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc32c_table()


def masked_crc32c(content: bytes) -> int:
    """Return the checksum of TFRecord files, CRC-32C with a rotation and an offset."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_tfrecords(path: Path) -> Iterator[bytes]:
    """Read the records of a TFRecord file.

    The checksums of the lengths are compared; comparing the contents would take minutes for a
    million records.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    with path.open("rb") as file:
        number = 0
        while header := file.read(12):
            if len(header) == 12:
                length, checksum = struct.unpack("<QI", header)
                if masked_crc32c(header[:8]) == checksum:
                    content = file.read(length)
                    if len(content) == length and len(file.read(4)) == 4:
                        yield content
                        number += 1
                        continue
            raise ValueError(
                f"{path} is damaged: record {number} is cut off or has a wrong checksum; get the "
                "file again"
            )


def parse_example(content: bytes) -> dict[str, list[Any]]:
    """Return the features of a ``tf.train.Example``: bytes and integers by their names.

    Raises
    ------
    ValueError
        If the content is no Example.
    """
    try:
        features: dict[str, list[Any]] = {}
        for example in _fields(content, 1):
            for entry in _fields(example, 1):
                (name,) = _fields(entry, 1)
                values: list[Any] = []
                for feature in _fields(entry, 2):
                    for texts in _fields(feature, 1):
                        values += _fields(texts, 1)
                    for integers in _fields(feature, 3):
                        for part in _fields(integers, 1):
                            values += [part] if isinstance(part, int) else _varints(part)
                features[name.decode()] = values
        return features
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"a record is no tf.train.Example ({error})") from error


def _fields(content: bytes, wanted: int) -> list[Any]:
    """Return the values of one field of a message in the format of protocol buffers."""
    values, position = [], 0
    while position < len(content):
        key, position = _varint(content, position)
        number, kind = key >> 3, key & 7
        value: Any
        if kind == _VARINT:
            value, position = _varint(content, position)
        elif kind in (_BYTES, _FIXED64, _FIXED32):
            if kind == _BYTES:
                length, position = _varint(content, position)
            else:
                length = 8 if kind == _FIXED64 else 4
            value = content[position : position + length]
            if len(value) < length:
                raise ValueError("a field is cut off")
            position += length
        else:
            raise ValueError(f"a field has the unknown type {kind}")
        if number == wanted:
            values.append(value)
    return values


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Return an integer in groups of 7 bits, and the position after it."""
    value, shift = 0, 0
    while True:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            # Negative integers are stored as 64 bits in two's complement.
            return value - (1 << 64) if value >= 1 << 63 else value, position
        shift += 7


def _varints(content: bytes) -> list[int]:
    values, position = [], 0
    while position < len(content):
        value, position = _varint(content, position)
        values.append(value)
    return values
