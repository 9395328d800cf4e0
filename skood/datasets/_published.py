"""Published figures of detectors, with their sources."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple, overload

from skood._table import Table

__all__ = ["load_published"]

_FOLDER = Path(__file__).parent / "published"


class _Source(NamedTuple):
    text: str
    address: str
    date: str


_SOURCES = {
    "openood_v1.5": _Source(
        "OpenOOD v1.5 leaderboard, 2024-07-14",
        "https://github.com/Jingkang50/OpenOOD, branch leaderboard, commit f969dfa, results/*.csv",
        "2024-07-14",
    ),
    "liang_2018": _Source("Liang et al. 2018", "https://arxiv.org/abs/1706.02690", "2018"),
    "vernekar_2019": _Source("Vernekar et al. 2019", "https://arxiv.org/abs/1910.04241", "2019"),
    "ren_2019": _Source("Ren et al. 2019", "https://arxiv.org/abs/1906.02845", "2019"),
    "kamkari_2024": _Source(
        "Kamkari et al. 2024", "https://github.com/layer6ai-labs/dgm_ood_detection", "2024"
    ),
}
_NUMBERS = "value", "std", "accuracy"


@overload
def load_published(name: None = None) -> list[str]: ...


@overload
def load_published(name: str) -> Table: ...


def load_published(name: str | None = None) -> list[str] | Table:
    """Return published figures of detectors, or the names of the tables.

    The figures are stored in the package; nothing is downloaded.

    Parameters
    ----------
    name : {"openood_v1.5", "liang_2018", "vernekar_2019", "ren_2019", "kamkari_2024"}, default=None
        "openood_v1.5" is the public leaderboard of OpenOOD v1.5 of 14 July 2024, with CIFAR-10,
        CIFAR-100, ImageNet-200 and ImageNet-1K as in-distribution sets; the others are tables of
        papers: ODIN, OODGen, likelihood ratios, and local intrinsic dimension with other scores of
        densities. None returns the names.

    Returns
    -------
    list of str, or Table
        A table is a list of dicts, one for each figure; ``to_frame()`` converts it. Keys:

        - "method": the published name;
        - "skood_class": the class of this package with the same score, or None;
        - "id_set", "ood_set": names of the data; "near" and "far" are means over OpenOOD's groups;
        - "metric": the name that :func:`skood.evaluate` uses, or another name if the definition is
          another;
        - "positive": the positive class, "id" or "ood"; "either" if it has no effect, and None if
          the source does not state it;
        - "value" and "std": fractions, not percent; the deviation is over training runs;
        - "network", "accuracy": the architecture and its accuracy on the ID rows, or None;
        - "note", "source", "address", "date".

    Raises
    ------
    ValueError
        For an unknown name.

    See Also
    --------
    skood.evaluation.Evaluation.with_published : Shows the figures with figures of your own.

    Notes
    -----
    A class in "skood_class" computes the same score, which is no promise of the same figure: the
    network, its training, the data and the settings differ. ImageNet's figures in the metric
    "auroc_full_spectrum" count covariate-shifted ImageNet rows as in-distribution, and so does the
    accuracy with them.

    References
    ----------
    .. [1] J. Zhang, J. Yang, P. Wang et al., "OpenOOD v1.5: Enhanced benchmark for
       out-of-distribution detection", DMLR 2024.
    .. [2] S. Liang, Y. Li and R. Srikant, "Enhancing the reliability of out-of-distribution image
       detection in neural networks", ICLR 2018.
    .. [3] S. Vernekar, A. Gaurav, V. Abdelzad et al., "Out-of-distribution detection in
       classifiers via generation", arXiv:1910.04241, 2019.
    .. [4] J. Ren, P. J. Liu, E. Fertig et al., "Likelihood ratios for out-of-distribution
       detection", NeurIPS 2019.
    .. [5] H. Kamkari, B. L. Ross, J. C. Cresswell et al., "A geometric explanation of the
       likelihood OOD detection paradox", ICML 2024.

    Examples
    --------
    >>> from skood.datasets import load_published
    >>> load_published()
    ['kamkari_2024', 'liang_2018', 'openood_v1.5', 'ren_2019', 'vernekar_2019']
    >>> board = load_published("openood_v1.5")
    >>> [
    ...     (row["ood_set"], row["value"])
    ...     for row in board
    ...     if row["method"] == "KNN" and row["id_set"] == "CIFAR-10"
    ... ]
    [('near', 0.9064), ('far', 0.9296)]
    """
    if name is None:
        return sorted(_SOURCES)
    if name not in _SOURCES:
        raise ValueError(
            f"no published table {name!r}; expected one of {', '.join(sorted(_SOURCES))}"
        )
    source = _SOURCES[name]
    shared = {"source": source.text, "address": source.address, "date": source.date}
    with open(_FOLDER / f"{name}.csv", encoding="utf-8", newline="") as file:
        return Table({**_read(row), **shared} for row in csv.DictReader(file))


def _read(row: dict[str, str]) -> dict[str, Any]:
    """Convert the numbers, and empty fields to None."""
    return {
        key: None if text == "" else float(text) if key in _NUMBERS else text
        for key, text in row.items()
    }
