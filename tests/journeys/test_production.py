"""Batches in production: each is tested, a monitor is stored and goes on in another process."""

import subprocess
import sys

import numpy as np
from scipy.stats import binom
from sklearn.frozen import FrozenEstimator

import skood
from skood import KNN, ConformalDetector, DriftMonitor

IN_ANOTHER_PROCESS = """
import sys
import numpy as np
import skood

monitor = skood.load(sys.argv[1])
assert monitor.n_seen_ == 500 and not monitor.alarm_
monitor = monitor.partial_fit(np.load(sys.argv[2]))
print(monitor.alarm_, monitor.alarm_row_, monitor.change_row_)
skood.save(monitor, sys.argv[1])
"""


def rows(n, mean, seed):
    return np.random.default_rng(seed).normal(mean, 1, size=(n, 4))


def test_stream_of_batches(tmp_path):
    # The stranger has:
    train = rows(1000, 0, 0)
    days = [rows(50, 0, 1 + day) for day in range(10)]
    changed = rows(50, 5, 99)

    # With skood:
    detector = ConformalDetector(KNN(), random_state=0).fit(train)
    monitor = DriftMonitor(FrozenEstimator(detector), alpha=0.01)
    alarms = [monitor.partial_fit(day).alarm_ for day in days]

    # It is true that:
    assert alarms == [False] * 10
    skood.save(monitor, tmp_path / "monitor.skood")
    np.save(tmp_path / "changed.npy", changed)
    arguments = [tmp_path / "monitor.skood", tmp_path / "changed.npy"]
    run = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    alarm, alarm_row, change_row = run.stdout.split()
    assert alarm == "True"
    assert 500 <= int(alarm_row) < 550
    assert abs(int(change_row) - 500) < 25
    assert run.stderr == ""
    # The same rows, without the file in between.
    monitor.partial_fit(changed)
    assert (str(monitor.alarm_row_), str(monitor.change_row_)) == (alarm_row, change_row)
    assert skood.load(tmp_path / "monitor.skood").n_seen_ == 550


def test_one_batch():
    # The stranger has:
    train = rows(1000, 0, 0)
    mixed = np.concatenate([rows(160, 0, 1), rows(40, 8, 2)])

    # With skood:
    detector = ConformalDetector(KNN(), random_state=0).fit(train)
    found = detector.drift_test(mixed)

    # It is true that:
    assert found.p_value < 0.001
    assert found.low <= 0.2 <= found.high
    # Without a change, a p-value up to 0.05 has a probability of at most 0.05. The batches of one
    # detector share its calibration rows, so each batch gets a detector of its own.
    rejected = 0
    for seed in range(20):
        detector = ConformalDetector(KNN(), random_state=seed).fit(rows(400, 0, 2 * seed))
        rejected += detector.drift_test(rows(50, 0, 2 * seed + 1)).p_value <= 0.05
    assert rejected <= binom.isf(1e-4, 20, 0.05)
