"""The ranking metrics against exact references, brute-force counting and their contract."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from skood import metrics
from skood.metrics import aupr_in, aupr_out, auroc, detection_error, fpr_at_tpr

REFERENCE = np.load(Path(__file__).parent / "data" / "metrics.npz")
TOLERANCE = 1e-12
METRICS: dict[str, Callable[..., float]] = {
    "auroc": auroc,
    "aupr_in": aupr_in,
    "aupr_out": aupr_out,
    "fpr_at_95tpr": fpr_at_tpr,
    "fpr_at_80tpr": partial(fpr_at_tpr, tpr=0.8),
    "detection_error": detection_error,
}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
# A shared machine can stall any single example, so there is no limit of time per example.
fast = settings(max_examples=60, deadline=None)

few_values = st.integers(-3, 3).map(float)
with_infinities = st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 2.0, np.inf])
tied_scores = st.one_of(
    st.lists(few_values, min_size=1, max_size=25),
    st.lists(with_infinities, min_size=1, max_size=25),
)


def pair(id_scores, ood_scores):
    """Stack ID and OOD scores into (y_true, y_score) with labels +1 and -1."""
    y_true = np.repeat([1, -1], [len(id_scores), len(ood_scores)])
    return y_true, np.concatenate([id_scores, ood_scores])


def brute_auroc(id_scores, ood_scores):
    twice = sum((a > b) + (a >= b) for a in id_scores for b in ood_scores)
    return Fraction(twice, 2 * len(id_scores) * len(ood_scores))


def brute_average_precision(positives, negatives):
    total, caught_before = Fraction(0), 0
    for t in sorted({*positives, *negatives}, reverse=True):
        caught = sum(s >= t for s in positives)
        accepted = caught + sum(s >= t for s in negatives)
        total += Fraction(caught - caught_before, len(positives)) * Fraction(caught, accepted)
        caught_before = caught
    return total


def brute_fpr_at_tpr(id_scores, ood_scores, level):
    return min(
        Fraction(sum(s >= t for s in ood_scores), len(ood_scores))
        for t in {*id_scores, *ood_scores}
        if Fraction(sum(s >= t for s in id_scores), len(id_scores)) >= level
    )


def brute_detection_error(id_scores, ood_scores):
    accept_all = Fraction(1, 2)
    return min(
        accept_all,
        *(
            Fraction(sum(s <= t for s in id_scores), 2 * len(id_scores))
            + Fraction(sum(s > t for s in ood_scores), 2 * len(ood_scores))
            for t in {*id_scores, *ood_scores}
        ),
    )


def test_public_names():
    names = {"aupr_in", "aupr_out", "auroc", "detection_error", "fpr_at_tpr"}
    names |= {"bootstrap_interval", "ccr_at_fpr", "ood_report", "open_set_f1", "oscr"}
    names |= {"bootstrap_test", "ccr_curve", "delong_test", "open_set_f1_curve"}
    names.add("dual_threshold_auroc")
    assert names == set(metrics.__all__)
    assert all(callable(getattr(metrics, name)) for name in names)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("case", REFERENCE["case_names"])
def test_reference_values(case, name):
    value = METRICS[name](*pair(REFERENCE[f"{case}__id"], REFERENCE[f"{case}__ood"]))
    assert type(value) is float
    assert value == pytest.approx(
        float(REFERENCE[f"{case}__expected__{name}"]), rel=0, abs=TOLERANCE
    )


@fast
@given(id_scores=tied_scores, ood_scores=tied_scores)
def test_areas_and_error_equal_brute_force(id_scores, ood_scores):
    y_true, y_score = pair(id_scores, ood_scores)
    negated_id, negated_ood = [-s for s in id_scores], [-s for s in ood_scores]
    for value, exact in [
        (auroc(y_true, y_score), brute_auroc(id_scores, ood_scores)),
        (aupr_in(y_true, y_score), brute_average_precision(id_scores, ood_scores)),
        (aupr_out(y_true, y_score), brute_average_precision(negated_ood, negated_id)),
        (detection_error(y_true, y_score), brute_detection_error(id_scores, ood_scores)),
    ]:
        assert value == pytest.approx(float(exact), rel=0, abs=TOLERANCE)


@pytest.mark.parametrize(("n_id", "n_ood"), [(4000, 4000), (7, 20_000), (20_000, 7)])
@pytest.mark.parametrize("decimals", [1, 16])
def test_agrees_with_scikit_learn(n_id, n_ood, decimals):
    rng = np.random.default_rng(0)
    y_true, y_score = pair(rng.normal(1, 1, n_id), rng.normal(0, 1, n_ood))
    y_score = y_score.round(decimals)
    fpr, tpr, _ = roc_curve(y_true == 1, y_score, drop_intermediate=False)
    for value, expected in [
        (auroc(y_true, y_score), roc_auc_score(y_true == 1, y_score)),
        (aupr_in(y_true, y_score), average_precision_score(y_true == 1, y_score)),
        (aupr_out(y_true, y_score), average_precision_score(y_true == -1, -y_score)),
        (fpr_at_tpr(y_true, y_score), fpr[np.argmax(tpr >= 0.95)]),
        (detection_error(y_true, y_score), np.min(1 - tpr + fpr) / 2),
    ]:
        assert value == pytest.approx(expected, rel=0, abs=TOLERANCE)


@fast
@given(id_scores=tied_scores, ood_scores=tied_scores, twentieths=st.integers(1, 20))
def test_fpr_at_tpr_equals_brute_force(id_scores, ood_scores, twentieths):
    level = Fraction(twentieths, 20)
    exact = brute_fpr_at_tpr(id_scores, ood_scores, level)
    # 1 - x and k * 0.05 can differ from the nearest float of the level.
    for tpr in (float(level), 1 - float(1 - level), min(twentieths * 0.05, 1.0)):
        assert fpr_at_tpr(*pair(id_scores, ood_scores), tpr=tpr) == pytest.approx(
            float(exact), rel=0, abs=TOLERANCE
        )


@pytest.mark.parametrize("n_id", [20, 40, 60, 100, 140, 1000, 10_000])
def test_exact_level_is_met_whatever_n(n_id):
    """Exactly 95 % of the ID rows lie above all OOD rows, so no OOD row is accepted."""
    id_scores = np.repeat([2.0, 0.0], [n_id * 19 // 20, n_id // 20])
    y_true, y_score = pair(id_scores, np.ones(3))
    assert fpr_at_tpr(y_true, y_score) == 0.0
    one_row_more = 0.95 + 1 / n_id
    assert fpr_at_tpr(y_true, y_score, tpr=one_row_more) == 1.0


@pytest.mark.parametrize(
    ("tpr", "n_above", "n_id"), [(1 - 0.7, 3, 10), (0.1 + 0.2, 3, 10), (19 * 0.05, 19, 20)]
)
def test_level_with_rounding_noise(tpr, n_above, n_id):
    assert tpr > n_above / n_id
    id_scores = np.repeat([2.0, 0.0], [n_above, n_id - n_above])
    y_true, y_score = pair(id_scores, [1.0, 1.0])
    assert fpr_at_tpr(y_true, y_score, tpr=tpr) == 0.0
    assert fpr_at_tpr(y_true, y_score, tpr=tpr + 1e-9) == 1.0


def test_tiny_level_still_accepts_an_id_row():
    assert fpr_at_tpr([1, -1], [0.0, 1.0], tpr=1e-300) == 1.0


def test_collinear_points_of_the_curve_are_kept():
    """The wanted point lies on a straight piece, where a thinned curve has no vertex."""
    y_true, y_score = pair([3, 2, 1, 0], [3, 2, 1, 0])
    assert fpr_at_tpr(y_true, y_score, tpr=0.5) == 0.5
    assert fpr_at_tpr(y_true, y_score, tpr=0.75) == 0.75


@pytest.mark.parametrize(
    "transform",
    [lambda s: 3 * s - 7, lambda s: s**3, np.exp2, np.arctan, lambda s: s.astype(np.int8)],
    ids=["affine", "cube", "exp2", "arctan", "int8"],
)
@fast
@given(
    id_scores=st.lists(few_values, min_size=1, max_size=25),
    ood_scores=st.lists(few_values, min_size=1, max_size=25),
)
def test_increasing_transform_changes_nothing(transform, id_scores, ood_scores):
    y_true, y_score = pair(id_scores, ood_scores)
    for metric in METRICS.values():
        assert metric(y_true, transform(y_score)) == metric(y_true, y_score)


@fast
@given(id_scores=tied_scores, ood_scores=tied_scores)
def test_exchange_of_roles(id_scores, ood_scores):
    y_true, y_score = pair(id_scores, ood_scores)
    assert auroc(-y_true, -y_score) == pytest.approx(auroc(y_true, y_score), abs=TOLERANCE)
    assert auroc(y_true, -y_score) == pytest.approx(1 - auroc(y_true, y_score), abs=TOLERANCE)
    assert aupr_out(y_true, y_score) == aupr_in(-y_true, -y_score)
    assert detection_error(-y_true, -y_score) == pytest.approx(
        detection_error(y_true, y_score), abs=TOLERANCE
    )


@fast
@given(id_scores=tied_scores, ood_scores=tied_scores, seed=st.integers(0, 2**32 - 1))
def test_row_order_changes_nothing(id_scores, ood_scores, seed):
    y_true, y_score = pair(id_scores, ood_scores)
    order = np.random.default_rng(seed).permutation(len(y_true))
    for metric in METRICS.values():
        assert metric(y_true[order], y_score[order]) == metric(y_true, y_score)


def test_sign_convention():
    perfect = pair([2.0, 3.0, 4.0], [-1.0, 0.0, 1.0])
    assert [metric(*perfect) for metric in METRICS.values()] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    y_true, y_score = perfect
    assert auroc(y_true, -y_score) == 0.0
    assert fpr_at_tpr(y_true, -y_score) == 1.0
    assert detection_error(y_true, -y_score) == 0.5
    # The three positives come last: precision is 1/4, 2/5, 3/6 where recall grows by 1/3.
    for area in (aupr_in, aupr_out):
        assert area(y_true, -y_score) == pytest.approx((1 / 4 + 2 / 5 + 3 / 6) / 3, abs=TOLERANCE)


def test_constant_score_says_nothing():
    constant = pair(np.zeros(30), np.zeros(10))
    values = [metric(*constant) for metric in METRICS.values()]
    assert values == [0.5, 0.75, 0.25, 1.0, 1.0, 0.5]


@every_metric
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.float32, np.float64])
def test_class_labels_equal_plus_minus_one(metric, dtype):
    rng = np.random.default_rng(0)
    y_score = rng.integers(0, 12, 90) + np.repeat([3.0, 0.0], [60, 30])
    signs = np.repeat([1, -1], [60, 30])
    labels = np.where(signs == 1, rng.integers(0, 10, 90), -1).astype(dtype)
    assert 0 in labels
    assert metric(labels, y_score) == metric(signs, y_score)
    assert metric(labels.tolist(), y_score.tolist()) == metric(signs, y_score)


@every_metric
def test_class_zero_alone_is_in_distribution(metric):
    y_score = [0.3, 0.9, 0.4, 0.1]
    assert metric([0, 0, -1, -1], y_score) == metric([1, 1, -1, -1], y_score)


STRINGS = ["cat", "dog", "-1", "-1"]


@every_metric
@pytest.mark.parametrize(
    "labels",
    [
        STRINGS,
        np.array(STRINGS),
        np.array(STRINGS, dtype=object),
        np.array(["cat", "dog", -1, np.int64(-1)], dtype=object),
        ["cat", "dog", -1, -1],
        np.array([3, 4, -1, -1], dtype=object),
    ],
    ids=lambda labels: f"{type(labels).__name__}-{getattr(labels, 'dtype', '')}",
)
def test_labels_that_are_strings(metric, labels):
    y_score = [0.9, 0.4, 0.4, 0.1]
    assert metric(labels, y_score) == metric([1, 1, -1, -1], y_score)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [(STRINGS, None), (["cat", "dog", -1, -1], None), (STRINGS, "string"), (STRINGS, "category")],
)
def test_labels_in_a_column_of_pandas(values, dtype):
    pandas = pytest.importorskip("pandas")
    scores = pandas.Series([0.9, 0.4, 0.4, 0.1], index=list("dcba"))
    assert auroc(pandas.Series(values, dtype=dtype), scores) == 0.875


@every_metric
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_infinities_rank_beyond_every_number(metric, dtype):
    largest = np.finfo(dtype).max
    y_true = [1, 1, 2, 0, -1, -1, -1, -1]
    y_score = np.array([np.inf, largest, 0, -np.inf, -largest, -np.inf, 0, np.inf], dtype=dtype)
    assert metric(y_true, y_score) == metric(y_true, [4, 3, 2, 0, 1, 0, 2, 4])


def test_impossible_ood_rows_are_perfectly_detected():
    y_true, y_score = pair([-1e308, 5.0, np.inf], [-np.inf, -np.inf])
    assert [metric(y_true, y_score) for metric in METRICS.values()] == [1, 1, 1, 0, 0, 0]


def test_neighbouring_numbers_are_not_tied():
    just_above = np.nextafter(1.0, 2.0)
    assert auroc([1, -1], [just_above, 1.0]) == 1.0
    assert auroc([1, -1], [2**53 + 1, 2**53]) == 1.0
    assert auroc([1, -1], [0.0, -0.0]) == 0.5


def test_inputs_are_left_as_they_were():
    y_true, y_score = pair([3.0, -np.inf], [1.0, 0.0])
    y_true.setflags(write=False)
    y_score.setflags(write=False)
    for metric in METRICS.values():
        metric(y_true, y_score)


ERRORS = {
    "y_true a column": (
        [[1], [-1]],
        [0.0, 1.0],
        "y_true has shape (2, 1), expected (n,): one label a row. "
        "Pass y_true.ravel() if it is a single column or row.",
    ),
    "y_true a scalar": (1, [0.0], "y_true has shape (), expected (n,)"),
    "y_score 2-D": (
        [1, 2, -1],
        np.zeros((3, 10)),
        "y_score has shape (3, 10), expected (n,): one score a row, higher = more "
        "in-distribution. Pass detector.score_samples(X), or reduce class scores",
    ),
    "y_score a column": ([1, -1], [[0.0], [1.0]], "y_score has shape (2, 1), expected (n,)"),
    "lengths": (
        [1, -1, -1],
        [0.0, 1.0],
        "y_true has 3 rows and y_score has 2, expected the same number. Score the same rows",
    ),
    "empty": ([], [], "y_true is empty, expected a label for each row, ID and OOD. Concatenate"),
    "booleans": (
        [True, False],
        [0.0, 1.0],
        "y_true has dtype bool, expected integers: -1 for OOD, a class label >= 0 or +1 for ID; "
        "or strings, '-1' for OOD. Build it with np.where(is_ood, -1, 1)",
    ),
    "fractions": ([0.5, -1.0], [0.0, 1.0], "y_true holds 0.5, which is no class"),
    "NaN label": ([np.nan, -1.0], [0.0, 1.0], "y_true holds nan at 1 of 2 rows; expected class"),
    "infinite label": (
        [np.inf, -1.0],
        [0.0, 1.0],
        "y_true holds inf at 1 of 2 rows",
    ),
    "booleans as objects": (
        np.array([True, False], dtype=object),
        [0.0, 1.0],
        "y_true has dtype bool, expected integers",
    ),
    "missing string": (
        np.array(["cat", None], dtype=object),
        [0.0, 1.0],
        "y_true holds None (NoneType) at row 1; expected class labels",
    ),
    "NaN among strings": (
        np.array(["cat", "-1", np.nan], dtype=object),
        [0.0, 1.0, 2.0],
        "y_true holds nan (float) at row 2; expected class labels",
    ),
    "bytes": ([b"cat", b"-1"], [0.0, 1.0], "y_true has dtype |S3; expected class labels"),
    "no OOD rows, strings": (
        ["id", "ood"],
        [0.0, 1.0],
        "y_true has no OOD row: none of its 2 labels is '-1'. Expected at least one -1; mark",
    ),
    "no ID rows, strings": (["-1"], [0.0], "y_true has no ID row: all 1 labels are -1."),
    "label below -1": (
        [3, -1, -2],
        [0.0, 1.0, 2.0],
        "y_true holds the label -2; expected class labels >= 0 for in-distribution rows and -1 for "
        "OOD rows. Relabel every OOD row as -1",
    ),
    "no OOD rows": (
        [0, 1, 0],
        [0.0, 1.0, 2.0],
        "y_true has no OOD row: its labels run from 0 to 1, and 0 is an ID label too. Expected "
        "at least one -1; mark OOD rows with np.where(is_ood, -1, y_true).",
    ),
    "no OOD rows, unsigned": (
        np.array([7, 255], dtype=np.uint8),
        [0.0, 1.0],
        "y_true has no OOD row: its labels run from 7 to 255",
    ),
    "no ID rows": (
        [-1, -1],
        [0.0, 1.0],
        "y_true has no ID row: all 2 labels are -1. Expected at least one label >= 0; append",
    ),
    "string scores": (
        [1, -1],
        ["a", "b"],
        "y_score has dtype <U1, expected real numbers. Convert it with np.asarray(y_score, dtype",
    ),
    "complex scores": ([1, -1], [1j, 0], "y_score has dtype complex128, expected real numbers"),
    "missing score": ([1, -1], [None, 0.0], "y_score has dtype object, expected real numbers"),
    "NaN": (
        [1, 1, -1, -1],
        [0.0, np.nan, -np.inf, np.nan],
        "y_score is NaN in 2 of 4 rows (first at row 1), expected numbers, -inf or +inf. Find the "
        "cause of the NaN; the score of a row that is impossible under the model is -inf.",
    ),
}


@every_metric
@pytest.mark.parametrize(("y_true", "y_score", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(metric, y_true, y_score, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        metric(y_true, y_score)


@pytest.mark.parametrize("tpr", [0, -0.1, 1.0001, 95, float("nan")])
def test_tpr_outside_its_range(tpr):
    message = f"tpr is {tpr!r}, expected a rate in (0, 1]. Pass a fraction: 0.95 means 95 %."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        fpr_at_tpr([1, -1], [1.0, 0.0], tpr=tpr)


def test_tpr_is_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        fpr_at_tpr([1, -1], [1.0, 0.0], 0.95)
