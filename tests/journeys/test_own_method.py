"""A new detector, as docs/user_guide/adding_a_method.rst has it: checked and compared."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from skood import ConformalDetector, evaluate
from skood.base import POSITIVE, BaseDetector, estimator, parameter


@estimator
class RobustDistance(BaseDetector):
    """Minus the mean p-th power of the robust z-scores.

    Parameters
    ----------
    power : float, default=2.0
        The exponent p.
    """

    power: float = parameter(POSITIVE, default=2.0)

    def _fit(self, inliers, y, outliers, seed):
        rows = inliers.rows()
        self.median_ = np.median(rows, axis=0)
        deviation = np.median(np.abs(rows - self.median_), axis=0)
        self.scale_ = np.where(deviation > 0, deviation, 1.0)

    def _score_samples(self, data):
        z = np.abs(data.rows().astype(np.float64) - self.median_) / self.scale_
        return -(z**self.power).mean(axis=1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_own_method(most_false_alarms):
    # The stranger has:
    rng = np.random.default_rng(0)
    train, test, far = (rng.normal(mean, 1, (n, 4)) for n, mean in ((800, 0), (400, 0), (100, 9)))
    checks = check_estimator(RobustDistance())

    # With skood:
    table = evaluate([RobustDistance(power=3)], test, {"far": far}, X_train=train)

    # It is true that:
    assert not [check for check in checks if check["status"] not in ("passed", "skipped")]
    (row,) = table
    assert row["detector"] == "RobustDistance"
    assert row["auroc"] == 1 and row["ood_accepted"] == 0
    safe = ConformalDetector(RobustDistance(power=3), alpha=0.05, random_state=0).fit(train)
    assert (safe.p_values(far) == 1 / 241).all()
    assert (safe.predict(test) == -1).sum() <= most_false_alarms(400, 240, 0.05)
    # Robust z-scores: the median of |z| is 1 in every column.
    detector = RobustDistance().fit(train)
    z = np.abs(train - np.median(train, axis=0))
    expected = -((z / np.median(z, axis=0)) ** 2).mean(axis=1)
    assert np.allclose(detector.score_samples(train), expected)
