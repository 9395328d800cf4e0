"""Scores of pairs (log-density, local intrinsic dimension), from the pairs of training rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from sklearn.mixture import GaussianMixture

__all__ = ["fit_mixture", "joint_density", "ranks"]

Pairs = npt.NDArray[np.float64]

_N_COMPONENTS = 3
# Fewest training pairs per component, whose six parameters they determine.
_PAIRS_PER_COMPONENT = 20
# Added to the variances of standardised pairs, which may lie on a line.
_LEAST_VARIANCE = 1e-3
# Largest standard deviation, relative to the mean, of the rounding errors of equal values.
_ROUNDING = 1e-9
# Standardised values are limited to a range whose squares are finite.
_FARTHEST = 1e100


def ranks(train: Pairs, pairs: Pairs) -> npt.NDArray[np.float64]:
    """Return the empirical distribution function of each column of `train`, (n_columns, n)."""
    counts = [
        np.searchsorted(np.sort(known), values, side="right")
        for known, values in zip(train.T, pairs.T, strict=True)
    ]
    return np.array(counts) / len(train)


def fit_mixture(train: Pairs, seed: int) -> GaussianMixture:
    """Fit a mixture of normal distributions to standardised pairs.

    Raises
    ------
    ValueError
        If no pair is finite.
    """
    known = train[np.isfinite(train).all(1)]
    if len(known) == 0:
        raise ValueError(
            f"the log-density of all {len(train)} calibration rows is infinite; expected finite "
            "ones: check the density, or use combine='min'"
        )
    z = _standardised(train, known)
    # Several clusters need as many distinct pairs.
    n_components = min(_N_COMPONENTS, len(z) // _PAIRS_PER_COMPONENT, len(np.unique(z, axis=0)))
    mixture = GaussianMixture(
        max(1, n_components), reg_covar=_LEAST_VARIANCE, max_iter=1000, random_state=seed
    )
    # A mixture needs two rows.
    return mixture.fit(z if len(z) > 1 else np.repeat(z, 2, axis=0))


def joint_density(mixture: GaussianMixture, train: Pairs, pairs: Pairs) -> npt.NDArray[np.float64]:
    r"""Log-density of standardised pairs in nats, (n,), of which too much is no evidence.

    The sum over components of :math:`w_k \max_{t \ge 0} N(z - t u; m_k, S_k)` with u = (1, 1): a
    pair gets at least the score of every pair that is below it by as many standard deviations in
    both values.
    """
    z = _standardised(train, pairs)[:, None] - mixture.means_
    # Upper triangular, so that z S^-1 z' is the squared length of z @ whitening. Its two terms are
    # added here, since the bits of a matrix product would depend on the number of pairs.
    whitening = mixture.precisions_cholesky_
    z = (z[..., None] * whitening).sum(-2)
    direction = whitening.sum(-2)
    excess = (z * direction).sum(-1) / np.square(direction).sum(-1)
    z = z - excess.clip(min=0)[..., None] * direction
    log_normal = np.log(np.diagonal(whitening, axis1=1, axis2=2)).sum(1) - np.log(2 * np.pi)
    return logsumexp(np.log(mixture.weights_) + log_normal - 0.5 * np.square(z).sum(-1), axis=1)


def _standardised(train: Pairs, pairs: Pairs) -> Pairs:
    known = train[np.isfinite(train).all(1)]
    mean, std = known.mean(0), known.std(0)
    # Rounding errors of equal values are no spread.
    std = np.where(std > _ROUNDING * np.abs(mean), std, 1.0)
    with np.errstate(over="ignore"):
        return ((pairs - mean) / std).clip(-_FARTHEST, _FARTHEST)
