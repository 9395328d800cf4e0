"""The oracle of two thresholds, against all pairs of thresholds."""

import numpy as np
import pytest

from skood.metrics import auroc, dual_threshold_auroc


def labels(n_id, n_ood):
    return np.append(np.ones(n_id, int), np.full(n_ood, -1))


def every_pair_of_thresholds(y_true, pairs):
    """Area under the steps of all points (FPR, TPR)."""
    is_id = y_true == 1
    values = [np.append(np.unique(column), np.inf) for column in pairs.T]
    most = np.zeros((~is_id).sum() + 1)
    for first in values[0]:
        for second in values[1]:
            accepted = (pairs >= (first, second)).all(1)
            n_ood = (accepted & ~is_id).sum()
            most[n_ood] = max(most[n_ood], (accepted & is_id).sum())
    return np.maximum.accumulate(most)[:-1].mean() / is_id.sum()


@pytest.mark.parametrize("seed", range(5))
def test_is_the_best_of_all_pairs_of_thresholds(seed):
    rng = np.random.default_rng(seed)
    y_true = labels(23, 17)
    pairs = rng.normal(size=(40, 2)) + 0.5 * (y_true == 1)[:, None]
    expected = every_pair_of_thresholds(y_true, pairs)
    assert dual_threshold_auroc(y_true, pairs) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_values", [2, 3, 5])
def test_ties_are_accepted_together(n_values):
    rng = np.random.default_rng(1)
    y_true = labels(23, 17)
    pairs = rng.integers(n_values, size=(40, 2)) + (y_true == 1)[:, None]
    expected = every_pair_of_thresholds(y_true, pairs)
    assert dual_threshold_auroc(y_true, pairs) == pytest.approx(expected, abs=1e-12)


def test_a_constant_beside_a_score_leaves_its_auroc():
    rng = np.random.default_rng(0)
    y_true = labels(40, 30)
    score = rng.normal(size=70) + (y_true == 1)
    for pairs in (np.stack((score, np.zeros(70)), 1), np.stack((np.zeros(70), score), 1)):
        assert dual_threshold_auroc(y_true, pairs) == pytest.approx(auroc(y_true, score))


def test_is_no_worse_than_either_score_alone():
    rng = np.random.default_rng(0)
    for _ in range(20):
        y_true = labels(15, 20)
        pairs = rng.normal(size=(35, 2))
        either = max(auroc(y_true, column) for column in pairs.T)
        assert dual_threshold_auroc(y_true, pairs) >= either - 1e-12


def test_depends_on_order_alone():
    rng = np.random.default_rng(0)
    y_true, pairs = labels(30, 30), rng.normal(size=(60, 2))
    monotone = np.stack((np.exp(pairs[:, 0]), pairs[:, 1] ** 3), 1)
    order = rng.permutation(60)
    expected = dual_threshold_auroc(y_true, pairs)
    assert dual_threshold_auroc(y_true, monotone) == expected
    assert dual_threshold_auroc(y_true[order], pairs[order]) == expected
    assert dual_threshold_auroc(y_true, pairs[:, ::-1]) == expected


def test_takes_infinite_scores():
    pairs = [[0.0, 1.0], [-np.inf, 2.0], [np.inf, -np.inf]]
    assert dual_threshold_auroc([1, -1, -1], pairs) == 1.0


def test_scores_that_know_nothing_get_more_than_half():
    y_true = labels(1000, 1000)
    draws = [np.random.default_rng(seed).normal(size=(2000, 2)) for seed in range(4)]
    mean = np.mean([dual_threshold_auroc(y_true, pairs) for pairs in draws])
    assert 0.51 < mean < 0.54


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (np.zeros(4), r"\(4,\), expected \(n, 2\)"),
        (np.zeros((4, 3)), r"\(4, 3\), expected \(n, 2\)"),
        (np.zeros((3, 2)), "y_true has 4 rows and pairs has 3"),
        (np.full((4, 2), np.nan), "pairs is NaN in 4 of 4 rows"),
    ],
)
def test_says_what_is_wrong(pairs, message):
    with pytest.raises(ValueError, match=message):
        dual_threshold_auroc([1, 1, -1, -1], pairs)
