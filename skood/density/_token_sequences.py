"""Token ids of texts, of lists of ids, and of the dicts that tokenizers return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from skood._data.given import is_frame
from skood._data.memory_layout import from_torch

__all__ = ["check_same_tokens", "token_ids", "token_names", "windows"]

Ids = npt.NDArray[np.int64]

# Characters of a text that an error message shows.
_SHOWN = 40


def token_ids(X: Any, tokenizer: Callable[[list[str]], Any] | None, first: int = 0) -> list[Ids]:
    """Return the token ids of each item, without padding.

    Parameters
    ----------
    X : list of str, list of sequences of int, array of int or dict of arrays
        Texts; or ids, one list or row per item, without padding; or ``input_ids`` and
        ``attention_mask``, whose zeros mark padding at the beginning or the end.
    tokenizer : callable or None
        Takes a list of texts. Returns a list of lists of ids, or a mapping with ``input_ids`` and
        possibly ``attention_mask``.
    first : int, default=0
        Position of the first item in the user's X, for error messages.

    Returns
    -------
    list of ndarray of shape (n_tokens,), int64

    Raises
    ------
    ValueError
        If an item is empty, is neither a text nor token ids, or has padding between its tokens.
    """
    if isinstance(X, Mapping):
        return _of_fields(X, first)
    if is_frame(X):
        if len(X.columns) != 1:
            raise ValueError(
                f"X is a data frame with the columns {list(X.columns)}; expected texts: give the "
                "column of the texts"
            )
        X = X[X.columns[0]]
    items = list(from_torch(X) if isinstance(X, Tensor) else X)
    are_texts = [isinstance(item, str) for item in items]
    if not any(are_texts):
        return [_row(item, first + i) for i, item in enumerate(items)]
    if not all(are_texts):
        i = are_texts.index(False)
        raise ValueError(f"item {first + i} of X is {items[i]!r:.{_SHOWN}}; expected a text")
    return _of_texts([str(text) for text in items], tokenizer, first)


def _of_texts(texts: list[str], tokenizer: Any, first: int) -> list[Ids]:
    if tokenizer is None:
        raise ValueError(
            f"X holds texts ({texts[0]!r:.{_SHOWN}}), but tokenizer=None; give the tokenizer that "
            "the network was trained with, or token ids as X"
        )
    if "" in texts:
        raise ValueError(f"text {first + texts.index('')} of X is empty; leave it out")
    encoded = tokenizer(texts)
    if isinstance(encoded, Mapping):
        ids, masks = encoded["input_ids"], encoded.get("attention_mask")
    else:
        ids, masks = encoded, None
    if len(ids) != len(texts):
        raise ValueError(
            f"tokenizer returned {len(ids)} lists of ids for {len(texts)} texts; expected a "
            "function of a list of texts, such as a tokenizer of transformers"
        )
    rows = [_row(row, first + i) for i, row in enumerate(ids)]
    return rows if masks is None else _unpadded(rows, masks, first)


def _of_fields(X: Mapping, first: int) -> list[Ids]:
    if "input_ids" not in X:
        raise ValueError(
            f"X is a dict with the fields {list(X)}; expected 'input_ids', and 'attention_mask' "
            "where items are padded"
        )
    others = sorted(
        name
        for name in set(X) - {"input_ids", "attention_mask"}
        if name != "token_type_ids" or np.any(X[name])
    )
    if others:
        raise ValueError(
            f"X has the fields {others}, which the probability of a text does not depend on; "
            "expected 'input_ids' and 'attention_mask' alone"
        )
    rows = [_row(row, first + i) for i, row in enumerate(X["input_ids"])]
    return _unpadded(rows, X["attention_mask"], first) if "attention_mask" in X else rows


def _row(item: Any, position: int) -> Ids:
    try:
        row = np.asarray(item)
    except (TypeError, ValueError):
        row = np.asarray(None)
    if row.ndim == 1 and not row.size:
        raise ValueError(f"item {position} of X has no tokens; leave it out")
    if row.ndim != 1 or row.dtype.kind not in "iu":
        raise ValueError(
            f"item {position} of X is {item!r:.{_SHOWN}}; expected a text, or a sequence of token "
            "ids (whole numbers)"
        )
    return row.astype(np.int64)


def _unpadded(rows: list[Ids], masks: Any, first: int) -> list[Ids]:
    """Leave out the tokens whose mask is 0."""
    kept = []
    for i, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        real = np.flatnonzero(np.asarray(mask))
        if not len(real):
            raise ValueError(f"item {first + i} of X has no tokens; leave it out")
        if real[-1] - real[0] + 1 != len(real):
            raise ValueError(
                f"attention_mask of item {first + i} of X has zeros between its tokens; expected "
                "padding at the beginning or the end alone"
            )
        kept.append(row[real])
    return kept


def token_names(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """Return the tokens as strings: the names that the tokenizer gives, or the ids."""
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return list(tokenizer.convert_ids_to_tokens(list(map(int, ids))))
    return [str(number) for number in ids]


def check_same_tokens(first: Any, second: Any, X: Any) -> None:
    """Raise if two tokenizers differ in their vocabularies, or in the ids of some items.

    Parameters
    ----------
    first, second : callable or None
    X : list of str, list of sequences of int, array of int or dict of arrays
    """
    remedy = "a likelihood ratio needs two models with the same tokenizer"
    if hasattr(first, "get_vocab") and hasattr(second, "get_vocab"):
        ids, others = first.get_vocab(), second.get_vocab()
        different = (token for token in {**ids, **others} if ids.get(token) != others.get(token))
        token = next(different, None)
        if token is not None:
            raise ValueError(
                f"the tokenizers of the two language models differ: the token {token!r} has the "
                f"ids {ids.get(token)} and {others.get(token)}; {remedy}"
            )
    pairs = zip(token_ids(X, first), token_ids(X, second), strict=True)
    for i, (found, expected) in enumerate(pairs):
        if not np.array_equal(found, expected):
            raise ValueError(
                f"the tokenizers of the two language models make the ids {found.tolist()!r:.60} "
                f"and {expected.tolist()!r:.60} of item {i} of X; {remedy}"
            )


def windows(
    n_tokens: int, longest: int | None, stride: int | None
) -> Iterator[tuple[int, int, int]]:
    """Divide a sequence into overlapping windows.

    Parameters
    ----------
    n_tokens : int
    longest : int or None
        Number of tokens in a window, at most.
    stride : int or None
        Distance of the beginnings of windows. None: one window of all tokens.

    Yields
    ------
    begin, end : int
        Of a window.
    scored : int
        First token that is scored in this window; each but the first token is scored once.
    """
    if longest is None or stride is None or n_tokens <= longest:
        yield 0, n_tokens, 1
        return
    scored = 1
    for begin in range(0, n_tokens, stride):
        end = min(begin + longest, n_tokens)
        yield begin, end, scored
        if end == n_tokens:
            return
        scored = end
