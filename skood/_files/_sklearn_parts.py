"""Encoding of the compiled objects inside scikit-learn's estimators, and of sparse matrices.

The nodes of a decision tree and the indices of a sparse matrix are checked one by one, since
compiled code follows them without a check. A KDTree or BallTree is built again from its data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import sklearn
from sklearn.neighbors import BallTree, KDTree
from sklearn.utils import Bunch

from skood._files._codec import Codec, DamagedFile, Reader, Writer, field

__all__ = ["CODECS"]

_TREES = {"KDTree": KDTree, "BallTree": BallTree}
# Metrics of a KDTree or BallTree without values of their own, by the classes that compute them.
_METRICS = {
    "EuclideanDistance64": "euclidean",
    "ManhattanDistance64": "manhattan",
    "ChebyshevDistance64": "chebyshev",
    "MinkowskiDistance64": "minkowski",
    "HaversineDistance64": "haversine",
    "HammingDistance64": "hamming",
    "CanberraDistance64": "canberra",
    "BrayCurtisDistance64": "braycurtis",
}
_SPARSE = ("csr", "csc", "coo")


def _encode_tree(tree: Any, writer: Writer) -> dict[str, Any]:
    _, (n_features, n_classes, _), state = tree.__reduce__()
    return {
        "n_features": int(n_features),
        "n_classes": writer.node(np.asarray(n_classes), "n_classes"),
        "nodes": writer.node(state["nodes"], "nodes"),
        "values": writer.node(state["values"], "values"),
    }


def _decode_tree(node: dict[str, Any], reader: Reader) -> Any:
    from sklearn.tree._tree import NODE_DTYPE, Tree

    n_features = field(node, "n_features", int)
    n_classes = reader.value(field(node, "n_classes"), np.ndarray)
    stored = reader.value(field(node, "nodes"), np.ndarray)
    values = reader.value(field(node, "values"), np.ndarray)
    names = stored.dtype.names or ()
    if not {"left_child", "right_child", "feature", "threshold"} <= set(names):
        raise DamagedFile("a decision tree has no nodes")
    unknown = [name for name in names if name not in NODE_DTYPE.names]
    if unknown:
        raise ValueError(
            f"decision trees have the fields {unknown}, which scikit-learn {sklearn.__version__} "
            "does not know; install the version that wrote the file"
        )
    if n_classes.ndim != 1 or not n_classes.size or n_classes.dtype.kind != "i":
        raise DamagedFile("a decision tree has no outputs")
    if (n_classes < 1).any() or not 0 < n_features < 2**31:
        raise DamagedFile("a decision tree has no features or outputs")
    shape = (len(stored), len(n_classes), int(n_classes.max()))
    if stored.ndim != 1 or values.shape != shape or values.dtype != np.float64:
        raise DamagedFile("the values of a decision tree do not fit its nodes")
    nodes = np.zeros(len(stored), NODE_DTYPE)
    for name in names:
        nodes[name] = stored[name]
    made = Tree(n_features, n_classes.astype(np.intp), len(n_classes))
    made.__setstate__(
        {
            "max_depth": _depth(nodes, n_features),
            "node_count": len(nodes),
            "nodes": nodes,
            "values": np.ascontiguousarray(values),
        }
    )
    return made


def _depth(nodes: npt.NDArray[Any], n_features: int) -> int:
    """Return the depth of a decision tree; raise if a node leads to none below it."""
    n = len(nodes)
    left, right = nodes["left_child"], nodes["right_child"]
    inner = left != -1
    numbers = np.arange(n)[inner]
    children = np.concatenate([left[inner], right[inner]])
    features = nodes["feature"][inner]
    if (
        n == 0
        or (right[~inner] != -1).any()
        or (children <= np.concatenate([numbers, numbers])).any()
        or (children >= n).any()
        or len(np.unique(children)) != n - 1
        or len(children) != n - 1
        or (features < 0).any()
        or (features >= n_features).any()
    ):
        raise DamagedFile("the nodes of a decision tree are no tree")
    depth = np.zeros(n, np.intp)
    for k in numbers:
        depth[left[k]] = depth[right[k]] = depth[k] + 1
    return int(depth.max())


def _encode_neighbours(tree: Any, writer: Writer) -> dict[str, Any]:
    state = tree.__getstate__()
    leaf_size, metric, weights = state[4], state[11], state[12]
    kind = type(metric).__name__
    if kind not in _METRICS:
        writer.refuse(f"has the metric {kind}, which skood.save does not store")
    node = {
        "class": type(tree).__name__,
        "metric": _METRICS[kind],
        "leaf_size": int(leaf_size),
        "data": writer.node(np.asarray(state[0]), "data"),
        "weights": None if weights is None else writer.node(np.asarray(weights), "weights"),
    }
    if kind == "MinkowskiDistance64":
        node["p"] = float(metric.__getstate__()[0])
    return node


def _decode_neighbours(node: dict[str, Any], reader: Reader) -> Any:
    name, metric = field(node, "class", str), field(node, "metric", str)
    if name not in _TREES or metric not in _METRICS.values():
        raise DamagedFile(f"{name[:80]!r} with {metric[:80]!r} is no tree of neighbours")
    leaf_size = field(node, "leaf_size", int)
    data = reader.value(field(node, "data"), np.ndarray)
    weights = reader.value(field(node, "weights"), np.ndarray, type(None))
    extra: dict[str, Any] = {"p": field(node, "p", float)} if "p" in node else {}
    if weights is not None:
        extra["sample_weight"] = weights
    return _TREES[name](data, leaf_size=leaf_size, metric=metric, **extra)


def _encode_sparse(matrix: Any, writer: Writer) -> dict[str, Any]:
    names = ("data", "row", "col") if matrix.format == "coo" else ("data", "indices", "indptr")
    return {
        "format": matrix.format,
        "array": not isinstance(matrix, scipy.sparse.spmatrix),
        "shape": list(matrix.shape),
        "parts": [writer.node(getattr(matrix, name), name) for name in names],
    }


def _decode_sparse(node: dict[str, Any], reader: Reader) -> Any:
    kind, shape = field(node, "format", str), field(node, "shape", list)
    data, first, second = (reader.value(part, np.ndarray) for part in field(node, "parts", list))
    if (
        kind not in _SPARSE
        or len(shape) != 2
        or not all(type(n) is int and 0 <= n < 2**31 for n in shape)
        or data.dtype.kind not in "biufc"
        or not all(
            part.ndim == 1 and part.dtype in (np.int32, np.int64) for part in (first, second)
        )
    ):
        raise DamagedFile("a sparse matrix has no known format")
    suffix = "array" if field(node, "array", bool) else "matrix"
    make = getattr(scipy.sparse, f"{kind}_{suffix}")
    if kind == "coo":
        _check_indices(data, first, shape[0])
        _check_indices(data, second, shape[1])
        return make((data, (first, second)), shape=tuple(shape))
    n_lines, n_positions = shape if kind == "csr" else shape[::-1]
    _check_indices(data, first, n_positions)
    # scipy's own check overflows.
    starts = second.astype(np.int64)
    if (
        len(starts) != n_lines + 1
        or starts[0] != 0
        or starts[-1] != len(data)
        or (starts[1:] < starts[:-1]).any()
    ):
        raise DamagedFile("the lines of a sparse matrix do not follow one another")
    return make((data, first, second), shape=tuple(shape))


def _is_index(part: npt.NDArray[Any]) -> bool:
    return part.ndim == 1 and part.dtype in (np.int32, np.int64)


def _check_indices(
    data: npt.NDArray[Any], indices: npt.NDArray[np.integer], n_positions: int
) -> None:
    if data.shape != indices.shape or ((indices < 0) | (indices >= n_positions)).any():
        raise DamagedFile("a sparse matrix has indices beyond its shape")


def _encode_bunch(value: Bunch, writer: Writer) -> dict[str, Any]:
    return {"items": writer.node(dict(value))}


def _decode_bunch(node: dict[str, Any], reader: Reader) -> Bunch:
    return Bunch(**reader.value(field(node, "items"), dict))


def _encode_number_type(value: type[np.generic], writer: Writer) -> dict[str, Any]:
    return {"dtype": np.dtype(value).str}


def _decode_number_type(node: dict[str, Any], reader: Reader) -> Any:
    text = field(node, "dtype", str)
    if len(text) != 3 or text[1] not in "biufc":
        raise DamagedFile("it has a type of numbers that does not exist")
    return np.dtype(text).type


def _is_tree(value: Any) -> bool:
    cls = type(value)
    return cls.__name__ == "Tree" and cls.__module__ == "sklearn.tree._tree"


def _is_number_type(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, np.number)


CODECS = [
    Codec("tree", _is_tree, _encode_tree, _decode_tree),
    Codec(
        "neighbours",
        lambda value: type(value) in _TREES.values(),
        _encode_neighbours,
        _decode_neighbours,
    ),
    Codec(
        "sparse",
        lambda value: scipy.sparse.issparse(value) and value.format in _SPARSE,
        _encode_sparse,
        _decode_sparse,
    ),
    Codec("bunch", lambda value: type(value) is Bunch, _encode_bunch, _decode_bunch),
    Codec(
        "type of numbers",
        _is_number_type,
        _encode_number_type,
        _decode_number_type,
        shared=False,
    ),
]
