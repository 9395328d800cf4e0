"""Image sets of the benchmarks, read from a folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from skood.datasets import gaussian_noise, load_image_set, uniform_noise
from skood.datasets._image_files import convert_images

__all__ = ["labelled_images", "rendered_characters"]

# Code points of letters and signs; a few have the shape of a Latin letter or a digit.
CHARACTERS = {
    "Greek": (0x0391, 0x03C9),
    "Cyrillic": (0x0410, 0x044F),
    "mathematical operators": (0x2200, 0x2240),
}
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif")


def labelled_images(
    directory: Path,
    name: str,
    split: str = "test",
    *,
    size: int | None = None,
    grey: bool = False,
) -> tuple[np.ndarray, ...]:
    """Read a set as uint8 images and labels.

    "gaussian" and "uniform" are generated: clip(N(0.5, 1), 0, 1) and U[0, 1], 2 500 images of
    32 x 32 x 3. If the folder has a reader of its own, ``read_data.py``, its ``load(name, split)``
    reads the other sets; otherwise `load_image_set` does, and Omniglot is resized to 28 x 28.
    `size` and `grey` are parameters of `load_image_set`.
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
        images, labels = module.load(name, split)
        return convert_images(images, grey=grey, size=size), labels
    if name == "omniglot" and size is None:
        size = 28
    return load_image_set(name, directory, split, size=size, grey=grey)


def rendered_characters(n: int, size: int = 28, seed: int = 0) -> np.ndarray:
    """Render characters of matplotlib's fonts, shifted and rotated, as uint8 images (n, H, W).

    They stand for sets of handwritten and printed characters where settings are selected.
    """
    import matplotlib
    from matplotlib.font_manager import get_font
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(seed)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    codes = {
        folder / f"{name}.ttf": [
            code
            for code in sorted(get_font(folder / f"{name}.ttf").get_charmap())
            if any(first <= code <= last for first, last in CHARACTERS.values())
        ]
        for name in FONTS
    }
    images = []
    for _ in range(n):
        picture = Image.new("L", (4 * size, 4 * size))
        font = list(codes)[rng.integers(len(codes))]
        height = rng.integers(2 * size, 4 * size)
        place = 2 * size + rng.integers(-size // 4, size // 4 + 1, size=2)
        ImageDraw.Draw(picture).text(
            tuple(map(int, place)),
            chr(rng.choice(codes[font])),
            fill=255,
            font=ImageFont.truetype(str(font), int(height)),
            anchor="mm",
        )
        picture = picture.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
        images.append(np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)))
    return np.stack(images)
