"""The random generator of the data sets."""

from __future__ import annotations

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["generator"]


def generator(random_state: int | np.random.RandomState | None) -> np.random.Generator:
    """Make a generator from a `random_state`; None takes entropy from the system."""
    seed = None if random_state is None else check_random_state(random_state).randint(2**31 - 1)
    return np.random.default_rng(seed)
