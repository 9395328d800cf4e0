"""Items next to the training items that are nearest to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skood._data.validation import share_forward_pass
from skood.explanation import NeighborsExplanation, explain
from skood.inspection._figures import pyplot

__all__ = ["NeighborsDisplay"]


class NeighborsDisplay:
    """Items, and to the right of each the nearest training items with their distances.

    Images are drawn as images. Rows are drawn as lines of cells: each column is standardised by
    the training data, so that cells of one colour are equally far from the mean of their column.

    Use :meth:`from_estimator` or :meth:`from_explanation` to make one.

    Parameters
    ----------
    items : ndarray of shape (n_items, d) or (n_items, C, H, W)
        The explained items.
    neighbors : ndarray of shape (n_items, n_neighbors, d) or (n_items, n_neighbors, C, H, W)
        Their nearest training items.
    explanation : NeighborsExplanation
        Indices and distances of the neighbours.

    Attributes
    ----------
    axes_ : ndarray of shape (n_items, 1 + n_neighbors) of matplotlib Axes
        A row for each item, the item itself first.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    skood.posthoc.KNN : Has such explanations.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import KNN
    >>> from skood.inspection import NeighborsDisplay
    >>> X = load_digits().images
    >>> detector = KNN(n_neighbors=4).fit(X[:900])
    >>> NeighborsDisplay.from_estimator(detector, X[-3:], X[:900]).axes_.shape
    (3, 5)
    """

    def __init__(
        self, items: npt.NDArray, *, neighbors: npt.NDArray, explanation: NeighborsExplanation
    ) -> None:
        self.items = items
        self.neighbors = neighbors
        self.explanation = explanation
        # Mean and standard deviation of the columns of training rows.
        self._centre: Any = 0.0
        self._scale: Any = 1.0

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, X_train: Any, *, n_neighbors: int = 5, figure: Any = None
    ) -> NeighborsDisplay:
        """Draw items and their nearest training items.

        Parameters
        ----------
        estimator : estimator
            Fitted: a KNN, an NNGuide, or an estimator around one.
        X : array-like of shape (n_items, ...)
            A few items.
        X_train : array-like of shape (n_training, ...)
            The X that was given to ``fit``, all of it and in the same order.
        n_neighbors : int, default=5
            Number of neighbours drawn, at most the number that the detector compares with.
        figure : matplotlib Figure or SubFigure, default=None
            Where to draw; None makes one.

        Returns
        -------
        NeighborsDisplay
        """
        explanation = explain(estimator, X)
        return cls.from_explanation(explanation, X, X_train, n_neighbors=n_neighbors, figure=figure)

    @classmethod
    def from_explanation(
        cls, explanation: Any, X: Any, X_train: Any, *, n_neighbors: int = 5, figure: Any = None
    ) -> NeighborsDisplay:
        """Draw the neighbours of an explanation.

        Parameters
        ----------
        explanation : NeighborsExplanation
            What ``explain`` returned for X.
        X : array-like of shape (n_items, ...)
            The explained items.
        X_train : array-like of shape (n_training, ...)
            The X that was given to ``fit``, all of it and in the same order.
        n_neighbors : int, default=5
            Number of neighbours drawn, at most the number that the detector compares with.
        figure : matplotlib Figure or SubFigure, default=None
            Where to draw; None makes one.

        Returns
        -------
        NeighborsDisplay

        Raises
        ------
        TypeError
            When the explanation names no training rows.
        ValueError
            When the explanation has another number of items than X, or names rows that X_train
            does not have.
        """
        if not isinstance(explanation, NeighborsExplanation):
            raise TypeError(
                f"explanation is a {type(explanation).__name__}; expected the explanation of a KNN "
                "or an NNGuide. ContributionsDisplay draws others"
            )
        items, training = share_forward_pass(X), share_forward_pass(X_train)
        if len(items) != len(explanation):
            raise ValueError(f"X has {len(items)} items, and explanation {len(explanation)}")
        indices = explanation.indices[:, :n_neighbors]
        if indices.max() >= len(training):
            raise ValueError(
                f"explanation names row {indices.max()}, but X_train has {len(training)} rows; "
                "give the X that was given to fit"
            )
        taken = training.take(indices.ravel())
        neighbors = taken.reshape(*indices.shape, *training.item_shape)
        display = cls(
            items.take(np.arange(len(items))), neighbors=neighbors, explanation=explanation
        )
        if len(training.item_shape) == 1:
            rows = training.rows().astype(np.float64)
            scale = rows.std(0)
            display._centre, display._scale = rows.mean(0), np.where(scale > 0, scale, 1.0)
        return display.plot(figure=figure)

    def plot(self, *, figure: Any = None, cmap: Any = None) -> NeighborsDisplay:
        """Draw the items and their neighbours.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, default=None
            Where to draw; None makes one.
        cmap : str or matplotlib Colormap, default=None
            Colours of grey images ("gray" for None) or of rows ("RdBu" for None).

        Returns
        -------
        NeighborsDisplay
            The display.
        """
        plt = pyplot()

        n_items, k = self.neighbors.shape[:2]
        if figure is None:
            figure = plt.figure(figsize=(1.2 * (1 + k), 1.4 * n_items), layout="constrained")
        self.axes_ = figure.subplots(n_items, 1 + k, squeeze=False)
        together = np.concatenate([self.items[:, None], self.neighbors], 1)
        is_image = together.ndim == 5
        shown = self._pictures(together) if is_image else self._cells(together)
        settings: dict[str, Any] = {"cmap": cmap or "gray", "vmin": 0, "vmax": 1}
        if not is_image:
            settings = {"cmap": cmap or "RdBu", "vmin": -3, "vmax": 3, "aspect": "auto"}
        for item in range(n_items):
            for column in range(1 + k):
                axis = self.axes_[item, column]
                axis.imshow(shown[item, column], **settings)
                axis.set(xticks=[], yticks=[])
                title = f"score {self.explanation.scores[item]:.3g}"
                if column:
                    row = self.explanation.indices[item, column - 1]
                    title = f"row {row}: {self.explanation.distances[item, column - 1]:.3g}"
                axis.set_title(title, fontsize="x-small")
        self.figure_ = figure
        return self

    @staticmethod
    def _pictures(images: npt.NDArray) -> npt.NDArray:
        images = np.moveaxis(images.astype(np.float64), 2, -1)
        low, high = images.min(), images.max()
        images = (images - low) / ((high - low) or 1.0)
        return images if images.shape[-1] == 3 else images[..., 0]

    def _cells(self, rows: npt.NDArray) -> npt.NDArray:
        """Return rows in standard deviations, as images of one column."""
        return ((rows - self._centre) / self._scale)[..., None]
