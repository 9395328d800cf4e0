"""Which detector is best, and which detectors differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from skood.evaluation._study import FULL, Study
from skood.metrics._paired import holm

__all__ = ["best_of", "differences", "pairs_of"]


def best_of(study: Study, metric: str, confidence: float) -> list[dict[str, Any]]:
    """Return the best detector of every set and group, compared with each of the others."""
    measured = study.metrics[metric.removesuffix(FULL)]
    if measured.function is not None:
        raise ValueError(
            f"metric={metric!r} is a function; expected a metric by name, of which it is known "
            "whether greater values are better. compare() takes functions"
        )
    sign = -1 if measured.is_falling else 1
    rows: list[dict[str, Any]] = []
    for column in study.columns:
        values = study.means(column, metric)
        first, *others = sorted(values, key=lambda name: -sign * values[name])
        pairs = [(first, other) for other in others]
        p_values = [test.p_value for test in study.tests(pairs, column, metric, confidence)]
        # NaN supports nothing.
        p_value = float(np.minimum(1.0, len(others) * np.max(p_values))) if others else 1.0
        rows.append(
            {
                "ood_set": column,
                "detector": first,
                metric: values[first],
                "runner_up": others[0] if others else None,
                "p_value": p_value,
                "supported": bool(p_value <= 1 - confidence),
            }
        )
    return rows


def pairs_of(
    study: Study, detector: str | None, other: str | None, metric: str
) -> list[tuple[str, str]]:
    """Return the pairs of detectors to compare: one pair, one with all others, or all."""
    names = list(study.means(study.columns[0], metric))
    for name in (detector, other):
        if name is not None and name not in names:
            raise ValueError(
                f"no detector {name!r} with {metric!r} in the table; the detectors with this "
                f"metric are {names}"
            )
    if detector is None and other is not None:
        detector, other = other, None
    if detector is None:
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    else:
        pairs = [(detector, b) for b in names if b != detector and other in (None, b)]
    if not pairs:
        raise ValueError(
            f"detector={detector!r} and other={other!r} of the detectors {names}; expected two "
            "different ones to compare"
        )
    return pairs


def differences(
    study: Study, pairs: list[tuple[str, str]], metric: str, confidence: float
) -> list[dict[str, Any]]:
    """Test every pair on every set and group; adjust for the number of pairs."""
    rows: list[dict[str, Any]] = []
    for column in study.columns:
        tests = study.tests(pairs, column, metric, confidence)
        adjusted = holm([test.p_value for test in tests])
        for (one, two), test, p_adjusted in zip(pairs, tests, adjusted, strict=True):
            rows.append(
                {
                    "detector": one,
                    "other": two,
                    "ood_set": column,
                    "difference": test.difference,
                    "difference_low": test.low,
                    "difference_high": test.high,
                    "p_value": test.p_value,
                    "p_adjusted": p_adjusted,
                }
            )
    return rows
