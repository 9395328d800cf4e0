"""Explanations by directions and coordinates of the feature space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from skood.explanation._base import Explanation

__all__ = ["DistanceExplanation"]


@dataclass(frozen=True, eq=False, repr=False)
class DistanceExplanation(Explanation):
    r"""A score that is a distance in the feature space, divided among directions and coordinates.

    Parameters
    ----------
    scores : ndarray of shape (n,), float64
        Scores of the items, as ``score_samples`` returns them.
    constants : ndarray of shape (n,), float64
        The part of each score that is no distance: the energy for
        :class:`~skood.posthoc.ViM`, and 0 for the other detectors.
    feature_contributions : ndarray of shape (n, d), float64
        How each coordinate of the feature space adds to the score. The sum over d plus `constants`
        is the score.
    feature_names : tuple of str
        Names of the d coordinates: the columns of X if the rows of X are the features.
    direction_contributions : ndarray of shape (n, n_directions), float64, default=None
        How each direction adds to the score; the sum over the directions plus `constants` is the
        score. None for a score that has no directions of its own.
    directions : ndarray of shape (d, n_directions), float64, default=None
        The directions, columns of length 1.
    classes : ndarray of shape (n,), default=None
        Label of the nearest class, or of the predicted class if the detector compares an item
        with that class. None without classes.
    class_scores : ndarray of shape (n, n_classes), float64, default=None
        The score that each class alone would give; the largest is the score. None without classes.
    feature_removals : ndarray of shape (n, d), float64, default=None
        How far the score rises if one coordinate is left out: if it is replaced by its expectation
        given the other coordinates. They have no sum. None for a score that is no quadratic form.

    See Also
    --------
    skood.inspection.ContributionsDisplay : Draws the contributions.

    Notes
    -----
    For a squared distance with :math:`\delta = z - \mu`, the contribution of coordinate i is
    :math:`-\delta_i (S^{-1} \delta)_i`. This is the integrated gradient of the score along the line
    from :math:`\mu` to z, and the Shapley value of the coordinate if absent coordinates are at
    :math:`\mu`. The contribution of a direction is :math:`-(w^\top \delta)^2`, and never positive.

    Nearly collinear coordinates get large contributions of opposite signs, which cancel: no
    contribution tells what happens if one of them changes. In that case read `feature_removals`,
    :math:`(S^{-1} \delta)_i^2 / (S^{-1})_{ii}`, or the directions.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import Mahalanobis
    >>> iris = load_iris(as_frame=True)
    >>> detector = Mahalanobis().fit(iris.data, iris.target_names[iris.target])
    >>> detector.explain(iris.data[:1])
    DistanceExplanation of 1 item
    score -0.297, nearest class setosa
                         contribution
      sepal length (cm)      -0.09903
      petal length (cm)       -0.0734
      petal width (cm)        -0.0685
      sepal width (cm)        -0.0561
    """

    constants: npt.NDArray[np.float64]
    feature_contributions: npt.NDArray[np.float64]
    feature_names: tuple[str, ...]
    direction_contributions: npt.NDArray[np.float64] | None = None
    directions: npt.NDArray[np.float64] | None = None
    classes: npt.NDArray | None = None
    class_scores: npt.NDArray[np.float64] | None = None
    feature_removals: npt.NDArray[np.float64] | None = None

    _of_items: ClassVar[tuple[str, ...]] = (
        *("scores", "constants", "feature_contributions", "direction_contributions"),
        *("classes", "class_scores", "feature_removals"),
    )

    @property
    def _contributions(self) -> npt.NDArray[np.float64]:
        return self.feature_contributions

    def _name(self, part: int) -> Any:
        return self.feature_names[part]

    def _title(self, item: int) -> str:
        title = super()._title(item)
        if self.constants[item]:
            title += f" = {self.constants[item]:.4g} + contributions"
        if self.classes is not None:
            which = "predicted" if self.class_scores is None else "nearest"
            title += f", {which} class {self.classes[item]}"
        return title
