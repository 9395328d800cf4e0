"""Explanations by the classes that compete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from skood.explanation._base import Explanation

__all__ = ["ClassesExplanation"]


@dataclass(frozen=True, eq=False, repr=False)
class ClassesExplanation(Explanation):
    r"""A score that is a function of logits, divided among the classes.

    Parameters
    ----------
    scores : ndarray of shape (n,), float64
        Scores of the items, as ``score_samples`` returns them.
    constants : ndarray of shape (n,), float64
        The part of each score that no class carries.
    contributions : ndarray of shape (n, n_classes), float64
        How each class adds to the score; the sum over the classes plus `constants` is the score.
    logits : ndarray of shape (n, n_classes), float64
        Logits, or logarithms of the probabilities if the classifier gives only probabilities.
    probabilities : ndarray of shape (n, n_classes), float64
        Their softmax, or their sigmoids for a multilabel network.
    classes : ndarray of shape (n_classes,)
        Labels of the classes.

    See Also
    --------
    skood.inspection.ContributionsDisplay : Draws the contributions.

    Notes
    -----
    For the maximum softmax probability, the constant is 1 and each competitor of the predicted
    class takes its probability away: :math:`\max_k p_k = 1 - \sum_{j \ne c} p_j`. For the energy
    E, the contribution of a class is :math:`p_k E`, p being the softmax at the temperature of the
    energy, since :math:`E = f_k - T \log p_k` for every k.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skood import MSP
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = MSP(LogisticRegression(max_iter=1000)).fit(X, y)
    >>> explanation = detector.explain(X[:1])
    >>> explanation.classes
    array([0, 1, 2])
    >>> explanation.contributions.round(2)
    array([[ 0.  , -0.02, -0.  ]])
    """

    constants: npt.NDArray[np.float64]
    contributions: npt.NDArray[np.float64]
    logits: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    classes: npt.NDArray

    _of_items: ClassVar[tuple[str, ...]] = (
        *("scores", "constants", "contributions", "logits", "probabilities"),
    )

    @property
    def _contributions(self) -> npt.NDArray[np.float64]:
        return self.contributions

    def _name(self, part: int) -> Any:
        return self.classes[part]

    def _title(self, item: int) -> str:
        constant = f" = {self.constants[item]:.4g} + contributions"
        return super()._title(item) + (constant if self.constants[item] else "")

    def _rows_shown(self, item: int) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("class", "logit", "probability", "contribution")]
        for k in np.argsort(-self.logits[item], kind="stable")[:5]:
            values = self.logits[item, k], self.probabilities[item, k], self.contributions[item, k]
            # 0 instead of -0.
            rows.append((str(self.classes[k]), *(f"{value + 0.0:.4g}" for value in values)))
        return rows
