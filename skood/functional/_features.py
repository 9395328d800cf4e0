"""Scores of penultimate features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

__all__ = [
    "cosine_prototypes",
    "fdbd",
    "gaussian_mixture",
    "gradnorm",
    "mahalanobis",
    "nci",
    "neco",
    "pnml",
    "residual",
    "she",
    "unit_length",
    "vim",
]

_Array = npt.NDArray[np.float64]


def unit_length(features: npt.NDArray) -> npt.NDArray:
    """Scale each row to length 1; rows that are 0 up to rounding stay as they are.

    Parameters
    ----------
    features : ndarray of shape (n, d)

    Returns
    -------
    ndarray of shape (n, d)
        float16 and small integers become float32.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import unit_length
    >>> unit_length(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    # Squares overflow in float16, and in integers.
    features = features.astype(np.result_type(features, np.float32), copy=False)
    # The same numbers as scikit-learn's `normalize`, which takes longer to check a row.
    lengths = np.sqrt(np.einsum("ij,ij->i", features, features))
    lengths[lengths < 10 * np.finfo(features.dtype).eps] = 1
    return features / lengths[:, None]


def cosine_prototypes(features: _Array, prototypes: _Array) -> _Array:
    r"""Largest cosine with a prototype, :math:`\max_k z^\top \mu_k / (\|z\| \|\mu_k\|)`.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    prototypes : ndarray of shape (n_classes, d)
        For example class means.

    Returns
    -------
    ndarray of shape (n,)
        In [-1, 1]; 0 for a vector of length 0.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import cosine_prototypes
    >>> cosine_prototypes(np.array([[3.0, 4.0], [-1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 2.0]]))
    array([0.8, 0. ])
    """
    return (unit_length(features) @ unit_length(prototypes).T).max(axis=1)


def mahalanobis(features: _Array, means: _Array, whitening: _Array | None = None) -> _Array:
    r"""Squared distance to the nearest mean, :math:`-\min_k (z - \mu_k)^\top W W^\top (z - \mu_k)`.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    means : ndarray of shape (n_classes, d)
    whitening : ndarray of shape (d, rank), default=None
        Factor W of the inverse covariance, such as ``np.linalg.cholesky(precision)``. None: the
        features and means are already multiplied by it.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import mahalanobis
    >>> means = np.array([[0.0, 0.0], [4.0, 0.0]])
    >>> mahalanobis(np.array([[1.0, 1.0], [4.0, 2.0]]), means, np.diag([1.0, 0.5]))
    array([-1.25, -1.  ])
    """
    if whitening is not None:
        origin = means.mean(0)
        features, means = (features - origin) @ whitening, (means - origin) @ whitening
    # scikit-learn's `euclidean_distances` takes longer to check a row than to compute with it.
    squares = [np.einsum("ij,ij->i", vectors, vectors) for vectors in (features, means)]
    distances = -2 * (features @ means.T)
    distances += squares[0][:, None]
    distances += squares[1]
    return -np.maximum(distances, 0, out=distances).min(1)


def gaussian_mixture(
    features: _Array, weights: _Array, means: _Array, factors: _Array | Sequence[_Array]
) -> _Array:
    r"""Log-density of a mixture of Gaussians, :math:`\log\sum_k \pi_k N(z; \mu_k, S_k)`.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    weights : ndarray of shape (n_classes,)
        The :math:`\pi_k`.
    means : ndarray of shape (n_classes, d)
    factors : ndarray of shape (n_classes, d, d)
        Triangular matrices :math:`F_k` with :math:`S_k^{-1} = F_k F_k^\top`.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import gaussian_mixture
    >>> gaussian_mixture(np.zeros((1, 2)), np.ones(1), np.zeros((1, 2)), np.eye(2)[None]).round(3)
    array([-1.838])
    """
    densities = [
        np.log(weight)
        + np.log(np.diag(factor)).sum()
        - 0.5 * np.square((features - mean) @ factor).sum(1)
        for weight, mean, factor in zip(weights, means, factors, strict=True)
    ]
    constant = -0.5 * features.shape[1] * np.log(2 * np.pi)
    return special.logsumexp(densities, axis=0) + constant


def fdbd(
    features: _Array,
    logits: _Array,
    mean: _Array,
    separations: _Array,
    smallest: float = 1e-12,
) -> _Array:
    r"""Mean distance to the decision boundaries, relative to the distance to the mean feature.

    .. math::

        \frac{1}{K - 1} \sum_{k \ne c} \frac{f_c - f_k}{\|w_c - w_k\|}
        \; / \; \|z - \mu\|, \qquad c = \arg\max f

    Parameters
    ----------
    features : ndarray of shape (n, d)
    logits : ndarray of shape (n, n_classes)
    mean : ndarray of shape (d,)
        Of the training features.
    separations : ndarray of shape (n_classes, n_classes)
        Distances between the classes' weights, ``scipy.spatial.distance.cdist(weight, weight)``.
    smallest : float, default=1e-12
        Lower bound of the distance to the mean.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import fdbd
    >>> separations = np.array([[0.0, 2.0], [2.0, 0.0]])
    >>> fdbd(np.array([[3.0, 4.0]]), np.array([[10.0, 0.0]]), np.zeros(2), separations)
    array([1.])
    """
    boundary = separations[logits.argmax(1)]
    gap = logits.max(1, keepdims=True) - logits
    distance = np.divide(gap, boundary, out=np.zeros_like(gap), where=boundary > 0)
    n_boundaries = np.maximum((boundary > 0).sum(1), 1)
    spread = np.maximum(np.linalg.norm(features - mean, axis=1), smallest)
    return distance.sum(1) / n_boundaries / spread


def nci(
    features: _Array, logits: _Array, mean: _Array, weight: _Array, alpha: float = 0.001
) -> _Array:
    r"""Proximity to the weight of the predicted class.

    .. math::

        \frac{\langle w_c, z - \mu \rangle}{\|z - \mu\|} + \alpha \|z\|_1,
        \qquad c = \arg\max f

    Parameters
    ----------
    features : ndarray of shape (n, d)
    logits : ndarray of shape (n, n_classes)
    mean : ndarray of shape (d,)
        Of the training features.
    weight : ndarray of shape (n_classes, d)
        Of the last layer.
    alpha : float, default=0.001

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import nci
    >>> nci(np.array([[2.0, 0.0]]), np.array([[2.0, 0.0]]), np.zeros(2), np.eye(2), alpha=0.5)
    array([2.])
    """
    centred = features - mean
    towards = (weight[logits.argmax(1)] * centred).sum(1)
    length = np.linalg.norm(centred, axis=1)
    cosine = np.divide(towards, length, out=np.zeros_like(length), where=length > 0)
    return cosine + alpha * np.abs(features).sum(1)


def gradnorm(features: _Array, log_proba: _Array) -> _Array:
    r"""Length of a gradient in the last layer, :math:`\|p - 1/K\|_1 \, \|z\|_1`.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    log_proba : ndarray of shape (n, n_classes)
        Log-probabilities; :func:`log_softmax` computes them from logits.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import gradnorm
    >>> gradnorm(np.array([[1.0, 2.0]]), np.log([[0.75, 0.25]])).round(3)
    array([1.5])
    """
    proba = np.exp(log_proba)
    from_uniform = np.abs(proba - 1 / proba.shape[1]).sum(1)
    return from_uniform * np.abs(features).sum(1)


def pnml(features: _Array, logits: _Array, whitening: _Array) -> _Array:
    r"""Negative regret of the predictive normalised maximum likelihood, in units of log K.

    .. math::

        -\log \sum_k \frac{p_k}{p_k + (1 - p_k) p_k^t} \; / \; \log K,
        \qquad t = \frac{g}{1 + g}, \quad g = u^\top W W^\top u

    Parameters
    ----------
    features : ndarray of shape (n, d)
        The u, of length 1.
    logits : ndarray of shape (n, n_classes)
        Their softmax is p.
    whitening : ndarray of shape (d, rank)
        Factor W of :math:`(U^\top U)^{-1}`, for the matrix U of training features of length 1.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import pnml
    >>> pnml(np.array([[1.0, 0.0]]), np.zeros((1, 2)), np.eye(2)).round(3)
    array([-0.228])
    """
    tiny = 1e-12
    p = np.clip(special.softmax(logits, axis=1), tiny, 1 - tiny)
    g = np.square(features @ whitening).sum(1)
    t = (g / (1 + g))[:, None]
    regret = np.log((p / (p + (1 - p) * p**t)).sum(1))
    return -regret / np.log(p.shape[1])


def residual(features: _Array, residual_space: _Array, origin: _Array) -> _Array:
    r"""Negative length of the component outside the principal space, :math:`-\|R^\top (z - u)\|`.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    residual_space : ndarray of shape (d, d - n_components)
        An orthonormal basis R of the residual space.
    origin : ndarray of shape (d,)
        The origin u.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import residual
    >>> residual(np.array([[5.0, 2.0]]), np.array([[0.0], [1.0]]), np.zeros(2))
    array([-2.])
    """
    outside = features @ residual_space - origin @ residual_space
    return -np.sqrt(np.einsum("ij,ij->i", outside, outside))


def vim(
    features: _Array, logits: _Array, residual_space: _Array, origin: _Array, alpha: float
) -> _Array:
    r"""Energy minus the virtual logit, :math:`\log\sum_k e^{f_k} - \alpha \|R^\top (z - u)\|`.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    logits : ndarray of shape (n, n_classes)
    residual_space : ndarray of shape (d, d - n_components)
        An orthonormal basis R of the residual space.
    origin : ndarray of shape (d,)
        The origin u.
    alpha : float
        Mean largest logit of the training data, divided by the mean length of their residual.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import vim
    >>> space, origin = np.array([[0.0], [1.0]]), np.zeros(2)
    >>> vim(np.array([[5.0, 2.0]]), np.zeros((1, 2)), space, origin, alpha=0.5).round(3)
    array([-0.307])
    """
    return special.logsumexp(logits, axis=1) + alpha * residual(features, residual_space, origin)


def neco(features: _Array, components: _Array) -> _Array:
    r"""Share of a feature's length in the principal space, :math:`\|P^\top z\| / \|z\|`.

    Parameters
    ----------
    features : ndarray of shape (n, d)
        Standardised, as a rule.
    components : ndarray of shape (d, n_components)
        The principal directions P.

    Returns
    -------
    ndarray of shape (n,)
        1 for a feature of length 0.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import neco
    >>> neco(np.array([[3.0, 4.0]]), np.array([[1.0], [0.0]]))
    array([0.6])
    """
    length = np.linalg.norm(features, axis=1)
    inside = np.linalg.norm(features @ components, axis=1)
    return np.divide(inside, length, out=np.ones_like(length), where=length > 0)


def she(features: _Array, logits: _Array, patterns: _Array) -> _Array:
    r"""Inner product with the pattern of the predicted class, :math:`\langle z, m_c \rangle`.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    logits : ndarray of shape (n, n_classes)
        The predicted class c has the largest logit.
    patterns : ndarray of shape (n_classes, d)
        The :math:`m_k`, mean training features of each class.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from skood.functional import she
    >>> she(np.array([[3.0, 4.0]]), np.array([[0.0, 1.0]]), np.eye(2))
    array([4.])
    """
    return (features * patterns[logits.argmax(1)]).sum(1)
