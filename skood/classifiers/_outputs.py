"""Logits, probabilities and features of a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.special import logsumexp
from torch import Tensor

from skood._data.arrays import why_unread
from skood._data.chunks import row_slices
from skood._data.lazy_rows import LazyRows, in_memory, is_on_disk, subset_of
from skood._data.masks import without_mask

__all__ = ["Outputs", "log_probabilities", "saved_outputs"]

# Largest deviation of the sum of saved probabilities from 1, which may be of half precision.
_ROUNDING = 1e-3

# Rows whose values are checked, or computed, at once.
_CHUNK = 4096


@dataclass(frozen=True)
class Outputs:
    """Outputs of a classifier for a data set.

    :meth:`from_arrays` makes them from saved arrays, and computes what is missing.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes)
        `n_classes` is 0 if the logits are unknown.
    log_proba : ndarray of shape (n, n_classes)
        Logarithms of the class probabilities, in nats.
    features : ndarray of shape (n, d)
        Penultimate features; d is 0 if they are unknown.
    normalized : bool, default=False
        Whether `logits` are logarithms of probabilities, because the logits themselves are unknown.
    multilabel : bool, default=False
        Whether a row can have several classes. The probability of a class is then the sigmoid of
        its logit.
    head : tuple of ndarray or None, default=None
        Weight (n_classes, d) and bias (n_classes,) of the last layer, which maps features to
        logits.

    See Also
    --------
    OutputsDetector : Base of the scores that are functions of these outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.posthoc import Outputs
    >>> features = np.random.default_rng(0).normal(size=(5, 2))
    >>> outputs = Outputs.from_arrays(features=features, head=(np.ones((3, 2)), np.zeros(3)))
    >>> outputs.logits.shape
    (5, 3)
    """

    logits: npt.NDArray
    log_proba: npt.NDArray
    features: npt.NDArray
    normalized: bool = False
    multilabel: bool = False
    head: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None

    @classmethod
    def from_arrays(
        cls, logits: Any = None, *, features: Any = None, head: Any = None, multilabel: bool = False
    ) -> Outputs:
        """Make outputs from arrays or tensors, such as saved outputs of a network.

        Parameters
        ----------
        logits : array-like or Tensor of shape (n, n_classes), default=None
            None: computed from `features` and `head` if both are given.
        features : array-like or Tensor of shape (n, d), default=None
            Penultimate features.
        head : tuple of array-like or Tensor, default=None
            Weight (n_classes, d) and bias (n_classes,) of the last layer.
        multilabel : bool, default=False
            Whether a row can have several classes.

        Returns
        -------
        Outputs
            In the precision of the arrays; half precision becomes float32, and logits that are
            computed are float64.

        Raises
        ------
        ValueError
            If logits and features are both missing, the shapes do not match, a value is NaN or
            infinite, or the logits are probabilities.
        """
        return saved_outputs(logits, features, head, multilabel).in_memory()

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, rows: slice | npt.NDArray[np.integer]) -> Outputs:
        return self._each(lambda array: array[rows])

    def subset(self, indices: npt.NDArray[np.integer]) -> Outputs:
        """Select rows that are read on access.

        Parameters
        ----------
        indices : ndarray of int

        Returns
        -------
        Outputs
            A slice of them has arrays, as `in_memory` has.
        """
        return self._each(lambda array: subset_of(array, indices))

    def in_memory(self) -> Outputs:
        """Return outputs whose rows are arrays, and not read on access.

        Returns
        -------
        Outputs
        """
        return self._each(in_memory)

    @property
    def weight(self) -> npt.NDArray[np.float64]:
        """Weight of the last layer, shape (n_classes, d)."""
        return self._known_head[0]

    @property
    def bias(self) -> npt.NDArray[np.float64]:
        """Bias of the last layer, shape (n_classes,)."""
        return self._known_head[1]

    @property
    def _known_head(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        if self.head is None:
            raise ValueError(
                "the weights of the last layer are unknown; a detector that needs them has "
                '_reads = "head"'
            )
        return self.head

    def logits_of(self, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Apply the last layer to other features.

        Parameters
        ----------
        features : ndarray of shape (n, d)

        Returns
        -------
        ndarray of shape (n, n_classes)
        """
        return features @ self.weight.T + self.bias

    def astype(self, dtype: npt.DTypeLike, order: Literal["K", "C"] = "K") -> Outputs:
        """Return the same numbers in another precision, or order in memory.

        Parameters
        ----------
        dtype : dtype
        order : {"K", "C"}, default="K"
            As in ``numpy.ndarray.astype``.

        Returns
        -------
        Outputs
        """
        return self._each(lambda array: array.astype(dtype, order=order, copy=False))

    def _each(self, function: Callable[[Any], Any]) -> Outputs:
        return replace(
            self,
            logits=function(self.logits),
            log_proba=function(self.log_proba),
            features=function(self.features),
        )


def saved_outputs(logits: Any, features: Any, head: Any, multilabel: bool) -> Outputs:
    """Make outputs as :meth:`Outputs.from_arrays` does, but compute missing rows on access."""
    if logits is None and features is None:
        raise ValueError("logits and features are both None; give at least one of them")
    z = None if features is None else _array(features, "features", 2)
    known = None if head is None else _head(head, z)
    if logits is not None:
        f: Any = _array(logits, "logits", 2)
    elif z is not None and known is not None:
        f = _mapped(z, lambda rows: rows.astype(np.float64) @ known[0].T + known[1], len(known[1]))
    else:
        assert z is not None
        f = np.empty((len(z), 0))
    z = np.empty((len(f), 0)) if z is None else z
    if len(f) != len(z):
        raise ValueError(f"there are logits of {len(f)} rows, but features of {len(z)} rows")
    if known is not None and f.shape[1] != len(known[0]):
        raise ValueError(
            f"logits have {f.shape[1]} columns, but the head makes {len(known[0])} logits"
        )
    if f.shape[1] == 1 and not multilabel:
        raise ValueError(
            "logits have one column, which two classes can share: give a column for each, "
            "np.column_stack([0 * logits, logits]), or multilabel=True if there is one label"
        )
    log_proba: Any = _mapped(f, lambda rows: log_probabilities(rows, multilabel), f.shape[1])
    normalized = f.shape[1] > 0 and not multilabel and _is_normalized(f)
    return Outputs(f, log_proba, z, normalized, multilabel=multilabel, head=known)


def _mapped(rows: Any, function: Callable[[npt.NDArray], npt.NDArray], n_columns: int) -> LazyRows:
    """Return float64 values that are computed from rows on access."""
    return LazyRows(
        lambda part: function(rows[part]), (len(rows), n_columns), np.float64, computed=True
    )


def log_probabilities(logits: npt.NDArray, multilabel: bool) -> npt.NDArray[np.float64]:
    """Logarithms of the softmax of logits, or of their sigmoids if `multilabel` is true."""
    result = np.empty(logits.shape)
    for rows in row_slices(len(logits), _CHUNK):
        z = torch.from_numpy(logits[rows].astype(np.float64))
        result[rows] = (F.logsigmoid(z) if multilabel else torch.log_softmax(z, 1)).numpy()
    return result


def _is_normalized(logits: Any) -> bool:
    """Whether logits are logarithms of probabilities; raise if they are probabilities."""
    chunks = list(row_slices(len(logits), _CHUNK))
    if all(_are_probabilities(logits[rows]) for rows in chunks):
        raise ValueError(
            "logits are not negative and each row sums to 1, so they are probabilities; give the "
            "output before the softmax, or np.log(probabilities) to a score of probabilities"
        )
    return all(
        np.abs(logsumexp(logits[rows].astype(np.float64), axis=1)).max() < _ROUNDING
        for rows in chunks
    )


def _are_probabilities(logits: npt.NDArray) -> bool:
    return bool(logits.min() >= 0 and np.abs(logits.sum(1) - 1).max() < _ROUNDING)


def _array(values: Any, name: str, n_axes: int) -> Any:
    """Check numbers of a user, and return them in float32 or float64.

    The rows of a matrix that need another precision are converted on access.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        # numpy has no bfloat16.
        values = values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()
    values = without_mask(values, name)
    try:
        values = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{name} cannot be read as an array of numbers: {why_unread(values)}"
        ) from error
    dtype = values.dtype
    if dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    elif dtype == np.float16:
        dtype = np.dtype(np.float32)
    if values.ndim == 1 < n_axes and dtype.kind == "O" and values.size:
        raise ValueError(f"{name} is a sequence of objects: {why_unread(values)}")
    if values.ndim != n_axes or dtype.kind != "f" or not values.size:
        raise ValueError(
            f"{name} has shape {values.shape} and dtype {dtype}; expected numbers in an "
            f"array with {n_axes} axes, and at least one row"
        )
    chunks = row_slices(len(values), _CHUNK)
    n_wrong, first = 0, 0
    for rows in chunks:
        wrong = ~np.isfinite(values[rows])
        if wrong.any() and not n_wrong:
            first = rows.start + int(np.argwhere(wrong)[0, 0])
        n_wrong += int(np.count_nonzero(wrong))
    if n_wrong:
        raise ValueError(
            f"{name} has {n_wrong} values that are NaN or infinite, the first in row {first}"
        )
    if dtype == values.dtype:
        return values
    if n_axes == 1:
        return values.astype(dtype)
    on_disk = is_on_disk(values)
    return LazyRows(lambda rows: values[rows].astype(dtype), values.shape, dtype, on_disk=on_disk)


def _head(
    head: Any, features: npt.NDArray | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Check weight and bias of a last layer."""
    if not isinstance(head, (tuple, list)) or len(head) != 2:
        raise ValueError(f"head is a {type(head).__name__}; expected a tuple (weight, bias)")
    weight = np.asarray(_array(head[0], "the head's weight", 2), np.float64)
    bias = _array(head[1], "the head's bias", 1).astype(np.float64)
    if len(weight) != len(bias):
        raise ValueError(
            f"the head's weight has shape {weight.shape} and its bias {bias.shape}; expected "
            "(n_classes, d) and (n_classes,)"
        )
    if features is not None and weight.shape[1] != features.shape[1]:
        raise ValueError(
            f"the head's weight has shape {weight.shape}, but features have "
            f"{features.shape[1]} columns; expected (n_classes, {features.shape[1]})"
        )
    return weight, bias
