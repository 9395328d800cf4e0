"""Exact search for the rows of a bank that are nearest, or have the largest inner products."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._data.chunks import row_slices
from skood._data.lazy_rows import is_on_disk
from skood._torch.seeding import Stream, numpy_rng
from skood.functional import unit_length
from skood.posthoc._approximate import ApproximateIndex
from skood.posthoc._largest_products import QUERIES, largest_products, parts, products_with

__all__ = [
    "MORE_NEIGHBOURS",
    "Bank",
    "at_most",
    "kept_rows",
    "row_scales",
    "sampled_indices",
    "search_dtype",
]

# Number of neighbours beyond the k-th that are compared in double precision, because single
# precision may rank the k largest products differently.
MORE_NEIGHBOURS = 8
# The same for queries of which 8 are too few.
MANY_MORE = 256

# Rows that an index finds for each neighbour, because it compares rounded rows.
MORE_INDEXED = 2

# Rows that are converted to float64 at once.
_CHUNK = 4096


class Bank:
    r"""Rows :math:`y_i = w_i x_i` among which the nearest, or the largest products, are searched.

    The search is exact. Products in the precision of `search_dtype` rank the rows, the first few
    are compared in float64, and an upper bound of the rounding errors tells whether a row beyond
    them could belong to the nearest; such rows are then compared in float64, too. A result
    therefore depends neither on the other queries nor on their number.

    Parameters
    ----------
    rows : ndarray or LazyRows of shape (m, d)
        The :math:`x_i`.
    dtype : dtype
        Precision of the search, of `scales` and of `half_squares`.
    normalizes : bool, default=False
        Whether :math:`w_i` scales a row to length 1.
    scales : ndarray of shape (m,), default=None
        The :math:`w_i`; None: 1.
    factors : ndarray of shape (m,), default=None
        Scale of each row after its normalisation, in float64; None: 1.
    origin : ndarray of shape (d,), default=None
        Centre u of the bank. If it is given, rows are ranked by their distance, and else by their
        inner product with the query.
    half_squares : ndarray of shape (m,), default=None
        Half the squared distance of each row to the origin.
    index : ApproximateIndex, default=None
        Finds the rows that are compared in float64, instead of the exact search.
    """

    def __init__(
        self,
        rows: Any,
        dtype: npt.DTypeLike,
        *,
        normalizes: bool = False,
        scales: npt.NDArray | None = None,
        factors: npt.NDArray[np.float64] | None = None,
        origin: npt.NDArray[np.float64] | None = None,
        half_squares: npt.NDArray | None = None,
        index: ApproximateIndex | None = None,
    ) -> None:
        self.index = index
        self.rows = rows
        self.dtype = np.dtype(dtype)
        self.normalizes = normalizes
        self.factors = factors
        self.origin = origin
        self._scales = scales
        self._half_squares = half_squares
        if origin is None:
            self._far, self._centres = 0.0, False
        else:
            assert half_squares is not None
            self._far = float(np.linalg.norm(origin))
            # Products with rows far from 0 lose digits, which a subtraction from each row prevents.
            self._centres = self._far**2 > 32 * float(half_squares.mean())
        self._longest = float(self._lengths(slice(None)).max())
        self._offset = None if half_squares is None else torch.from_numpy(-half_squares)
        self._scale = None
        if scales is not None and not self._centres:
            self._scale = torch.from_numpy(scales)

    def _lengths(self, rows: slice) -> npt.NDArray:
        """Return upper bounds of the lengths of rows, from the origin if there is one."""
        if self._half_squares is not None:
            # A squared length below the normal numbers is stored as 0.
            tiny = np.finfo(self.dtype).tiny
            return np.sqrt(2 * self._half_squares[rows] + 4 * tiny)
        if self.factors is not None:
            return np.abs(self.factors[rows])
        return np.ones(len(self))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> Tensor:
        """Return rows as factors of a product: scaled and centred, or as they came."""
        block = self.rows[rows].astype(self.dtype, copy=False)
        if self._centres:
            assert self.origin is not None
            if self._scales is not None:
                block = block * self._scales[rows, None]
            block = block - self.origin.astype(self.dtype)
        # torch warns of arrays that are not writeable.
        if not (block.flags.c_contiguous and block.flags.writeable):
            block = np.array(block, order="C")
        return torch.from_numpy(block)

    def largest(self, queries: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
        """Return the `k` largest inner products, or negative squared distances, of each query.

        Parameters
        ----------
        queries : ndarray of shape (n, d)
        k : int
            At most the number of rows.

        Returns
        -------
        ndarray of shape (n, k), float64
            In ascending order.
        """
        return self.nearest(queries, k)[0]

    def nearest(
        self, queries: npt.NDArray[np.float64], k: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the values of `largest` and their rows; of equal values, the first rows.

        Returns
        -------
        values : ndarray of shape (n, k), float64
            In ascending order.
        rows : ndarray of shape (n, k), int64
        """
        values, rows = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
        search = self._nearest if self.index is None else self._indexed
        for chunk in row_slices(len(queries), QUERIES):
            values[chunk], rows[chunk] = search(queries[chunk], k)
        return values, rows

    def indexed_by(self, kind: str) -> ApproximateIndex:
        """Return an index of the rows."""
        shape, by_distance = self.rows.shape, self.origin is not None
        return ApproximateIndex(kind, self._for_index, shape, by_distance=by_distance)

    def _for_index(self, rows: slice | npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        block = self._prepared(rows)
        return (block if self.origin is None else block - self.origin).astype(np.float32)

    def _indexed(
        self, queries: npt.NDArray[np.float64], k: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the nearest of the rows that the index finds; search exactly if it finds few."""
        assert self.index is not None
        values, rows = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
        centred = queries if self.origin is None else queries - self.origin
        n_candidates = min(MORE_INDEXED * k + MORE_NEIGHBOURS, len(self))
        for i, query in enumerate(queries):
            candidates = self.index.search(centred[i].astype(np.float32), n_candidates)
            if len(candidates) < k:
                values[i : i + 1], rows[i : i + 1] = self._nearest(queries[i : i + 1], k)
            else:
                values[i], rows[i] = _top_sorted(self._exact(query, candidates), candidates, k)
        return values, rows

    def _nearest(
        self, queries: npt.NDArray[np.float64], k: int, more: int = MORE_NEIGHBOURS
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        centred = queries if self.origin is None else queries - self.origin
        n_candidates = min(k + more, len(self))
        with np.errstate(over="ignore"):
            factors = centred.astype(self.dtype)
        products, candidates = largest_products(
            factors, self, n_candidates, self._offset, self._scale
        )
        result, rows = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
        for i, query in enumerate(queries):
            result[i], rows[i] = _top_sorted(self._exact(query, candidates[i]), candidates[i], k)
        if n_candidates == len(self):
            return result, rows
        # A rank in the search dtype is an exact value plus a constant of the query, up to rounding.
        values = result[:, 0].copy()
        if self.origin is not None:
            values = values / 2 + np.square(centred).sum(1) / 2
            if not self._centres:
                values += centred @ self.origin
        error = self._rounding(np.linalg.norm(centred, axis=1), self._longest)
        values[np.isinf(error)] = -np.inf
        # A row that is no candidate has a product of at most the smallest of the candidates.
        with np.errstate(invalid="ignore"):
            certain = products.min(1).astype(np.float64) + error <= values
        uncertain = np.flatnonzero(~certain)
        if len(uncertain) > 1 and more < MANY_MORE:
            # One pass over the bank for all of them, instead of one for each.
            result[uncertain], rows[uncertain] = self._nearest(queries[uncertain], k, MANY_MORE)
            return result, rows
        for i in uncertain.tolist():
            result[i], rows[i] = self._above(queries[i], centred[i], float(values[i]), k)
        return result, rows

    def _rounding(self, query_lengths: Any, row_lengths: Any) -> Any:
        """Return an upper bound of the error of a product in the search dtype.

        A sum of d products in any order has a relative error of at most d times half of eps, in
        the product of the lengths (Higham 2002, section 3.1). The bound is twice as large, and has
        terms for the rounding of the factors, of the squared length, and below the normal numbers.
        """
        eps, tiny = float(np.finfo(self.dtype).eps), float(np.finfo(self.dtype).tiny)
        exact, n = float(np.finfo(np.float64).eps), self.rows.shape[1] + 16
        far, product = self._far, row_lengths if self._centres else row_lengths + self._far
        with np.errstate(over="ignore", invalid="ignore"):
            error = eps * query_lengths * (n * product + 4 * far)
            error = error + n * tiny * (1 + product + query_lengths)
            # Of the values in float64.
            error = error + n * exact * (query_lengths + far) * (query_lengths + row_lengths + far)
            if self.origin is not None:
                error = error + 4 * eps * np.square(row_lengths)
            # Products near the largest number may overflow.
            overflows = query_lengths * (product + 1) > np.finfo(self.dtype).max / 1e4
        return np.where(overflows | np.isnan(error), np.inf, error)

    def _prepared(self, rows: slice | npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
        """Return rows in float64."""
        prepared = self.rows[rows].astype(np.float64)
        if self.normalizes:
            prepared = unit_length(prepared)
        if self.factors is not None:
            prepared *= self.factors[rows, None]
        return prepared

    def _exact(
        self, query: npt.NDArray[np.float64], rows: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float64]:
        """Compare rows with a query in float64."""
        values = np.empty(len(rows))
        for chunk in row_slices(len(rows), _CHUNK):
            near = self._prepared(rows[chunk])
            if self.origin is None:
                values[chunk] = (near * query).sum(1)
            else:
                values[chunk] = -np.square(near - query).sum(1)
        return values

    def _above(
        self, query: npt.NDArray[np.float64], centred: npt.NDArray[np.float64], least: float, k: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Compare all rows whose product may be `least` or more with a query in float64."""
        length = float(np.linalg.norm(centred))
        with np.errstate(over="ignore"):
            factors = torch.from_numpy(centred.astype(self.dtype)[None])
        found, at = np.empty(0), np.empty(0, np.int64)
        for rows in parts(len(self), 1):
            products = products_with(factors, self, rows, self._offset, self._scale)
            error = self._rounding(length, self._lengths(rows).astype(np.float64))
            with np.errstate(invalid="ignore"):
                impossible = products[0].numpy().astype(np.float64) + error < least
            possible = rows.start + np.flatnonzero(~impossible)
            values = np.concatenate([found, self._exact(query, possible)])
            found, at = _top_sorted(values, np.concatenate([at, possible]), k)
        return found, at


def _top_sorted(
    values: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], k: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the `k` largest values in ascending order, or all, and their rows."""
    if len(values) > k:
        kept = values >= np.partition(values, len(values) - k)[len(values) - k]
        values, rows = values[kept], rows[kept]
    # Of equal values, the first rows are kept.
    order = np.lexsort((-rows, values))[-k:]
    return values[order], rows[order]


def search_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype of products with rows of a dtype: float32 if it holds their values."""
    return np.dtype(np.float32 if np.can_cast(dtype, np.float32) else np.float64)


def sampled_indices(n_rows: int, n_sampled: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw the rows that form a bank, in ascending order."""
    rng = numpy_rng(seed, Stream.BANK)
    return np.sort(rng.choice(n_rows, n_sampled, replace=False))


def kept_rows(rows: Any) -> Any:
    """Return rows for a bank: those on disk stay there, and others are copied."""
    return rows if is_on_disk(rows) else np.array(rows)


def row_scales(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the factors by which `unit_length` scales rows."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    lengths[lengths < 10 * np.finfo(rows.dtype).eps] = 1
    return 1 / lengths


def at_most(n_neighbors: int, n_rows: int, which: str) -> int:
    """Return the number of neighbours to use, with a warning if there are too few rows."""
    if n_neighbors > n_rows:
        warnings.warn(
            f"n_neighbors={n_neighbors} is more than the {n_rows} {which}; all of them are used. "
            "Give more data, or a smaller n_neighbors",
            stacklevel=2,
        )
    return min(n_neighbors, n_rows)
