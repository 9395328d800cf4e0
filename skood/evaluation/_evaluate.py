"""Measurement of several detectors on the same sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skood._data.validation import share_as_it_came
from skood._models import as_input
from skood._progress import progress_bar, progress_scope
from skood.evaluation._cells import metrics_of
from skood.evaluation._checks import (
    check_detectors,
    check_labelled,
    check_names,
    check_predicted,
    check_seeds,
    class_name,
    labels_of,
    named,
    seeded,
)
from skood.evaluation._rows import rows_of
from skood.evaluation._scoring import Outcome, Sets, score
from skood.evaluation._study import Study
from skood.evaluation._table import Evaluation
from skood.metrics._bootstrap import check_level

__all__ = ["evaluate"]


def evaluate(
    detectors: Mapping[str, Any] | Sequence[Any],
    X_id: Any,
    ood_sets: Mapping[str, Any],
    y_id: Any = None,
    *,
    X_train: Any = None,
    y_train: Any = None,
    metrics: Sequence[str] | Mapping[str, Callable[..., float]] = ("auroc", "fpr95", "aupr_in"),
    groups: Mapping[str, Sequence[str]] | None = None,
    shifted_id: Mapping[str, Any] | None = None,
    y_shifted: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    confidence: float | None = None,
    n_resamples: int = 1000,
    random_state: int | None = None,
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
        Class labels of `X_id`, for the accuracy of the classifiers and for the metrics of open-set
        classification.
    X_train : array-like, Tensor or Dataset of shape (n_train, ...), default=None
        Training data, to which clones of the detectors are fitted first.
    y_train : array-like of shape (n_train,), default=None
    metrics : sequence of str, or dict of str to callable, default=("auroc", "fpr95", "aupr_in")
        Names are "auroc", "fpr95", "fpr80", "aupr_in", "aupr_out" and "detection_error"; ID is the
        positive class. With `y_id`, and for detectors that predict classes, also "oscr",
        "ccr" (:func:`~skood.metrics.ccr_at_fpr` at a false-positive rate of 1 %) and "f1"
        (:func:`~skood.metrics.open_set_f1` at the detector's threshold). A callable takes y_true,
        +1 or -1, and y_score.
    groups : dict of str to sequence of str, default=None
        Names of OOD sets by the name of a group, such as ``{"near": ["cifar100", "tin"]}``. Each
        group has a row with the means over its sets, which have equal weights, as in OpenOOD.
    shifted_id : dict of str to array-like, Tensor or Dataset, default=None
        ID data of a shifted kind by name, such as blurred images, that a detector should accept.
        Metrics with the suffix "_full_spectrum" count their rows as ID rows, together with `X_id`.
    y_shifted : dict of str to array-like of shape (n_shifted,), default=None
        Class labels of shifted sets, for the accuracy and for the full-spectrum "oscr", "ccr" and
        "f1", which need the labels of all shifted sets.
    seeds : sequence of int, default=None
        Every detector is fitted to `X_train` once for each seed, which becomes the value of every
        parameter ``random_state`` of the detector and of the models inside. Rows hold the mean and
        the sample standard deviation over the seeds.
    confidence : float, default=None
        Level of bootstrap intervals in (0, 1), such as 0.95; None computes none.
    n_resamples : int, default=1000
        Resamples for the intervals and for paired tests. All detectors share them.
    random_state : int, default=None
        Seed of the resamples; None draws one.
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
        metric, "id_accepted" (the fraction of X_id above the threshold) and "ood_accepted" if the
        detector, or the detector inside a Pipeline or a search, has an ``offset_``,
        "id_accuracy" if `y_id` is given and the detector predicts classes or has a classifier,
        "n_id", "n_ood", and "seconds" for scoring the OOD set. ``to_frame()`` converts it to a
        pandas DataFrame. Further keys:

        - with `confidence`, "auroc_low" and "auroc_high" for each metric;
        - with several `seeds`, "auroc_std" for each metric, "id_accuracy_std" and "n_seeds";
        - with `shifted_id`, "auroc_full_spectrum" for each metric, and for a set named "blurred"
          "blurred_accepted", and "blurred_accuracy" with its labels;
        - in rows of a group, the name of the group as "ood_set", and "n_sets".

        A row lacks metrics of open-set classification if the detector predicts no classes, and "f1"
        also if it has no threshold.

    Raises
    ------
    ValueError
        For an unknown metric, without detectors or OOD sets, for groups of unknown sets, for names
        that are used twice, for `seeds` without `X_train`, and for metrics of open-set
        classification without `y_id` or without a detector that predicts classes.
    TypeError
        For a single detector, a class in place of a detector, and OOD sets without names.
    NotFittedError
        For a detector that is not fitted, without `X_train`.

    See Also
    --------
    skood.evaluation.Evaluation : Comparisons, wide form, LaTeX and published figures.
    skood.inspection.EvaluationDisplay : Draws the table.

    Notes
    -----
    Intervals are percentile bootstrap intervals over test rows, as in
    :func:`~skood.metrics.bootstrap_interval`; ID rows, the rows of each shifted set and the rows of
    each OOD set are drawn separately. They do not cover the variation between training runs, which
    `seeds` measures.

    Full-spectrum evaluation is defined in [1]_.

    References
    ----------
    .. [1] J. Yang, K. Zhou and Z. Liu, "Full-spectrum out-of-distribution detection", IJCV 2023.

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
    by_name = named(detectors)
    measures = metrics_of(metrics)
    groups = {name: list(sets) for name, sets in (groups or {}).items()}
    shifted_id = dict(shifted_id or {})
    if confidence is not None:
        check_level(confidence)
    check_detectors(by_name, ood_sets)
    check_names(ood_sets, groups, shifted_id, y_shifted or {}, measures)
    seeds = check_seeds(seeds, X_train)
    data = Sets(
        share_as_it_came(X_id),
        {name: share_as_it_came(X) for name, X in shifted_id.items()},
        {name: share_as_it_came(X) for name, X in ood_sets.items()},
    )
    labels = labels_of(data, y_id, y_shifted or {})
    training = None if X_train is None else share_as_it_came(X_train)
    needs_classes = Sets(
        labels.inside is not None,
        {name: of_set is not None for name, of_set in labels.shifted.items()},
        dict.fromkeys(ood_sets, "f1" in measures and measures["f1"].needs_classes),
    )
    check_labelled(measures, labels)
    of_each: Sequence[int | None] = seeds or [None]
    tasks = [(name, seed) for name in by_name for seed in of_each]
    bar = progress_bar(
        total=len(tasks), description="evaluating detectors", unit="detector", verbose=verbose
    )
    count = _Count(bar)

    def evaluated(name: str, seed: int | None) -> Outcome:
        detector = by_name[name]
        with progress_scope("auto" if verbose else 0):
            if training is not None:
                detector = seeded(clone(detector), seed)
                detector = detector.fit(as_input(detector, training), y_train)
            try:
                outcome = score(detector, data, needs_classes=needs_classes)
            except NotFittedError as error:
                if training is not None:
                    raise
                raise NotFittedError(
                    f"{name} of detectors is not fitted; fit it, or give X_train, to which "
                    "evaluate fits a clone of every detector"
                ) from error
        count()
        return outcome

    with bar:
        outcomes = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(evaluated)(name, seed) for name, seed in tasks
        )
    by_detector: dict[str, list[Outcome]] = {name: [] for name in by_name}
    for (name, _), outcome in zip(tasks, outcomes, strict=True):
        by_detector[name].append(outcome)
    for name, found in by_detector.items():
        check_predicted(name, found, labels)
    if random_state is None:
        random_state = int(np.random.SeedSequence().generate_state(1)[0])
    study = Study(by_detector, labels, measures, groups, n_resamples, random_state)
    study.check_measured()
    rows = [row for name in by_name for row in rows_of(name, study, labels, confidence)]
    classes = {name: class_name(detector) for name, detector in by_name.items()}
    return Evaluation.of(rows, study, classes, confidence)


class _Count:
    """Counts detectors on a bar; a copy in another process counts nothing."""

    def __init__(self, bar: Any = None) -> None:
        self.bar = bar

    def __call__(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def __reduce__(self) -> tuple[type, tuple]:
        return _Count, ()
