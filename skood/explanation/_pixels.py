"""Explanations by pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from skood.explanation._base import Explanation

__all__ = ["PixelsExplanation"]


@dataclass(frozen=True, eq=False, repr=False)
class PixelsExplanation(Explanation):
    """A score that is a sum over the pixels of an image.

    Parameters
    ----------
    scores : ndarray of shape (n,), float64
        Scores of the items, the sums of the contributions of their pixels.
    contributions : ndarray of shape (n, H, W), float64
        How each pixel adds to the score, in nats, as ``score_pixels`` returns it.

    See Also
    --------
    skood.inspection.PixelMapsDisplay : Draws images and such maps.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import LogLikelihood, PixelCNN
    >>> X = load_digits().images
    >>> density = PixelCNN(4, 1, n_levels=17, value_range=(0, 16), max_steps=5, random_state=0)
    >>> LogLikelihood(density).fit(X).explain(X[:2]).contributions.shape
    (2, 8, 8)
    """

    contributions: npt.NDArray[np.float64]

    _of_items: ClassVar[tuple[str, ...]] = ("scores", "contributions")

    @property
    def _contributions(self) -> npt.NDArray[np.float64]:
        return self.contributions.reshape(len(self), -1)

    def _name(self, part: int) -> Any:
        width = self.contributions.shape[2]
        return f"pixel ({part // width}, {part % width})"
