"""A table of detectors by OOD sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from sklearn.base import clone

from skood._checked_data import CheckedData
from skood._data import share_as_it_came
from skood._labels import check_labels
from skood._models import as_input, rows_through
from skood._open_set import class_proba_of, excludes_classes, knows_classes
from skood._parameters import EXTERNAL
from skood._progress import progress_bar, progress_scope
from skood.metrics import aupr_in, aupr_out, auroc, detection_error, fpr_at_tpr

__all__ = ["Evaluation", "evaluate"]

_METRICS: dict[str, Callable[..., float]] = {
    "auroc": auroc,
    "fpr95": fpr_at_tpr,
    "fpr80": partial(fpr_at_tpr, tpr=0.8),
    "aupr_in": aupr_in,
    "aupr_out": aupr_out,
    "detection_error": detection_error,
}


class Evaluation(list):
    """Rows of a table as dicts, as :func:`evaluate` returns them; printed as an aligned table."""

    def to_frame(self) -> Any:
        """Return the table as a pandas DataFrame.

        Raises
        ------
        ImportError
            When pandas is not installed.
        """
        import pandas

        return pandas.DataFrame(list(self))

    def __str__(self) -> str:
        # Rows of detectors without a classifier or a threshold lack some columns.
        names = list(dict.fromkeys(name for row in self for name in row))
        lines = [names, *([_text(row.get(name, "")) for name in names] for row in self)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


def evaluate(
    detectors: Mapping[str, Any] | Sequence[Any],
    X_id: Any,
    ood_sets: Mapping[str, Any],
    y_id: Any = None,
    *,
    X_train: Any = None,
    y_train: Any = None,
    metrics: Sequence[str] | Mapping[str, Callable[..., float]] = ("auroc", "fpr95", "aupr_in"),
    n_jobs: int | None = None,
    verbose: bool | int | str = "auto",
) -> Evaluation:
    """Measure how well several detectors separate ID data from OOD sets.

    A network that several detectors share runs over each set once.

    Parameters
    ----------
    detectors : dict of str to detector, or list of detectors
        Fitted, unless `X_train` is given.
    X_id : array-like, Tensor or Dataset of shape (n_samples, ...)
        In-distribution test data.
    ood_sets : dict of str to array-like, Tensor or Dataset
        Out-of-distribution test data, by name.
    y_id : array-like of shape (n_samples,), default=None
        Class labels of `X_id`, for the accuracy of the classifiers.
    X_train : array-like, Tensor or Dataset of shape (n_train, ...), default=None
        Training data, to which clones of the detectors are fitted first.
    y_train : array-like of shape (n_train,), default=None
    metrics : sequence of str, or dict of str to callable, default=("auroc", "fpr95", "aupr_in")
        Names are "auroc", "fpr95", "fpr80", "aupr_in", "aupr_out" and "detection_error"; ID is the
        positive class. A callable takes y_true, +1 or -1, and y_score.
    n_jobs : int, default=None
        Number of detectors evaluated at the same time, in threads; networks run one at a time. In
        ``joblib.parallel_config``, its backend evaluates the detectors, such as a Dask cluster; in
        other processes, every detector runs its own copy of a network.
    verbose : {"auto"}, bool or int, default="auto"
        Whether a progress bar counts the detectors. "auto" shows it on a terminal or in a notebook
        if it takes more than a few seconds; 0 also silences the detectors.

    Returns
    -------
    Evaluation
        A list with a dict for each detector and OOD set: "detector", "ood_set", a value for each
        metric, "id_accepted" (the fraction of X_id above the threshold), "ood_accepted",
        "id_accuracy" if `y_id` is given and the detector predicts classes or has a classifier,
        "n_id", "n_ood", and "seconds" for scoring the OOD set. ``to_frame()`` converts it to a
        pandas DataFrame.

    Raises
    ------
    ValueError
        For an unknown metric, or without detectors or OOD sets.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import KNN, Mahalanobis, evaluate
    >>> X, y = load_iris(return_X_y=True)
    >>> table = evaluate(
    ...     [KNN(n_neighbors=5), Mahalanobis()], X[1::2], {"far": X + 9}, X_train=X[::2]
    ... )
    >>> [(row["detector"], row["auroc"]) for row in table]
    [('KNN', 1.0), ('Mahalanobis', 1.0)]
    """
    named = _named(detectors)
    measures = _measures(metrics)
    if not named or not ood_sets:
        raise ValueError(
            f"{len(named)} detectors and {len(ood_sets)} OOD sets were given; expected at least "
            "one of each"
        )
    for name, detector in named.items():
        if not hasattr(detector, "score_samples"):
            raise ValueError(
                f"{name!r} of detectors is {detector!r}, which has no score_samples; {EXTERNAL}"
            )
    inliers = share_as_it_came(X_id)
    sets = {name: share_as_it_came(X) for name, X in ood_sets.items()}
    training = None if X_train is None else share_as_it_came(X_train)
    labels = None
    if y_id is not None:
        labels = check_labels(y_id, len(inliers), name="y_id", items="X_id", warn=False)
    bar = progress_bar(
        total=len(named), description="evaluating detectors", unit="detector", verbose=verbose
    )

    count = _Count(bar)

    def evaluated(name: str, detector: Any) -> list[dict[str, Any]]:
        with progress_scope("auto" if verbose else 0):
            if training is not None:
                detector = clone(detector).fit(as_input(detector, training), y_train)
            rows = _rows(name, detector, inliers, sets, labels, measures)
        count()
        return rows

    with bar:
        parts = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(evaluated)(name, detector) for name, detector in named.items()
        )
    return Evaluation(row for part in parts for row in part)


class _Count:
    """Counts detectors on a bar; a copy in another process counts nothing."""

    def __init__(self, bar: Any = None) -> None:
        self.bar = bar

    def __call__(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def __reduce__(self) -> tuple[type, tuple]:
        return _Count, ()


def _rows(
    name: str,
    detector: Any,
    inliers: CheckedData,
    sets: Mapping[str, CheckedData],
    labels: npt.NDArray | None,
    measures: Mapping[str, Callable[..., float]],
) -> list[dict[str, Any]]:
    inside = detector.score_samples(as_input(detector, inliers))
    common: dict[str, Any] = {"n_id": len(inside)}
    if labels is not None:
        predicted = _classes(detector, inliers)
        if predicted is not None:
            common["id_accuracy"] = float(np.mean(predicted == labels))
    offset = getattr(detector, "offset_", None)
    rows = []
    for ood_set, data in sets.items():
        start = perf_counter()
        outside = detector.score_samples(as_input(detector, data))
        seconds = perf_counter() - start
        y_true = np.repeat([1, -1], [len(inside), len(outside)])
        y_score = np.concatenate([inside, outside])
        row: dict[str, Any] = {"detector": name, "ood_set": ood_set}
        row |= {key: float(measure(y_true, y_score)) for key, measure in measures.items()}
        if offset is not None:
            row["id_accepted"] = float(np.mean(inside >= offset))
            row["ood_accepted"] = float(np.mean(outside >= offset))
        rows.append(row | common | {"n_ood": len(outside), "seconds": seconds})
    return rows


def _classes(detector: Any, data: CheckedData) -> npt.NDArray | None:
    """Predict classes by a detector or its classifier, without rejecting rows."""
    if not excludes_classes(detector):
        return None
    if knows_classes(detector):
        return np.asarray(detector.classes_)[class_proba_of(detector, data).argmax(1)]
    classifier = getattr(detector, "classifier_", None)
    return None if classifier is None else rows_through(classifier, "predict", data)


def _named(detectors: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if isinstance(detectors, Mapping):
        return dict(detectors)
    named: dict[str, Any] = {}
    for detector in detectors:
        name = base = type(detector).__name__
        count = 1
        while name in named:
            count += 1
            name = f"{base} {count}"
        named[name] = detector
    return named


def _measures(
    metrics: Sequence[str] | Mapping[str, Callable[..., float]],
) -> dict[str, Callable[..., float]]:
    if isinstance(metrics, Mapping):
        return dict(metrics)
    unknown = [name for name in metrics if name not in _METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {unknown}; known: {', '.join(_METRICS)}")
    return {name: _METRICS[name] for name in metrics}


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
