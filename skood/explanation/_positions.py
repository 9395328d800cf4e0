"""Explanations by the positions of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from skood.explanation._base import Explanation

__all__ = ["PositionsExplanation"]


@dataclass(frozen=True, eq=False, repr=False)
class PositionsExplanation(Explanation):
    """A score that is a sum over the tokens of a text, or over the positions of a sequence.

    Parameters
    ----------
    scores : ndarray of shape (n,), float64
        Scores of the items, the sums of the contributions of their positions.
    contributions : list of ndarray of shape (n_positions,), float64
        How each position adds to the score, in nats, as ``score_positions`` returns it.
    tokens : list of list of str, default=None
        Names of the tokens, if the density has them.

    Examples
    --------
    >>> import torch
    >>> from skood import CausalLanguageModel, LogLikelihood
    >>> class Uniform(torch.nn.Module):
    ...     def forward(self, input_ids):
    ...         return torch.zeros(*input_ids.shape, 128)  # of equal probabilities
    >>> density = CausalLanguageModel(Uniform(), bos_token_id=0)
    >>> explanation = LogLikelihood(density).fit([[5, 6], [7]]).explain([[5, 7, 6]])
    >>> explanation.contributions[0].round(3), explanation.tokens
    (array([-4.852, -4.852, -4.852]), [['5', '7', '6']])
    """

    contributions: list[npt.NDArray[np.float64]]
    tokens: list[list[str]] | None = None

    _of_items: ClassVar[tuple[str, ...]] = ("scores", "contributions", "tokens")

    def __getitem__(self, rows: Any) -> PositionsExplanation:
        chosen = np.atleast_1d(np.arange(len(self))[rows])
        tokens = None if self.tokens is None else [self.tokens[row] for row in chosen]
        contributions = [self.contributions[row] for row in chosen]
        return PositionsExplanation(self.scores[chosen], contributions, tokens)

    @property
    def _contributions(self) -> npt.NDArray[np.float64]:
        padded = np.zeros((len(self), max(map(len, self.contributions), default=0)))
        for row, values in zip(padded, self.contributions, strict=True):
            row[: len(values)] = values
        return padded

    def largest(self, item: int = 0, n: int = 5) -> list[tuple[Any, float]]:
        """Return the positions with the largest contributions to a score, in absolute value.

        Parameters
        ----------
        item : int, default=0
            Position of the item.
        n : int, default=5
            Number of positions, at most.

        Returns
        -------
        list of (name, contribution)
            Largest first. A negative contribution lowers the score: it makes the item look more
            out-of-distribution.
        """
        return super().largest(item, min(n, len(self.contributions[item])))

    def _name(self, part: int) -> str:
        return f"position {part}"

    def _named(self, item: int, part: int) -> str:
        names: Sequence[str] | None = None if self.tokens is None else self.tokens[item]
        return self._name(part) if names is None else f"{self._name(part)}, {names[part]!r}"
