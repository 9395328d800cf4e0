"""The file: a safetensors file whose header begins with the format's version and a checksum.

``{"__metadata__":{"skood_format":"1","sha256":"<64 digits>", ...}, "<array>": {...}, ...}`` follows
the length of this header in 8 bytes, and the arrays follow the header without gaps. The checksum
is the SHA-256 of the whole file with zeros in its own place, so that it covers every other bit.
Any reader of safetensors shows the arrays and the metadata.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._safe_files import open_regular

__all__ = [
    "FORMAT",
    "Array",
    "Contents",
    "array_of",
    "has_numpy_dtype",
    "parse_json",
    "read",
    "read_from",
    "tensor_of",
    "write",
]

FORMAT = 1

_DTYPES = {
    "BOOL": (torch.bool, np.dtype("bool")),
    "U8": (torch.uint8, np.dtype("uint8")),
    "I8": (torch.int8, np.dtype("int8")),
    "U16": (torch.uint16, np.dtype("uint16")),
    "I16": (torch.int16, np.dtype("int16")),
    "F16": (torch.float16, np.dtype("float16")),
    "BF16": (torch.bfloat16, None),
    "U32": (torch.uint32, np.dtype("uint32")),
    "I32": (torch.int32, np.dtype("int32")),
    "F32": (torch.float32, np.dtype("float32")),
    "U64": (torch.uint64, np.dtype("uint64")),
    "I64": (torch.int64, np.dtype("int64")),
    "F64": (torch.float64, np.dtype("float64")),
}
_OF_TORCH = {dtypes[0]: name for name, dtypes in _DTYPES.items()}
_OF_NUMPY = {dtypes[1]: name for name, dtypes in _DTYPES.items() if dtypes[1] is not None}

# The limit of the safetensors library.
_LONGEST_HEADER = 100_000_000
_START = b'{"__metadata__":{"skood_format":"'
_HEAD = re.compile(re.escape(_START) + rb'(\d{1,9})","sha256":"([0-9a-f]{64})",')
_LONGEST_HEAD = len(_START) + 9 + len(b'","sha256":"') + 64 + len(b'",')


class Array(NamedTuple):
    """Values in row-major order, as bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]

    def tensor(self) -> Tensor:
        """Return the values as a tensor that takes over the memory."""
        if not self.data.size:
            return torch.empty(self.shape, dtype=_DTYPES[self.dtype][0])
        return torch.from_numpy(self.data).view(_DTYPES[self.dtype][0]).reshape(self.shape)

    def numpy(self) -> npt.NDArray[Any]:
        """Return the values as an array that takes over the memory."""
        dtype = _DTYPES[self.dtype][1]
        if dtype is None:
            raise ValueError(f"numpy has no dtype for {self.dtype}")
        return self.data.view(dtype).reshape(self.shape)


class Contents(NamedTuple):
    """What a file holds, after its checksum was verified."""

    metadata: dict[str, str]
    arrays: dict[str, Array]
    sha256: str
    size: int


def has_numpy_dtype(dtype: np.dtype[Any]) -> bool:
    """Whether safetensors has a name for this dtype of numpy, byte order included."""
    return dtype.isnative and dtype in _OF_NUMPY


def array_of(array: npt.NDArray[Any]) -> Array:
    """View a contiguous array, in native byte order, of a dtype that safetensors has."""
    return Array(_OF_NUMPY[array.dtype], array.shape, array.reshape(-1).view(np.uint8))


def tensor_of(tensor: Tensor) -> Array:
    """Copy a tensor to the CPU and to row-major order if need be, and view its bytes."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    data = tensor.reshape(-1).view(torch.uint8).numpy()
    return Array(_OF_TORCH[tensor.dtype], tuple(tensor.shape), data)


def write(file: BinaryIO, metadata: Mapping[str, str], arrays: Mapping[str, Array]) -> None:
    """Write a file.

    Parameters
    ----------
    file : binary file
    metadata : mapping of str to str
    arrays : mapping of str to Array
    """
    # Large items first, so that each array is aligned to its items.
    names = sorted(arrays, key=lambda name: -_item_size(arrays[name].dtype))
    entries: dict[str, Any] = {}
    end = 0
    for name in names:
        dtype, shape, data = arrays[name]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + data.nbytes]}
        end += data.nbytes

    def header(digest: str) -> bytes:
        whole = {"skood_format": str(FORMAT), "sha256": digest, **metadata}
        text = json.dumps({"__metadata__": whole, **entries}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        if len(text) > _LONGEST_HEADER:
            raise ValueError(
                f"the estimator takes {len(text):,} bytes outside of arrays, but a file holds at "
                f"most {_LONGEST_HEADER:,}; store a large dict or list as an array"
            )
        return len(text).to_bytes(8, "little") + text

    digest = hashlib.sha256(header("0" * 64))
    for name in names:
        digest.update(arrays[name].data.data)
    file.write(header(digest.hexdigest()))
    for name in names:
        file.write(arrays[name].data.data)


def read(path: str | os.PathLike[str], *, keeps_arrays: bool = True) -> Contents:
    """Read a file in one pass, and verify its checksum before anything is made of it.

    Parameters
    ----------
    path : str or Path
    keeps_arrays : bool, default=True
        False leaves the values of arrays out of the result, and takes no memory for them.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    UnreadableFileError
        If the path is not a regular file, or cannot be opened.
    ValueError
        If it is not a complete file that :func:`write` wrote.
    """
    with open_regular(path) as file:
        return read_from(file, os.fstat(file.fileno()).st_size, keeps_arrays=keeps_arrays)


def read_from(file: BinaryIO, size: int, *, keeps_arrays: bool = True) -> Contents:
    """Read an open file of `size` bytes, see :func:`read`."""
    start = _bytes(file, min(size, 8 + _LONGEST_HEAD))
    found = _HEAD.match(start, 8)
    if found is None:
        raise ValueError("it is not a file of skood.save, or its first bytes are damaged")
    if int(found[1]) != FORMAT:
        raise ValueError(
            f"it has format {int(found[1])}, but this version of skood reads format {FORMAT}; "
            "install the version of skood that wrote it, or a newer one"
        )
    n_header = int.from_bytes(start[:8], "little")
    if not len(start) - 8 <= n_header <= min(size - 8, _LONGEST_HEADER):
        raise ValueError("it is truncated or damaged")
    text = start + _bytes(file, 8 + n_header - len(start))
    digits = slice(*found.span(2))
    digest = hashlib.sha256(text[: digits.start] + b"0" * 64 + text[digits.stop :])
    stated = text[digits].decode()
    try:
        metadata, entries = _parse_header(text[8:], size - 8 - n_header)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"it is truncated or damaged ({error!s:.200})") from error
    arrays = {}
    for name, dtype, shape, n_bytes in entries:
        # Torch aligns memory to 64 bytes, on which the order of sums in a product may depend.
        data = torch.empty(n_bytes if keeps_arrays else 0, dtype=torch.uint8).numpy()
        for part in (data,) if keeps_arrays else _parts(n_bytes):
            _fill(file, part)
            digest.update(part.data)
        arrays[name] = Array(dtype, shape, data)
    if digest.hexdigest() != stated:
        raise ValueError("it is damaged: its checksum is wrong")
    return Contents(metadata, arrays, stated, size)


def _parse_header(
    text: bytes, n_data: int
) -> tuple[dict[str, str], list[tuple[str, str, tuple[int, ...], int]]]:
    """Return metadata, and name, dtype, shape and bytes of each array in the order of the file.

    The arrays have to fill exactly `n_data` bytes, so that no file makes `load` allocate more
    memory than the file is large.
    """
    header = parse_json(text)
    metadata = header.pop("__metadata__")
    if not all(type(value) is str for value in metadata.values()):
        raise ValueError("a value of the metadata is not a string")
    entries = []
    end = 0
    for name, entry in header.items():
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in [*shape, *offsets]):
            raise ValueError(f"the size of the array {name[:80]!r} is wrong")
        n_bytes = math.prod(shape) * _item_size(dtype)
        if offsets != [end, end + n_bytes]:
            raise ValueError(f"the size of the array {name[:80]!r} is wrong")
        end += n_bytes
        entries.append((name, dtype, tuple(shape), n_bytes))
    if end != n_data:
        raise ValueError(f"its arrays take {n_data:,} bytes instead of {end:,}")
    return metadata, entries


def parse_json(text: str | bytes) -> Any:
    """Parse JSON as `save` writes it: no name twice in an object, no NaN or infinity."""
    return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name occurs twice in an object of its header")
    return made


def _constant(text: str) -> None:
    raise ValueError(f"its header has the number {text}")


def _parts(n_bytes: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield memory for `n_bytes` bytes, the same memory again and again."""
    memory = np.empty(min(n_bytes, 1 << 20), np.uint8)
    for start in range(0, n_bytes, 1 << 20):
        yield memory[: n_bytes - start]


def _bytes(file: Any, n_bytes: int) -> bytes:
    data = np.empty(n_bytes, np.uint8)
    _fill(file, data)
    return data.tobytes()


def _fill(file: Any, data: npt.NDArray[np.uint8]) -> None:
    view = data.data
    while view:
        n_read = file.readinto(view)
        if not n_read:
            raise ValueError("it is truncated")
        view = view[n_read:]


def _item_size(dtype: str) -> int:
    return _DTYPES[dtype][0].itemsize
