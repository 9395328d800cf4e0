"""Curves of open-set classification, against single thresholds."""

import numpy as np
import pytest
from sklearn.metrics import auc

from skood.metrics import ccr_at_fpr, ccr_curve, open_set_f1, open_set_f1_curve, oscr
from skood.metrics._open_set_curves import macro_f1


@pytest.fixture(params=["integers", "strings"])
def rows(request):
    rng = np.random.default_rng(0)
    y_true = rng.integers(-1, 3, 80)
    y_pred = np.where(rng.random(80) < 0.6, np.maximum(y_true, 0), rng.integers(0, 4, 80))
    y_score = (rng.normal(size=80) + (y_true >= 0)).round(1)
    y_score[:3] = np.inf, -np.inf, np.inf
    if request.param == "strings":
        y_true, y_pred = y_true.astype(str), y_pred.astype(str)
    return y_true, y_pred, y_score


def test_ccr_curve(rows):
    fpr, ccr, thresholds = ccr_curve(*rows)
    y_true, y_pred, y_score = rows
    outside = y_true.astype(str) == "-1"
    # The score +inf is a threshold as well: accepting nothing, and accepting these rows.
    assert thresholds[:2].tolist() == [np.inf, np.inf]
    assert (fpr[0], ccr[0]) == (0, 0)
    for x, y, threshold in zip(fpr[1:], ccr[1:], thresholds[1:], strict=True):
        accepted = y_score >= threshold
        assert x == np.mean(accepted[outside])
        assert y == np.mean((accepted & (y_true == y_pred))[~outside])
        assert y <= ccr_at_fpr(*rows, fpr=x)
    assert auc(fpr, ccr) == pytest.approx(oscr(*rows))


def test_f1_curve(rows):
    y_true, y_pred, y_score = rows
    rejected = "-1" if y_true.dtype.kind == "U" else -1
    f1, thresholds = open_set_f1_curve(*rows)
    assert f1[0] == pytest.approx(open_set_f1(y_true, np.full_like(y_true, rejected)))
    for value, threshold in zip(f1[1:], thresholds[1:], strict=True):
        decided = np.where(y_score >= threshold, y_pred, rejected)
        assert value == pytest.approx(open_set_f1(y_true, decided))


def test_f1_of_class_indices():
    rng = np.random.default_rng(1)
    true, predicted = rng.integers(0, 4, (2, 50))
    # Index 3 is the unknown class; class 4 has neither rows nor predictions.
    as_labels = [np.where(codes == 3, -1, codes) for codes in (true, predicted)]
    assert macro_f1(true, predicted, 5) == pytest.approx(open_set_f1(*as_labels))


@pytest.mark.parametrize("curve", [ccr_curve, open_set_f1_curve])
def test_errors(curve):
    with pytest.raises(ValueError, match="y_pred is -1 in 1 of 3 rows"):
        curve([0, 1, -1], [0, 1, -1], [1.0, 2.0, 0.0])
    with pytest.raises(ValueError, match="y_true has no OOD row"):
        curve([0, 1], [0, 1], [1.0, 2.0])
