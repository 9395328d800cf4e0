"""Checks that hold a detector of your own to the contract of this library."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_outlier_detector
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator

from skood._torch.estimator import NeuralEstimator

__all__ = ["check_detector", "parametrize_with_checks"]

# Number of rows that fill all batches: 3 of 128 rows, 12 of 32 images, 2 chunks of 192 rows.
_FULL_BATCHES = 384

# Largest difference between scores of one row in batches of two sizes, relative to the largest.
_ROUNDING = 2e-6


def check_detector(
    detector: Any,
    X: npt.ArrayLike | None = None,
    y: npt.ArrayLike | None = None,
    *,
    rounding: float = _ROUNDING,
    expected_failed_checks: Mapping[str, str] | None = None,
) -> None:
    """Check that a detector keeps the contract of this library.

    The checks are: scikit-learn's ``check_estimator`` (if X is None); one float64 score for each
    row, which depends neither on the other rows of the call, nor on the number of rows or of
    threads; the same scores from the same `random_state`, after pickling and from a clone; the
    global random states of Python, numpy and torch neither read nor changed; X not modified, and
    nothing written to the detector after `fit`; `predict`, `decision_function` and `offset_`
    consistent; known outliers (``y == -1``) not learned from; errors for invalid X and y.

    Parameters
    ----------
    detector : estimator
        Not fitted; it is cloned. A density is checked in the same way, without its decisions.
    X : array-like of shape (n_samples, ...), default=None
        In-distribution rows or images. None draws 60 rows of 5 columns.
    y : array-like of shape (n_samples,), default=None
        Class labels of X. None separates the rows drawn into two classes.
    rounding : float, default=2e-6
        Largest difference between the scores of one row in batches of two sizes, relative to the
        largest score.
    expected_failed_checks : dict of str to str, default=None
        Names of checks that the detector cannot pass, with the reason. A detector that requires y
        is exempt from scikit-learn's two checks of `fit` without y.

    Raises
    ------
    AssertionError
        When a check fails, or an exception of the detector itself.

    Examples
    --------
    >>> from skood import KNN
    >>> from skood.testing import check_detector
    >>> check_detector(KNN(n_neighbors=2))
    """
    expected = dict(expected_failed_checks or {})
    case = _Case(detector, X, y, rounding)
    if X is None:
        of_sklearn = {**_failures_without_labels(detector), **expected}
        check_estimator(clone(detector), on_skip=None, expected_failed_checks=of_sklearn)
    for check in _checks_of(detector):
        if check.__name__ not in expected:
            check(case)


def parametrize_with_checks(
    detectors: Sequence[Any],
    *,
    rounding: Callable[[Any], float] = lambda detector: _ROUNDING,
    expected_failed_checks: Callable[[Any], Mapping[str, str]] = lambda detector: {},
    name: Callable[[Any], str] = lambda detector: type(detector).__name__,
) -> Any:
    """Make one pytest test for each detector and check.

    Scikit-learn's own checks are not among them: use its ``parametrize_with_checks`` for these.

    Parameters
    ----------
    detectors : sequence of estimators
        Not fitted.
    rounding : callable
        Takes a detector and returns the `rounding` of :func:`check_detector`.
    expected_failed_checks : callable
        Takes a detector and returns the names of checks to skip, with the reasons.
    name : callable
        Takes a detector and returns its name in the names of the tests.

    Returns
    -------
    MarkDecorator
        For a test function with the argument `check`, which it calls.

    Examples
    --------
    >>> from skood import KNN
    >>> from skood.testing import parametrize_with_checks
    >>> @parametrize_with_checks([KNN(n_neighbors=2)])
    ... def test_contract(check):
    ...     check()
    """
    import pytest

    def tests() -> Iterator[Any]:
        for detector in detectors:
            # The checks of a detector share its fit.
            case = _Case(detector, None, None, rounding(detector))
            expected = expected_failed_checks(detector)
            for check in _checks_of(detector):
                reason = expected.get(check.__name__)
                yield pytest.param(
                    partial(check, case),
                    id=f"{name(detector)}-{check.__name__}",
                    marks=[] if reason is None else pytest.mark.skip(reason=reason),
                )

    return pytest.mark.parametrize("check", list(tests()))


class _Case:
    """A detector with data to check it on, fitted at most once.

    Parameters
    ----------
    detector : estimator
    X, y : array-like or None
    rounding : float
    """

    def __init__(
        self, detector: Any, X: npt.ArrayLike | None, y: npt.ArrayLike | None, rounding: float
    ) -> None:
        self.detector = detector
        self.rounding = rounding
        if X is None:
            rows = np.random.default_rng(0).normal(size=(60, 4))
            # Rows of 5 float32 values start anywhere between two multiples of 16 bytes.
            X = np.column_stack([rows, rows[:, 0] ** 2])
            y = (rows[:, 0] > 0).astype(int)
        self.X = np.asarray(X)
        self.y = None if y is None else np.asarray(y)

    def new(self, **params: Any) -> Any:
        """Return an unfitted clone with the parameters that it has among `params`."""
        detector = clone(self.detector)
        known = detector.get_params(deep=False)
        return detector.set_params(**{k: v for k, v in params.items() if k in known})

    @cached_property
    def fitted(self) -> Any:
        return self.new(random_state=0, contamination=0.2).fit(self.X, self.y)

    @cached_property
    def scores(self) -> npt.NDArray[np.float64]:
        return self.fitted.score_samples(self.X)

    @property
    def is_random(self) -> bool:
        """Whether the weights of a network are drawn in `fit`."""
        parts = [self.detector, *self.detector.get_params().values()]
        return any(isinstance(part, NeuralEstimator) for part in parts)


def check_scores_are_numbers(case: _Case) -> None:
    """Check for one float64 score for each row."""
    assert case.scores.dtype == np.float64
    assert case.scores.shape == (len(case.X),)
    assert not np.isnan(case.scores).any()


def check_scores_belong_to_the_row(case: _Case) -> None:
    """Check for the same bits at any place in full batches, and with any number of threads."""
    X = np.resize(case.X, (_FULL_BATCHES, *case.X.shape[1:]))
    scores = case.fitted.score_samples(X)
    order = np.random.default_rng(1).permutation(len(X))
    assert_array_equal(case.fitted.score_samples(X[order]), scores[order])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert_array_equal(case.fitted.score_samples(X), scores)
    finally:
        torch.set_num_threads(threads)


def check_scores_in_batches_of_other_sizes(case: _Case) -> None:
    """Check for the same scores up to the order of float32 sums."""
    n = len(case.X)
    scores = case.fitted.score_samples(np.resize(case.X, (_FULL_BATCHES, *case.X.shape[1:])))[:n]
    atol = case.rounding * np.abs(scores).max()
    for size in (1, 7, 33):
        parts = [case.fitted.score_samples(case.X[i : i + size]) for i in range(0, n, size)]
        assert_allclose(np.concatenate(parts), scores, rtol=0, atol=atol)


def check_random_state_decides(case: _Case) -> None:
    """Check that `random_state` decides what is drawn."""
    again = case.new(random_state=0, contamination=0.2).fit(case.X, case.y)
    assert_array_equal(again.score_samples(case.X), case.scores)
    if case.is_random:
        other = case.new(random_state=1, contamination=0.2).fit(case.X, case.y)
        assert not np.allclose(other.score_samples(case.X), case.scores)


def check_global_random_state(case: _Case) -> None:
    """Check that the global random states are neither changed nor read."""

    def scores(global_seed: int, random_state: int | None) -> npt.NDArray[np.float64]:
        np.random.seed(global_seed)  # noqa: NPY002
        torch.manual_seed(global_seed)
        random.seed(global_seed)
        before = _global_states()
        fitted = case.new(random_state=random_state, contamination=0.2).fit(case.X, case.y)
        result = fitted.score_samples(case.X)
        if hasattr(fitted, "sample"):
            fitted.sample(2)
        assert _global_states() == before
        return result

    assert_array_equal(scores(1, 0), case.scores)
    if case.is_random:
        assert not np.array_equal(scores(1, None), scores(1, None))


def check_pickle_and_clone(case: _Case) -> None:
    """Check that a pickled detector scores as before, and that a clone is not fitted."""
    restored = pickle.loads(pickle.dumps(case.fitted))
    assert_array_equal(restored.score_samples(case.X), case.scores)
    assert repr(clone(case.fitted)) == repr(case.new(random_state=0, contamination=0.2))
    assert not hasattr(clone(case.fitted), "n_features_in_")


def check_input_is_not_modified(case: _Case) -> None:
    """Check that neither `fit` nor `score_samples` writes to X or y."""
    X, y = case.X.copy(), None if case.y is None else case.y.copy()
    case.new(random_state=0).fit(X, y).score_samples(X)
    assert_array_equal(X, case.X)
    if y is not None:
        assert_array_equal(y, case.y)


def check_nothing_is_written_after_fit(case: _Case) -> None:
    """Check that scoring adds no attribute."""
    before = set(vars(case.fitted))
    case.fitted.score_samples(case.X)
    assert set(vars(case.fitted)) == before


def check_errors_of_fit(case: _Case) -> None:
    """Check that NaN, no row, one row, one axis and five axes are errors."""
    shape = case.X.shape[1:]
    bad = {
        "NaN": np.full((9, *shape), np.nan),
        "0 sample": np.empty((0, *shape)),
        "minimum of 2": np.zeros((1, *shape)),
        "1D array": np.zeros(4),
        "shape (3, 1, 4, 4, 2)": np.zeros((3, 1, 4, 4, 2)),
    }
    for message, X in bad.items():
        _assert_raises(message, case.new().fit, X, np.arange(len(X)) % 2)


def check_error_for_other_features(case: _Case) -> None:
    """Check that rows with another number of features are an error."""
    if case.X.ndim == 2:
        n_features = case.X.shape[1] - 1
        message = f"{n_features} features"
        _assert_raises(message, case.fitted.score_samples, case.X[:, :n_features])


def check_decisions(case: _Case) -> None:
    """Check that `predict` and `decision_function` compare the score with `offset_`."""
    detector, scores = case.fitted, case.scores
    assert_array_equal(detector.predict(case.X), np.where(scores >= detector.offset_, 1, -1))
    assert_array_equal(detector.decision_function(case.X), scores - detector.offset_)


def check_known_outliers_are_not_learned(case: _Case) -> None:
    """Check that rows with y == -1 change nothing."""
    y = np.zeros(len(case.X), dtype=int) if case.y is None else case.y
    mixed = np.concatenate([case.X, case.X + 100])
    marked = np.append(y, np.full(len(case.X), -1))
    detector = case.new(random_state=0, contamination=0.2).fit(mixed, marked)
    assert_allclose(detector.score_samples(case.X), case.scores)
    again = case.new(random_state=0, contamination=0.2)
    assert_array_equal(again.fit_predict(mixed, marked), detector.predict(mixed))


def check_errors_of_y(case: _Case) -> None:
    """Check that too few labels, and too few in-distribution ones, are errors."""
    n = len(case.X)
    _assert_raises(f"{n - 1} labels, but X has {n}", case.new().fit, case.X, np.zeros(n - 1))
    message = f"1 of {n} labels in y are in-distribution"
    _assert_raises(message, case.new().fit, case.X, np.r_[0, -np.ones(n - 1)])
    if get_tags(case.detector).target_tags.required:
        message = "requires y to be passed, but the target y is None"
        _assert_raises(message, case.new().fit, case.X)


_CHECKS = [
    check_scores_are_numbers,
    check_scores_belong_to_the_row,
    check_scores_in_batches_of_other_sizes,
    check_pickle_and_clone,
    check_nothing_is_written_after_fit,
    check_error_for_other_features,
    check_random_state_decides,
    check_global_random_state,
    check_input_is_not_modified,
    check_errors_of_fit,
]
_CHECKS_OF_DETECTORS = [check_decisions, check_known_outliers_are_not_learned, check_errors_of_y]


def _checks_of(detector: Any) -> list[Callable[[_Case], None]]:
    return [*_CHECKS, *(_CHECKS_OF_DETECTORS if is_outlier_detector(detector) else [])]


def _failures_without_labels(detector: Any) -> dict[str, str]:
    if not (is_outlier_detector(detector) and get_tags(detector).target_tags.required):
        return {}
    names = "check_outliers_train", "check_outliers_fit_predict"
    return dict.fromkeys(names, "fits without y, which this detector requires")


def _global_states() -> bytes:
    """Return the global random states of Python, numpy and torch."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()  # noqa: NPY002
    return pickle.dumps(state)


def _assert_raises(message: str, function: Callable, *args: Any) -> None:
    """Check that a call raises a ValueError with this text in its message."""
    try:
        function(*args)
    except ValueError as error:
        assert message in str(error), f"expected {message!r} in the message: {error}"
    else:
        raise AssertionError(f"no ValueError with {message!r} was raised")
