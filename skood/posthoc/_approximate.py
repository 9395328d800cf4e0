"""Approximate search for nearest rows, by libraries that are installed separately."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skood._data.chunks import row_slices
from skood._optional import import_optional

__all__ = ["ApproximateIndex"]

# Rows that are added at once.
_CHUNK = 4096
# faiss: cells of the inverted file for the square root of the number of rows, rows of a cell that
# its centres are learned from, steps of k-means, and cells that are searched.
_CELLS, _ROWS_PER_CELL, _STEPS, _PROBES = 4, 40, 10, 64
# hnswlib: links of a row, and rows that are inspected for each link and for each neighbour.
_LINKS, _INSPECTED, _INSPECTED_PER_NEIGHBOUR = 16, 100, 2


class ApproximateIndex:
    """Index of rows, which finds most of the nearest.

    It is built with one thread and searched with one query at a time, so that its results depend
    neither on the machine's number of cores nor on other queries.

    Parameters
    ----------
    kind : {"faiss", "hnsw"}
    rows : callable
        Takes a slice or an integer array, and returns rows in float32.
    shape : tuple of int
        (n, d)
    by_distance : bool
        Whether the nearest rows are searched, not those with the largest inner products.
    """

    # Ends the error of `skood.save`: libraries of indices do not check what they read.
    _instead_of_saving = "; store the detector with joblib.dump, or fit it with index=None"

    def __init__(
        self,
        kind: str,
        rows: Callable[[Any], npt.NDArray[np.float32]],
        shape: tuple[int, int],
        *,
        by_distance: bool,
    ) -> None:
        self.kind = kind
        self.shape = shape
        self.by_distance = by_distance
        self._index = self._inverted_file(rows) if kind == "faiss" else self._graph(rows)

    def search(self, query: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
        """Return up to `k` rows near a query of shape (d,)."""
        if self.kind == "faiss":
            rows = self._index.search(query[None], k)[1][0]
            return rows[rows >= 0]
        self._index.set_ef(max(_INSPECTED, _INSPECTED_PER_NEIGHBOUR * k))
        return self._index.knn_query(query[None], k, num_threads=1)[0][0].astype(np.int64)

    def _inverted_file(self, rows: Callable[[Any], npt.NDArray[np.float32]]) -> Any:
        """Return k-means cells with values of 8 bits."""
        faiss, (n, d) = _faiss(), self.shape
        n_cells = max(1, min(int(_CELLS * n**0.5), n // _ROWS_PER_CELL))
        metric = faiss.METRIC_L2 if self.by_distance else faiss.METRIC_INNER_PRODUCT
        with _OneThread(faiss):
            centres = (faiss.IndexFlatL2 if self.by_distance else faiss.IndexFlatIP)(d)
            index = faiss.IndexIVFScalarQuantizer(
                centres, d, n_cells, faiss.ScalarQuantizer.QT_8bit, metric
            )
            index.cp.niter, index.cp.max_points_per_centroid = _STEPS, _ROWS_PER_CELL
            index.cp.min_points_per_centroid = 1
            every = max(1, n // (_ROWS_PER_CELL * n_cells))
            index.train(rows(np.arange(0, n, every)))
            for part in row_slices(n, _CHUNK):
                index.add(rows(part))
        index.nprobe = min(_PROBES, n_cells)
        return index

    def _graph(self, rows: Callable[[Any], npt.NDArray[np.float32]]) -> Any:
        """Return a hierarchical navigable small world."""
        n, d = self.shape
        index = _hnswlib().Index("l2" if self.by_distance else "ip", d)
        index.init_index(n, M=_LINKS, ef_construction=_INSPECTED, random_seed=0)
        for part in row_slices(n, _CHUNK):
            index.add_items(rows(part), np.arange(part.start, part.stop), num_threads=1)
        return index

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        if self.kind == "faiss":
            return state | {"_index": _faiss().serialize_index(self._index)}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            self._index.save_index(str(path))
            return state | {"_index": path.read_bytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.kind == "faiss":
            self._index = _faiss().deserialize_index(state["_index"])
            return
        index = _hnswlib().Index("l2" if self.by_distance else "ip", self.shape[1])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            path.write_bytes(state["_index"])
            index.load_index(str(path))
        self._index = index


class _OneThread:
    """Lets faiss use one thread inside a block."""

    def __init__(self, faiss: Any) -> None:
        self._faiss = faiss

    def __enter__(self) -> None:
        self._before = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(1)

    def __exit__(self, *exception: object) -> None:
        self._faiss.omp_set_num_threads(self._before)


def _faiss() -> Any:
    remedy = "index=None searches exactly, without another package"
    return import_optional("faiss", 'index="faiss"', "faiss-cpu", remedy)


def _hnswlib() -> Any:
    remedy = "index=None searches exactly, without another package"
    return import_optional("hnswlib", 'index="hnsw"', "hnswlib", remedy)
