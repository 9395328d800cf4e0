"""Image sets of the benchmarks, read from a folder."""

from __future__ import annotations

import gzip
import importlib.util
import struct
from pathlib import Path

import numpy as np

from skood.datasets import gaussian_noise, uniform_noise

__all__ = ["labelled_images"]

# Sets in the format of MNIST, and their folders.
IDX_FOLDERS = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST", "notmnist": "notMNIST"}


def labelled_images(directory: Path, name: str, split: str = "test") -> tuple[np.ndarray, ...]:
    """Read a set as uint8 images and labels.

    If the folder has a ``read_data.py``, its ``load(name, split)`` reads the set; otherwise the
    folder must have torchvision's layout. "gaussian" and "uniform" are generated:
    clip(N(0.5, 1), 0, 1) and U[0, 1], 2 500 images of 32 x 32 x 3.
    """
    if name in ("gaussian", "uniform"):
        make = gaussian_noise if name == "gaussian" else uniform_noise
        images = make(2500, (32, 32, 3), dtype=np.uint8, random_state=0)
        return images, np.full(len(images), -1)
    reader = directory / "read_data.py"
    if reader.exists():
        spec = importlib.util.spec_from_file_location("read_data", reader)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.load(name, split)
    if name in IDX_FOLDERS:
        stem = "train" if split == "train" else "t10k"
        folder = directory / IDX_FOLDERS[name] / "raw"
        return _idx(folder / f"{stem}-images-idx3-ubyte"), _idx(
            folder / f"{stem}-labels-idx1-ubyte"
        )
    from torchvision import datasets

    if name == "svhn":
        data = datasets.SVHN(directory, split=split)
        return data.data.transpose(0, 2, 3, 1), data.labels
    sets = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
    if name not in sets:
        known = ", ".join([*IDX_FOLDERS, "svhn", *sets])
        raise ValueError(f"unknown set {name!r} in {directory}; known: {known}")
    data = sets[name](directory, train=split == "train")
    return data.data, np.array(data.targets)


def _idx(path: Path) -> np.ndarray:
    """Read a file in MNIST's IDX format, gzipped or not."""
    opener = open if path.exists() else gzip.open
    with opener(path if path.exists() else f"{path}.gz", "rb") as file:
        n_axes = struct.unpack(">4B", file.read(4))[3]
        shape = struct.unpack(f">{n_axes}I", file.read(4 * n_axes))
        return np.frombuffer(file.read(), np.uint8).reshape(shape)
