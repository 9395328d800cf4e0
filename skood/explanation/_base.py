"""Base of the explanations: a score of each item, and what makes it up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from skood._estimator.internal import internal
from skood._table import aligned, html_table

__all__ = ["Explanation"]

# Items, and lines of an item, that a repr shows.
_ITEMS, _LINES = 3, 5
# The column of names.
_LEFT = {0}


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(ABC):
    """Base of the explanations of the scores of n items.

    ``len(explanation)`` is n, ``explanation[rows]`` selects items, and printing shows the largest
    contributions to the scores of the first items.

    Parameters
    ----------
    scores : ndarray of shape (n,), float64
        Scores of the items, as ``score_samples`` returns them.
    """

    scores: npt.NDArray[np.float64]

    # Fields with one entry for each item.
    _of_items: ClassVar[tuple[str, ...]] = ("scores",)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: Any) -> Explanation:
        if isinstance(rows, (int, np.integer)):
            # An index out of range raises an error.
            self.scores[rows]
            rows = [rows]
        values = {name: getattr(self, name) for name in self._of_items}
        chosen: dict[str, Any] = {k: None if v is None else v[rows] for k, v in values.items()}
        return replace(self, **chosen)

    @property
    @abstractmethod
    def _contributions(self) -> npt.NDArray[np.float64]:
        """Contributions that `largest` compares, shape (n, n_parts)."""

    @abstractmethod
    def _name(self, part: int) -> Any:
        """Return the name of a part."""

    def _named(self, item: int, part: int) -> Any:
        """Return the name of a part of an item."""
        return self._name(part)

    def largest(self, item: int = 0, n: int = 5) -> list[tuple[Any, float]]:
        """Return the parts with the largest contributions to a score, in absolute value.

        Parameters
        ----------
        item : int, default=0
            Position of the item.
        n : int, default=5
            Number of parts, at most.

        Returns
        -------
        list of (name, contribution)
            Largest first. A negative contribution lowers the score: it makes the item look more
            out-of-distribution.
        """
        values = self._contributions[item]
        order = np.argsort(-np.abs(values), kind="stable")[:n]
        return [(self._named(item, int(part)), float(values[part])) for part in order]

    @internal
    def in_rows(self, rows: npt.NDArray[np.integer] | None) -> Explanation:
        """Express indices of training rows in other data, of which they are the rows `rows`."""
        return self

    @internal
    def with_names(self, names: Sequence[str] | None) -> Explanation:
        """Return the same explanation with names of the features, if their number fits."""
        known = getattr(self, "feature_names", None)
        if names is None or known is None or len(names) != len(known):
            return self
        return replace(self, feature_names=tuple(map(str, names)))  # type: ignore[call-arg]

    def _title(self, item: int) -> str:
        return f"score {self.scores[item]:.4g}"

    def _rows_shown(self, item: int) -> list[tuple[str, ...]]:
        """Return a table of one item, head first."""
        shown = self.largest(item, _LINES)
        return [("", "contribution"), *((str(k), f"{v:.4g}") for k, v in shown)]

    def __repr__(self) -> str:
        lines = [self._head()]
        for title, rows in self._tables():
            lines += [title, *(f"  {line}" for line in aligned(rows, _LEFT))]
        return "\n".join([*lines, *self._more()])

    def _repr_html_(self) -> str:
        blocks = [f"<p>{self._head()}</p>"]
        for title, rows in self._tables():
            blocks += [f"<p>{escape(title)}</p>", html_table(rows, _LEFT)]
        return "\n".join([*blocks, *(f"<p>{line}</p>" for line in self._more())])

    def _head(self) -> str:
        return f"{type(self).__name__} of {len(self)} item{'' if len(self) == 1 else 's'}"

    def _tables(self) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
        """Yield the title and the table of each item that is shown."""
        for item in range(min(len(self), _ITEMS)):
            position = "" if len(self) == 1 else f"item {item}: "
            yield f"{position}{self._title(item)}", self._rows_shown(item)

    def _more(self) -> list[str]:
        n_more = len(self) - _ITEMS
        return [f"and {n_more} more items"] if n_more > 0 else []
