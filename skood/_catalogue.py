"""What each detector does, needs and cites, read from its class and its docstring."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sklearn.base import BaseEstimator

from skood._table import Table

__all__ = ["Entry", "cite", "entries", "find_detectors", "references"]

# The parts of the package whose detectors are methods of papers.
PARTS = ("likelihood", "posthoc", "training_time")
NEEDS = (
    *("logits", "features", "features and logits", "head", "network", "texts", "density"),
    "data",
)


@dataclass(frozen=True)
class Entry:
    """A detector in the catalogue.

    Parameters
    ----------
    name : str
    part : str
        Its package.
    cls : type
    summary : str
        First sentence of its docstring.
    needs : str
        One of `NEEDS`.
    labels : bool
        Whether it needs class labels.
    outliers : bool
        Whether it learns from known outliers.
    paper : str
        First reference of its docstring.
    year : int or None
    """

    name: str
    part: str
    cls: type
    summary: str
    needs: str
    labels: bool
    outliers: bool
    paper: str
    year: int | None


def entries() -> Iterator[Entry]:
    """Yield the detectors of the package, by part and name."""
    for part in PARTS:
        module = importlib.import_module(f"skood.{part}")
        for name in sorted(module.__all__, key=str.lower):
            cls = getattr(module, name)
            if not hasattr(cls, "score_samples") or inspect.isabstract(cls):
                continue
            papers = references(cls)
            paper = papers[0] if papers else ""
            yield Entry(
                name=name,
                part=part,
                cls=cls,
                summary=_summary(cls),
                needs=_needs(part, cls),
                labels=_learns_from_labels(part, cls),
                outliers=getattr(cls, "_trains_on_outliers", False),
                paper=paper,
                year=_year(paper),
            )


def find_detectors(
    needs: str | None = None, *, labels: bool | None = None, outliers: bool | None = None
) -> Table:
    """List the detectors that work with what you have.

    Parameters
    ----------
    needs : str, default=None
        What the score reads. "logits": of any classifier. "features": vectors, also embeddings or
        the rows of a table. "features and logits": of a network. "head": its last layer, too.
        "network": its gradients, inner layers or dropout. "texts": vectors of images and of texts.
        "density": a density, which is trained if none is given. "data": training data, from which
        the detector trains a network of its own. None: any of them.
    labels : bool, default=None
        Whether the detector needs class labels, apart from the classifier that it is given.
    outliers : bool, default=None
        Whether the detector learns from known outliers.

    Returns
    -------
    Table
        Rows with "detector", "needs", "labels", "outliers", "year" and "paper", by year.

    Raises
    ------
    ValueError
        If `needs` is none of the names.

    See Also
    --------
    recommend : Compares the detectors on a model and data.

    Examples
    --------
    >>> from skood import find_detectors
    >>> found = find_detectors("logits", labels=True)
    >>> [row["detector"] for row in found]
    ['OpenMax', 'TemperatureScaling']
    """
    if needs is not None and needs not in NEEDS:
        raise ValueError(f"needs={needs!r}; expected one of {NEEDS}, or None")
    wanted = {"needs": needs, "labels": labels, "outliers": outliers}
    rows = [
        {
            "detector": entry.name,
            "needs": entry.needs,
            "labels": entry.labels,
            "outliers": entry.outliers,
            "year": entry.year,
            "paper": entry.paper,
        }
        for entry in entries()
    ]
    found = [row for row in rows if all(v is None or row[name] == v for name, v in wanted.items())]
    return Table(sorted(found, key=lambda row: (row["year"] or 0, str(row["detector"]).lower())))


def cite(detector: BaseEstimator | type) -> str:
    """Return the papers to cite for a detector and the models inside it.

    Parameters
    ----------
    detector : estimator or class
        With the estimators among its parameters, at any depth.

    Returns
    -------
    str
        A line for each reference, after the name of its class. The first reference of a class is
        the paper of the method.

    Raises
    ------
    TypeError
        If `detector` is no estimator and no class.

    Examples
    --------
    >>> from skood import KNN, ConformalDetector, cite
    >>> print(cite(KNN()))
    KNN: Y. Sun, Y. Ming, X. Zhu, Y. Li, "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022.
    >>> cite(ConformalDetector(KNN())).count("KNN:")
    1
    """  # noqa: E501
    if isinstance(detector, type):
        classes = [detector]
    elif hasattr(detector, "get_params"):
        inside = detector.get_params(deep=True)
        outer_first = sorted(inside, key=lambda name: name.count("__"))
        models = [inside[name] for name in outer_first if hasattr(inside[name], "get_params")]
        classes = [type(model) for model in (detector, *models)]
    else:
        raise TypeError(
            f"detector is of type {type(detector).__name__}; expected an estimator or its class"
        )
    lines = [
        f"{cls.__name__}: {reference}"
        for cls in dict.fromkeys(classes)
        if cls.__module__.startswith("skood.")
        for reference in references(cls)
    ]
    return "\n".join(lines)


def references(cls: type) -> list[str]:
    """Return the entries of the section References of a docstring, each in one line."""
    text = inspect.getdoc(cls) or ""
    section = re.search(r"^References\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", text, re.M | re.S)
    if section is None:
        return []
    found = re.findall(r"^\.\. \[\d+\] (.*?)(?=^\.\. \[|\Z)", section[1], re.M | re.S)
    return [" ".join(entry.split()) for entry in found]


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def _needs(part: str, cls: Any) -> str:
    if part == "likelihood":
        return "density"
    if part == "training_time":
        return "data"
    posthoc = importlib.import_module("skood.posthoc")
    if issubclass(cls, posthoc.ConceptDetector):
        return "texts"
    if issubclass(cls, posthoc.FeatureDetector):
        return "features"
    return "features and logits" if cls._reads == "features" else cls._reads


def _learns_from_labels(part: str, cls: Any) -> bool:
    if part == "training_time":
        return bool(cls._needs_labels)
    return getattr(cls, "_needs", "") == "labels"


def _year(paper: str) -> int | None:
    years = re.findall(r"\b(?:19|20)\d\d\b(?!\.\d)", paper)
    if years:
        return int(years[-1])
    preprint = re.search(r"arXiv:(\d\d)\d\d\.", paper)
    return None if preprint is None else 2000 + int(preprint[1])
