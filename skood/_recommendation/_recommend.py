"""The function that compares detectors on a user's model and data, and recommends one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator

from skood._data.checked_data import CheckedData
from skood._data.validation import share_as_it_came
from skood._progress import progress_bar, progress_scope
from skood._recommendation._candidates import (
    Situation,
    candidates_for,
    check_usable,
    fixed_choice,
    given_candidates,
    situation_of,
)
from skood._recommendation._criteria import Contest, cannot_leave_out, cannot_synthesise
from skood._recommendation._ranking import set_areas, summary
from skood._recommendation._result import TITLES, Recommendation
from skood._recommendation._rows import Rows, check_numbers, halves, opened, split_rows
from skood._torch.seeding import draw_seed
from skood.calibration import ConformalDetector
from skood.calibration._base import scores_of
from skood.metrics import auroc, bootstrap_interval

__all__ = ["recommend"]

_CRITERIA = tuple(TITLES)


def recommend(
    model: Any,
    X: Any,
    y: Any = None,
    *,
    outliers: Any = None,
    X_held_out: Any = None,
    candidates: Mapping[str, Any] | Sequence[Any] | None = None,
    embeddings: bool = False,
    choice: str = "auto",
    criteria: Sequence[str] | None = None,
    alpha: float = 0.05,
    max_rows: int = 1000,
    n_resamples: int = 300,
    confidence: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
    verbose: bool | int | str = "auto",
) -> Recommendation:
    r"""Compare the detectors that fit a model and data, and return one fitted and calibrated.

    Every candidate is fitted to the same rows. It is then compared on real outliers or, without
    them, on substitutes: classes left out of training, and synthetic outliers. A network runs over
    each item once, for all candidates.

    Parameters
    ----------
    model : Module, estimator or None
        A trained torch module; a classifier in :class:`sklearn.frozen.FrozenEstimator`, which is
        not trained again; a classifier, which is trained on some rows of X; or a transformer that
        makes features. None: the rows of X are the features. With a frame that has categories or
        missing values, the encoder, a ColumnTransformer for instance: it is in front of every
        detector, and the detectors are the same as for rows.
    X : array-like, DataFrame, Tensor, Dataset or dict of shape (n_samples, ...)
        In-distribution data. With a trained model, its training data, for the statistics of the
        detectors.
    y : array-like of shape (n_samples,), default=None
        Class labels. Rows with ``y == -1`` are known outliers. None reads the labels of a Dataset
        of pairs (x, y). Without labels, detectors that learn from them are not compared.
    outliers : array-like, DataFrame, Tensor, Dataset or dict of shape (m, ...), default=None
        At least 40 real outliers, like those that are expected. A random half of them ranks the
        detectors; the other half measures the chosen one.
    X_held_out : array-like, DataFrame, Tensor, Dataset or dict of shape (n, ...), default=None
        In-distribution rows that the model was not trained on. A random half of them ranks the
        detectors; the other half calibrates the chosen one. None holds out a fifth of X for each,
        which is right only if the model was not trained on X.
    candidates : dict of str to detector, or list of detectors, default=None
        Unfitted detectors. If ``classifier`` or ``features`` of one is None, it becomes the model.
        None: all detectors of :mod:`skood.posthoc` that need one forward pass. For rows, some
        detectors of scikit-learn take part.
    embeddings : bool, default=False
        Whether the rows of X are embeddings of a network, which are scaled to length 1. Otherwise
        they are rows of a table, whose columns are standardised.
    choice : {"auto", "fixed", "measured"} or str, default="auto"
        Detector that is chosen. "measured": the first in the order. "fixed": KNN for a network or
        embeddings, MSP for another classifier, and for a table GMM, without labels
        LocalOutlierFactor. "auto": "measured" for a network and with real outliers, otherwise
        "fixed" (see Notes). Any other value is the name of a candidate.
    criteria : sequence of {"outliers", "classes", "synthetic"}, default=None
        What the order is the mean of. None: the outliers if they are given, otherwise classes and
        synthetic outliers.
    alpha : float, default=0.05
        False-alarm rate of the chosen detector, in (0, 1).
    max_rows : int, default=1000
        Largest number of in-distribution rows that rank, and of outliers in a set.
    n_resamples : int, default=300
        Number of bootstrap resamples.
    confidence : float, default=0.95
        Nominal coverage of the intervals.
    random_state : int, RandomState instance or None, default=None
        Seed of the split, the outliers, the resamples, and the models whose own ``random_state`` is
        None.
    verbose : {"auto"}, bool or int, default="auto"
        Whether a progress bar counts the sets of outliers; 0 also silences the detectors.

    Returns
    -------
    Recommendation
        The table, and the chosen detector in ``detector_``, calibrated in a
        :class:`~skood.calibration.ConformalDetector`.

    Raises
    ------
    TypeError
        If the model is neither a classifier nor a transformer.
    ValueError
        If there are too few rows or outliers, nothing ranks the detectors, no detector fits the
        model and X, or `choice` or `criteria` is unknown.
    sklearn.exceptions.NotFittedError
        If the model in ``FrozenEstimator`` is not fitted.

    Warns
    -----
    UserWarning
        If the model was trained before and `X_held_out` is None; and if rows of X without a model
        look like class probabilities.

    See Also
    --------
    evaluate : Table of fitted detectors on test sets.
    skood.model_selection.LeaveClassesOut : Splitter that leaves classes out.
    skood.datasets.synthetic_outliers : Makes the synthetic outliers.

    Notes
    -----
    **Rows.** The training, ranking and calibration rows are disjoint, and divided at random. The
    choice does not depend on the calibration rows, so the bound of
    :class:`~skood.calibration.ConformalDetector` holds for the chosen detector.

    **Classes left out.** In each of up to five splits, the model and the detectors are trained
    without one class, whose rows are the outliers. If the model is already trained, this criterion
    is not used: rows of a class that a network was trained on are not OOD for it, even if a
    detector's statistics leave them out. Mondal et al. [1]_ therefore train networks without
    these classes. Embeddings in X are a weaker form of the same problem: the criterion is valid
    if their network was not trained on the classes in y.

    **Synthetic outliers** are made from the ranking rows, with all kinds that apply to X.

    **The default of** `choice` follows from a benchmark (``benchmarks/recommend.py``). The regret
    of a choice is the AUROC of the best candidate minus the AUROC of the chosen one. On two frozen
    networks with nine OOD sets, the first in the order has a mean regret of 0.002; always KNN has
    0.051, always Mahalanobis 0.056 and always MSP 0.163. On 15 pairs of tables, the first in the
    order has 0.040 and always GMM 0.019, so the fixed choice decides. Embeddings and classifiers
    other than networks were not measured. Learned selection of detectors [2]_ needs results on many
    other pairs of data sets.

    **Intervals** are percentiles over resamples of the ID rows and the outliers, the same for all
    detectors. They measure the variation from row to row. They do not measure how much substitutes
    differ from real outliers.

    References
    ----------
    .. [1] S. Mondal, X. M. Xie, R. Duan, A. Wong, G. Sundaramoorthi, "Tuning Out-of-Distribution
       (OOD) Detectors Without Given OOD Data", 2026, arXiv:2602.05935.
    .. [2] Y. Qin, Y. Zhang, Y. Nian, X. Ding, Y. Zhao, "MetaOOD: Automatic Selection of OOD
       Detection Models", ICLR 2025.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    >>> from skood import KNN, MSP, recommend
    >>> X, y = load_digits(return_X_y=True)
    >>> known = y < 8
    >>> found = recommend(
    ...     LinearDiscriminantAnalysis(),
    ...     X[known],
    ...     y[known],
    ...     outliers=X[~known],
    ...     candidates=[MSP(), KNN(n_neighbors=5)],
    ...     random_state=0,
    ... )
    >>> found.choice_
    'KNN'
    >>> found.detector_.p_values(X[:3]).shape
    (3,)
    """
    check_numbers(alpha, max_rows, n_resamples, confidence)
    seed = draw_seed(random_state)
    data, labels, known = opened(model, X, y, outliers)
    situation = situation_of(model, data, labels)
    check_usable(situation)
    held_out = None if X_held_out is None else share_as_it_came(X_held_out)
    rows = split_rows(data, labels, held_out, alpha=alpha, max_rows=max_rows, seed=seed)
    if situation.is_trained and held_out is None:
        warnings.warn(
            "the model was trained before. If it was trained on rows of X, it scores the ranking "
            "and the calibration rows among them too high, and there will be more false alarms "
            "than alpha. Give rows that it was not trained on as X_held_out=",
            stacklevel=2,
        )
    states = _states(criteria, situation, rows, known)
    if candidates is None:
        contestants = candidates_for(situation, embeddings)
    else:
        contestants = given_candidates(candidates, situation)
    if choice not in ("auto", "fixed", "measured", *contestants.detectors):
        raise ValueError(
            f"choice={choice!r}; expected 'auto', 'fixed', 'measured' or the name of a candidate: "
            f"{', '.join(contestants.detectors)}"
        )

    first_half, second_half = halves(known, max_rows, seed)
    bar = progress_bar(description="comparing detectors", unit="set", total=None, verbose=verbose)
    with bar, progress_scope("auto" if verbose else 0):
        contest = Contest(
            situation, contestants, rows, max_rows=max_rows, seed=seed, count=bar.update
        )
        if states["outliers"] == "used":
            assert first_half is not None
            contest.add("outliers", "outliers", first_half)
        if states["classes"] == "used":
            contest.add_classes()
        if states["synthetic"] == "used":
            contest.add_synthetic()
    comparisons, names = contest.comparisons_of_all()
    compared = summary(
        comparisons, names, n_resamples=n_resamples, confidence=confidence, seed=seed
    )
    order = [row["detector"] for row in compared]
    if choice == "auto":
        # See Notes.
        has_network = situation.kind in ("network", "features")
        choice = "measured" if has_network or states["outliers"] == "used" else "fixed"
    fixed = fixed_choice(situation, embeddings)
    chosen, reason = _choose(choice, fixed, order, states, contestants.reasons)
    detector = contest.fitted[chosen]
    for row in compared:
        row |= {
            "chosen": row["detector"] == chosen,
            "ms_per_item": contest.milliseconds[row["detector"]],
            "excluded": None,
        }
    excluded = [
        {"detector": name, "rank": None, "chosen": False, "excluded": why}
        for name, why in contestants.reasons.items()
    ]
    measured = None
    if second_half is not None:
        measured = _measure(detector, rows.calibration, second_half, n_resamples, confidence, seed)
    return Recommendation(
        detector_=ConformalDetector(FrozenEstimator(detector), alpha).fit(rows.calibration),
        choice_=chosen,
        reason_=reason,
        rows=[*compared, *excluded],
        by_set=set_areas(comparisons, names),
        criteria=states,
        outliers_auroc_=measured,
        n_rows={
            "training": len(rows.training),
            "ranking": len(rows.ranking),
            "calibration": len(rows.calibration),
        },
        warnings={name: said for name, said in contest.warnings.items() if said},
    )


def _states(
    criteria: Sequence[str] | None, situation: Situation, rows: Rows, known: CheckedData | None
) -> dict[str, str]:
    """Return for each criterion "used", or why it is not used."""
    asked = criteria
    if criteria is None:
        asked = ("outliers",) if known is not None else ("classes", "synthetic")
    elif isinstance(criteria, str) or not criteria or not set(criteria) <= set(_CRITERIA):
        raise ValueError(f"criteria={criteria!r}; expected a list of some of {_CRITERIA}, or None")
    assert asked is not None
    obstacles = {
        "outliers": "none are given" if known is None else None,
        "classes": cannot_leave_out(situation, rows.labels),
        "synthetic": cannot_synthesise(rows.ranking),
    }
    states = {name: obstacle or "used" for name, obstacle in obstacles.items()}
    for name in _CRITERIA:
        if name not in asked and states[name] == "used":
            states[name] = "not needed with real outliers" if criteria is None else "not asked for"
    if "used" not in states.values():
        why = "; ".join(f"{name}: {states[name]}" for name in asked)
        raise ValueError(f"nothing ranks the detectors ({why}). Give outliers=")
    return states


def _choose(
    choice: str, fixed: str, order: list[str], states: dict[str, str], reasons: dict[str, str]
) -> tuple[str, str]:
    """Return the name of the chosen detector, and the reason."""
    used = [TITLES[name] for name, state in states.items() if state == "used"]
    first = f"first in the order on {' and '.join(used)}"
    if choice == "measured":
        return order[0], first
    if choice == "fixed":
        if fixed not in order:
            return order[0], f"{first}; {fixed}, the fixed choice, was not compared"
        return fixed, f'the fixed choice; {order[0]}, choice="measured", is the {first}'
    if choice not in order:
        raise ValueError(f"choice={choice!r} was not compared: {reasons[choice]}")
    return choice, "named by choice="


def _measure(
    detector: Any,
    inliers: CheckedData,
    outliers: CheckedData,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, float]:
    """Return the AUROC, and its interval, on rows that the ranking has not used."""
    inside, outside = scores_of(detector, inliers), scores_of(detector, outliers)
    truth = np.repeat([1, -1], [len(inside), len(outside)])
    scores = np.concatenate([inside, outside])
    low, high = bootstrap_interval(
        auroc,
        truth,
        scores,
        n_resamples=n_resamples,
        confidence=confidence,
        random_state=seed,
    )
    return {"auroc": float(auroc(truth, scores)), "low": low, "high": high}
