"""Heat maps of the scores of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from skood._data.validation import share_forward_pass
from skood.explanation import Attribution, PixelsExplanation
from skood.inspection._figures import pyplot
from skood.inspection._sets import check_sets

__all__ = ["PixelMapsDisplay"]

# Percentile of the absolute values at which the colours end.
_LARGEST = 99


class PixelMapsDisplay:
    """Images, and below each image heat maps of the contributions of its pixels to scores.

    Blue pixels raise the score, red pixels lower it; all maps share one scale of colours.

    Use :meth:`from_estimator`, :meth:`from_explanation` or :meth:`from_maps` to make one.

    Parameters
    ----------
    images : ndarray of shape (n_images, H, W) or (n_images, H, W, 3)
        Grey or colour images from 0 to 1.
    maps : dict of str to ndarray of shape (n_images, H, W)
        Scores of the pixels, by name.

    Attributes
    ----------
    axes_ : ndarray of shape (1 + n_maps, n_images) of matplotlib Axes
        A column for each image, the image itself first.
    figure_ : matplotlib Figure
        The figure.
    limit_ : float
        Absolute value at which the colours of all maps end.

    See Also
    --------
    skood.likelihood.LikelihoodRatio : Detector with such maps.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import LikelihoodRatio, PixelCNN
    >>> from skood.inspection import PixelMapsDisplay
    >>> X = load_digits().images
    >>> density = PixelCNN(4, 1, n_levels=17, value_range=(0, 16), max_steps=5, random_state=0)
    >>> detector = LikelihoodRatio(density, random_state=0).fit(X)
    >>> PixelMapsDisplay.from_estimator(detector, X[:4]).axes_.shape
    (3, 4)
    """

    def __init__(self, images: npt.NDArray, *, maps: Mapping[str, npt.NDArray]) -> None:
        self.images = images
        self.maps = maps

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, figure: Any = None, **plot_params: Any
    ) -> PixelMapsDisplay:
        """Draw images and the scores of their pixels.

        Parameters
        ----------
        estimator : estimator
            Fitted, with ``score_pixels``: a PixelCNN, or a LikelihoodRatio, whose log-density is
            drawn together with its ratio.
        X : array-like of shape (n_images, ...)
            A few images.
        figure : matplotlib Figure or SubFigure, default=None
            Where to draw; None makes one.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        PixelMapsDisplay

        Raises
        ------
        TypeError
            When `estimator` has no ``score_pixels``.
        """
        if not hasattr(estimator, "score_pixels"):
            raise TypeError(
                f"{type(estimator).__name__} has no score_pixels; expected a fitted "
                "skood.LikelihoodRatio on a PixelCNN, or a PixelCNN, or give maps to "
                "PixelMapsDisplay.from_maps"
            )
        check_is_fitted(estimator)
        density = getattr(estimator, "density_", None)
        if isinstance(density, FrozenEstimator):
            density = density.estimator
        maps = {"log p(x)": (estimator if density is None else density).score_pixels(X)}
        if density is not None:
            maps["log-likelihood ratio"] = estimator.score_pixels(X)
        shape = next(iter(maps.values())).shape
        return cls.from_maps(_images(X, shape), maps, figure=figure, **plot_params)

    @classmethod
    def from_explanation(
        cls, explanation: Any, X: Any, *, figure: Any = None, **plot_params: Any
    ) -> PixelMapsDisplay:
        """Draw images and the pixels that make up their scores.

        Parameters
        ----------
        explanation : PixelsExplanation or Attribution
            What ``explain`` or :func:`attribute` returned for X.
        X : array-like of shape (n_images, ...)
            The explained images.
        figure : matplotlib Figure or SubFigure, default=None
            Where to draw; None makes one.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        PixelMapsDisplay

        Raises
        ------
        TypeError
            When the explanation has no pixels.
        ValueError
            When the explanation is for another number of images than X has.
        """
        known = isinstance(explanation, (PixelsExplanation, Attribution))
        maps = explanation.contributions if known else np.empty(0)
        if maps.ndim != 3:
            raise TypeError(
                f"explanation is a {type(explanation).__name__} without a map of pixels; "
                "ContributionsDisplay and NeighborsDisplay draw other explanations"
            )
        data = share_forward_pass(X)
        if (len(data), *data.item_shape[-2:]) != maps.shape:
            raise ValueError(
                f"X has {data.description}, and explanation has maps of shape {maps.shape}; give "
                "the images that were explained"
            )
        name, unit = "score", "nats"
        if isinstance(explanation, Attribution):
            name, unit = explanation.method.replace("_", " "), "score"
        settings = {"unit": unit, **plot_params}
        images = _images(data.take(np.arange(len(data))), maps.shape)
        return cls.from_maps(images, {name: maps}, figure=figure, **settings)

    @classmethod
    def from_maps(
        cls,
        images: Any,
        maps: Mapping[str, Any],
        *,
        figure: Any = None,
        **plot_params: Any,
    ) -> PixelMapsDisplay:
        """Draw images and maps of their pixels.

        Parameters
        ----------
        images : array-like of shape (n_images, H, W) or (n_images, H, W, 3)
            In any range; the smallest value is drawn black and the largest white.
        maps : dict of str to array-like of shape (n_images, H, W)
            Scores of the pixels, higher = more in-distribution, by name.
        figure : matplotlib Figure or SubFigure, default=None
            Where to draw; None makes one.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        PixelMapsDisplay

        Raises
        ------
        TypeError
            When `maps` is no dict.
        ValueError
            When `maps` is empty, or the shapes of images and maps differ.
        """
        check_sets(maps, "maps")
        images = np.asarray(images)
        checked = {name: np.asarray(values, dtype=np.float64) for name, values in maps.items()}
        for name, values in checked.items():
            if images.ndim not in (3, 4) or values.shape != images.shape[:3]:
                raise ValueError(
                    f"maps[{name!r}] has shape {values.shape} and images {images.shape}; expected "
                    "(n_images, H, W), and for images (n_images, H, W) or (n_images, H, W, 3)"
                )
        return cls(_in_unit_range(images), maps=checked).plot(figure=figure, **plot_params)

    def plot(
        self,
        *,
        figure: Any = None,
        cmap: Any = "RdBu",
        limit: float | None = None,
        unit: str = "nats",
    ) -> PixelMapsDisplay:
        """Draw the images and the maps.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, default=None
            Where to draw; None makes one.
        cmap : str or matplotlib Colormap, default="RdBu"
            Colours from low to high scores.
        limit : float, default=None
            Absolute value at which the colours end. None: the 99th percentile over all maps.
        unit : str, default="nats"
            Unit of the maps, next to the scale of colours.

        Returns
        -------
        PixelMapsDisplay
            The display.
        """
        plt = pyplot()

        n_rows, n_images = 1 + len(self.maps), len(self.images)
        if figure is None:
            figure = plt.figure(figsize=(1.2 * n_images + 1.5, 1.25 * n_rows), layout="constrained")
        if limit is None:
            every = np.concatenate([np.abs(values).ravel() for values in self.maps.values()])
            limit = float(np.percentile(every, _LARGEST)) or 1.0
        self.limit_ = limit
        self.axes_ = figure.subplots(n_rows, n_images, squeeze=False)
        for column, image in enumerate(self.images):
            self.axes_[0, column].imshow(image, cmap="gray", vmin=0, vmax=1)
        for row, (name, values) in enumerate(self.maps.items(), 1):
            for column, one in enumerate(values):
                shown = self.axes_[row, column].imshow(one, cmap=cmap, vmin=-limit, vmax=limit)
            self.axes_[row, 0].set_ylabel(name, fontsize="small")
        for axis in self.axes_.flat:
            axis.set(xticks=[], yticks=[])
            for side in axis.spines.values():
                side.set_visible(False)
        figure.colorbar(shown, ax=self.axes_[1:], label=unit, shrink=0.9)
        self.figure_ = figure
        return self


def _images(X: Any, shape: tuple[int, ...]) -> npt.NDArray:
    """Reshape images to (n, H, W) or (n, H, W, 3), given the shape of their maps."""
    images = np.asarray(X)
    n, height, width = shape
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[2:] == (height, width):
        images = np.moveaxis(images, 1, -1)
    images = images.reshape(n, height, width, -1)
    return images if images.shape[3] == 3 else images[..., 0]


def _in_unit_range(images: npt.NDArray) -> npt.NDArray[np.float64]:
    images = images.astype(np.float64)
    low, high = images.min(), images.max()
    return (images - low) / ((high - low) or 1.0)
