"""The largest products of rows with the rows of a bank, in the precision of the bank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._data.chunks import row_slices

__all__ = ["QUERIES", "largest_products", "parts", "products_with"]

# Number of queries compared with the bank at once, which bounds the memory of the products.
QUERIES = 192
# Up to this number of queries, a product for each query takes less time than one for all.
_FEW_QUERIES = 8
# Rows whose products are held at once, for many and for few queries.
_PART, _PART_FOR_FEW = 2**14, 2**16
# Values of the bank that are compared with all queries before the next ones are read: few queries
# read them again from the processor's cache.
_VALUES, _VALUES_FOR_FEW = 2**22, 2**19
# Number of bank rows in a block; only the largest product of each block is inspected first.
_BLOCK = 64


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
    for chunk in row_slices(len(queries), QUERIES):
        few = torch.from_numpy(queries[chunk])
        best = few.new_empty((len(few), 0)), torch.empty((len(few), 0), dtype=torch.int64)
        for columns in parts(len(bank), len(few)):
            best = _merged(best, products_with(few, bank, columns, offset, scale), columns.start, k)
        values[chunk], rows[chunk] = (found.numpy() for found in best)
    return values, rows


def parts(n_rows: int, n_queries: int) -> Iterator[slice]:
    """Divide the rows of a bank into parts whose products with the queries are held at once."""
    return row_slices(n_rows, _PART_FOR_FEW if n_queries <= _FEW_QUERIES else _PART)


def products_with(
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
