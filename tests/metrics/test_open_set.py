"""The open-set metrics against exact references, brute-force counting and their contract."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from skood.metrics import auroc, ccr_at_fpr, open_set_f1, oscr

REFERENCE = np.load(Path(__file__).parent / "data" / "metrics.npz")
TOLERANCE = 1e-12
METRICS: dict[str, Callable[..., float]] = {
    "ccr_at_fpr_0.001": partial(ccr_at_fpr, fpr=0.001),
    "ccr_at_fpr_0.01": ccr_at_fpr,
    "ccr_at_fpr_0.1": partial(ccr_at_fpr, fpr=0.1),
    "oscr": oscr,
}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
# A shared machine can stall any single example, so there is no limit of time per example.
fast = settings(max_examples=60, deadline=None)

few_values = st.sampled_from([-np.inf, -2.0, -1.0, 0.0, 1.0, 2.0, np.inf])
# (score, is its class predicted correctly) for ID rows, scores for OOD rows.
id_rows = st.lists(st.tuples(few_values, st.booleans()), min_size=1, max_size=25)
ood_rows = st.lists(few_values, min_size=1, max_size=25)


def triple(id_scores, correct, ood_scores):
    """Stack rows into (y_true, y_pred, y_score) with four classes, 0 to 3."""
    id_true, ood_pred = np.arange(len(id_scores)) % 4, np.arange(len(ood_scores)) % 4
    id_pred = np.where(correct, id_true, (id_true + 1) % 4)
    y_true = np.concatenate([id_true, np.full(len(ood_scores), -1)])
    y_score = np.concatenate([id_scores, ood_scores])
    return y_true, np.concatenate([id_pred, ood_pred]), y_score


def drawn(id_rows, ood_scores):
    scores, correct = zip(*id_rows, strict=True)
    return triple(scores, correct, ood_scores)


def random_triple(n_id=300, n_ood=200, seed=0):
    rng = np.random.default_rng(seed)
    id_scores = rng.normal(1, 1, n_id).round(1)
    return triple(id_scores, rng.random(n_id) < 0.8, rng.normal(0, 1, n_ood).round(1))


def curve(id_rows, ood_scores):
    """(FPR, CCR) at every threshold from accepting nothing to accepting all."""
    points = [(Fraction(0), Fraction(0))]
    for t in sorted({s for s, _ in id_rows} | {*ood_scores}, reverse=True):
        accepted_ood = sum(s >= t for s in ood_scores)
        classified = sum(s >= t and correct for s, correct in id_rows)
        points.append((Fraction(accepted_ood, len(ood_scores)), Fraction(classified, len(id_rows))))
    return points


def brute_oscr(id_rows, ood_scores):
    points = curve(id_rows, ood_scores)
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))


def brute_ccr(id_rows, ood_scores, level):
    return max(ccr for fpr, ccr in curve(id_rows, ood_scores) if fpr <= level)


def brute_f1(y_true, y_pred):
    classes = {*y_true, *y_pred}
    pairs = list(zip(y_true, y_pred, strict=True))
    return sum(
        Fraction(
            2 * pairs.count((c, c)), sum(t == c for t, _ in pairs) + sum(p == c for _, p in pairs)
        )
        for c in classes
    ) / len(classes)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("case", REFERENCE["case_names"])
def test_reference_values(case, name):
    arrays = triple(*(REFERENCE[f"{case}__{key}"] for key in ("id", "correct", "ood")))
    value = METRICS[name](*arrays)
    expected = REFERENCE[f"{case}__expected__{name}"]
    assert type(value) is float
    assert value == pytest.approx(float(expected), rel=0, abs=TOLERANCE)


@pytest.mark.parametrize("fpr", [0.001, 0.01, 0.1])
def test_openood_counts_one_ood_row_less_at_exact_levels(fpr):
    for case in REFERENCE["case_names"]:
        arrays = triple(*(REFERENCE[f"{case}__{key}"] for key in ("id", "correct", "ood")))
        kth_ood = float(REFERENCE[f"{case}__expected__ccr_at_fpr_{fpr}_kth_ood"])
        assert ccr_at_fpr(*arrays, fpr=fpr) >= kth_ood
    y_true, y_pred, y_score = triple([2.0, 0.5], [True, True], [3.0, 1.0, *[0.0] * 8])
    # One OOD row of ten may be accepted; OpenOOD accepts what is above the largest OOD score.
    assert ccr_at_fpr(y_true, y_pred, y_score, fpr=0.1) == 0.5


@fast
@given(id_rows=id_rows, ood_scores=ood_rows)
def test_oscr_equals_trapezoids_under_the_curve(id_rows, ood_scores):
    arrays = drawn(id_rows, ood_scores)
    exact = float(brute_oscr(id_rows, ood_scores))
    assert oscr(*arrays) == pytest.approx(exact, rel=0, abs=TOLERANCE)


@fast
@given(id_rows=id_rows, ood_scores=ood_rows, twentieths=st.integers(0, 20))
def test_ccr_at_fpr_equals_brute_force(id_rows, ood_scores, twentieths):
    level = Fraction(twentieths, 20)
    exact = float(brute_ccr(id_rows, ood_scores, level))
    # 1 - x and k * 0.05 can differ from the nearest float of the level.
    for fpr in (float(level), 1 - float(1 - level), min(twentieths * 0.05, 1.0)):
        value = ccr_at_fpr(*drawn(id_rows, ood_scores), fpr=fpr)
        assert value == pytest.approx(exact, rel=0, abs=TOLERANCE)


@pytest.mark.parametrize(("n_id", "n_ood"), [(5, 20_000), (20_000, 5), (400, 500)])
def test_imbalance_equals_all_pairs(n_id, n_ood):
    y_true, y_pred, y_score = random_triple(n_id, n_ood)
    is_id = y_true >= 0
    correct, ood_scores = y_score[is_id & (y_true == y_pred), None], y_score[~is_id]
    wins = (correct > ood_scores).sum() + 0.5 * (correct == ood_scores).sum()
    assert oscr(y_true, y_pred, y_score) == pytest.approx(wins / n_id / n_ood, rel=0, abs=TOLERANCE)


@fast
@given(pairs=st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), max_size=25))
def test_open_set_f1_equals_brute_force(pairs):
    # One row of either kind is needed.
    y_true, y_pred = zip(*pairs, (0, 3), (-1, -1), strict=True)
    value = open_set_f1(y_true, y_pred)
    assert type(value) is float
    assert value == pytest.approx(float(brute_f1(y_true, y_pred)), rel=0, abs=TOLERANCE)


@pytest.mark.parametrize("n", [7, 29, 58, 100, 1000, 10_000])
def test_exact_level_is_met_whatever_n(n):
    """Exactly k of n OOD rows lie above all ID rows; a level of k / n accepts all k."""
    for k in {1, n // 3, n * 57 // 100, n - 1}:
        ood_scores = np.repeat([2.0, 0.0], [k, n - k])
        arrays = triple([1.0, 1.0], [True, False], ood_scores)
        assert ccr_at_fpr(*arrays, fpr=k / n) == 0.5
        assert ccr_at_fpr(*arrays, fpr=np.nextafter(k / n, 0)) == 0.5
        assert ccr_at_fpr(*arrays, fpr=k / n - 1e-9) == 0.0


def test_level_with_rounding_noise():
    assert 0.29 * 100 < 29
    arrays = triple([1.0], [True], np.repeat([2.0, 0.0], [29, 71]))
    assert ccr_at_fpr(*arrays, fpr=0.29) == 1.0


def test_threshold_on_a_tie_of_both_kinds():
    """ID and OOD rows of one score are accepted together, or not at all."""
    arrays = triple([2.0, 1.0, 1.0], [True, True, True], [1.0, 0.0])
    assert ccr_at_fpr(*arrays, fpr=0.49) == pytest.approx(1 / 3)
    assert ccr_at_fpr(*arrays, fpr=0.5) == 1.0
    assert oscr(*arrays) == pytest.approx((1 + 0.75 + 0.75) / 3)


def test_ends_of_the_curve():
    y_true, y_pred, y_score = random_triple()
    is_id = y_true >= 0
    accuracy = np.mean(y_pred[is_id] == y_true[is_id])
    assert ccr_at_fpr(y_true, y_pred, y_score, fpr=1) == accuracy
    above_all = y_score[is_id] > y_score[~is_id].max()
    expected = np.mean(above_all & (y_pred[is_id] == y_true[is_id]))
    assert ccr_at_fpr(y_true, y_pred, y_score, fpr=0) == expected


def test_perfect_inverted_and_constant():
    correct = np.array([True, True, True, False])
    perfect = triple([2.0, 3.0, 4.0, 5.0], correct, [0.0, 1.0])
    inverted = triple([-2.0, -3.0, -4.0, -5.0], correct, [0.0, 1.0])
    constant = triple(np.zeros(4), correct, np.zeros(2))
    for metric in METRICS.values():
        assert metric(*perfect) == 0.75
        assert metric(*inverted) == 0.0
    assert [metric(*constant) for metric in METRICS.values()] == [0, 0, 0, 0.375]


def test_no_class_right():
    arrays = triple([2.0, 3.0], [False, False], [0.0, 1.0])
    assert [metric(*arrays) for metric in METRICS.values()] == [0.0] * 4


@fast
@given(id_rows=id_rows, ood_scores=ood_rows)
def test_oscr_beside_auroc(id_rows, ood_scores):
    y_true, y_pred, y_score = drawn(id_rows, ood_scores)
    area = auroc(y_true, y_score)
    assert oscr(y_true, y_pred, y_score) <= area + TOLERANCE
    assert oscr(y_true, np.maximum(y_true, 0), y_score) == area
    # What the code released with VMDLS sums up: only correctly classified ID rows.
    kept = (y_true == y_pred) | (y_true == -1)
    accuracy = np.mean([correct for _, correct in id_rows])
    if accuracy:
        assert oscr(y_true, y_pred, y_score) / accuracy == pytest.approx(
            auroc(y_true[kept], y_score[kept]), rel=0, abs=TOLERANCE
        )


@every_metric
def test_invariances(metric):
    y_true, y_pred, y_score = random_triple()
    value = metric(y_true, y_pred, y_score)
    for transform in (lambda s: 3 * s - 7, np.arctan, np.exp2, lambda s: (10 * s).astype(int)):
        assert metric(y_true, y_pred, transform(y_score)) == value
    order = np.random.default_rng(1).permutation(len(y_true))
    assert metric(y_true[order], y_pred[order], y_score[order]) == value
    thrice = [np.repeat(array, 3) for array in (y_true, y_pred, y_score)]
    assert metric(*thrice) == value
    tripled_ood = np.repeat([1, 3], [300, 200])
    tripled = [np.repeat(array, tripled_ood) for array in (y_true, y_pred, y_score)]
    assert metric(*tripled) == pytest.approx(value, rel=0, abs=TOLERANCE)
    other_prediction_of_ood = np.where(y_true == -1, 99, y_pred)
    assert metric(y_true, other_prediction_of_ood, y_score) == value
    renamed = np.array([5, 0, 17, 2, -1])
    assert metric(renamed[y_true], renamed[y_pred], y_score) == value
    assert metric(y_true.astype(np.int8), y_pred.astype(np.uint8), y_score.tolist()) == value
    names = np.array(["cat", "dog", "frog", "ship", "-1"])
    assert metric(names[y_true], names[y_pred], y_score) == value
    objects = names.astype(object)
    assert metric(objects[y_true], objects[y_pred], y_score) == value


def test_invariances_of_open_set_f1():
    y_true, y_pred, y_score = random_triple()
    y_pred = np.where(y_score > 0.5, y_pred, -1)
    value = open_set_f1(y_true, y_pred)
    order = np.random.default_rng(1).permutation(len(y_true))
    assert open_set_f1(y_true[order], y_pred[order]) == value
    assert open_set_f1(np.repeat(y_true, 3), np.repeat(y_pred, 3)) == value
    renamed = np.array([5, 0, 17, 2, -1])
    assert open_set_f1(renamed[y_true], renamed[y_pred]) == pytest.approx(value, abs=TOLERANCE)
    names = np.array(["cat", "dog", "frog", "ship", "-1"])
    assert open_set_f1(names[y_true], names[y_pred]) == pytest.approx(value, abs=TOLERANCE)


def test_open_set_f1_by_hand():
    y_true = [0, 0, 1, 1, -1, -1]
    assert open_set_f1(y_true, y_true) == 1.0
    assert open_set_f1(y_true, [1, 1, -1, -1, 0, 0]) == 0.0
    # Rejecting all: the unknown class has precision 1/3 and recall 1.
    assert open_set_f1(y_true, [-1] * 6) == pytest.approx(0.5 / 3)
    # A class without rows counts once it is predicted.
    assert open_set_f1([0, 1, -1], [0, 2, -1]) == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert open_set_f1([1, 1, -1, -1], [1, -1, -1, -1]) == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_inputs_are_left_as_they_were():
    arrays = random_triple()
    for array in arrays:
        array.setflags(write=False)
    for metric in METRICS.values():
        metric(*arrays)


@every_metric
def test_memory_is_linear(metric):
    arrays = random_triple(100_000, 100_000)
    arrays = (*arrays[:2], arrays[2] + np.random.default_rng(0).normal(size=200_000))
    tracemalloc.start()
    try:
        metric(*arrays)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * len(arrays[0])


PREDICTION_ERRORS = {
    "a column": (
        [0, 1, -1],
        [[0], [1], [1]],
        "y_pred has shape (3, 1), expected (n,): one label a row. Pass y_pred.ravel() if",
    ),
    "probabilities": ([0, 1, -1], np.ones((3, 2)), "y_pred has shape (3, 2), expected (n,)"),
    "lengths": (
        [0, 1, -1],
        [0, 1],
        "y_true has 3 rows and y_pred has 2, expected the same number. Predict for the same rows "
        "as the labels, OOD rows too.",
    ),
    "fractions": ([0, 1, -1], [0.0, 1.5, 1.0], "y_pred holds 1.5, which is no class"),
    "strings for integers": (
        [0, 1, -1],
        ["0", "1", "1"],
        "y_true has dtype int64 and y_pred <U1, expected both to be integers or both to be "
        "strings. Give both in the labels that the classifier was fitted to.",
    ),
    "integers for strings": (
        ["cat", "dog", "-1"],
        [0, 1, 1],
        "y_true has dtype <U3 and y_pred int64, expected both to be integers",
    ),
    "below -1": ([0, 1, -1], [0, 1, -2], "y_pred holds the label -2; expected class"),
}


@pytest.mark.parametrize("metric", [ccr_at_fpr, oscr, open_set_f1])
@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"), PREDICTION_ERRORS.values(), ids=PREDICTION_ERRORS.keys()
)
def test_errors_of_predictions(metric, y_true, y_pred, message):
    scores = [] if metric is open_set_f1 else [np.zeros(3)]
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        metric(y_true, y_pred, *scores)


@every_metric
@pytest.mark.parametrize("labels", [[0, 1, -1, -1], ["cat", "dog", "-1", "-1"]])
def test_rejection_belongs_to_the_score(metric, labels):
    message = "y_pred is -1 in 2 of 4 rows, expected a class in each: y_score decides which rows"
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        metric(labels, labels, np.zeros(4))


@every_metric
def test_errors_of_labels_and_scores(metric):
    with pytest.raises(ValueError, match=r"^y_true has no OOD row"):
        metric([0, 1], [0, 1], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"^y_true has no ID row"):
        metric([-1, -1], [0, 1], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"^y_score is NaN in 1 of 2 rows"):
        metric([0, -1], [0, 1], [0.0, np.nan])
    with pytest.raises(ValueError, match=r"^y_true has 2 rows and y_score has 3"):
        metric([0, -1], [0, 1], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"^y_true holds 0.5, which is no class"):
        metric([0.5, -1.0], [0, 1], [0.0, 1.0])


def test_whole_floats_are_integers():
    for y_true, y_pred in (([0.0, 1.0, -1.0], [0, 0, 1]), ([0, 1, -1], [0.0, 0.0, 1.0])):
        assert open_set_f1(y_true, y_pred) == open_set_f1([0, 1, -1], [0, 0, 1])


def test_open_set_f1_needs_both_kinds():
    with pytest.raises(ValueError, match=r"^y_true has no OOD row"):
        open_set_f1([0, 1], [0, -1])
    with pytest.raises(ValueError, match=r"^y_true has no ID row"):
        open_set_f1([-1, -1], [0, -1])


@pytest.mark.parametrize("fpr", [-0.1, 1.0001, 5, float("nan")])
def test_fpr_outside_its_range(fpr):
    message = f"fpr is {fpr!r}, expected a rate in [0, 1]. Pass a fraction: 0.01 means 1 %."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        ccr_at_fpr([0, -1], [0, 0], [1.0, 0.0], fpr=fpr)


def test_fpr_is_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        ccr_at_fpr([0, -1], [0, 0], [1.0, 0.0], 0.1)
