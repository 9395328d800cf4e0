"""The oracle of two thresholds against enumeration of all pairs of thresholds."""

from __future__ import annotations

import re
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from skood.metrics import auroc, bootstrap_interval, dual_threshold_auroc

fast = settings(max_examples=60, deadline=None)
few_values = st.integers(-2, 2).map(float)
with_infinities = st.sampled_from([-np.inf, -1.0, 0.0, 1.0, np.inf])
tied_pairs = st.one_of(
    *(
        st.lists(st.tuples(values, values), min_size=1, max_size=15)
        for values in (few_values, with_infinities)
    )
)


def stacked(id_pairs, ood_pairs):
    y_true = np.repeat([1, -1], [len(id_pairs), len(ood_pairs)])
    return y_true, np.concatenate([id_pairs, ood_pairs])


def untied(n_id, n_ood, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    y_true = np.repeat([1, -1], [n_id, n_ood])
    return y_true, rng.normal(size=(n_id + n_ood, 2)) + shift * (y_true == 1)[:, None]


def points(y_true, pairs):
    """Numbers of accepted OOD and ID rows for all pairs of thresholds, in order."""
    accepted = [
        (pairs >= (first, second)).all(axis=1)
        for first in [*pairs[:, 0], np.nan]
        for second in pairs[:, 1]
    ]
    return sorted({(int(a[y_true == -1].sum()), int(a[y_true == 1].sum())) for a in accepted})


def brute_area(y_true, pairs):
    """The trapezoidal rule along points joined one by one, as in the authors' script."""
    n_ood, n_id = points(y_true, pairs)[-1]
    twice, at, height = 0, 0, 0
    for n_false, n_true in points(y_true, pairs):
        if n_true >= height:
            twice += (n_false - at) * (n_true + height)
            at, height = n_false, n_true
    return Fraction(twice, 2 * n_id * n_ood)


@fast
@given(id_pairs=tied_pairs, ood_pairs=tied_pairs)
def test_equals_brute_force_with_ties(id_pairs, ood_pairs):
    y_true, pairs = stacked(id_pairs, ood_pairs)
    value = dual_threshold_auroc(y_true, pairs)
    assert type(value) is float
    assert value == pytest.approx(float(brute_area(y_true, pairs)), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n_id", "n_ood"), [(30, 30), (50, 8), (1, 40)])
@pytest.mark.parametrize("decimals", [0, 16])
def test_equals_brute_force(n_id, n_ood, seed, decimals):
    y_true, pairs = untied(n_id, n_ood, seed, shift=0.5)
    # Like a dimension, the second score alone may be a count.
    pairs[:, 1] = pairs[:, 1].round(decimals)
    expected = float(brute_area(y_true, pairs))
    assert dual_threshold_auroc(y_true, pairs) == pytest.approx(expected, abs=1e-12)
    assert dual_threshold_auroc(y_true, pairs[:, ::-1]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_without_ties_it_is_the_largest_tpr_within_each_fpr(seed):
    y_true, pairs = untied(40, 25, seed)
    best = [
        max(n_true for n_false, n_true in points(y_true, pairs) if n_false <= allowed)
        for allowed in range(25)
    ]
    area = sum(best) / (40 * 25)
    assert dual_threshold_auroc(y_true, pairs) == pytest.approx(area, abs=1e-12)
    assert area >= max(auroc(y_true, score) for score in pairs.T)


@fast
@given(id_pairs=tied_pairs, ood_pairs=tied_pairs, constant=few_values)
def test_one_score_gives_the_auroc(id_pairs, ood_pairs, constant):
    y_true, pairs = stacked(id_pairs, ood_pairs)
    for score in pairs.T:
        expected = pytest.approx(auroc(y_true, score), abs=1e-12)
        for other in (np.full(len(score), constant), score):
            assert dual_threshold_auroc(y_true, np.column_stack([score, other])) == expected
            assert dual_threshold_auroc(y_true, np.column_stack([other, score])) == expected


def test_by_hand():
    id_pairs = [[3, 3], [1, 4], [4, 1]]
    ood_pairs = [[2, 5], [5, 2], [1, 1], [0, 9]]
    # Of three ID rows, thresholds (3, 3) accept one and no OOD row; (1, 3) two and one OOD row;
    # (1, 2) two and two; (0, 2) two and three; (1, 1) three and three; (0, 1) all.
    assert dual_threshold_auroc(*stacked(id_pairs, ood_pairs)) == (1 + 2 + 2 + 3) / 12


def test_a_joined_point_lowers_a_diagonal():
    """The curve contains points of two thresholds below the diagonal of a tie."""
    y_true, pairs = stacked([[1, 0], [1, 0]], [[1, 1], [1, 0]])
    # From (0, 0) to (1, 0), then to (2, 2) in counts of OOD and ID rows.
    assert dual_threshold_auroc(y_true, pairs) == 0.25
    assert auroc(y_true, pairs[:, 0]) == 0.5


def test_a_tie_is_crossed_on_the_diagonal():
    tied = stacked([[1, 1], [1, 1]], [[1, 1], [0, 0]])
    assert dual_threshold_auroc(*tied) == 0.75
    assert dual_threshold_auroc(*stacked([[0, 0]] * 3, [[0, 0]] * 5)) == 0.5


def test_separation():
    y_true, pairs = stacked([[2, 2], [3, 2], [2, 9]], [[9, 1], [1, 9], [1, 1], [9, -np.inf]])
    assert dual_threshold_auroc(y_true, pairs) == 1.0
    assert dual_threshold_auroc(*stacked([[0, 0]], [[1, 1]])) == 0.0


@pytest.mark.parametrize(
    "transform",
    [
        lambda s: 3 * s - 7,
        lambda s: s**3,
        np.arctan,
        lambda s: np.column_stack([np.exp2(s[:, 0]), 5 * s[:, 1]]),
        lambda s: s.astype(np.int8),
        lambda s: s.tolist(),
    ],
    ids=["affine", "cube", "arctan", "each its own", "int8", "list"],
)
def test_increasing_transform_changes_nothing(transform):
    y_true, pairs = untied(60, 50, shift=1)
    pairs = (2 * pairs).round()
    assert dual_threshold_auroc(y_true, transform(pairs)) == dual_threshold_auroc(y_true, pairs)


def test_order_of_rows_and_names_of_classes_change_nothing():
    y_true, pairs = untied(60, 50, shift=1)
    pairs = (2 * pairs).round()
    expected = dual_threshold_auroc(y_true, pairs)
    rng = np.random.default_rng(0)
    order = rng.permutation(110)
    assert dual_threshold_auroc(y_true[order], pairs[order]) == expected
    classes = np.where(y_true == 1, rng.integers(0, 5, 110), -1)
    assert dual_threshold_auroc(classes, pairs) == expected
    strings = np.where(y_true == 1, "cat", "-1")
    assert dual_threshold_auroc(strings, pairs) == expected


def test_no_signal_is_above_one_half():
    values = [dual_threshold_auroc(*untied(1000, 1000, seed)) for seed in range(12)]
    # The standard error of the mean is 0.004.
    assert np.mean(values) == pytest.approx(0.522, abs=0.015)
    few = [dual_threshold_auroc(*untied(50, 50, seed)) for seed in range(60)]
    assert np.mean(few) > 0.56


def test_bootstrap_takes_pairs():
    y_true, pairs = untied(60, 50, shift=1)
    low, high = bootstrap_interval(
        dual_threshold_auroc, y_true, pairs, n_resamples=50, random_state=0
    )
    assert low < dual_threshold_auroc(y_true, pairs) < high


def test_memory():
    """The counts at all pairs of thresholds would take 2 x 32 MB."""
    y_true, pairs = untied(1000, 1000)
    before = pairs.copy()
    tracemalloc.start()
    try:
        dual_threshold_auroc(y_true, pairs)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(pairs, before)


ERRORS = {
    "one score": ([1, -1], [0.0, 1.0], "pairs has shape (2,), expected (n, 2): two scores a row"),
    "three scores": (
        [1, -1],
        np.zeros((2, 3)),
        "pairs has shape (2, 3), expected (n, 2): two scores a row, both higher = more "
        "in-distribution. Pass detector.score_pairs(X), or join",
    ),
    "lengths": (
        [1, -1, -1],
        np.zeros((2, 2)),
        "y_true has 3 rows and pairs has 2, expected the same number. Score the same rows",
    ),
    "strings": (
        [1, -1],
        [["a", "b"], ["c", "d"]],
        "pairs has dtype <U1, expected real numbers. Convert it with np.asarray(pairs, dtype",
    ),
    "NaN": (
        [1, 1, -1],
        [[0.0, 0.0], [np.nan, np.nan], [1.0, np.nan]],
        "pairs is NaN in 2 of 3 rows (first at row 1), expected numbers, -inf or +inf.",
    ),
    "no OOD rows": ([0, 1], np.zeros((2, 2)), "y_true has no OOD row: its labels run from 0 to 1"),
    "no ID rows": ([-1, -1], np.zeros((2, 2)), "y_true has no ID row: all 2 labels are -1."),
    "booleans": ([True, False], np.zeros((2, 2)), "y_true has dtype bool, expected integers"),
}


@pytest.mark.parametrize(("y_true", "pairs", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(y_true, pairs, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        dual_threshold_auroc(y_true, pairs)
