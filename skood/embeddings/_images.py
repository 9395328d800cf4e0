"""Features of images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._data.memory_layout import from_torch
from skood._estimator.parameters import at_least, estimator, parameter
from skood.embeddings._base import ONLY, Extractor
from skood.embeddings._items import Items

__all__ = ["ImageExtractor"]

# Modes of PIL without a fixed range from 0 to 255.
_WIDE_MODES = ("F", "I")

_GIVE = (
    "give paths, PIL images, or arrays and tensors of uint8 in the shape (H, W), (H, W, 3) or "
    "(3, H, W)"
)


@estimator
class ImageExtractor(Extractor):
    """Features of images by a trained network, with the preprocessing that it was trained with.

    :func:`from_timm`, :func:`from_torchvision`, :func:`from_huggingface` and :func:`clip_pair` make
    it of a pretrained network.

    Parameters
    ----------
    processor : callable
        The network's own preprocessing: an image processor of transformers, or a function of one
        PIL image that returns a tensor, such as a transform of timm or torchvision.
    mode : str, default="RGB"
        Mode of PIL that images are converted to. Transparency is dropped, as ImageFolder does.
    n_workers : int, default=None
        Number of processes that read and preprocess images. None: up to 8 for a network on a GPU,
        none for a network on the CPU.
    space : str, default=None
        Name of the space that an image and a text tower share, for error messages.

    See Also
    --------
    TextExtractor : Features of texts.
    skood.classifiers.FeatureExtractor : A network whose input is X itself.

    Notes
    -----
    X is a list of paths, of PIL images or of uint8 arrays of any sizes, an array of uint8, or a
    Dataset, such as :class:`torchvision.datasets.ImageFolder` without a transform. EXIF
    orientations are ignored, as by ImageFolder and timm.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from PIL import Image
    >>> from torchvision.transforms import v2
    >>> from skood.embeddings import ImageExtractor
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ... )
    >>> processor = v2.Compose(
    ...     [v2.PILToTensor(), v2.Resize((32, 32)), v2.ToDtype(torch.float32, scale=True)]
    ... )
    >>> images = [Image.new("RGB", (40, 50), "red"), Image.new("RGB", (64, 64), "blue")]
    >>> ImageExtractor(network, processor).transform(images).shape
    (2, 4)
    """

    processor: Callable = parameter(callable)
    mode: str = parameter(str, default="RGB", kw_only=True)
    n_workers: int | None = parameter(at_least(0), None, default=None, kw_only=True)
    space: str | None = parameter(str, None, default=None, kw_only=True)

    _preprocessor = "processor"

    @property
    def _n_workers(self) -> int | None:
        return self.n_workers

    def _batch_maker(self, items: Items) -> Callable[[npt.NDArray[np.integer]], dict]:
        return _Batches(items, self.processor, self.mode, self._what)

    @property
    def _what(self) -> str:
        return "this extractor" if self.space is None else f"the image tower of {self.space}"

    def _check_kind(self, items: Items) -> None:
        if items.has_fields:
            raise ValueError(f"X is a dict of fields, but {self._what} reads images; {_GIVE}")
        _as_image(items.take(np.arange(1))[0], 0, self.mode, self._what)

    def _identity(self, item: Any) -> Any:
        if isinstance(item, (str, PurePath)):
            digest = hashlib.sha256()
            with open(item, "rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            return digest.hexdigest()
        if hasattr(item, "getbands"):
            return item.mode, item.size, hashlib.sha256(item.tobytes()).hexdigest()
        return from_torch(item) if isinstance(item, Tensor) else item

    def _check_preprocessing(self, items: Items) -> None:
        if self.batch_size == 1:
            return
        make = self._batch_maker(items)
        together = make(np.arange(len(items)))
        alone = make(np.arange(1))
        for name, values in alone.items():
            if name not in together or together[name].shape[1:] != values.shape[1:]:
                self._refuse_processor(name)
            difference = np.abs(together[name][0].astype(np.float64) - values[0]).max(initial=0)
            if difference > 1e-5 * max(1.0, float(np.abs(values).max(initial=0))):
                self._refuse_processor(name)

    def _refuse_processor(self, name: str) -> None:
        raise ValueError(
            f"{type(self.processor).__name__} makes other {name!r} of an image when other images "
            "are in its batch, for example because it pads; give batch_size=1, or a processor that "
            "brings all images to one size"
        )

    def _mask_of_tokens(
        self, returned: Any, x: dict[str, Tensor], mask: Tensor | None
    ) -> Tensor | None:
        """Leave the tokens before the patches out of means and maxima."""
        tokens = getattr(returned, "last_hidden_state", returned)
        if self.pooling not in ("mean", "max") or getattr(tokens, "ndim", 0) != 3:
            return None
        n_before = tokens.shape[1] - self._n_patches(x)
        if n_before < 0:
            raise ValueError(
                f"{type(self.module).__name__} returns {tokens.shape[1]} tokens of an image, and "
                f"it is unknown which are its patches, so that pooling={self.pooling!r} may "
                "include others; give pooling=None for the network's own vector, or a function of "
                "the tokens, such as lambda tokens, mask: tokens[:, 1:].mean(1)"
            )
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        mask[:, :n_before] = False
        return mask

    def _n_patches(self, x: dict[str, Tensor]) -> float:
        """Return the number of patches of an image, or infinity if it is unknown."""
        pixels = next((values for values in x.values() if values.ndim == 4), None)
        config = getattr(self.module, "config", None)
        size = getattr(getattr(config, "vision_config", config), "patch_size", None)
        if pixels is None or size is None:
            return math.inf
        height, width = (size, size) if isinstance(size, int) else size
        return (pixels.shape[2] // height) * (pixels.shape[3] // width)


@dataclass(eq=False)
class _Batches:
    """Preprocesses images, given by their indices."""

    items: Items
    processor: Callable
    mode: str
    what: str

    def __call__(self, rows: npt.NDArray[np.integer]) -> dict[str, npt.NDArray]:
        given = self.items.take(rows)
        images = [
            _as_image(item, int(row), self.mode, self.what)
            for row, item in zip(rows, given, strict=True)
        ]
        if hasattr(self.processor, "to_dict"):
            return self._processed(images, rows)
        return {ONLY: self._transformed(images, rows)}

    def _transformed(self, images: list[Any], rows: npt.NDArray[np.integer]) -> npt.NDArray:
        made: list[npt.NDArray] = []
        for row, image in zip(rows, images, strict=True):
            try:
                tensor = self.processor(image)
            except Exception as error:
                raise self._failure(error, f"X[{row}]", image) from error
            tensor = from_torch(tensor) if isinstance(tensor, Tensor) else np.asarray(tensor)
            if tensor.shape != (made[0] if made else tensor).shape:
                raise ValueError(
                    f"after the preprocessing, X[{row}] has shape {tensor.shape}, but "
                    f"X[{rows[0]}] has {made[0].shape}: the processor does not bring all images to "
                    "one size; add Resize((height, width)), or Resize and CenterCrop, to it"
                )
            made.append(tensor)
        return np.stack(made)

    def _processed(
        self, images: list[Any], rows: npt.NDArray[np.integer]
    ) -> dict[str, npt.NDArray]:
        try:
            made = self.processor(images=images, return_tensors="pt")
        except Exception as error:
            sizes = {image.size[::-1] for image in images}
            where = f"the images X[{rows[0]}] to X[{rows[-1]}]"
            if len(sizes) > 1:
                where += f", of the sizes {sorted(sizes)[:4]} (height, width)"
            raise self._failure(error, where, images[0]) from error
        return {name: from_torch(values) for name, values in made.items()}

    def _failure(self, error: Exception, where: str, image: Any) -> ValueError:
        return ValueError(
            f"the preprocessing of {where} failed, {type(error).__name__}: {error}; the processor "
            f"{type(self.processor).__name__} gets PIL images of mode {image.mode}, and has to "
            "bring all of them to one size (do_resize, or Resize and CenterCrop)"
        )


def _as_image(item: Any, row: int, mode: str, what: str) -> Any:
    """Return an item as a PIL image of this mode."""
    from PIL import Image

    if isinstance(item, (str, PurePath)):
        image = _read(item, row, what)
    elif hasattr(item, "getbands"):
        image = item
    elif isinstance(item, Mapping) or not hasattr(item, "dtype"):
        raise ValueError(
            f"X[{row}] is of type {type(item).__name__}, but {what} reads images; {_GIVE}"
        )
    else:
        image = Image.fromarray(_pixels(item, row, what))
    if image.mode.split(";")[0] in _WIDE_MODES:
        raise ValueError(
            f"X[{row}] is an image of mode {image.mode}, with more than 8 bits for a pixel; the "
            "preprocessing of the network expects 0 to 255: scale the values, and convert them to "
            "uint8"
        )
    # A copy even of an image of this mode, as ImageFolder's: lazily opened files are then read.
    try:
        return image.convert(mode)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"the image X[{row}] cannot be read: {error}") from error


def _read(path: Any, row: int, what: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with open(path, "rb") as file:
            image = Image.open(file)
            image.load()
            return image
    except FileNotFoundError as error:
        shown = str(path) if len(str(path)) < 80 else f"{str(path)[:77]}..."
        raise ValueError(
            f"X[{row}] is {shown!r}, and there is no such file; {what} reads images: {_GIVE}. "
            "Texts need a text tower"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"the image X[{row}], {path}, cannot be read: {error}") from error


def _pixels(item: Any, row: int, what: str) -> npt.NDArray[np.uint8]:
    """Return an array of uint8 in the shape (H, W) or (H, W, C)."""
    pixels = from_torch(item) if isinstance(item, Tensor) else np.asarray(item)
    shape = pixels.shape
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"X[{row}] has dtype {pixels.dtype} and shape {shape}, but {what} preprocesses images "
            f"of 0 to 255 itself; {_GIVE}. Pixels from 0 to 1 become uint8 with "
            "(255 * X).round().astype('uint8'); give ImageFolder without a transform"
        )
    channels = (1, 3, 4)
    if len(shape) == 2 and min(shape):
        return pixels
    if len(shape) != 3 or not math.prod(shape):
        raise ValueError(f"X[{row}] has shape {shape}, which is no image; {_GIVE}")
    first, last = shape[0] in channels, shape[2] in channels
    if first == last:
        reason = "whose channels may be the first or the last axis" if first else "without channels"
        raise ValueError(f"X[{row}] has shape {shape}, {reason}; {_GIVE}")
    pixels = np.moveaxis(pixels, 0, -1) if first else pixels
    return np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
