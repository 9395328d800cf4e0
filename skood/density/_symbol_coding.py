"""Conversion of sequences of symbols to codes, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._data.symbols import PADDING, CheckedSequences, Symbols, read_symbols, row_in_whole
from skood._torch.preprocessing import Preprocessing

__all__ = ["SymbolCoding"]

# Symbols that an error message lists.
_SHOWN = 20


class SymbolCoding(Preprocessing):
    """Encodes symbols as 0, 1, ..., in the order of the alphabet.

    Parameters
    ----------
    owner : object
        Estimator whose class error messages name.
    data : CheckedData
        Training data.
    symbols : str, array-like or None
        The alphabet; None: the symbols of `data` in ascending order.
    has_unknown : bool
        Whether all symbols outside the alphabet share one more code.

    Attributes
    ----------
    symbols : ndarray of shape (n_symbols,)
        Strings or int64.
    lengths, length_counts : ndarray of shape (n_lengths,), int64
        Lengths of the training sequences, and the number of sequences of each length.
    item_shape : (int, int)
        Number of codes, and the largest training length: the size of an item as one-hot vectors.
    """

    def __init__(self, owner: object, data: CheckedData, symbols: Any, has_unknown: bool) -> None:
        self.owner_name = type(owner).__name__
        self.has_unknown = has_unknown
        read = read_symbols(data)
        self.symbols = read.alphabet() if symbols is None else _alphabet(symbols)
        self.is_text = read.is_text
        self.lengths, self.length_counts = np.unique(read.lengths, return_counts=True)
        self.input_shape = ()
        self.item_shape = self.n_codes, int(self.lengths[-1])

    @property
    def n_codes(self) -> int:
        """Number of codes, the code of unknown symbols included."""
        return len(self.symbols) + self.has_unknown

    def open(self, data: CheckedData) -> CheckedSequences:
        """Return the data as sequences of codes.

        Raises
        ------
        ValueError
            If a symbol is not in the alphabet, unless unknown symbols have a code.
        """
        if isinstance(data, CheckedSequences):
            return data
        read = read_symbols(data)
        return CheckedSequences.of_codes(self._codes(read, data), read.lengths, self.n_codes)

    def check_in_memory(self, data: CheckedData) -> None:
        """Leave the check of the symbols to `open`, which encodes them."""

    def _codes(self, read: Symbols, data: CheckedData) -> npt.NDArray[np.integer]:
        alphabet = self.symbols
        if (read.flat.dtype.kind == "U") != (alphabet.dtype.kind == "U"):
            kinds = {True: "strings", False: "integers"}
            raise ValueError(
                f"the symbols of X are {kinds[read.flat.dtype.kind == 'U']}, but the alphabet of "
                f"{self.owner_name} holds {kinds[alphabet.dtype.kind == 'U']}: {self._shown()}"
            )
        different, inverse = _unique(read.flat)
        order = np.argsort(alphabet, kind="stable")
        places = np.searchsorted(alphabet, different, sorter=order)
        codes = order[np.minimum(places, len(order) - 1)]
        is_unknown = alphabet[codes] != different
        if is_unknown.any() and not self.has_unknown:
            position = int(np.flatnonzero(is_unknown[inverse])[0])
            row, place = read.place(position)
            raise ValueError(
                f"row {row_in_whole(data, row)} of X has the symbol "
                f"{read.flat[position].item()!r} at position {place}, which is not in the alphabet "
                f"of {self.owner_name}, {self._shown()}. Leave the row out, give all symbols as "
                "symbols=, or give handle_unknown='class'"
            )
        codes[is_unknown] = len(alphabet)
        dtype = np.int16 if self.n_codes < np.iinfo(np.int16).max else np.int64
        return codes.astype(dtype)[inverse]

    def _shown(self) -> str:
        shown = ", ".join(map(repr, self.symbols[:_SHOWN].tolist()))
        return shown if len(self.symbols) <= _SHOWN else f"{shown}, ... ({len(self.symbols)})"

    def tensor(
        self, items: npt.NDArray | Tensor, device: torch.device, *, margin: float = 0.0
    ) -> Tensor:
        """Return codes of shape (b, L), int64, padded with -1; codes have no `margin`."""
        return torch.as_tensor(items, device=device).long()

    def inverse(self, x: Tensor) -> Tensor:
        """Return codes unchanged; `decode` makes sequences of them."""
        return x

    def decode(self, codes: npt.NDArray[np.integer]) -> Any:
        """Return codes of shape (n, L), padded with -1, as sequences in the form of the data.

        Returns
        -------
        list of str, list of ndarray, or ndarray of shape (n, L)
            Strings if the data were strings. An array if all training sequences had one length.
        """
        symbols = self.symbols[codes]
        if not self.is_text and len(self.lengths) == 1:
            return symbols
        lengths = (codes != PADDING).sum(1)
        sequences = [row[:length] for row, length in zip(symbols, lengths, strict=True)]
        return ["".join(sequence) for sequence in sequences] if self.is_text else sequences


def _alphabet(symbols: Any) -> npt.NDArray:
    """Check the alphabet that a user gave."""
    given = np.asarray(list(symbols))
    if given.ndim != 1 or not len(given) or given.dtype.kind not in "iuU":
        raise ValueError(
            f"symbols={symbols!r:.200}; expected a string of letters, or a list of strings or of "
            "integers"
        )
    if len(np.unique(given)) < len(given):
        raise ValueError(f"symbols={symbols!r:.200} holds a symbol twice")
    return given if given.dtype.kind == "U" else given.astype(np.int64)


def _unique(flat: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray[np.integer]]:
    """Return the different symbols, and the index of each symbol among them."""
    if flat.dtype.str[1:] != "U1":
        different, inverse = np.unique(flat, return_inverse=True)
        return different, inverse.reshape(-1)
    points = flat.view(np.uint32)
    different = np.unique(points)
    index_of = np.zeros(int(different[-1]) + 1, np.intp)
    index_of[different] = np.arange(len(different))
    return different.view(flat.dtype), index_of[points]
