"""Scores of cosines between image vectors and text vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from skood.functional._features import unit_length

__all__ = [
    "cosine_similarities",
    "mcm",
    "mcm_log_odds",
    "neglabel",
    "neglabel_distance",
    "neglabel_log_odds",
]

_Array = npt.NDArray[np.float64]


def cosine_similarities(images: _Array, texts: _Array) -> _Array:
    r"""Cosines between vectors, :math:`z^\top t / (\|z\| \|t\|)`.

    Parameters
    ----------
    images : ndarray of shape (n, d)
    texts : ndarray of shape (n_texts, d)

    Returns
    -------
    ndarray of shape (n, n_texts)
        0 for a vector of length 0.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import cosine_similarities
    >>> cosine_similarities(np.array([[3.0, 4.0]]), np.array([[2.0, 0.0], [0.0, 1.0]]))
    array([[0.6, 0.8]])
    """
    return unit_length(images) @ unit_length(texts).T


def mcm(cosines: _Array, temperature: float = 1.0) -> _Array:
    r"""Maximum concept matching, :math:`\max_k \exp(c_k / T) / \sum_j \exp(c_j / T)`.

    Parameters
    ----------
    cosines : ndarray of shape (n, n_classes)
        Of each image with the texts of the classes, in [-1, 1].
    temperature : float, default=1.0

    Returns
    -------
    ndarray of shape (n,)
        Probabilities, rounded to 1 at small temperatures; :func:`mcm_log_odds` is not rounded.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import mcm
    >>> mcm(np.array([[0.3, 0.2], [0.25, 0.25]]), 0.1).round(3)
    array([0.731, 0.5  ])
    """
    return special.expit(mcm_log_odds(cosines, temperature))


def mcm_log_odds(cosines: _Array, temperature: float = 1.0) -> _Array:
    r"""Log-odds of :func:`mcm`, :math:`-\log \sum_{j \ne k} \exp((c_j - c_k) / T)`, in nats.

    Class k has the largest cosine.

    Parameters
    ----------
    cosines : ndarray of shape (n, n_classes)
        Of each image with the texts of the classes; at least 2 classes.
    temperature : float, default=1.0

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import mcm_log_odds
    >>> mcm_log_odds(np.array([[0.3, 0.2], [0.25, 0.25]]), 0.1).round(3)
    array([1., 0.])
    """
    # The largest term is left out before the sum: subtracting it afterwards would lose the others.
    others = cosines.copy()
    rows, best = np.arange(len(others)), others.argmax(1)
    others[rows, best] = -np.inf
    return cosines[rows, best] / temperature - _log_sum_exp(others, temperature, axis=1)


def neglabel(
    cosines: _Array, negative_cosines: _Array, temperature: float = 0.01, n_groups: int = 1
) -> _Array:
    r"""Share of the in-distribution labels in a softmax with negative labels.

    .. math::

        \frac1G \sum_{g=1}^G \frac{\sum_k \exp(c_k / T)}
        {\sum_k \exp(c_k / T) + \sum_{m \in g} \exp(\tilde c_m / T)}

    Parameters
    ----------
    cosines : ndarray of shape (n, n_classes)
        Of each image with the texts of the classes.
    negative_cosines : ndarray of shape (n, n_negatives)
        Of each image with the negative labels.
    temperature : float, default=0.01
    n_groups : int, default=1
        Number G of groups: consecutive columns of `negative_cosines`, equally many for each group.
        The last columns are left out if `n_negatives` is not divisible by G.

    Returns
    -------
    ndarray of shape (n,)
        Probabilities, often rounded to 1; :func:`neglabel_log_odds` is not rounded.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import neglabel
    >>> neglabel(np.array([[0.3]]), np.array([[0.3, 0.3, 0.3]]))
    array([0.25])
    >>> neglabel(np.array([[0.3]]), np.array([[0.3, 0.3, 0.3]]), n_groups=3)
    array([0.5])
    """
    return special.expit(neglabel_log_odds(cosines, negative_cosines, temperature, n_groups))


def neglabel_log_odds(
    cosines: _Array, negative_cosines: _Array, temperature: float = 0.01, n_groups: int = 1
) -> _Array:
    r"""Log-odds of :func:`neglabel`, :math:`\log S - \log(1 - S)`, in nats.

    With one group, these are the log-sum-exp of the classes' :math:`c_k / T`, minus the
    log-sum-exp of the negative labels' :math:`\tilde c_m / T`.

    Parameters
    ----------
    cosines : ndarray of shape (n, n_classes)
        Of each image with the texts of the classes.
    negative_cosines : ndarray of shape (n, n_negatives)
        Of each image with the negative labels.
    temperature : float, default=0.01
    n_groups : int, default=1
        Number of groups, as in :func:`neglabel`.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import neglabel_log_odds
    >>> neglabel_log_odds(np.array([[0.3]]), np.array([[0.25]])).round(3)
    array([5.])
    """
    size = negative_cosines.shape[1] // n_groups
    grouped = negative_cosines[:, : size * n_groups].reshape(len(cosines), n_groups, size)
    inside = _log_sum_exp(cosines, temperature, axis=1)
    odds = inside[:, None] - _log_sum_exp(grouped, temperature, axis=2)
    # log(mean of S) - log(mean of 1 - S); neither mean is rounded to 0 or 1.
    share, rest = special.log_expit(odds), special.log_expit(-odds)
    return _log_sum_exp(share, 1.0, axis=1) - _log_sum_exp(rest, 1.0, axis=1)


def _log_sum_exp(values: _Array, temperature: float, axis: int) -> _Array:
    """Return the log-sum-exp of values / T; scipy's makes more copies of the array."""
    largest = values.max(axis, keepdims=True)
    terms = values - largest
    terms /= temperature
    np.exp(terms, out=terms)
    return largest.squeeze(axis) / temperature + np.log(terms.sum(axis))


def neglabel_distance(cosines: _Array, percentile: float = 95.0) -> _Array:
    """Distance of candidates from the in-distribution labels: minus a percentile of the cosines.

    It is the percentile ``100 - percentile`` of the negative cosines.

    Parameters
    ----------
    cosines : ndarray of shape (n_candidates, n_classes)
        Of each candidate with the texts of the classes.
    percentile : float, default=95.0
        100 stands for the nearest label. Between two cosines, the percentile is interpolated.

    Returns
    -------
    ndarray of shape (n_candidates,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import neglabel_distance
    >>> neglabel_distance(np.array([[0.1, 0.5, 0.3]]), 50)
    array([-0.3])
    """
    return -np.percentile(cosines, percentile, axis=1)
