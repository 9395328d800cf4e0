"""Choice of the scale r, from the local intrinsic dimension (LID) of training rows at any r."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = [
    "Dimensions",
    "choose_scale",
    "scale_of_dimension",
    "scale_of_percentile",
    "scale_of_plateau",
]

# LID of each training row at a scale, (n,).
Dimensions = Callable[[float], npt.NDArray[np.float64]]

# As the authors set them: the percentile of the training rows, and the fraction of D that their LID
# may lack.
_PERCENTILE = 10
_LACKING = 0.07
# Scales at which a plateau is looked for, the largest change of the mean LID on it as a fraction of
# D, and its least length on the axis of r: a factor of 2 in the standard deviation of the noise.
_N_SCALES = 60
_CHANGE = 0.05
_LEAST_LENGTH = np.log(2)


def choose_scale(
    rule: str,
    dimensions: Dimensions,
    ends: tuple[float, float],
    n_values: int,
    target: float | None,
    n_steps: int,
) -> float:
    """Choose the scale by "lpca", with the mean LID `target`, "plateau" or "percentile"."""
    if rule == "plateau":
        return scale_of_plateau(dimensions, ends, n_values)
    if rule == "percentile":
        return scale_of_percentile(dimensions, ends, n_values, n_steps)
    assert target is not None
    return scale_of_dimension(dimensions, ends, target, n_steps)


def scale_of_dimension(
    dimensions: Dimensions, ends: tuple[float, float], target: float, n_steps: int
) -> float:
    """Find by bisection the least r at which the mean LID is not above `target`.

    If the mean never reaches `target`, the nearest end of the scales is returned.
    """
    return _bisect(lambda r: float(dimensions(r).mean()) > target, ends, n_steps)


def scale_of_percentile(
    dimensions: Dimensions, ends: tuple[float, float], n_values: int, n_steps: int
) -> float:
    """Find by bisection the largest r at which nine in ten rows have nearly all `n_values`.

    The 10th percentile of the LID is then 93 % of `n_values`: the setting "percentile" of
    layer6ai-labs/dgm_ood_detection, ``meta_configurations``.
    """
    enough = (1 - _LACKING) * n_values
    return _bisect(
        lambda r: bool(np.percentile(dimensions(r), _PERCENTILE) > enough), ends, n_steps
    )


def scale_of_plateau(dimensions: Dimensions, ends: tuple[float, float], n_values: int) -> float:
    """Find the middle of the longest interval of r on which the mean LID hardly changes.

    The mean changes by less than 5 % of `n_values` on a plateau, and is farther than that from 0
    and from `n_values`, which it has at all small and at all large scales. The setting
    "find_plateau" of layer6ai-labs/dgm_ood_detection, ``ood/intrinsic_dimension/lid_ood.py``,
    allows a change of one dimension, which finds the tail near 0 on images.

    Raises
    ------
    ValueError
        If the longest interval is shorter than log 2.
    """
    scales = np.linspace(*ends, _N_SCALES)
    means = np.array([dimensions(r).mean() for r in scales])
    change = _CHANGE * n_values
    inside = (change < means) & (means < n_values - change)
    longest, middle = 0.0, 0.0
    for first in np.flatnonzero(inside):
        leaves = ~inside[first:] | (np.abs(means[first:] - means[first]) >= change)
        last = first + (leaves.argmax() if leaves.any() else len(leaves)) - 1
        if scales[last] - scales[first] > longest:
            longest, middle = scales[last] - scales[first], (scales[first] + scales[last]) / 2
    if longest < _LEAST_LENGTH:
        raise ValueError(
            f"scale='plateau', but the mean LID of the training rows has none: it changes by "
            f"{change:.3g} of {n_values} dimensions or more where r changes by log 2; give "
            "scale='lpca', or a number that dimension_curve shows to be right"
        )
    return float(middle)


def _bisect(is_below: Callable[[float], bool], ends: tuple[float, float], n_steps: int) -> float:
    """Return the end of the last interval; `is_below` holds at scales below the one sought."""
    low, high = ends
    for _ in range(n_steps):
        middle = (low + high) / 2
        if is_below(middle):
            low = middle
        else:
            high = middle
    return high
