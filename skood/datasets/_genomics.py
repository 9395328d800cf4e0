"""Reader of the bacteria of Ren et al. (2019)."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skood.datasets._tfrecords import parse_example, read_tfrecords

__all__ = ["load_genomics"]

_FILES = {
    "train": "before_2011_in_tr",
    "validation": "between_2011-2016_in_val",
    "test": "after_2016_in_test",
    "validation_ood": "between_2011-2016_ood_val",
    "test_ood": "after_2016_ood_test",
}
_SOURCE = (
    "https://github.com/google-research/google-research/tree/master/genomics_ood (TFRecord "
    "files) or genomics_ood of TensorFlow Datasets (text files)"
)
_CODES = {letter: code for code, letter in enumerate("ACGT")}


def load_genomics(
    root: str | os.PathLike[str], split: str = "test"
) -> tuple[npt.NDArray[np.uint8], npt.NDArray]:
    r"""Load the genomes of bacteria on which likelihood ratios were published.

    Sequences of 250 bases from 10 in-distribution classes, which were discovered before 2011, and
    from 60 + 60 OOD classes, which were discovered later [1]_. Nothing is downloaded: the folder
    holds the unpacked files. If it does not, the error states the expected files and where they are
    published.

    Parameters
    ----------
    root : path-like
        Folder with a text file, or a folder of TFRecord files, for each split.
    split : {"train", "validation", "test", "validation_ood", "test_ood"}, default="test"
        The files ``before_2011_in_tr``, ``between_2011-2016_in_val``, ``after_2016_in_test``,
        ``between_2011-2016_ood_val`` and ``after_2016_ood_test``.

    Returns
    -------
    X : ndarray of shape (n, 250), uint8
        Bases as 0, 1, 2 and 3: A, C, G and T in text files. TFRecord files have these numbers, and
        neither the files nor the released code state which base a number stands for.
    y : ndarray of shape (n,), str or int64
        Classes as published: names in text files, numbers in TFRecord files.

    Raises
    ------
    FileNotFoundError
        If the files of the split are not in `root`.
    ValueError
        If a parameter is unknown, or a file is damaged.

    See Also
    --------
    make_genomes : Synthetic genomes.

    References
    ----------
    .. [1] J. Ren, P. J. Liu, E. Fertig, J. Snoek, R. Poplin, M. A. DePristo, J. V. Dillon,
       B. Lakshminarayanan, "Likelihood Ratios for Out-of-Distribution Detection",
       NeurIPS 2019.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skood.datasets import load_genomics
    >>> root = Path(tempfile.mkdtemp())
    >>> lines = ["seq\tlabel\tseq_info\tdomain", "GATTACA\tBacillus\t-\tin"]
    >>> _ = (root / "after_2016_in_test.txt").write_text("\n".join(lines))
    >>> load_genomics(root)
    (array([[2, 0, 3, 3, 0, 1, 0]], dtype=uint8), array(['Bacillus'], dtype='<U8'))
    """
    if split not in _FILES:
        raise ValueError(f"split={split!r}; expected one of {', '.join(map(repr, _FILES))}")
    folder = Path(root) / _FILES[split]
    text = folder.with_name(f"{folder.name}.txt")
    records = sorted(folder.glob("*.tfrecord*")) if folder.is_dir() else []
    if text.is_file():
        return _read_text(text)
    if records:
        return _read_records(records)
    raise FileNotFoundError(
        f"the split {split!r} is not in {root}; expected {text.name} or "
        f"{folder.name}/*.tfrecord, from {_SOURCE}"
    )


def _read_text(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray]:
    sequences, labels = [], []
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t"), 2):
            try:
                sequences.append(bytes(_CODES[letter] for letter in row["seq"]))
                labels.append(row["label"])
            except (KeyError, TypeError) as error:
                raise ValueError(
                    f"line {number} of {path} is damaged ({error}); expected the columns seq, of "
                    "the letters A, C, G and T, and label"
                ) from error
    return _stacked(sequences, path), np.array(labels)


def _read_records(paths: list[Path]) -> tuple[npt.NDArray[np.uint8], npt.NDArray]:
    sequences, labels = [], []
    for path in paths:
        for number, content in enumerate(read_tfrecords(path)):
            try:
                features = parse_example(content)
                (x,), (label,) = features["x"], features["y"]
                sequences.append(bytes(map(int, x.split())))
                labels.append(int(label))
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"record {number} of {path} is damaged ({error!r}); expected the features x, "
                    "numbers with spaces between them, and y"
                ) from error
    return _stacked(sequences, paths[0].parent), np.array(labels, np.int64)


def _stacked(sequences: list[bytes], path: Path) -> npt.NDArray[np.uint8]:
    lengths = sorted(set(map(len, sequences)))
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(
            f"{path} has {len(sequences)} sequences of {lengths} bases; expected sequences of one "
            "length"
        )
    codes = np.frombuffer(b"".join(sequences), np.uint8).reshape(len(sequences), -1).copy()
    if codes.max() > 3:
        raise ValueError(f"{path} has the number {codes.max()}; expected bases from 0 to 3")
    return codes
