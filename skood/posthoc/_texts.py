"""Words and their vectors: class names, candidates of negative labels, prompts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import scipy.sparse
from sklearn.exceptions import NotFittedError

from skood._data.chunks import row_slices
from skood._models import cached_call
from skood._torch.run import kept_unless_interrupted, n_interrupted

__all__ = [
    "check_not_repeated",
    "check_template",
    "prompts",
    "read_texts",
    "unit_vectors",
    "vectors_of",
]

# Words whose prompts are encoded at once.
_CHUNK = 1024


def read_texts(value: Any, name: str) -> list[str] | npt.NDArray[np.float64]:
    """Return a parameter that holds words or vectors.

    Parameters
    ----------
    value : list of str, str, PathLike or array-like of shape (n, d)
        A path leads to a text file with a word on each line; empty lines are skipped.
    name : str
        Name of the parameter, for error messages.

    Returns
    -------
    list of str, or ndarray of shape (n, d), float64

    Raises
    ------
    ValueError
        For anything else, an empty word, or a file that does not exist.
    """
    expected = (
        "expected a list of words, the path of a text file with a word on each line, or an array "
        "of vectors, shape (n, d)"
    )
    if isinstance(value, (str, os.PathLike)):
        return _lines(Path(value), name, expected)
    if isinstance(value, (Mapping, Set, Iterator)):
        kind = "can be read only once" if isinstance(value, Iterator) else "has no order of its own"
        raise ValueError(f"{name} is a {type(value).__name__}, which {kind}; {expected}")
    if hasattr(value, "detach"):
        # A tensor, possibly on a GPU, in bfloat16, which numpy lacks, or with gradients.
        value = value.detach().cpu().double()
    try:
        # Numbers among words would become words.
        array = np.asarray(value, dtype=object if isinstance(value, (list, tuple)) else None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is a {type(value).__name__}: {error}; {expected}") from error
    if array.ndim == 1 and array.size and all(isinstance(word, str) for word in array.tolist()):
        words = [word.strip() for word in array.tolist()]
        if "" in words:
            raise ValueError(f"{name} has an empty text at position {words.index('')}; remove it")
        return words
    if isinstance(value, (list, tuple)) and array.ndim == 2:
        array = np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "biuf" or 0 in array.shape:
        raise ValueError(
            f"{name} is a {type(value).__name__} of shape {array.shape} and dtype {array.dtype}; "
            f"{expected}"
        )
    return array.astype(np.float64)


def _lines(path: Path, name: str, expected: str) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{name}={str(path)!r} is no file of words ({error}); {expected}"
        ) from error
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        raise ValueError(f"{name}={str(path)!r} has no words; {expected}")
    return words


def check_not_repeated(words: Sequence[Any], name: str) -> None:
    """Raise a ValueError if two entries are equal."""
    repeated = [word for word, count in Counter(words).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{name} has {repeated[0]!r} more than once; give every class its own name, as "
            "'crane (bird)' and 'crane (machine)'"
        )


def check_template(template: Any, name: str) -> tuple[str, ...]:
    """Return templates of prompts as a tuple.

    Raises
    ------
    ValueError
        If there is none, or one has no place for a word.
    """
    templates = (template,) if isinstance(template, str) else tuple(template)
    if not templates or not all(isinstance(one, str) and "{}" in one for one in templates):
        raise ValueError(
            f"{name} is {template!r}; expected a text with {{}} in the place of the word, such as "
            "'a photo of a {}', or a list of such texts"
        )
    return templates


def prompts(word: str, templates: Sequence[str]) -> list[str]:
    """Fill a word into templates."""
    return [template.replace("{}", word) for template in templates]


def vectors_of(
    words: list[str],
    templates: tuple[str, ...],
    tower: Any,
    name: str,
    memory: str | joblib.Memory | None,
) -> npt.NDArray[np.float64]:
    """Return the mean vector of each word's prompts.

    Parameters
    ----------
    words : list of str
    templates : tuple of str
    tower : transformer
        Trained; it takes lists of texts.
    name : str
        Name of the parameter that holds the words, for error messages.
    memory : str, joblib.Memory or None
        Where vectors are cached by the content of tower and prompts.

    Returns
    -------
    ndarray of shape (n_words, d), float64

    Raises
    ------
    ValueError
        If there is no tower, or it is not trained.
    """
    if tower is None:
        raise ValueError(
            f"{name} holds words, such as {words[0]!r}, and text_features is None; give "
            "text_features=tower, a transformer of lists of texts, or the vectors of the texts as "
            f"{name}"
        )
    try:
        return cached_call(memory, _encoded, tower, words, templates)
    except NotFittedError as error:
        raise ValueError(
            f"text_features={type(tower).__name__}(...) is not trained, and the detector does not "
            "train it: only towers that were trained together give comparable vectors. Give the "
            "trained tower in sklearn.frozen.FrozenEstimator, which clone leaves as it is"
        ) from error


def _encoded(tower: Any, words: list[str], templates: tuple[str, ...]) -> npt.NDArray[np.float64]:
    before = n_interrupted()
    parts = []
    for rows in row_slices(len(words), _CHUNK):
        texts = [prompt for word in words[rows] for prompt in prompts(word, templates)]
        made = tower.transform(texts)
        if hasattr(made, "detach"):
            made = made.detach().cpu().double()
        made = np.asarray(made.toarray() if scipy.sparse.issparse(made) else made)
        if made.ndim != 2 or len(made) != len(texts) or made.dtype.kind not in "biuf":
            raise ValueError(
                f"text_features={type(tower).__name__}(...) returned shape {made.shape} and dtype "
                f"{made.dtype} for {len(texts)} texts; expected a vector for each text, shape "
                f"({len(texts)}, d)"
            )
        parts.append(made.astype(np.float64).reshape(-1, len(templates), made.shape[1]).mean(1))
    return kept_unless_interrupted(np.concatenate(parts), before)


def unit_vectors(
    vectors: npt.NDArray, name: str, *, numbered: bool = True
) -> npt.NDArray[np.float64]:
    """Scale vectors to length 1.

    Parameters
    ----------
    vectors : ndarray of shape (n, d)
    name : str
        What the vectors belong to, for error messages.
    numbered : bool, default=True
        Whether an error message has the number of the vector.

    Raises
    ------
    ValueError
        If a vector is 0 up to rounding, or has NaN or infinite values.
    """
    vectors = vectors.astype(np.float64)
    # Scaled first, so that no square overflows.
    largest = np.abs(vectors).max(1, keepdims=True, initial=0)
    is_zero = largest[:, 0] < 10 * np.finfo(np.float64).eps
    wrong = np.flatnonzero(is_zero | ~np.isfinite(largest[:, 0]))
    if len(wrong):
        which = f"vector {wrong[0]} of {name}" if numbered else f"a vector of {name}"
        if not is_zero[wrong[0]]:
            raise ValueError(f"{which} has NaN or infinite values")
        raise ValueError(
            f"{which} is 0, so it has no direction; look for empty texts or images, and for words "
            "that the tower does not know"
        )
    vectors /= largest
    return vectors / np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
