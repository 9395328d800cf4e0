"""The bootstrap interval: resampling, coverage, and no change of global state."""

from __future__ import annotations

import re
import tracemalloc
from itertools import count
from statistics import NormalDist

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
    open_set_f1,
    oscr,
)


def two_gaussians(n_id, n_ood, seed=0, distance=1.0):
    """(y_true, y_score) of unit variance."""
    rng = np.random.default_rng(seed)
    y_true = np.repeat([1, -1], [n_id, n_ood])
    return y_true, rng.normal(size=n_id + n_ood) + distance * (y_true == 1)


def classified(n_id=80, n_ood=60, seed=0):
    """(y_true, y_pred, y_score) with three classes."""
    rng = np.random.default_rng(seed)
    signs, y_score = two_gaussians(n_id, n_ood, seed)
    y_true = np.where(signs == 1, rng.integers(0, 3, len(signs)), -1)
    y_pred = np.where(rng.random(len(signs)) < 0.8, np.abs(y_true), 2)
    return y_true, y_pred, y_score


def test_bounds_are_the_quantiles_of_the_resampled_values():
    values = count()
    interval = bootstrap_interval(lambda y_true: next(values), [1, -1], n_resamples=101)
    assert interval == pytest.approx((2.5, 97.5))
    assert (interval.low, interval.high) == tuple(interval)
    assert all(type(bound) is float for bound in interval)
    narrow = bootstrap_interval(
        lambda y_true: next(values), [1, -1], n_resamples=101, confidence=0.5
    )
    assert narrow == pytest.approx((101 + 25, 101 + 75))
    assert next(values) == 202


def test_kinds_are_resampled_separately_and_rows_stay_whole():
    y_true, y_pred, y_score = classified()
    known = set(zip(y_true, y_pred, y_score, strict=True))
    seen = set()

    def metric(y_true, y_pred, y_score):
        assert (np.sum(y_true >= 0), np.sum(y_true == -1)) == (80, 60)
        rows = list(zip(y_true, y_pred, y_score, strict=True))
        assert known.issuperset(rows)
        assert len(set(rows)) < len(rows)
        seen.update(rows)
        return 0.0

    bootstrap_interval(metric, y_true, y_pred, y_score, n_resamples=50)
    assert seen == known


@pytest.mark.parametrize("metric", [auroc, aupr_in, aupr_out, fpr_at_tpr, detection_error])
@pytest.mark.parametrize(("n_id", "n_ood"), [(150, 150), (400, 30), (30, 400)])
def test_metrics_of_a_score(metric, n_id, n_ood):
    y_true, y_score = two_gaussians(n_id, n_ood)
    low, high = bootstrap_interval(metric, y_true, y_score, n_resamples=200, random_state=0)
    assert 0 <= low < metric(y_true, y_score) < high <= 1


@pytest.mark.parametrize("metric", [ccr_at_fpr, oscr])
def test_metrics_of_a_classifier_that_rejects(metric):
    arrays = classified()
    low, high = bootstrap_interval(metric, *arrays, n_resamples=200, random_state=0)
    assert 0 <= low < metric(*arrays) < high <= 1


def test_metric_of_decisions():
    y_true, y_pred, y_score = classified()
    arrays = y_true, np.where(y_score > 0, y_pred, -1)
    low, high = bootstrap_interval(open_set_f1, *arrays, n_resamples=50, random_state=0)
    assert 0 < low < open_set_f1(*arrays) < high < 1


def test_parameters_of_the_metric():
    y_true, y_score = two_gaussians(100, 100)

    def interval(**params):
        return bootstrap_interval(fpr_at_tpr, y_true, y_score, random_state=0, **params)

    assert interval(tpr=0.95, n_resamples=50) == interval(n_resamples=50)
    assert interval(tpr=0.5, n_resamples=50) < interval(n_resamples=50)


def test_higher_confidence_is_wider():
    y_true, y_score = two_gaussians(100, 100)
    bounds = [
        bootstrap_interval(auroc, y_true, y_score, confidence=level, random_state=0)
        for level in (0.5, 0.9, 0.99)
    ]
    lows, highs = zip(*bounds, strict=True)
    assert sorted(lows, reverse=True) == list(lows)
    assert sorted(highs) == list(highs)


def test_separated_classes_give_no_width():
    y_true, y_score = np.repeat([1, -1], 20), np.repeat([2.0, 1.0], 20)
    assert bootstrap_interval(auroc, y_true, y_score, n_resamples=20) == (1.0, 1.0)


def test_types_of_the_arrays():
    y_true, y_pred, y_score = classified()
    expected = bootstrap_interval(oscr, y_true, y_pred, y_score, n_resamples=20, random_state=0)
    names = np.array(["cat", "dog", "frog", "-1"], dtype=object)
    for arrays in (
        (y_true.tolist(), y_pred.tolist(), y_score.tolist()),
        (names[y_true], names[y_pred], y_score),
        (names[y_true].tolist(), names[y_pred].tolist(), y_score),
    ):
        assert bootstrap_interval(oscr, *arrays, n_resamples=20, random_state=0) == expected


def test_coverage():
    """Nominal coverage for the AUROC of two Gaussians, Φ(distance / sqrt 2)."""
    truth = NormalDist().cdf(2**-0.5)
    n_trials = 400
    covered = 0
    for seed in range(n_trials):
        y_true, y_score = two_gaussians(60, 40, seed)
        low, high = bootstrap_interval(
            auroc, y_true, y_score, n_resamples=150, confidence=0.9, random_state=seed
        )
        covered += low <= truth <= high
    # Three standard errors of 400 trials are 4.5 %, and percentile intervals of 100 rows and
    # The coverage of 150 resamples is slightly below nominal.
    assert 0.84 <= covered / n_trials <= 0.945


def test_width_agrees_with_delong():
    """Variance of the AUROC by DeLong, DeLong and Clarke-Pearson (1988)."""
    y_true, y_score = two_gaussians(300, 200)
    wins = (y_score[y_true == 1, None] > y_score[y_true == -1]).astype(float)
    variance = wins.mean(axis=1).var(ddof=1) / 300 + wins.mean(axis=0).var(ddof=1) / 200
    low, high = bootstrap_interval(auroc, y_true, y_score, n_resamples=2000, random_state=0)
    expected = 2 * NormalDist().inv_cdf(0.975) * variance**0.5
    assert high - low == pytest.approx(expected, rel=0.08)


def test_reproducible():
    y_true, y_score = two_gaussians(50, 50)

    def interval(random_state):
        return bootstrap_interval(auroc, y_true, y_score, n_resamples=30, random_state=random_state)

    assert interval(3) == interval(3) == interval(np.random.default_rng(3))
    assert interval(3) != interval(4)
    assert interval(np.random.RandomState(3)) == interval(np.random.RandomState(3))
    for generator in (np.random.default_rng(3), np.random.RandomState(3)):
        assert interval(generator) != interval(generator)


def test_global_state_is_neither_read_nor_changed():
    y_true, y_score = two_gaussians(50, 50)
    intervals = []
    for random_state in (None, None, 0):
        np.random.seed(0)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        intervals.append(
            bootstrap_interval(auroc, y_true, y_score, n_resamples=30, random_state=random_state)
        )
        after = np.random.get_state()  # noqa: NPY002
        assert np.array_equal(after[1], before)
        assert after[2] == 624
    assert intervals[0] != intervals[1]


def test_memory_is_linear():
    y_true, y_score = two_gaussians(50_000, 50_000)
    tracemalloc.start()
    try:
        bootstrap_interval(auroc, y_true, y_score, n_resamples=10, random_state=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * len(y_true)


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 95, float("nan")])
def test_confidence_outside_its_range(confidence):
    message = f"confidence is {confidence!r}, expected a level in (0, 1). Pass a fraction"
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        bootstrap_interval(auroc, [1, -1], [1.0, 0.0], confidence=confidence)


@pytest.mark.parametrize("n_resamples", [0, -5, 10.0])
def test_resamples_outside_their_range(n_resamples):
    message = f"n_resamples is {n_resamples!r}, expected a positive integer."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        bootstrap_interval(auroc, [1, -1], [1.0, 0.0], n_resamples=n_resamples)


def test_errors_of_the_arrays():
    message = (
        "y_true has 3 rows and array 2 after it has shape (2,), expected the same number of rows. "
        "Pass arrays that describe the same rows as the labels."
    )
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        bootstrap_interval(oscr, [0, 1, -1], [0, 1, 0], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"^y_true has no OOD row"):
        bootstrap_interval(auroc, [0, 1], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"^y_true holds 0.5, which is no class"):
        bootstrap_interval(auroc, [0.5, -1.0], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"^y_score is NaN"):
        bootstrap_interval(auroc, [0, -1], [np.nan, np.nan])
