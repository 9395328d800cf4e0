"""Sequences of symbols in the detectors on a density: the default density, and outliers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from skood._data.checked_data import CheckedData
from skood._data.symbols import read_symbols, whole_of
from skood._data.validation import share_as_it_came
from skood.density import SequenceDensity

__all__ = ["default_sequence_density", "sequence_outliers"]

# The default is for bases and amino acids: for strings of at most this number of symbols, none of
# which occurs in paths and texts.
_MOST_SYMBOLS = 32
_NO_SYMBOLS = set("/\\.,:;!?'\"\0")


def default_sequence_density(data: CheckedData, name: str) -> SequenceDensity:
    """Return the density of strings, with all symbols of X as its alphabet.

    Parameters
    ----------
    data : CheckedData
        Strings, or a part of the strings in X: the other strings are scored later.
    name : str
        Name of the detector, for the error.

    Raises
    ------
    ValueError
        If the strings look like paths or texts.
    """
    symbols = [str(symbol) for symbol in read_symbols(whole_of(data)).alphabet()]
    excluded = [s for s in symbols if s in _NO_SYMBOLS or s.isspace()]
    if excluded or len(symbols) > _MOST_SYMBOLS:
        found = f"such as {excluded[0]!r}" if excluded else f"{len(symbols)} of them"
        raise ValueError(
            f"X holds strings with characters ({found}) that are not an alphabet of at most "
            f"{_MOST_SYMBOLS} letters or digits, which {name}() models without a density. For "
            "sequences of these characters, give density=SequenceDensity(); for texts, "
            "density=CausalLanguageModel(network, tokenizer); for files, a torch Dataset that "
            "opens them"
        )
    return SequenceDensity(symbols="".join(symbols))


def sequence_outliers(data: CheckedData, rng: np.random.Generator) -> CheckedData:
    """Make one outlier from each sequence.

    Every second sequence gets its symbols in random order, which makes it harder to predict; the
    others get their first symbol in all places of one half, which makes them easier to predict.
    """
    symbols = read_symbols(data)
    sequences: list[npt.NDArray] = np.split(symbols.flat.copy(), symbols.starts[1:])
    for number, sequence in enumerate(sequences):
        if number % 2 == 0:
            rng.shuffle(sequence)
        else:
            middle = len(sequence) // 2
            half = slice(middle, None) if rng.integers(2) else slice(0, -(-len(sequence) // 2))
            sequence[half] = sequence[0]
    if symbols.is_text:
        return share_as_it_came(["".join(sequence) for sequence in sequences])
    return share_as_it_came(sequences)
