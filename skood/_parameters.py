"""The private parts of scikit-learn's parameter checking, imported in this one place."""

from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

__all__ = ["EXTERNAL", "HasMethods", "Interval", "IsDetector", "StrOptions", "fit_context"]

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
