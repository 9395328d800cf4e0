"""Features in a ``.npy`` file, written batch by batch and resumed after an interruption."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from skood._data.chunks import row_slices
from skood._safe_files import (
    UnreadableFileError,
    check_writable,
    checked_file,
    open_checked,
)

__all__ = ["write_features"]

_SECONDS_BETWEEN_SAVES = 60.0
# Changes with the content of the files; files of other versions are not resumed.
_VERSION = 1


def write_features(
    compute: Callable[[npt.NDArray[np.integer]], npt.NDArray],
    path: Path,
    shape: tuple[int, int],
    dtype: np.dtype,
    *,
    identity: str,
    size: int,
) -> npt.NDArray:
    """Write features to a file, and open it as a memory map.

    Until all are written, they stand in a file with the ending ``.partial``, and their number in
    a file with the ending ``.progress``.

    Parameters
    ----------
    compute : callable
        Takes row numbers and returns their features.
    path : Path
    shape : tuple of int
        (n, d)
    dtype : dtype
    identity : str
        Hash of the network and its preprocessing.
    size : int
        Rows that are computed at once.

    Returns
    -------
    memmap of shape (n, d)
    """
    path = path.absolute()
    check_writable(path.parent, "path")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file; give the name of a file")
    partial = path.with_name(path.name + ".partial")
    progress = _Progress(path.with_name(path.name + ".progress"), [identity, *shape, str(dtype)])
    header = _header(shape, dtype)
    n_done = progress.load() if partial.is_file() else 0
    row_bytes = shape[1] * dtype.itemsize
    if n_done and not _is_same(compute, partial, len(header), n_done, shape[1], dtype):
        warnings.warn(
            f"{partial} holds features of other items. All features are computed, and the file is "
            "overwritten",
            stacklevel=4,
        )
        n_done = 0
    with partial.open("r+b" if n_done else "wb") as file:
        file.write(header)
        file.truncate(len(header) + n_done * row_bytes)
        file.seek(0, os.SEEK_END)
        n_written, saved_at = n_done, monotonic()

        def save() -> None:
            file.flush()
            os.fsync(file.fileno())
            progress.save(n_written)

        try:
            for rows in row_slices(shape[0], size, n_done):
                features = compute(np.arange(rows.start, rows.stop))
                file.write(np.ascontiguousarray(features).data)
                n_written = rows.stop
                if monotonic() - saved_at > _SECONDS_BETWEEN_SAVES:
                    save()
                    saved_at = monotonic()
        finally:
            # After Ctrl-C, too.
            save()
    partial.replace(path)
    progress.path.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def _header(shape: tuple[int, int], dtype: np.dtype) -> bytes:
    import io

    file = io.BytesIO()
    description = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()


def _is_same(
    compute: Callable[[npt.NDArray[np.integer]], npt.NDArray],
    partial: Path,
    start: int,
    n_done: int,
    n_features: int,
    dtype: np.dtype,
) -> bool:
    """Whether the first and the last row of a file are the features of these items."""
    size = n_features * dtype.itemsize
    if partial.stat().st_size < start + n_done * size:
        return False
    rows = np.unique([0, n_done - 1])
    with partial.open("rb") as file:
        stored = []
        for row in rows:
            file.seek(start + int(row) * size)
            stored.append(np.frombuffer(file.read(size), dtype))
    features = compute(rows).astype(np.float64)
    # Batches of other sizes have sums in another order.
    tolerance = 1e-2 if dtype == np.float16 else 1e-4
    difference = np.abs(np.stack(stored).astype(np.float64) - features).max()
    return bool(difference <= tolerance * max(1e-30, np.abs(features).max()))


class _Progress:
    """The number of rows in a file, for rows of a given identity."""

    def __init__(self, path: Path, identity: list[Any]) -> None:
        self.path = path
        self.identity = identity
        self._label = f"features {_VERSION}"

    def load(self) -> int:
        try:
            with open_checked(self.path, self._label) as file:
                identity, n_done = json.loads(file.read())
        except FileNotFoundError:
            return 0
        except UnreadableFileError as error:
            warnings.warn(f"{error}. All features are computed", stacklevel=5)
            return 0
        # A file of another network or other settings is overwritten.
        return n_done if identity == self.identity else 0

    def save(self, n_done: int) -> None:
        with checked_file(self.path, self._label) as file:
            file.write(json.dumps([self.identity, n_done]).encode())
