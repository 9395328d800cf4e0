"""Exact search for the training rows with the largest inner products."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._chunks import row_slices

__all__ = ["MORE_NEIGHBOURS", "at_most", "largest_products"]

# Number of neighbours beyond the k-th that are compared in double precision, because single
# precision may rank the k largest products differently.
MORE_NEIGHBOURS = 8

# Number of queries compared with the whole bank at once, which bounds the memory of the products.
_QUERIES = 192
# Number of bank rows in a block; only the largest product of each block is inspected first.
_BLOCK = 64


def largest_products(
    queries: npt.NDArray, bank: Tensor, k: int, offset: Tensor | None = None
) -> tuple[npt.NDArray, npt.NDArray[np.int64]]:
    """Return the `k` largest of ``queries @ bank.T + offset`` in each row, in no order.

    Parameters
    ----------
    queries : ndarray of shape (n, d)
        In the precision of `bank`.
    bank : Tensor of shape (m, d)
    k : int
        At most m.
    offset : Tensor of shape (m,), default=None

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
        if offset is None:
            products = few @ bank.T
        else:
            products = torch.addmm(offset, few, bank.T)
        values[chunk], rows[chunk] = (found.numpy() for found in _top(products, k))
    return values, rows


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
