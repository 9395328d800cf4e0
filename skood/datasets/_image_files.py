"""Images in files: pictures, and arrays in the IDX format of MNIST."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

__all__ = ["convert_images", "pictures_in", "read_idx", "read_pictures"]

_SUFFIXES = {".png", ".jpg", ".jpeg"}


def pictures_in(folder: Path) -> list[Path]:
    """List the PNG and JPEG files of a folder by name, without hidden files."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    )


def read_pictures(
    files: Iterable[tuple[str, Path | IO[bytes]]], *, grey: bool, size: int | None = None
) -> npt.NDArray[np.uint8]:
    """Read pictures of one size.

    Parameters
    ----------
    files : iterable of (str, Path or file)
        Names, for errors, and what Pillow opens.
    grey : bool
        Whether to convert pictures to grey; else to RGB.
    size : int or None, default=None
        Height and width to resize to.

    Returns
    -------
    ndarray of shape (n, H, W) or (n, H, W, 3)

    Raises
    ------
    ValueError
        If a file cannot be read, or the pictures have several sizes.
    """
    from PIL import Image

    pictures: list[npt.NDArray[np.uint8]] = []
    for name, file in files:
        try:
            with Image.open(file) as picture:
                pixels = _to_array(picture, grey, size)
        except (OSError, SyntaxError) as error:
            raise ValueError(
                f"{name} cannot be read as a picture ({error}); unpack the archive again"
            ) from error
        if pictures and pixels.shape != pictures[0].shape:
            raise ValueError(
                f"{name} has {pixels.shape[0]} x {pixels.shape[1]} pixels, and the first picture "
                f"{pictures[0].shape[0]} x {pictures[0].shape[1]}; expected pictures of one size, "
                "or size=... to resize them"
            )
        pictures.append(pixels)
    return np.stack(pictures)


def convert_images(
    images: npt.NDArray[np.uint8], *, grey: bool, size: int | None
) -> npt.NDArray[np.uint8]:
    """Convert an array (n, H, W) or (n, H, W, 3) to grey, and to another size."""
    from PIL import Image

    grey = grey or images.ndim == 3
    if grey == (images.ndim == 3) and (size is None or images.shape[1:3] == (size, size)):
        return images
    return np.stack([_to_array(Image.fromarray(image), grey, size) for image in images])


def _to_array(picture: Any, grey: bool, size: int | None) -> npt.NDArray[np.uint8]:
    from PIL import Image

    picture = picture.convert("L" if grey else "RGB")
    if size is not None and picture.size != (size, size):
        # Pillow's filter averages when it reduces the size.
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read an array of bytes in the IDX format.

    Parameters
    ----------
    path : Path
        Gzipped if its suffix is ``.gz``.

    Returns
    -------
    ndarray, uint8

    Raises
    ------
    ValueError
        If the file is damaged, or has values other than bytes.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); get the file again") from error
    # Two zero bytes, the dtype (8 for uint8), the number of axes, and their big-endian lengths.
    if content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(
            f"{path} starts with the bytes {content[:4].hex(' ')}; expected an IDX file of uint8, "
            "which starts with 00 00 08"
        )
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape))
    if len(values) != math.prod(shape):
        raise ValueError(
            f"{path} has {len(values)} values, and its header announces the shape {shape}; the "
            "file is incomplete, get it again"
        )
    return values.reshape(shape).copy()
