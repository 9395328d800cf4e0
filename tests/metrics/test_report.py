"""The report: the numbers of the single metrics, its text, and the intervals of its mean."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest

from skood.metrics import (
    aupr_in,
    aupr_out,
    auroc,
    bootstrap_interval,
    ccr_at_fpr,
    detection_error,
    fpr_at_tpr,
    ood_report,
    oscr,
)

METRICS = {
    "auroc": auroc,
    "aupr_in": aupr_in,
    "aupr_out": aupr_out,
    "fpr_at_tpr": fpr_at_tpr,
    "detection_error": detection_error,
}
OPEN_SET = {"ccr_at_fpr": ccr_at_fpr, "oscr": oscr}
SIZES = {"id": 120, "near": 90, "far": 40, "noise": 7}


@pytest.fixture(scope="module")
def data():
    """y_true, y_pred, y_score and groups of rows in mixed order, with ties."""
    rng = np.random.default_rng(0)
    groups = np.repeat([*SIZES], [*SIZES.values()])
    y_true = np.where(groups == "id", rng.integers(0, 4, len(groups)), -1)
    y_pred = np.where(rng.random(len(groups)) < 0.8, np.abs(y_true), 3)
    shift = np.repeat([2.0, 1.0, 0.0, -1.0], [*SIZES.values()])
    y_score = (rng.normal(size=len(groups)) + shift).round(1)
    order = rng.permutation(len(groups))
    arrays = [array[order] for array in (y_true, y_pred, y_score, groups)]
    for array in arrays:
        array.setflags(write=False)
    return arrays


def subset(data, name):
    """y_true, y_pred, y_score of the ID rows and one OOD set."""
    y_true, y_pred, y_score, groups = data
    kept = (y_true >= 0) | (groups == name)
    return y_true[kept], y_pred[kept], y_score[kept]


def test_numbers_are_those_of_the_metrics(data):
    y_true, y_pred, y_score, groups = data
    report = ood_report(y_true, y_score, y_pred=y_pred, groups=groups, output_dict=True)
    assert report["n_id"] == 120
    assert report["accuracy"] == np.mean((y_pred == y_true)[y_true >= 0])
    first_seen = list(dict.fromkeys(groups[y_true == -1]))
    assert list(report["sets"]) == first_seen
    assert list(report) == ["n_id", "accuracy", "sets", "mean"]
    for name, measured in report["sets"].items():
        set_true, set_pred, set_score = subset(data, name)
        expected = {key: metric(set_true, set_score) for key, metric in METRICS.items()}
        expected |= {key: metric(set_true, set_pred, set_score) for key, metric in OPEN_SET.items()}
        assert measured == expected | {"n_ood": SIZES[name]}
        assert all(type(measured[key]) is float for key in expected)
    for key in METRICS | OPEN_SET:
        mean = np.mean([measured[key] for measured in report["sets"].values()])
        assert report["mean"][key] == pytest.approx(mean, abs=1e-15)
    assert "n_ood" not in report["mean"]


def test_without_groups_all_ood_rows_are_one_set(data):
    y_true, _, y_score, _ = data
    report = ood_report(y_true, y_score, output_dict=True)
    expected = {key: metric(y_true, y_score) for key, metric in METRICS.items()}
    assert report == {"n_id": 120, "sets": {"OOD": expected | {"n_ood": 137}}}


def test_rates(data):
    y_true, y_pred, y_score, _ = data
    measured = ood_report(y_true, y_score, y_pred=y_pred, tpr=0.8, fpr=0.2, output_dict=True)
    assert measured["sets"]["OOD"]["fpr_at_tpr"] == fpr_at_tpr(y_true, y_score, tpr=0.8)
    assert measured["sets"]["OOD"]["ccr_at_fpr"] == ccr_at_fpr(y_true, y_pred, y_score, fpr=0.2)
    text = ood_report(y_true, y_score, y_pred=y_pred, tpr=0.8, fpr=0.07)
    assert "FPR@80%TPR" in text
    assert "CCR@7%FPR" in text


TEXT = """\
                AUROC  AUPR-in  AUPR-out  FPR@95%TPR  detection error  CCR@1%FPR   OSCR  OOD rows
positive class     ID       ID       OOD          ID           either         ID     ID

near            0.750    0.917     0.583       1.000            0.125      0.500  0.500         2
far             1.000    1.000     1.000       0.000            0.000      0.750  0.750         2

mean            0.875    0.958     0.792       0.500            0.062      0.625  0.625

4 ID rows, classified with accuracy 0.750. A row is accepted as ID if its score is at least the \
threshold."""


def test_text():
    y_true = [0, 1, 1, 0, -1, -1, -1, -1]
    y_pred = [0, 1, 0, 0, 1, 1, 1, 1]
    y_score = [0.9, 0.8, 0.7, 0.4, 0.6, 0.5, 0.2, 0.1]
    groups = [None, None, "near", np.nan, "near", "near", "far", "far"]
    assert ood_report(y_true, y_score, y_pred=y_pred, groups=groups) == TEXT
    strings = np.array(["cat", "dog", "-1"])
    names = strings[y_true].tolist(), strings[y_pred].tolist()
    assert ood_report(names[0], y_score, y_pred=names[1], groups=groups) == TEXT


def test_text_of_intervals_and_digits(data):
    y_true, _, y_score, groups = data
    params = {"groups": groups, "confidence": 0.9, "n_resamples": 20, "random_state": 0}
    text = ood_report(y_true, y_score, **params, digits=2)
    report = ood_report(y_true, y_score, **params, output_dict=True)
    for name, measured in (report["sets"] | {"mean": report["mean"]}).items():
        (line,) = (line for line in text.splitlines() if line.startswith(name + " "))
        cells = [
            f"{measured[key]:.2f} [{low:.2f}, {high:.2f}]"
            for key, (low, high) in measured["intervals"].items()
        ]
        assert re.split(r"  +", line) == [
            name,
            *cells,
            *([str(SIZES[name])] if name in SIZES else []),
        ]
    assert text.endswith("\nIn brackets: 90 % bootstrap intervals, 20 resamples.")


def test_intervals_are_those_of_the_single_metrics(data):
    y_true, y_pred, y_score, _ = data
    params = {"confidence": 0.8, "n_resamples": 25, "random_state": 3}
    report = ood_report(y_true, y_score, y_pred=y_pred, **params, output_dict=True)
    intervals = report["sets"]["OOD"]["intervals"]
    for key, metric in METRICS.items():
        expected = bootstrap_interval(metric, y_true, y_score, **params)
        assert intervals[key] == pytest.approx(expected, abs=1e-12)
    for key, metric in OPEN_SET.items():
        expected = bootstrap_interval(metric, y_true, y_pred, y_score, **params)
        assert intervals[key] == pytest.approx(expected, abs=1e-12)


def test_interval_of_the_mean_knows_that_sets_share_their_id_rows():
    """Few ID rows and many OOD rows: the mean of two sets varies almost like a single set."""
    rng = np.random.default_rng(0)
    groups = np.repeat(["id", "a", "b"], [40, 4000, 4000])
    y_true = np.where(groups == "id", 1, -1)
    y_score = rng.normal(size=len(groups)) + (y_true == 1)
    report = ood_report(
        y_true, y_score, groups=groups, confidence=0.95, random_state=0, output_dict=True
    )
    widths = [
        np.subtract(*measured["intervals"]["auroc"][::-1])
        for measured in (*report["sets"].values(), report["mean"])
    ]
    assert widths[2] == pytest.approx((widths[0] + widths[1]) / 2, rel=0.05)


def test_mean_of_one_set_is_the_set(data):
    y_true, _, y_score, _ = data
    report = ood_report(
        y_true,
        y_score,
        groups=np.full(len(y_true), "all"),
        confidence=0.9,
        n_resamples=10,
        output_dict=True,
    )
    assert report["mean"] | {"n_ood": 137} == report["sets"]["all"]


def test_names_that_are_no_strings(data):
    y_true, _, y_score, groups = data
    numbers = np.array([["id", "near", "far", "noise"].index(name) for name in groups])
    by_number = ood_report(y_true, y_score, groups=numbers, output_dict=True)["sets"]
    by_name = ood_report(y_true, y_score, groups=groups, output_dict=True)["sets"]
    assert set(by_number) == {"1", "2", "3"}
    assert by_number["2"] == by_name["far"]


def test_reproducible_and_global_state_untouched(data):
    y_true, _, y_score, _ = data

    def report(random_state):
        return ood_report(
            y_true, y_score, confidence=0.9, n_resamples=10, digits=6, random_state=random_state
        )

    before = np.random.get_state()[1:3]  # noqa: NPY002
    assert report(0) == report(0) != report(1)
    assert report(None) != report(None)
    after = np.random.get_state()[1:3]  # noqa: NPY002
    assert np.array_equal(before[0], after[0])
    assert before[1] == after[1]


def test_memory_is_linear_in_rows_and_not_in_rows_times_sets():
    n_id, n_ood, n_sets = 20_000, 20_000, 200
    rng = np.random.default_rng(0)
    y_true = np.repeat([1, -1], [n_id, n_ood])
    groups = np.concatenate([np.zeros(n_id, dtype=int), np.arange(n_ood) % n_sets])
    y_score = rng.normal(size=n_id + n_ood)
    tracemalloc.start()
    try:
        ood_report(y_true, y_score, groups=groups, confidence=0.9, n_resamples=2, random_state=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 250 * (n_id + n_ood)


GROUP_ERRORS = {
    "lengths": (
        ["a", "b"],
        "groups has shape (2,) and y_true (3,), expected the same: the name of an OOD set for "
        "each row. Give ID rows any name; it is not used.",
    ),
    "a name": ("svhn", "groups has shape () and y_true (3,), expected the same"),
    "None": (
        [None, "a", None],
        "groups is None at row 2, an OOD row in y_true; expected the name of its OOD set, "
        "a string or an integer. Name the set of every OOD row.",
    ),
    "NaN": (
        np.array(["a", "a", np.nan], dtype=object),
        "groups is nan at row 2, an OOD row in y_true",
    ),
}


@pytest.mark.parametrize(("groups", "message"), GROUP_ERRORS.values(), ids=GROUP_ERRORS.keys())
def test_errors_of_groups(groups, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        ood_report([0, 1, -1], [2.0, 1.0, 0.0], groups=groups)


def test_groups_missing_in_a_column_of_pandas():
    pandas = pytest.importorskip("pandas")
    groups = pandas.Series([pandas.NA, "a", pandas.NA], dtype="string")
    with pytest.raises(ValueError, match=r"^groups is <NA> at row 2, an OOD row in y_true"):
        ood_report([0, 1, -1], [2.0, 1.0, 0.0], groups=groups)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tpr": 95}, "tpr is 95, expected a rate in (0, 1]"),
        ({"fpr": 5}, "fpr is 5, expected a rate in [0, 1]"),
        ({"confidence": 95}, "confidence is 95, expected a level in (0, 1)"),
        ({"confidence": 0.9, "n_resamples": 0}, "n_resamples is 0, expected a positive integer"),
        ({"y_pred": [0, 1]}, "y_true has 3 rows and y_pred has 2"),
        ({"y_pred": [0, 1, -1]}, "y_pred is -1 in 1 of 3 rows"),
    ],
    ids=str,
)
def test_errors_of_parameters(params, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        ood_report([0, 1, -1], [2.0, 1.0, 0.0], **({"y_pred": [0, 1, 1]} | params))


def test_errors_of_labels_and_scores():
    with pytest.raises(ValueError, match=r"^y_true has no OOD row"):
        ood_report([0, 1], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"^y_score is NaN in 1 of 2 rows"):
        ood_report([0, -1], [0.0, np.nan])
