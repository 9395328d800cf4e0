"""The latent space of a model in two dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from skood._torch.seeding import Stream, draw_seed, numpy_rng
from skood.inspection._figures import axes, pyplot
from skood.inspection._latent_points import (
    axis_labels,
    by_name,
    check_latents,
    choose_points,
    reduce_to_plane,
)
from skood.inspection._palette import COLOURS

__all__ = ["LatentSpaceDisplay"]

_OOD_MARKERS = "x+^svD"
_LEGEND_ROWS = 18
# More classes than this cannot be told apart by colour.
_MOST_NAMED_CLASSES = 30


class LatentSpaceDisplay:
    """Latent space in two dimensions: a colour for each class, black crosses for OOD points.

    Use :meth:`from_estimator` or :meth:`from_latents` to make one.

    Parameters
    ----------
    coordinates : ndarray of shape (n_points, 2)
        ID points.
    labels : ndarray of shape (n_points,), default=None
        Classes of the ID points.
    ood_coordinates : dict of str to ndarray of shape (n_ood_points, 2), default=None
        OOD points by the name of the set.
    reduction : estimator, default=None
        Fitted transformer to the coordinates. None: the coordinates are the latents.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    scatter_ : matplotlib PathCollection
        ID points, drawn in a random order, so that no class covers the others.
    ood_scatters_ : dict of str to matplotlib PathCollection
        OOD points of each set.
    legend_ : matplotlib Legend or None
        None without a legend, or if there is a single class and no OOD set.

    See Also
    --------
    sklearn.inspection.DecisionBoundaryDisplay : Decisions of an estimator of two features.

    Notes
    -----
    An OOD point on top of a class in the plane may be far from it in the latent space: PCA shows
    only the directions in which ID points vary most. t-SNE [1]_ preserves neighbourhoods, but sizes
    of clusters and distances between clusters have no meaning.

    References
    ----------
    .. [1] L. van der Maaten, G. Hinton, "Visualizing data using t-SNE", JMLR 9, 2008.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import ConvNet
    >>> from skood.inspection import LatentSpaceDisplay
    >>> X, y = load_digits().images / 16, load_digits().target
    >>> known = y < 8
    >>> network = ConvNet((8, 16), max_steps=20, random_state=0).fit(X[known], y[known])
    >>> display = LatentSpaceDisplay.from_estimator(
    ...     network, X[known], y[known], X_ood={"digits 8 and 9": X[~known]}, random_state=0
    ... )
    >>> display.coordinates.shape
    (1443, 2)
    """

    def __init__(
        self,
        coordinates: npt.NDArray,
        *,
        labels: npt.NDArray | None = None,
        ood_coordinates: Mapping[str, npt.NDArray] | None = None,
        reduction: Any = None,
    ) -> None:
        self.coordinates = coordinates
        self.labels = labels
        self.ood_coordinates = {} if ood_coordinates is None else ood_coordinates
        self.reduction = reduction

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        X_ood: Any = None,
        method: Any = "pca",
        max_points: int | None = 2000,
        random_state: int | np.random.RandomState | None = None,
        ax: Any = None,
        **plot_params: Any,
    ) -> LatentSpaceDisplay:
        """Draw the latents of X, the output of ``estimator.transform``.

        Parameters
        ----------
        estimator : transformer
            Fitted: a :class:`skood.density.VAE`, a classifier of :mod:`skood.classifiers` (its
            penultimate features), or any other estimator with `transform`.
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        y : array-like of shape (n_samples,), default=None
            Class labels; -1 marks OOD rows, which are drawn as the set "OOD".
        X_ood : array-like, Tensor or Dataset, or a dict of these by name, default=None
            OOD data. Data without a name are drawn as the set "OOD".
        method : {"pca", "tsne"} or transformer, default="pca"
            Reduction of latents to two dimensions, unless they have two. "pca" is fitted to the ID
            points. "tsne" has no `transform`: it embeds ID and OOD points together, so the
            coordinates of ID points depend on the OOD points. It starts from the principal
            components, with a perplexity of at most 30. Another scikit-learn transformer is cloned
            and fitted to the ID points, with labels if it requires them; without `transform`, its
            `fit_transform` is applied to all points. A transformer in
            :class:`sklearn.frozen.FrozenEstimator` is not fitted again.
        max_points : int or None, default=2000
            Largest number of ID points, and of points of each OOD set; of larger sets, a random
            subset is transformed and drawn. None sets no limit.
        random_state : int, RandomState instance or None, default=None
            Seed of the subset, and of a method whose own `random_state` is None.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        LatentSpaceDisplay

        Raises
        ------
        TypeError
            When `estimator` has no `transform`, or `method` is no transformer.
        ValueError
            When y does not have one label for each item, or marks all items as OOD; when latents
            have a wrong shape, hold NaN or infinity or, if they are to be reduced, are all equal;
            and when `method` does not return two columns.
        """
        if not hasattr(estimator, "transform"):
            raise TypeError(
                f"{type(estimator).__name__} has no transform, which returns the latents; expected "
                "a fitted transformer, such as skood.VAE or a classifier of skood.classifiers, or "
                "give latents to LatentSpaceDisplay.from_latents"
            )

        seed = draw_seed(random_state)
        inliers, labels, outliers = choose_points(X, y, X_ood, max_points, seed, name="X")

        def encode(items: Any) -> npt.NDArray[np.float64]:
            name = f"the output of {type(estimator).__name__}.transform"
            return check_latents(estimator.transform(items), name)

        latents_ood = [(name, encode(items)) for name, items in outliers]
        display = cls._of(encode(inliers), labels, latents_ood, method, seed)
        return display.plot(ax=ax, **plot_params)

    @classmethod
    def from_latents(
        cls,
        latents: Any,
        y: Any = None,
        *,
        latents_ood: Any = None,
        method: Any = "pca",
        max_points: int | None = 2000,
        random_state: int | np.random.RandomState | None = None,
        ax: Any = None,
        **plot_params: Any,
    ) -> LatentSpaceDisplay:
        """Draw latents.

        Parameters
        ----------
        latents : array-like or Tensor of shape (n_samples, n_latent)
            At least two dimensions.
        y : array-like of shape (n_samples,), default=None
            Class labels; -1 marks OOD rows, which are drawn as the set "OOD".
        latents_ood : array-like or Tensor of shape (n_ood_samples, n_latent), or a dict of these \
                by name, default=None
            Latents of OOD data. Latents without a name are drawn as the set "OOD".
        method : {"pca", "tsne"} or transformer, default="pca"
            As in :meth:`from_estimator`.
        max_points : int or None, default=2000
            As in :meth:`from_estimator`.
        random_state : int, RandomState instance or None, default=None
            As in :meth:`from_estimator`.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        LatentSpaceDisplay

        Raises
        ------
        TypeError
            When `method` is no transformer.
        ValueError
            As in :meth:`from_estimator`, and when OOD latents have another number of dimensions.
        """
        latents = check_latents(latents, "latents")
        latents_ood = {
            name: check_latents(points, f"latents_ood[{name!r}]", latents.shape[1])
            for name, points in by_name(latents_ood).items()
        }
        seed = draw_seed(random_state)
        chosen = choose_points(latents, y, latents_ood, max_points, seed, name="latents")
        return cls._of(*chosen, method, seed).plot(ax=ax, **plot_params)

    @classmethod
    def _of(
        cls,
        latents: npt.NDArray[np.float64],
        labels: npt.NDArray | None,
        outliers: list[tuple[str, npt.NDArray[np.float64]]],
        method: Any,
        seed: int,
    ) -> LatentSpaceDisplay:
        (coordinates, *others), reduction = reduce_to_plane(
            latents, labels, [points for _, points in outliers], method, seed
        )
        ood_coordinates: dict[str, npt.NDArray] = {}
        for (name, _), points in zip(outliers, others, strict=True):
            # Rows marked in y and data without a name form one set.
            before = [ood_coordinates[name]] if name in ood_coordinates else []
            ood_coordinates[name] = np.concatenate([*before, points])
        return cls(coordinates, labels=labels, ood_coordinates=ood_coordinates, reduction=reduction)

    def plot(
        self,
        *,
        ax: Any = None,
        title: str | None = None,
        legend: bool = True,
        scatter_kwargs: Mapping[str, Any] | None = None,
        ood_scatter_kwargs: Mapping[str, Any] | None = None,
    ) -> LatentSpaceDisplay:
        """Draw the points.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure. The legend stands to the right of the axes:
            ``plt.subplots(..., layout="constrained")`` makes room for it.
        title : str, default=None
            Title of the axes.
        legend : bool, default=True
            Whether to name classes and OOD sets.
        scatter_kwargs : dict, default=None
            For `matplotlib.axes.Axes.scatter` of ID points, such as ``{"s": 4, "alpha": 1}``.
        ood_scatter_kwargs : dict, default=None
            For `matplotlib.axes.Axes.scatter` of OOD points.

        Returns
        -------
        LatentSpaceDisplay
            The display.
        """
        plt = pyplot()

        n_points = len(self.coordinates)
        if self.labels is None:
            classes, indices = np.array(["ID"]), np.zeros(n_points, dtype=np.intp)
        else:
            classes, indices = np.unique(self.labels, return_inverse=True)
        colours = _class_colours(len(classes))
        named = classes[: len(classes) if len(classes) <= _MOST_NAMED_CLASSES else 0]
        n_names = len(named) + len(self.ood_coordinates)
        n_columns = math.ceil(n_names / _LEGEND_ROWS)
        ax = axes(ax, (5.7 + 1.2 * n_columns, 5))
        # The fewer points, the larger the markers.
        style = {"s": np.clip(2e4 / n_points, 8, 20), "alpha": 0.8, "linewidths": 0}
        order = numpy_rng(Stream.SHOWN_POINTS).permutation(n_points)
        self.scatter_ = ax.scatter(
            *self.coordinates[order].T,
            c=[colours[index] for index in indices[order]],
            **{**style, **(scatter_kwargs or {})},
        )
        handles = [
            plt.Line2D([], [], ls="", marker="o", ms=6, mew=0, color=colour, label=str(label))
            for label, colour in zip(named, colours, strict=False)
        ]
        self.ood_scatters_ = {}
        for number, (name, points) in enumerate(self.ood_coordinates.items()):
            self.ood_scatters_[name] = ax.scatter(
                *points.T,
                label=name if name == "OOD" else f"OOD: {name}",
                **_ood_style(number, len(points), ood_scatter_kwargs or {}),
            )
        handles += self.ood_scatters_.values()
        self.legend_ = None
        if legend and handles and len(classes) + len(self.ood_coordinates) > 1:
            self.legend_ = ax.legend(
                handles=handles,
                loc="upper left",
                bbox_to_anchor=(1.02, 1),
                borderaxespad=0,
                frameon=False,
                handletextpad=0.3,
                ncols=n_columns,
            )
            for handle in self.legend_.legend_handles[len(named) :]:
                handle.set_sizes([30])
        horizontal, vertical = axis_labels(self.reduction)
        ax.set(xlabel=horizontal, ylabel=vertical, title=title)
        # matplotlib does not widen the limits of axes that others share.
        ax.set_aspect("equal", adjustable="box" if _has_shared_axes(ax) else "datalim")
        if horizontal.startswith("t-SNE"):
            # Its coordinates have no meaning.
            ax.set(xticks=[], yticks=[])
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _class_colours(n_classes: int) -> list[Any]:
    plt = pyplot()

    if n_classes <= len(COLOURS):
        return COLOURS[:n_classes]
    return list(plt.get_cmap("turbo")(np.linspace(0.05, 0.95, n_classes)))


def _ood_style(number: int, n_points: int, given: Mapping[str, Any]) -> dict[str, Any]:
    plt = pyplot()
    from matplotlib.markers import MarkerStyle

    style = {
        "marker": _OOD_MARKERS[number % len(_OOD_MARKERS)],
        # White on a dark background.
        "color": plt.rcParams["text.color"],
        "s": np.clip(5e3 / n_points, 7, 25),
        "alpha": 0.7,
        "linewidths": 0.8,
        **given,
    }
    if not MarkerStyle(style["marker"]).is_filled():
        return style
    # Outlines leave the points of the classes below visible.
    return {"facecolors": "none", "edgecolors": style.pop("color"), **style}


def _has_shared_axes(ax: Any) -> bool:
    shared = [ax.get_shared_x_axes(), ax.get_shared_y_axes()]
    return all(len(grouper.get_siblings(ax)) > 1 for grouper in shared)
