"""Checks of what `evaluate` is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sklearn.pipeline import Pipeline

from skood._data.labels import check_labels
from skood._estimator.parameters import EXTERNAL
from skood.evaluation._cells import Metric
from skood.evaluation._scoring import Outcome, Sets

__all__ = [
    "check_detectors",
    "check_labelled",
    "check_names",
    "check_predicted",
    "check_seeds",
    "class_name",
    "labels_of",
    "named",
    "seeded",
]


def named(detectors: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """Return the detectors by name; detectors of one class are numbered."""
    if isinstance(detectors, Mapping):
        return dict(detectors)
    # A Pipeline and an ensemble can be iterated over, too.
    if hasattr(detectors, "fit") or not hasattr(detectors, "__iter__"):
        raise TypeError(
            f"detectors is {detectors!r}; expected several detectors, in a dict by their names or "
            "in a list, [detector]"
        )
    found: dict[str, Any] = {}
    for detector in detectors:
        name = base = type(detector).__name__
        count = 1
        while name in found:
            count += 1
            name = f"{base} {count}"
        found[name] = detector
    return found


def check_detectors(detectors: Mapping[str, Any], ood_sets: Mapping[str, Any]) -> None:
    """Raise without detectors or OOD sets, and for an object without scores."""
    if not isinstance(ood_sets, Mapping):
        raise TypeError(
            f"ood_sets is of type {type(ood_sets).__name__}; expected a dict of OOD sets by their "
            "names, {'far': X}"
        )
    if not detectors or not ood_sets:
        raise ValueError(
            f"{len(detectors)} detectors and {len(ood_sets)} OOD sets were given; expected at "
            "least one of each"
        )
    for name, detector in detectors.items():
        if isinstance(detector, type):
            raise TypeError(
                f"{name!r} of detectors is the class {detector.__name__}; expected an object, "
                f"{detector.__name__}(...)"
            )
        if not hasattr(detector, "score_samples"):
            raise ValueError(
                f"{name!r} of detectors is {detector!r}, which has no score_samples; {EXTERNAL}"
            )


def check_names(
    ood_sets: Mapping[str, Any],
    groups: Mapping[str, Sequence[str]],
    shifted: Mapping[str, Any],
    y_shifted: Mapping[str, Any],
    metrics: Mapping[str, Metric],
) -> None:
    """Raise for unknown sets, and for names that stand for two things."""
    for group, sets in groups.items():
        unknown = [name for name in sets if name not in ood_sets]
        if isinstance(sets, str) or unknown or not sets:
            raise ValueError(
                f"groups[{group!r}] is {sets!r}; expected a list of names of OOD sets, which are "
                f"{list(ood_sets)}"
            )
    unknown = [name for name in y_shifted if name not in shifted]
    if unknown:
        raise ValueError(
            f"y_shifted has labels of {unknown}; expected labels of sets in shifted_id, which are "
            f"{list(shifted)}"
        )
    # Scores are kept by these names, and ID rows by the name "id".
    names = Counter(["id", *ood_sets, *groups])
    # Columns of a shifted set are named by it.
    columns = Counter(
        [f"{name}_accepted" for name in ("id", "ood", *shifted)]
        + [f"{name}_accuracy" for name in ("id", *shifted)]
        + list(metrics)
    )
    twice = [name for name, count in (names | columns).items() if count > 1]
    if twice:
        raise ValueError(
            f"{twice} name two things in the table; expected OOD sets, groups, shifted sets and "
            "metrics with names of their own, and no OOD set named 'id'"
        )


def check_seeds(seeds: Sequence[int] | None, X_train: Any) -> list[int] | None:
    """Return the seeds as a list, or None."""
    if seeds is None:
        return None
    if isinstance(seeds, int):
        raise ValueError(f"seeds={seeds}; expected several seeds, such as range({seeds})")
    found = [int(seed) for seed in seeds]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"seeds={found}; expected at least one seed, each of them once")
    if X_train is None:
        raise ValueError(
            "seeds were given without X_train; expected the training data, to which each detector "
            "is fitted once for each seed"
        )
    return found


def labels_of(data: Sets, y_id: Any, y_shifted: Mapping[str, Any]) -> Sets:
    """Return checked labels; None where there are none."""
    inside = None
    if y_id is not None:
        inside = check_labels(y_id, len(data.inside), name="y_id", items="X_id", warn=False)
    shifted = {
        name: check_labels(
            y_shifted[name],
            len(rows),
            name=f"y_shifted[{name!r}]",
            items=f"shifted_id[{name!r}]",
            warn=False,
        )
        if name in y_shifted
        else None
        for name, rows in data.shifted.items()
    }
    return Sets(inside, shifted, {})


def check_labelled(metrics: Mapping[str, Metric], labels: Sets) -> None:
    """Raise for metrics of open-set classification without labels."""
    wanted = [name for name, metric in metrics.items() if metric.needs_classes]
    if wanted and labels.inside is None:
        raise ValueError(
            f"metrics={wanted} compare predicted classes with labels; expected the labels of X_id "
            "as y_id"
        )


def check_predicted(name: str, outcomes: Sequence[Outcome], labels: Sets) -> None:
    """Raise if a detector predicts strings and the labels are integers, or the reverse."""
    predicted = outcomes[0].sets.inside.predicted
    given = labels.inside
    if given is None or predicted is None:
        return
    if (predicted.dtype.kind in "OUT") != (given.dtype.kind in "OUT"):
        raise ValueError(
            f"detector {name!r} predicts classes of dtype {predicted.dtype}, and y_id has dtype "
            f"{given.dtype}; expected the labels that the detector was fitted to"
        )


def seeded(detector: Any, seed: int | None) -> Any:
    """Set every `random_state` of a detector and of the models inside it."""
    if seed is not None:
        names = [
            name
            for name in detector.get_params(deep=True)
            if name == "random_state" or name.endswith("__random_state")
        ]
        detector.set_params(**dict.fromkeys(names, seed))
    return detector


def class_name(detector: Any) -> str:
    """Return the class of a detector, of the last step of a pipeline, or inside a wrapper.

    Detectors around detectors score as the detector inside.
    """
    if isinstance(detector, Pipeline):
        return class_name(detector.steps[-1][1])
    for name in ("detector", "estimator"):
        inner = getattr(detector, name, None)
        if inner is not None:
            return class_name(inner)
    return type(detector).__name__
