"""X as sequences of symbols."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from skood._data.symbols import (
    CheckedSequences,
    holds_text,
    read_symbols,
    row_in_whole,
    whole_of,
)
from skood._data.validation import share_as_it_came

LETTERS = np.array([["A", "C"], ["G", "T"]])


def read(X):
    return read_symbols(share_as_it_came(X))


def test_strings_are_sequences_of_characters():
    for X in (["AC", "GTA"], np.array(["AC", "GTA"]), pd.Series(["AC", "GTA"]), [b"AC", b"GTA"]):
        symbols = read(X)
        assert symbols.flat.tolist() == list("ACGTA")
        assert symbols.lengths.tolist() == [2, 3]
        assert symbols.is_text
        assert symbols.alphabet().tolist() == list("ACGT")
        assert symbols.place(4) == (1, 2)
        assert symbols.place(1) == (0, 1)


def test_characters_beyond_ascii():
    assert read(["äß", "語a"]).flat.tolist() == ["ä", "ß", "語", "a"]


@pytest.mark.parametrize(
    "X",
    [
        [[1, 2], [3, 1]],
        np.array([[1, 2], [3, 1]], np.uint8),
        np.array([[1.0, 2.0], [3.0, 1.0]]),
        torch.tensor([[1, 2], [3, 1]]),
    ],
)
def test_rows_of_integers(X):
    symbols = read(X)
    assert symbols.flat.dtype == np.int64
    assert symbols.flat.tolist() == [1, 2, 3, 1]
    assert symbols.lengths.tolist() == [2, 2]
    assert not symbols.is_text


def test_sequences_of_unequal_lengths():
    for X in ([[1, 2], [3]], [np.array([1, 2]), np.array([3])], [torch.tensor([1, 2]), [3]]):
        symbols = read(X)
        assert symbols.flat.tolist() == [1, 2, 3]
        assert symbols.lengths.tolist() == [2, 1]
    symbols = read([["Ala", "Gly"], ["Ala"]])
    assert symbols.flat.tolist() == ["Ala", "Gly", "Ala"]
    assert symbols.alphabet().tolist() == ["Ala", "Gly"]


def test_an_array_of_letters():
    symbols = read(LETTERS)
    assert symbols.flat.tolist() == list("ACGT")
    assert symbols.lengths.tolist() == [2, 2]
    assert not symbols.is_text


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (["AC", ""], "row 1 of X is empty"),
        ([[1], []], "row 1 of X is empty"),
        (["AC", None], "row 1 of X is None, which is no sequence"),
        (["AC", float("nan")], "row 1 of X is nan"),
        (["AC", [1, 2]], "row 1 of X is a list, row 0 a str"),
        ([[1, 2], ["A"]], "row 1 of X has <U1 symbols, but row 0 has int64"),
        ([[1, 2], [1.5]], "row 1 of X has 1.5 at position 0, which is not a whole number"),
        (np.array([[1, 2], [3, 4.5]]), "row 1 of X has 4.5 at position 1"),
        (np.array([[1, 2], [3, np.nan]]), "row 1 of X has nan at position 1"),
        (np.array([1, 2]), "row 0 of X is np.int64"),
        (np.zeros((3, 4, 4)), "X has shape"),
        (pd.DataFrame({"a": ["A", "C"], "b": ["C", "C"]}), "X is a data frame"),
        (pd.DataFrame({"a": [1, 2], "b": [3, 4]}), "X is a data frame"),
        (scipy.sparse.csr_matrix(np.eye(3)), "X is a csr_matrix"),
        ({"ids": np.zeros((3, 4), int)}, "X has fields 'ids'"),
        ([np.zeros((2, 2), int), [1]], r"row 0 of X has shape \(2, 2\)"),
        (np.array([[2**63, 1], [0, 1]], np.uint64), "above 2"),
    ],
)
def test_what_is_no_sequence(X, message):
    with pytest.raises(ValueError, match=message):
        read(X)


def test_errors_count_rows_in_the_whole_of_the_data():
    data = share_as_it_came(["A", "C", "", "G"])
    part = data.subset(np.array([3, 2])).subset(np.array([1]))
    assert row_in_whole(part, 0) == 2
    assert whole_of(part) is data
    with pytest.raises(ValueError, match="row 2 of X is empty"):
        read_symbols(part)


def test_chunks_count_rows():
    X = np.ones((5000, 2))
    X[4500, 1] = 0.5
    with pytest.raises(ValueError, match=r"row 4500 of X has 0\.5 at position 1"):
        read(X)


def test_codes_are_padded_to_the_longest_of_a_batch():
    codes = CheckedSequences.of_codes(np.arange(6), np.array([1, 3, 2]), 6)
    assert codes.item_shape == (6, 3)
    assert codes.take(np.array([0, 2])).tolist() == [[0, -1], [4, 5]]
    part = codes.subset(np.array([1, 0]))
    assert part.lengths.tolist() == [3, 1]
    assert part.take(np.array([0, 1])).tolist() == [[1, 2, 3], [0, -1, -1]]
    assert part.content() != codes.content()


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (["AC"], True),
        (("AC", "G"), True),
        (np.array(["AC", "G"]), True),
        (np.array(["AC", "G"], object), True),
        (pd.Series(["AC"]), True),
        (LETTERS, True),
        (share_as_it_came(["AC"]), True),
        (np.array([["red", "old"]]), False),
        ([["A", "C"]], False),
        ([1, 2], False),
        (np.zeros((2, 2)), False),
        (pd.DataFrame({"a": ["A"]}), False),
        (share_as_it_came(np.zeros((2, 2))), False),
        ([], False),
    ],
)
def test_holds_text(X, expected):
    assert holds_text(X) is expected
