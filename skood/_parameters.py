"""The private parts of scikit-learn's parameter checking, imported in this one place."""

import numbers

from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

__all__ = [
    "EXTERNAL",
    "Contamination",
    "HasMethods",
    "Interval",
    "IsDetector",
    "StrOptions",
    "fit_context",
]

# What to do with a detector of another library.
EXTERNAL = (
    "wrap a detector with decision_function alone, such as one of PyOD, in "
    "skood.ExternalDetector(detector, higher=...)"
)


class IsDetector(HasMethods):
    """A detector with ``fit`` and ``score_samples``."""

    def __init__(self) -> None:
        super().__init__(["fit", "score_samples"])

    def __str__(self) -> str:
        return f"{super().__str__()} ({EXTERNAL})"


class Contamination(Interval):
    """The fraction of the in-distribution data that a threshold rejects, in (0, 0.5]."""

    def __init__(self) -> None:
        super().__init__(numbers.Real, 0, 0.5, closed="right")

    def __str__(self) -> str:
        return (
            f"{super().__str__()} (if no row of X is an outlier, ConformalDetector(detector, "
            "alpha=0.05) bounds the rate at which new in-distribution rows are rejected)"
        )
