"""Outliers of frames whose columns are not all numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import _safe_indexing

from skood._data.given import is_frame

__all__ = ["MixedColumns"]

Rows = npt.NDArray[np.intp]


class MixedColumns:
    """A frame, some of whose columns are not finite numbers.

    An outlier has means of numbers, and values of other rows in its other columns.

    Parameters
    ----------
    frame : DataFrame of shape (n, d)
    """

    def __init__(self, frame: Any) -> None:
        self.frame = frame
        self.names = list(frame.columns)
        repeated = {str(name) for name in self.names if self.names.count(name) > 1}
        if repeated:
            raise ValueError(f"X has several columns named {', '.join(repeated)}; rename them")
        columns = [np.asarray(self._column(k)) for k in range(len(self.names))]
        self.is_number = np.array([column.dtype.kind in "iuf" for column in columns])
        self.numbers = np.column_stack(
            [
                column.astype(float) if is_number else np.zeros(len(frame))
                for column, is_number in zip(columns, self.is_number, strict=True)
            ]
        )
        # The row of each value, so that formulas which exchange values tell from which row.
        self.rows: Rows = np.tile(np.arange(len(frame))[:, None], len(self.names))

    @classmethod
    def of(cls, X: Any) -> MixedColumns | None:
        """Wrap a frame; None if X is no frame, or has nothing but finite numbers."""
        if not is_frame(X) or 0 in X.shape:
            return None
        columns = [np.asarray(_safe_indexing(X, k, axis=1)) for k in range(X.shape[1])]
        are_numbers = all(c.dtype.kind in "biuf" and np.isfinite(c).all() for c in columns)
        return None if are_numbers else cls(X)

    def outliers(
        self,
        made_by: list[tuple[str, Rows]],
        sample: Rows,
        strength: float,
        rng: np.random.Generator,
        exchange: Callable[[str, Rows], Rows],
    ) -> Any:
        """Make outliers of the rows `sample`.

        Parameters
        ----------
        made_by : list of (str, ndarray)
            Each kind, and its positions in `sample`.
        exchange : callable
            Takes the kind and rows, and returns the row of each value, for the kinds that exchange
            values.
        """
        source, numbers = self.rows[sample], self.numbers[sample]
        is_computed = np.zeros(source.shape, dtype=bool)
        for kind, places in made_by:
            if kind in ("mixup", "noise"):
                formula = self._mixup if kind == "mixup" else self._noise
                source[places], numbers[places] = formula(sample[places], strength, rng)
                is_computed[places] = self.is_number
            else:
                source[places] = exchange(kind, sample[places])
        made = {}
        for k, name in enumerate(self.names):
            values = _safe_indexing(self._column(k), source[:, k])
            if self.is_number[k]:
                values = np.array(values)
                computed = numbers[is_computed[:, k], k]
                values[is_computed[:, k]] = (
                    computed if values.dtype.kind == "f" else np.rint(computed)
                )
            # Without the index of the rows.
            made[name] = getattr(values, "array", values)
        return type(self.frame)(made)

    def _mixup(
        self, sample: Rows, strength: float, rng: np.random.Generator
    ) -> tuple[Rows, npt.NDArray]:
        n, weight = len(self.rows), strength / 2
        others = (sample + rng.integers(1, n, size=len(sample))) % n
        is_other = rng.random((len(sample), len(self.names))) < weight
        numbers = (1 - weight) * self.numbers[sample] + weight * self.numbers[others]
        return np.where(is_other, self.rows[others], self.rows[sample]), numbers

    def _noise(
        self, sample: Rows, strength: float, rng: np.random.Generator
    ) -> tuple[Rows, npt.NDArray]:
        source, numbers = self.rows[sample], self.numbers[sample]
        for k in range(len(self.names)):
            if self.is_number[k]:
                finite = self.numbers[np.isfinite(self.numbers[:, k]), k]
                low, high = (finite.min(), finite.max()) if len(finite) else (np.nan, np.nan)
                noise = low + (high - low) * rng.random(len(sample))
                numbers[:, k] = (1 - strength) * numbers[:, k] + strength * noise
            else:
                # Missing values are equal to each other as texts.
                _, one_of_each = np.unique(list(map(repr, self._column(k))), return_index=True)
                drawn = rng.choice(one_of_each, size=len(sample))
                source[:, k] = np.where(rng.random(len(sample)) < strength, drawn, sample)
        return source, numbers

    def _column(self, k: int) -> Any:
        return _safe_indexing(self.frame, k, axis=1)
