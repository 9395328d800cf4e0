"""Attributions of a score to the values of an item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from skood.explanation._base import Explanation

__all__ = ["Attribution"]


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Explanation):
    """Attribution of scores to the columns of rows, or to the pixels of images.

    Parameters
    ----------
    scores : ndarray of shape (n,), float64
        Scores of the items, as ``score_samples`` returns them.
    values : ndarray of shape (n, d) or (n, H, W), float64
        Attribution of each column or pixel, in units of the score (a gradient: in units of the
        score per unit of X). A negative value marks what lowers the score: what makes the item
        look out-of-distribution.
    method : {"occlusion", "integrated_gradients", "gradient"}
        How the values were computed; see :func:`skood.inspection.attribute`.
    feature_names : tuple of str or None, default=None
        Names of the columns; None for images.
    baseline_scores : ndarray of shape (n,), float64, default=None
        Score of the baseline, averaged over the baselines if there are several; None for a plain
        gradient. The integrated gradients of an item sum to ``scores - baseline_scores`` up to
        the error of the integral; occlusions have no sum of that kind.

    See Also
    --------
    skood.inspection.attribute : Makes attributions for any detector.
    skood.inspection.ContributionsDisplay : Draws attributions of rows.
    skood.inspection.PixelMapsDisplay : Draws attributions of images.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from skood import GMM
    >>> from skood.inspection import attribute
    >>> X = load_iris(as_frame=True).data
    >>> detector = GMM().fit(X)
    >>> odd = X[:1].assign(**{"sepal width (cm)": 9.0})
    >>> attribute(detector, odd, baseline=X.median()).largest(n=1)[0][0]
    'sepal width (cm)'
    """

    values: npt.NDArray[np.float64]
    method: str
    feature_names: tuple[str, ...] | None = None
    baseline_scores: npt.NDArray[np.float64] | None = None

    _of_items: ClassVar[tuple[str, ...]] = ("scores", "values", "baseline_scores")

    @property
    def contributions(self) -> npt.NDArray[np.float64]:
        """The same as `values`."""
        return self.values

    @property
    def _contributions(self) -> npt.NDArray[np.float64]:
        return self.values.reshape(len(self), -1)

    def _name(self, part: int) -> Any:
        if self.feature_names is not None:
            return self.feature_names[part]
        width = self.values.shape[-1]
        return f"pixel ({part // width}, {part % width})"

    def _title(self, item: int) -> str:
        title = f"{super()._title(item)}, {self.method}"
        if self.baseline_scores is not None:
            title += f", score of the baseline {self.baseline_scores[item]:.4g}"
        return title

    def _rows_shown(self, item: int) -> list[tuple[str, ...]]:
        if self.feature_names is not None or self.method != "occlusion":
            return super()._rows_shown(item)
        # The pixels of a patch have one value: the first of them stands for the patch.
        values, first = np.unique(self._contributions[item], return_index=True)
        order = np.argsort(-np.abs(values), kind="stable")[:5]
        shown = [(f"patch at {self._name(int(first[k]))}", f"{values[k]:.4g}") for k in order]
        return [("", "contribution"), *shown]
