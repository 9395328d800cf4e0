"""Exact search for the rows of a bank that are nearest, or have the largest inner products."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._chunks import row_slices
from skood._lazy_rows import is_on_disk
from skood._torch.seeding import Stream, numpy_rng
from skood.functional import unit_length

__all__ = [
    "MORE_NEIGHBOURS",
    "Bank",
    "at_most",
    "kept_rows",
    "largest_products",
    "row_scales",
    "sampled_indices",
    "search_dtype",
]

# Number of neighbours beyond the k-th that are compared in double precision, because single
# precision may rank the k largest products differently.
MORE_NEIGHBOURS = 8

# Number of queries compared with the bank at once, which bounds the memory of the products.
_QUERIES = 192
# Up to this number of queries, a product for each query takes less time than one for all.
_FEW_QUERIES = 8
# Rows whose products are held at once, for many and for few queries.
_PART, _PART_FOR_FEW = 2**14, 2**16
# Values of the bank that are compared with all queries before the next ones are read: few queries
# read them again from the processor's cache.
_VALUES, _VALUES_FOR_FEW = 2**22, 2**19
# Number of bank rows in a block; only the largest product of each block is inspected first.
_BLOCK = 64
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
    ) -> None:
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
        result = np.empty((len(queries), k))
        for chunk in row_slices(len(queries), _QUERIES):
            result[chunk] = self._largest(queries[chunk], k)
        return result

    def _largest(self, queries: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
        centred = queries if self.origin is None else queries - self.origin
        n_candidates = min(k + MORE_NEIGHBOURS, len(self))
        with np.errstate(over="ignore"):
            factors = centred.astype(self.dtype)
        products, candidates = largest_products(
            factors, self, n_candidates, self._offset, self._scale
        )
        result = np.empty((len(queries), k))
        for i, query in enumerate(queries):
            result[i] = _top_sorted(self._exact(query, candidates[i]), k)
        if n_candidates == len(self):
            return result
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
        for row in np.flatnonzero(~certain):
            result[row] = self._largest_above(queries[row], centred[row], float(values[row]), k)
        return result

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

    def _exact(
        self, query: npt.NDArray[np.float64], rows: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float64]:
        """Compare rows with a query in float64."""
        values = np.empty(len(rows))
        for chunk in row_slices(len(rows), _CHUNK):
            near = self.rows[rows[chunk]].astype(np.float64)
            if self.normalizes:
                near = unit_length(near)
            if self.factors is not None:
                near *= self.factors[rows[chunk], None]
            if self.origin is None:
                values[chunk] = (near * query).sum(1)
            else:
                values[chunk] = -np.square(near - query).sum(1)
        return values

    def _largest_above(
        self, query: npt.NDArray[np.float64], centred: npt.NDArray[np.float64], least: float, k: int
    ) -> npt.NDArray[np.float64]:
        """Compare all rows whose product may be `least` or more with a query in float64."""
        length = float(np.linalg.norm(centred))
        with np.errstate(over="ignore"):
            factors = torch.from_numpy(centred.astype(self.dtype)[None])
        found = np.empty(0)
        for rows in _parts(len(self), 1):
            products = _products(factors, self, rows, self._offset, self._scale)
            error = self._rounding(length, self._lengths(rows).astype(np.float64))
            with np.errstate(invalid="ignore"):
                impossible = products[0].numpy().astype(np.float64) + error < least
            values = self._exact(query, rows.start + np.flatnonzero(~impossible))
            found = _top_sorted(np.concatenate([found, values]), k)
        return found


def _top_sorted(values: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
    """Return the `k` largest values in ascending order, or all if there are fewer."""
    if len(values) > k:
        values = np.partition(values, len(values) - k)[len(values) - k :]
    return np.sort(values)


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


def largest_products(
    queries: npt.NDArray,
    bank: Any,
    k: int,
    offset: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[npt.NDArray, npt.NDArray[np.int64]]:
    """Return the `k` largest of ``scale * (queries @ bank.T) + offset`` in each row, in no order.

    Parameters
    ----------
    queries : ndarray of shape (n, d)
        In the precision of `bank`.
    bank : Tensor of shape (m, d), or Bank
    k : int
        At most m.
    offset, scale : Tensor of shape (m,), default=None

    Returns
    -------
    values : ndarray of shape (n, k)
    rows : ndarray of shape (n, k)
        Their rows in the bank.
    """
    values = np.empty((len(queries), k), queries.dtype)
    rows = np.empty((len(queries), k), np.int64)
    for chunk in row_slices(len(queries), _QUERIES):
        few = torch.from_numpy(queries[chunk])
        best = few.new_empty((len(few), 0)), torch.empty((len(few), 0), dtype=torch.int64)
        for columns in _parts(len(bank), len(few)):
            best = _merged(best, _products(few, bank, columns, offset, scale), columns.start, k)
        values[chunk], rows[chunk] = (found.numpy() for found in best)
    return values, rows


def _parts(n_rows: int, n_queries: int) -> Iterator[slice]:
    """Divide the rows of a bank into parts whose products with the queries are held at once."""
    return row_slices(n_rows, _PART_FOR_FEW if n_queries <= _FEW_QUERIES else _PART)


def _products(
    queries: Tensor, bank: Any, rows: slice, offset: Tensor | None, scale: Tensor | None
) -> Tensor:
    """Return ``scale * (queries @ bank[rows].T) + offset``, shape (n_queries, n_rows)."""
    n, d = queries.shape
    few = n <= _FEW_QUERIES
    size = max((_VALUES_FOR_FEW if few else _VALUES) // d, 4 * _BLOCK)
    products = queries.new_empty((n, rows.stop - rows.start))
    for part in row_slices(rows.stop, size, rows.start):
        block, columns = bank[part], slice(part.start - rows.start, part.stop - rows.start)
        if few:
            for query, result in zip(queries, products[:, columns], strict=True):
                torch.mv(block, query, out=result)
        else:
            products[:, columns] = queries @ block.T
    if scale is not None:
        products *= scale[rows]
    if offset is not None:
        products += offset[rows]
    return products


def _merged(
    best: tuple[Tensor, Tensor], products: Tensor, start: int, k: int
) -> tuple[Tensor, Tensor]:
    """Merge the largest values so far, and their columns, with the values of further columns."""
    values, columns = best
    if values.shape[1] < k:
        more, positions = _top(products, min(k, products.shape[1]))
    else:
        more, positions = _above(products, values.amin(1))
        if not more.shape[1]:
            return best
    values = torch.cat([values, more], 1)
    columns = torch.cat([columns, positions + start], 1)
    values, picked = values.topk(min(k, values.shape[1]), dim=1, sorted=False)
    return values, columns.gather(1, picked)


def _above(products: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Return entries above `least` in each row, and their columns; -inf fills shorter rows."""
    n, m = products.shape
    n_blocks = m // _BLOCK
    whole = n_blocks * _BLOCK
    body = products[:, :whole].unflatten(1, (n_blocks, _BLOCK))
    of_row, of_block = torch.nonzero(body.amax(2) > least[:, None], as_tuple=True)
    inside, at = torch.nonzero(body[of_row, of_block] > least[of_row, None], as_tuple=True)
    row, column = of_row[inside], of_block[inside] * _BLOCK + at
    if whole < m:
        rest_row, rest = torch.nonzero(products[:, whole:] > least[:, None], as_tuple=True)
        row, column = torch.cat([row, rest_row]), torch.cat([column, rest + whole])
        row, order = row.sort(stable=True)
        column = column[order]
    counts = torch.bincount(row, minlength=n)
    position = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    size = n, int(counts.max())
    values = products.new_full(size, -torch.inf)
    columns = torch.zeros(size, dtype=torch.int64)
    values[row, position] = products[row, column]
    columns[row, position] = column
    return values, columns


def _top(products: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest entries of each row, and their columns.

    They lie in the k blocks of columns with the largest maxima, and a maximum is much cheaper than
    a selection.
    """
    n, m = products.shape
    n_blocks = m // _BLOCK
    if n_blocks < 4 * k:
        return products.topk(k, dim=1, sorted=False)
    body = products[:, : n_blocks * _BLOCK].unflatten(1, (n_blocks, _BLOCK))
    blocks = body.amax(2).topk(k, dim=1, sorted=False).indices
    columns = (blocks[:, :, None] * _BLOCK + torch.arange(_BLOCK)).flatten(1)
    rest = torch.arange(n_blocks * _BLOCK, m).expand(n, -1)
    columns = torch.cat([columns, rest], 1)
    values, picked = products.gather(1, columns).topk(k, dim=1, sorted=False)
    return values, columns.gather(1, picked)


def at_most(n_neighbors: int, n_rows: int, which: str) -> int:
    """Return the number of neighbours to use, with a warning if there are too few rows."""
    if n_neighbors > n_rows:
        warnings.warn(
            f"n_neighbors={n_neighbors} is more than the {n_rows} {which}; all of them are used. "
            "Give more data, or a smaller n_neighbors",
            stacklevel=2,
        )
    return min(n_neighbors, n_rows)
