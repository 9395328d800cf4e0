"""Sequences of symbols, letters or integers, of equal or unequal lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from skood._data.checked_data import NUMBERS, CheckedData
from skood._data.readers import Read
from skood._data.unread_data import UnreadData

__all__ = [
    "PADDING",
    "CheckedSequences",
    "Symbols",
    "holds_text",
    "read_symbols",
    "row_in_whole",
    "whole_of",
]

# Code of the positions after the end of a sequence.
PADDING = -1

_EXPECTED = (
    "expected sequences of symbols: a list of strings, an array (n, L) of letters or integers, or "
    "a list of sequences of integers or strings"
)


@dataclass(frozen=True)
class Symbols:
    """The symbols of all sequences, one after another.

    Attributes
    ----------
    flat : ndarray of shape (n_symbols,)
        Strings or int64.
    lengths : ndarray of shape (n_sequences,), int64
    is_text : bool
        Whether the sequences are strings, whose symbols are characters.
    """

    flat: npt.NDArray
    lengths: npt.NDArray[np.int64]
    is_text: bool

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Position of the first symbol of each sequence in `flat`, shape (n_sequences,)."""
        return np.cumsum(self.lengths) - self.lengths

    def alphabet(self) -> npt.NDArray:
        """Return the different symbols in ascending order."""
        if self.flat.dtype.str[1:] != "U1":
            return np.unique(self.flat)
        # numpy sorts integers faster than strings.
        return np.unique(self.flat.view(np.uint32)).view(self.flat.dtype)

    def place(self, position: int) -> tuple[int, int]:
        """Return the number of the sequence, and the position in it, of an entry of `flat`."""
        row = int(np.searchsorted(self.starts, position, side="right")) - 1
        return row, position - int(self.starts[row])


class _SequenceReader:
    """Reads sequences of codes, padded to the longest of those that are read."""

    def __init__(
        self,
        codes: npt.NDArray[np.integer],
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
    ) -> None:
        self.codes = codes
        self.starts = starts
        self.lengths = lengths

    def __call__(self, indices: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        lengths = self.lengths[indices]
        steps = np.arange(lengths.max(initial=0))
        is_inside = steps < lengths[:, None]
        positions = np.where(is_inside, self.starts[indices][:, None] + steps, 0)
        return np.where(is_inside, self.codes[positions], PADDING)


class CheckedSequences(CheckedData):
    """Sequences of codes 0, 1, ..., which `take` pads with -1 to the longest that it returns.

    `item_shape` is the shape of the longest sequence as one-hot vectors.

    Attributes
    ----------
    lengths : ndarray of shape (n_items,), int64
    """

    lengths: npt.NDArray[np.int64]

    @classmethod
    def of_codes(
        cls, codes: npt.NDArray[np.integer], lengths: npt.NDArray[np.int64], n_codes: int
    ) -> CheckedSequences:
        """Wrap the codes of all sequences, one after another; `n_codes` are possible."""
        read: Read = _SequenceReader(codes, np.cumsum(lengths) - lengths, lengths)
        shape = n_codes, int(lengths.max())
        data = cls(read, len(lengths), shape, codes.dtype, in_memory=True)
        data.lengths = lengths
        return data

    def take(self, indices: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        return self._read(indices)

    def subset(self, indices: npt.NDArray[np.integer]) -> CheckedSequences:
        part = super().subset(indices)
        assert isinstance(part, CheckedSequences)
        part.lengths = self.lengths[np.asarray(indices)]
        return part


def holds_text(X: Any) -> bool:
    """Whether X is a list or an array of strings, or an array (n, L) of single letters."""
    if isinstance(X, UnreadData):
        assert X.given is not None
        X = X.given.X
    dtype = getattr(X, "dtype", None)
    if isinstance(X, np.ndarray) and X.dtype.kind in "US":
        return X.ndim == 1 or (X.ndim == 2 and X.dtype.itemsize in (1, np.dtype("U1").itemsize))
    is_column = dtype is not None and len(getattr(X, "shape", ())) == 1
    if not isinstance(X, (list, tuple)) and not is_column:
        return False
    return isinstance(next(iter(X), None), (str, bytes))


def whole_of(data: CheckedData) -> CheckedData:
    """Return the data that `data` are a subset of, or `data`."""
    while data.parent is not None:
        data = data.parent[0]
    return data


def read_symbols(data: CheckedData) -> Symbols:
    """Read checked data as sequences of symbols.

    Parameters
    ----------
    data : CheckedData
        Rows of integers, or data that could not be read as rows.

    Raises
    ------
    ValueError
        If an item is empty, or is no sequence of symbols. The message names the row.
    """
    if data.frame is not None:
        raise ValueError(
            "X is a data frame, whose columns have no order that can be relied on; give a column "
            "of strings, X['name'], or X.to_numpy() for a symbol in each column"
        )
    if not isinstance(data, UnreadData):
        if data.has_fields or len(data.item_shape) != 1:
            raise ValueError(f"X has {data.description}; {_EXPECTED}")
        chunks: list[npt.NDArray[np.int64]] = []
        for items in data.chunks():
            chunks.append(_integers(items, data, sum(map(len, chunks))))
        return _of_rows(np.concatenate(chunks))
    assert data.given is not None
    items = data.given.take()
    if isinstance(items, np.ndarray) and items.ndim == 2 and items.dtype.kind in "US":
        return _of_rows(items.astype(str))
    if not hasattr(items, "__iter__") or hasattr(items, "toarray"):
        raise ValueError(f"X is a {type(items).__name__}; {_EXPECTED}")
    items = list(items)
    for row, item in enumerate(items):
        is_sequence = hasattr(item, "__len__") and not isinstance(item, dict)
        if not is_sequence:
            _refuse(data, row, f"is {item!r:.80}, which is no sequence")
        if not len(item):
            _refuse(data, row, "is empty; leave it out")
    are_texts = [isinstance(item, (str, bytes)) for item in items]
    if all(are_texts):
        return _of_texts([t.decode() if isinstance(t, bytes) else str(t) for t in items])
    if any(are_texts):
        row = are_texts.index(not are_texts[0])
        _refuse(data, row, f"is a {type(items[row]).__name__}, row 0 a {type(items[0]).__name__}")
    return _of_sequences([np.asarray(item) for item in items], data)


def _of_rows(rows: npt.NDArray) -> Symbols:
    lengths = np.full(len(rows), rows.shape[1], np.int64)
    return Symbols(rows.reshape(-1), lengths, is_text=False)


def _of_texts(texts: Sequence[str]) -> Symbols:
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    code_points = "".join(texts).encode("utf-32-le", "surrogatepass")
    return Symbols(np.frombuffer(code_points, "<U1"), lengths, is_text=True)


def _of_sequences(items: list[npt.NDArray], data: CheckedData) -> Symbols:
    """Join sequences of integers, or of strings."""
    kinds = []
    for row, item in enumerate(items):
        if item.ndim != 1:
            _refuse(data, row, f"has shape {item.shape}")
        if item.dtype.kind == "O" and all(isinstance(symbol, str) for symbol in item):
            items[row] = item = item.astype(str)
        if item.dtype.kind not in "US":
            items[row] = item = _integers(item[None], data, row)[0]
        kinds.append(item.dtype.kind in "US")
        if kinds[row] != kinds[0]:
            _refuse(data, row, f"has {item.dtype} symbols, but row 0 has {items[0].dtype} symbols")
    if kinds[0]:
        items = [item.astype(str) for item in items]
    lengths = np.array([len(item) for item in items], np.int64)
    return Symbols(np.concatenate(items), lengths, is_text=False)


def _integers(rows: npt.NDArray, data: CheckedData, first_row: int) -> npt.NDArray[np.int64]:
    """Return rows of whole numbers as int64."""
    if rows.dtype.kind not in NUMBERS:
        _refuse(data, first_row, f"has symbols of dtype {rows.dtype}")
    integers = rows
    if rows.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            integers = rows.astype(np.int64)
    elif rows.dtype == np.uint64 and rows.max(initial=0) > np.iinfo(np.int64).max:
        raise ValueError("X has integers above 2^63 - 1, which are no symbols")
    if integers is not rows and not np.array_equal(integers, rows):
        row, position = np.argwhere(integers != rows)[0]
        _refuse(
            data,
            first_row + int(row),
            f"has {rows[row, position]!s} at position {position}, which is not a whole number; "
            "discretise X, for instance with scikit-learn's KBinsDiscretizer(encode='ordinal')",
        )
    return integers.astype(np.int64, copy=False)


def _refuse(data: CheckedData, row: int, reason: str) -> NoReturn:
    raise ValueError(f"row {row_in_whole(data, row)} of X {reason}; {_EXPECTED}")


def row_in_whole(data: CheckedData, row: int) -> int:
    """Return the index, in the data that the user gave, of a row of a subset."""
    while data.parent is not None:
        data, rows = data.parent
        row = int(rows[row])
    return row
