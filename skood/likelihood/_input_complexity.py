"""Log-density, corrected by the length of a lossless code."""

from __future__ import annotations

import io
import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import Interval, estimator, parameter
from skood._optional import import_optional
from skood._torch.preprocessing import Preprocessing
from skood.density._pixels import ImageParameters
from skood.likelihood._base import DensityDetector, log_density

__all__ = ["InputComplexity"]

# How Pillow writes each format without loss.
_CODECS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "optimize": True},
    "jpeg2000": {"format": "JPEG2000", "irreversible": False},
    "webp": {"format": "WEBP", "lossless": True, "exact": True},
}
# Pillow's names of its optional features that write a format.
_FEATURES = {"jpeg2000": "jpg_2000", "webp": "webp"}
# Images encoded by one task.
_CHUNK = 256


@estimator
class InputComplexity(ImageParameters, DensityDetector):
    r"""Detector whose score is the log-density plus the length of a lossless code, in bits.

    A density gives simple images high values, and a lossless codec gives them short codes. The
    length L(x) of the code of an image is :math:`-\log_2 p_0(x)` under a general-purpose model, and
    the score is the logarithm of the likelihood ratio [1]_,

    .. math:: \log_2 p(x) + L(x)

    L is the shortest of the codes of several codecs.

    Parameters
    ----------
    codecs : sequence of {"png", "jpeg2000", "webp"}, default=("png", "jpeg2000", "webp")
        Lossless formats of Pillow. FLIF, which [1]_ uses as well, is not among them.
    n_levels : int, default=256
        Number of values of a pixel, equally spaced in `value_range`; at most 256. The codecs encode
        them as 0, 1, 2, and so on.
    image_shape : (int, int, int), "row" or None, default=None
        Shape (C, H, W) of images given as flat rows. "row" encodes rows as images of one pixel in
        height.
    n_jobs : int or None, default=None
        Number of threads that encode images. None is 1, -1 all processors.

    Attributes
    ----------
    offset_ : float
        Threshold on the score, in bits.

    See Also
    --------
    LikelihoodRatio : Divides by the density of a background model instead.

    Notes
    -----
    The score of [1]_ is :math:`S = -\log_2 p(x) - L(x)`, larger for out-of-distribution items. Both
    terms are bits per image if the density returns the log-probability of levels in nats, as
    :class:`~skood.density.PixelCNN` does; a density in other units adds a constant to score and
    threshold. An image of one channel is encoded as a grey image, of three as a colour image, and
    of any other number as one grey image with the channels one above the other.

    References
    ----------
    .. [1] J. Serra, D. Alvarez, V. Gomez, O. Slizovskaia, J. F. Nunez, J. Luque, "Input Complexity
       and Out-of-distribution Detection with Likelihood-based Generative Models", ICLR 2020,
       equation 1.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.mixture import GaussianMixture
    >>> from skood import InputComplexity
    >>> X = load_digits().images
    >>> density = GaussianMixture(10, reg_covar=0.1, random_state=0)
    >>> detector = InputComplexity(density, n_levels=17, value_range=(0, 16)).fit(X)
    >>> bits = detector.complexity(X)
    >>> bits.shape, bool(bits[0] < 64 * 17)
    ((1797,), True)
    """

    codecs: Sequence[str] = parameter(
        tuple, list, default=("png", "jpeg2000", "webp"), kw_only=True
    )
    n_levels: int = parameter(
        Interval(numbers.Integral, 2, 256, closed="both"), default=256, kw_only=True
    )
    n_jobs: int | None = parameter(numbers.Integral, None, default=None, kw_only=True)

    # Codecs encode numbers.
    _reads_as_it_came = False

    def _check_density(self, density: Any) -> None:
        model = density.estimator if isinstance(density, FrozenEstimator) else density
        if getattr(model, "binarize", None) is not None:
            raise ValueError(
                f"density={density!r} models binarised images, but the codecs compress the images "
                "of X, which have more levels; give a density of the images themselves"
            )

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        _check_codecs(self.codecs)
        self._preprocessing = Preprocessing(
            self,
            inliers,
            image_shape=self._shape_of_rows(inliers, (1, 1, inliers.item_shape[0])),
            value_range=self.value_range,
            has_range=True,
        )
        self._preprocessing.check_in_memory(inliers)
        self.density_ = self._fit_density(inliers, y, seed)

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return log_density(self.density_, data) / math.log(2) + self._complexity(data)

    def complexity(self, X: Any) -> npt.NDArray[np.float64]:
        """Length of each image's shortest code.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            In bits, headers of the format included.
        """
        check_is_fitted(self)
        return self._complexity(self._check(X))

    def _complexity(self, data: CheckedData) -> npt.NDArray[np.float64]:
        data = self._preprocessing.open(data)
        lengths = Parallel(n_jobs=self.n_jobs, prefer="threads")(
            delayed(_code_lengths)(self._levels(items), self.codecs)
            for items in data.chunks(_CHUNK)
        )
        return np.concatenate(lengths).min(1)

    def _levels(self, items: npt.NDArray) -> npt.NDArray[np.uint8]:
        """Levels of pixels, (b, C, H, W)."""
        # The range "minmax" lets later data lie beyond black and white.
        x = self._preprocessing.tensor(items, torch.device("cpu")).clamp(0, 1)
        return (x * (self.n_levels - 1)).round().to(torch.uint8).numpy()


def _check_codecs(codecs: Sequence[str]) -> None:
    if len(codecs) == 0 or not set(codecs) <= set(_CODECS):
        raise ValueError(f"codecs={codecs!r}; expected at least one of {list(_CODECS)}")
    features = import_optional("PIL.features", "InputComplexity", "Pillow")
    for codec in codecs:
        if codec in _FEATURES and not features.check(_FEATURES[codec]):
            others = [other for other in codecs if other != codec]
            raise ValueError(
                f"this build of Pillow cannot write {codec!r}; install one that can, or give "
                f"codecs={others!r}"
            )


def _code_lengths(images: npt.NDArray[np.uint8], codecs: Sequence[str]) -> npt.NDArray[np.float64]:
    """Bits of each codec for images (b, C, H, W), (b, n_codecs)."""
    from PIL import Image

    n_channels = images.shape[1]
    if n_channels == 3:
        images = images.transpose(0, 2, 3, 1)
    else:
        images = images.reshape(len(images), -1, images.shape[3])
    lengths = np.empty((len(images), len(codecs)))
    for row, pixels in zip(lengths, images, strict=True):
        image = Image.fromarray(np.ascontiguousarray(pixels))
        for k, codec in enumerate(codecs):
            file = io.BytesIO()
            image.save(file, **_CODECS[codec])
            row[k] = 8 * file.tell()
    return lengths
