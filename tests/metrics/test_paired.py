"""Paired tests: against loops over pairs of rows, and their level and power by simulation."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from skood.metrics import auroc, bootstrap_test, delong_test, fpr_at_tpr, oscr
from skood.metrics._paired import holm, normal_test, placements, resampled_test


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    y_true = np.repeat([1, -1], [30, 20])
    # Rounded, so that there are ties.
    first = (rng.normal(size=50) + (y_true == 1)).round(1)
    second = (first + rng.normal(size=50)).round(1)
    first[:2] = np.inf, -np.inf
    return y_true, first, second


def kernel(id_scores, ood_scores):
    difference = id_scores[:, None] - ood_scores
    difference[np.isnan(difference)] = 0
    return (difference > 0) + (difference == 0) / 2


def test_delong_against_a_loop_over_pairs(rows):
    y_true, *scores = rows
    inside = y_true == 1
    first, second = (kernel(s[inside], s[~inside]) for s in scores)
    gap = first - second
    variance = gap.mean(1).var(ddof=1) / 30 + gap.mean(0).var(ddof=1) / 20
    test = delong_test(*rows, confidence=0.9)
    assert test.difference == pytest.approx(auroc(y_true, scores[0]) - auroc(y_true, scores[1]))
    z = test.difference / math.sqrt(variance)
    assert test.p_value == pytest.approx(2 * norm.sf(abs(z)))
    assert test.low == pytest.approx(test.difference - norm.ppf(0.95) * math.sqrt(variance))
    assert test.high == pytest.approx(test.difference + norm.ppf(0.95) * math.sqrt(variance))
    other = delong_test(y_true, scores[1], scores[0])
    assert (other.difference, other.p_value) == pytest.approx((-test.difference, test.p_value))


def test_placements_with_weights_average_to_the_oscr(rows):
    y_true, score, _ = rows
    inside = y_true == 1
    correct = np.random.default_rng(1).random(30) < 0.7
    of_id, of_ood = placements(score[inside], score[~inside], correct)
    predicted = np.ones(50, dtype=int)
    predicted[:30][~correct] = 0
    assert of_id.mean() == pytest.approx(oscr(y_true, predicted, score))
    assert of_ood.mean() == pytest.approx(of_id.mean())


def test_the_mean_over_sets_has_the_error_of_its_parts():
    """Sets have the same weight, and share the ID rows."""
    rng = np.random.default_rng(0)
    id_parts, ood_parts = rng.normal(size=(2, 40)), [rng.normal(size=n) for n in (10, 25)]
    test = normal_test(id_parts.mean(0), ood_parts, 0.95)
    variance = id_parts.mean(0).var(ddof=1) / 40
    variance += sum(part.var(ddof=1) / (4 * len(part)) for part in ood_parts)
    assert test.high - test.low == pytest.approx(2 * norm.ppf(0.975) * math.sqrt(variance))


def test_degenerate(rows):
    y_true, score, _ = rows
    assert delong_test(y_true, score, score) == (0.0, 0.0, 0.0, 1.0)
    # An order of the rows alone: another scale changes nothing.
    assert delong_test(y_true, score, np.exp(score)).p_value == 1
    perfect = (y_true == 1).astype(float)
    for rows_given in (np.arange(50), np.arange(29, 50)):
        test = delong_test(y_true[rows_given], perfect[rows_given], np.zeros(len(rows_given)))
        assert test.difference == 0.5
        assert np.isnan(test[1:]).all()


def test_bootstrap(rows):
    y_true, *scores = rows
    test = bootstrap_test(fpr_at_tpr, *rows, n_resamples=99, random_state=0, tpr=0.5)
    values = [fpr_at_tpr(y_true, s, tpr=0.5) for s in scores]
    assert test.difference == values[0] - values[1]
    assert test.low <= test.high
    same = bootstrap_test(fpr_at_tpr, *rows, n_resamples=99, random_state=0, tpr=0.5)
    assert test == same
    assert bootstrap_test(auroc, y_true, scores[0], scores[0], n_resamples=9).p_value == 1


def test_resampled():
    resampled = np.array([-1.0, 0.0, *range(1, 18)])
    test = resampled_test(3.0, resampled, 0.9)
    assert test.p_value == pytest.approx(2 * (1 + 2) / 20)
    assert (test.low, test.high) == pytest.approx(tuple(np.quantile(resampled, [0.05, 0.95])))
    assert resampled_test(0.0, np.zeros(19), 0.9).p_value == 1
    assert np.isnan(resampled_test(0.0, np.array([1.0, np.nan]), 0.9)[1:]).all()


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm([np.nan, 0.01])
    assert np.isnan(adjusted[0])
    assert adjusted[1] == pytest.approx(0.02)
    assert holm([]) == []


def test_errors(rows):
    y_true, first, second = rows
    with pytest.raises(ValueError, match="confidence is 95"):
        delong_test(*rows, confidence=95)
    with pytest.raises(ValueError, match="confidence is 1"):
        bootstrap_test(auroc, *rows, n_resamples=3, confidence=1)
    with pytest.raises(ValueError, match="n_resamples is 0"):
        bootstrap_test(auroc, *rows, n_resamples=0)
    with pytest.raises(ValueError, match="y_score is NaN"):
        delong_test(y_true, first, np.full(50, np.nan))
    with pytest.raises(ValueError, match="y_true has 50 rows and y_score has 49"):
        bootstrap_test(auroc, y_true, first, second[:49])


def correlated(rng, n, effect):
    """Two scores of equal AUROC if `effect` is 0, with a common part."""
    y_true = np.repeat([1, -1], n)
    common = rng.normal(size=2 * n) + (y_true == 1)
    return y_true, *(common + rng.normal(size=2 * n) + s * (y_true == 1) for s in (effect, 0))


@pytest.mark.parametrize("n", [30, 200])
def test_level_and_power_of_delong(n):
    rng = np.random.default_rng(0)
    level = sum(delong_test(*correlated(rng, n, 0)).p_value <= 0.05 for _ in range(400))
    # An exact test passes with probability 0.998; the normal approximation may add 1 %.
    assert binom.ppf(0.001, 400, 0.05) <= level <= binom.ppf(0.999, 400, 0.06)
    power = np.mean([delong_test(*correlated(rng, n, 1.0)).p_value <= 0.05 for _ in range(100)])
    assert power > 0.6


def test_level_of_the_bootstrap():
    rng = np.random.default_rng(0)
    n_rejected = sum(
        bootstrap_test(auroc, *correlated(rng, 40, 0), n_resamples=39, random_state=rng).p_value
        <= 0.1
        for _ in range(30)
    )
    assert n_rejected <= binom.ppf(0.999, 30, 0.11)
