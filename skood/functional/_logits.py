"""Scores of logits and of log-probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

__all__ = [
    "energy",
    "entropy",
    "generalized_entropy",
    "joint_energy",
    "kl_matching",
    "log_msp",
    "log_softmax",
    "max_logit",
    "msp",
    "mutual_information",
    "openmax",
    "predictive_entropy",
]

# The Weibull distribution starts at 0; distances are shifted well above 0, as in libmr.
SHIFT = 10_000.0


def log_softmax(
    logits: npt.NDArray[np.float64], temperature: float = 1.0
) -> npt.NDArray[np.float64]:
    r"""Log-probabilities of classes, :math:`f_k / T - \log \sum_j \exp(f_j / T)`, in nats.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes)
    temperature : float, default=1.0

    Returns
    -------
    ndarray of shape (n, n_classes)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import log_softmax
    >>> np.exp(log_softmax(np.array([[0.0, np.log(3)]])))
    array([[0.25, 0.75]])
    """
    return special.log_softmax(logits / temperature, axis=1)


def msp(log_proba: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    r"""Maximum softmax probability, :math:`\max_k p_k`.

    Parameters
    ----------
    log_proba : ndarray of shape (n, n_classes)
        Log-probabilities; :func:`log_softmax` computes them from logits.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import log_softmax, msp
    >>> msp(log_softmax(np.array([[0.0, 0.0], [0.0, np.log(3)]])))
    array([0.5 , 0.75])
    """
    return np.exp(log_proba.max(1))


def log_msp(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    r"""Logarithm of the maximum softmax probability, :math:`\max_k \log p_k`, in nats.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes)

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import log_msp
    >>> np.exp(log_msp(np.array([[0.0, 0.0], [0.0, np.log(3)]])))
    array([0.5 , 0.75])
    """
    # Near p = 1, log p loses precision; computing it from the other probabilities does not.
    ordered = np.sort(logits, axis=1)
    return -np.log1p(np.exp(ordered[:, :-1] - ordered[:, -1:]).sum(1))


def max_logit(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    r"""Largest logit, :math:`\max_k f_k`.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes)

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import max_logit
    >>> max_logit(np.array([[0.0, 2.0], [1.0, -1.0]]))
    array([2., 1.])
    """
    return logits.max(1)


def energy(logits: npt.NDArray[np.float64], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    r"""Negative free energy, :math:`T \log \sum_k \exp(f_k / T)`.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes)
    temperature : float, default=1.0

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import energy
    >>> energy(np.array([[0.0, 0.0], [0.0, 5.0]])).round(3)
    array([0.693, 5.007])
    """
    return temperature * special.logsumexp(logits / temperature, axis=1)


def joint_energy(
    logits: npt.NDArray[np.float64], temperature: float = 1.0
) -> npt.NDArray[np.float64]:
    r"""Sum of the labels' negative free energies, :math:`T \sum_k \log(1 + \exp(f_k / T))`.

    Parameters
    ----------
    logits : ndarray of shape (n, n_labels)
        Of a multilabel network.
    temperature : float, default=1.0

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import joint_energy
    >>> joint_energy(np.array([[0.0, 0.0], [0.0, 5.0]])).round(3)
    array([1.386, 5.7  ])
    """
    return temperature * np.logaddexp(0, logits / temperature).sum(1)


def entropy(log_proba: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    r"""Negative Shannon entropy, :math:`\sum_k p_k \log p_k`, in nats.

    Parameters
    ----------
    log_proba : ndarray of shape (..., n_classes)
        Log-probabilities; :func:`log_softmax` computes them from logits.

    Returns
    -------
    ndarray of shape (...)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import entropy
    >>> entropy(np.log([[0.5, 0.5], [0.9, 0.1]])).round(3)
    array([-0.693, -0.325])
    """
    return (np.exp(log_proba) * log_proba).sum(-1)


def generalized_entropy(
    log_proba: npt.NDArray[np.float64], gamma: float = 0.1, n_top: int = 100
) -> npt.NDArray[np.float64]:
    r"""Negative generalised entropy, :math:`-\sum_{m \le M} p_{(m)}^\gamma (1 - p_{(m)})^\gamma`.

    Parameters
    ----------
    log_proba : ndarray of shape (n, n_classes)
        Log-probabilities; :func:`log_softmax` computes them from logits.
    gamma : float, default=0.1
    n_top : int, default=100
        Number M of the largest probabilities that are summed.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import generalized_entropy
    >>> generalized_entropy(np.log([[0.5, 0.5], [0.9, 0.1]])).round(3)
    array([-1.741, -1.572])
    """
    top = np.exp(np.sort(log_proba, axis=1)[:, -n_top:])
    return -(top**gamma * (1 - top) ** gamma).sum(1)


def kl_matching(
    log_proba: npt.NDArray[np.float64], templates: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    r"""Minus the divergence from the nearest template, :math:`-\min_k KL(p \,\|\, d_k)`, in nats.

    Parameters
    ----------
    log_proba : ndarray of shape (n, n_classes)
        Log-probabilities; :func:`log_softmax` computes them from logits.
    templates : ndarray of shape (n_templates, n_classes)
        The positive probabilities :math:`d_k`, such as the mean prediction of each class.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import kl_matching
    >>> kl_matching(np.log([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.9, 0.1]])).round(3)
    array([-0.511, -0.   ])
    """
    proba = np.exp(log_proba)
    divergence = [special.rel_entr(proba, template).sum(1) for template in templates]
    return -np.min(divergence, axis=0)


def openmax(
    logits: npt.NDArray[np.float64],
    centres: npt.NDArray[np.float64],
    weibull: npt.NDArray[np.float64],
    alpha: int = 3,
) -> npt.NDArray[np.float64]:
    r"""Negative probability of the unknown class after a recalibration of the logits.

    The `alpha` largest logits, of rank r = 0, 1, ..., become
    :math:`f_k (1 - \omega_k (\alpha - r) / \alpha)`, and the sum of the differences is the logit of
    the unknown class. :math:`\omega_k` is the Weibull distribution function at the distance of the
    logits from the centre of class k.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes)
    centres : ndarray of shape (n_classes, n_classes)
        Mean logits of each class.
    weibull : ndarray of shape (n_classes, 3)
        Shape and scale of each class's distribution of ``distance - smallest + 10000``, and the
        smallest distance in its tail.
    alpha : int, default=3

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import openmax
    >>> openmax(np.eye(2), np.eye(2), np.array([[2.0, 1e4, 0.0]] * 2), alpha=2).round(3)
    array([-0.435, -0.435])
    """
    n_classes = logits.shape[1]
    shape, scale, smallest = weibull.T
    distance = np.stack([np.linalg.norm(logits - centre, axis=1) for centre in centres], 1)
    moved = np.maximum(distance - smallest + SHIFT, 0.0)
    cumulative = -np.expm1(-((moved / scale) ** shape))
    rank = np.argsort(np.argsort(-logits, axis=1, kind="stable"), axis=1)
    alpha = min(alpha, n_classes)
    known = logits * (1 - cumulative * np.maximum(alpha - rank, 0) / alpha)
    unknown = (logits - known).sum(1, keepdims=True)
    return -special.softmax(np.concatenate([unknown, known], 1), axis=1)[:, 0]


def mean_log_proba(log_proba: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithm of the mean probability of each class over members, shape (n, n_classes)."""
    return special.logsumexp(log_proba, axis=1) - np.log(log_proba.shape[1])


def predictive_entropy(log_proba: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    r"""Entropy of the mean prediction of several members, :math:`H[\frac{1}{M} \sum_m p_m]`.

    An uncertainty, in nats: larger values are more out-of-distribution.

    Parameters
    ----------
    log_proba : ndarray of shape (n, n_members, n_classes)
        Log-probabilities of each member of an ensemble, or of each sample of a Bayesian network.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import predictive_entropy
    >>> predictive_entropy(np.log([[[0.9, 0.1], [0.1, 0.9]]])).round(3)
    array([0.693])
    """
    return -entropy(mean_log_proba(log_proba))


def mutual_information(log_proba: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    r"""Disagreement of members, :math:`H[\frac{1}{M} \sum_m p_m] - \frac{1}{M} \sum_m H[p_m]`.

    An uncertainty, in nats: larger values are more out-of-distribution.

    Parameters
    ----------
    log_proba : ndarray of shape (n, n_members, n_classes)
        Log-probabilities of each member of an ensemble, or of each sample of a Bayesian network.

    Returns
    -------
    ndarray of shape (n,)
        At least 0.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import mutual_information
    >>> mutual_information(np.log([[[0.9, 0.1], [0.1, 0.9]]])).round(3)
    array([0.368])
    """
    difference = predictive_entropy(log_proba) - (-entropy(log_proba)).mean(1)
    # Rounding can take it below zero where the predictions agree.
    return np.maximum(difference, 0.0)
