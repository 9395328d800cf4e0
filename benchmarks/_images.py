"""Image sets of the benchmarks, read from a folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from skood.datasets import gaussian_noise, load_image_set, uniform_noise

__all__ = ["labelled_images"]


def labelled_images(directory: Path, name: str, split: str = "test") -> tuple[np.ndarray, ...]:
    """Read a set as uint8 images and labels.

    "gaussian" and "uniform" are generated: clip(N(0.5, 1), 0, 1) and U[0, 1], 2 500 images of
    32 x 32 x 3. If the folder has a reader of its own, ``read_data.py``, its ``load(name, split)``
    reads the other sets; otherwise `load_image_set` does, and Omniglot is resized to 28 x 28.
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
    return load_image_set(name, directory, split, size=28 if name == "omniglot" else None)
