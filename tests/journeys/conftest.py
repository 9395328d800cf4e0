"""Bounds that hold by chance alone."""

import numpy as np
import pytest
from scipy.stats import betabinom


@pytest.fixture(scope="session")
def most_false_alarms():
    """Return the number of rejected rows that at most one of 10 000 repeats exceeds.

    The rate of a calibrated detector follows a Beta distribution, so that the number of false
    alarms is beta-binomial.
    """

    def most(n_new, n_calibration, alpha):
        rank = int(np.floor(alpha * (n_calibration + 1)))
        return betabinom.isf(1e-4, n_new, rank, n_calibration + 1 - rank)

    return most
