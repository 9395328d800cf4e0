"""A sheet of generated out-of-distribution images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from skood._data.validation import check_data
from skood._torch.seeding import Stream, draw_seed, numpy_rng
from skood.inspection._figures import pyplot

__all__ = ["BoundarySamplesDisplay"]


class BoundarySamplesDisplay:
    """Sheet of images: data, their reconstructions, and samples generated from them.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    images : dict of str to ndarray of shape (n_columns, C, H, W)
        Rows of the sheet, by name.
    value_range : (float, float)
        Values of black and white.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    image_ : matplotlib AxesImage
        The sheet.

    See Also
    --------
    skood.training_time.BoundarySampler : Makes the samples.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import VAE, BoundarySampler
    >>> from skood.inspection import BoundarySamplesDisplay
    >>> X, y = load_digits().images / 16, load_digits().target
    >>> vae = VAE(n_latent=2, likelihood="bernoulli", conditional=True, max_epochs=2)
    >>> sampler = BoundarySampler(vae, random_state=0).fit(X, y)
    >>> display = BoundarySamplesDisplay.from_estimator(sampler, X, y, random_state=0)
    """

    def __init__(
        self, images: Mapping[str, npt.NDArray], *, value_range: tuple[float, float]
    ) -> None:
        self.images = images
        self.value_range = value_range

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        n_columns: int = 10,
        random_state: int | np.random.RandomState | None = None,
        ax: Any = None,
    ) -> BoundarySamplesDisplay:
        """Draw items of X and the samples generated from them.

        Parameters
        ----------
        estimator : BoundarySampler or OODGen
            Fitted on images.
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            In-distribution images.
        y : array-like of shape (n_samples,), default=None
            Labels of X, if the estimator was fitted with labels. Columns then cycle through the
            classes.
        n_columns : int, default=10
            Images in a row of the sheet, at most the number of images in X.
        random_state : int, RandomState instance or None, default=None
            Seed of the choice of images and of the samples.
        ax : matplotlib Axes, default=None
            Where to draw.

        Returns
        -------
        BoundarySamplesDisplay

        Raises
        ------
        ValueError
            When the estimator was fitted on rows, `n_columns` is below 1, or y does not have one
            label for each item.
        """
        sampler = getattr(estimator, "sampler_", estimator)
        check_is_fitted(sampler)
        vae = sampler.vae_
        item_shape = vae.generator().item_shape
        if len(item_shape) != 3:
            raise ValueError(
                f"the estimator was fitted on rows of {sampler.n_features_in_} values, not on "
                "images; fit it on images, or plot its samples as points"
            )
        data = check_data(sampler, X, reset=False)
        if n_columns < 1:
            raise ValueError(f"n_columns={n_columns!r}; expected at least 1")
        if y is not None and len(y) != len(data):
            raise ValueError(f"y has {len(y)} labels for {len(data)} items; expected one for each")
        seed = draw_seed(random_state)
        rows = numpy_rng(seed, Stream.SHOWN_ROWS).permutation(len(data))
        if y is not None:
            y = np.asarray(y)
            # The first item of every class, then the second item of every class, and so on.
            nth = np.empty(len(rows), dtype=np.intp)
            for label in np.unique(y):
                members = np.flatnonzero(y[rows] == label)
                nth[members] = np.arange(len(members))
            rows = rows[np.lexsort((y[rows], nth))]
        rows = rows[:n_columns]
        data, labels = data.subset(rows), None if y is None else y[rows]
        made = {
            "data": data.take(np.arange(len(rows))),
            "reconstructed": vae.reconstruct(data, labels),
            "off the manifold": sampler.sample_off_manifold(data, labels, seed),
            "on the manifold": sampler.sample_on_manifold(len(rows), labels, seed),
        }
        images = {name: part.reshape(-1, *item_shape) for name, part in made.items()}
        return cls(images, value_range=vae.value_range_).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> BoundarySamplesDisplay:
        """Draw the sheet.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        BoundarySamplesDisplay
            The display.
        """
        plt = pyplot()

        n_rows = len(self.images)
        n_columns = len(next(iter(self.images.values())))
        if ax is None:
            _, ax = plt.subplots(figsize=(0.8 * n_columns + 1.6, 0.85 * n_rows))
        low, high = self.value_range
        strips = [np.moveaxis(images, 1, 3) for images in self.images.values()]
        # White lines between images, but not at the lower and right edge.
        strips = [
            np.pad(strip, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=high)
            for strip in strips
        ]
        height = strips[0].shape[1]
        sheet = np.concatenate([np.concatenate(list(strip), 1) for strip in strips])[:-1, :-1]
        sheet = np.clip((sheet.astype(np.float64) - low) / (high - low), 0, 1)
        is_grey = sheet.shape[2] == 1
        self.image_ = ax.imshow(sheet[:, :, 0] if is_grey else sheet, cmap="gray", vmin=0, vmax=1)
        ax.set_xticks([])
        ax.set_yticks((np.arange(n_rows) + 0.5) * height - 1, list(self.images))
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        self.ax_, self.figure_ = ax, ax.figure
        return self
