"""Synthetic genomes: classes of Markov chains whose base composition confounds likelihoods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from skood.datasets._checks import check_n_samples, is_count, is_finite
from skood.datasets._random import generator

__all__ = ["gc_content", "make_genomes"]

_BASES = "ACGT"
# Whether a base is G or C.
_IS_GC = np.array([0, 1, 1, 0])


def make_genomes(
    n_samples: int = 100,
    n_classes: int = 10,
    length: int | tuple[int, int] = 250,
    *,
    orders: Sequence[int] = (1, 2, 3),
    gc_range: tuple[float, float] = (0.25, 0.75),
    strength: float = 0.3,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64]]:
    r"""Draw sequences of bases from classes of Markov chains.

    A class c has an order k, a GC-content g and a random table T, with which

    .. math::

        P(x_t = b \mid x_{t-k}, \dots, x_{t-1})
        \propto \pi_b \exp\big(\beta\, T(x_{t-k}, \dots, x_{t-1}; b)\big), \qquad
        \pi_G = \pi_C = \tfrac g 2, \quad \pi_A = \pi_T = \tfrac{1 - g}{2},

    where the entries of T are standard normal. The composition :math:`\pi` is the confounder of
    likelihoods: a sequence with few or many G and C is easy to predict, whatever its class.

    Parameters
    ----------
    n_samples : int, default=100
        Number of sequences.
    n_classes : int, default=10
        Number of classes, drawn independently of each other.
    length : int or (int, int), default=250
        Number of bases of a sequence, or the bounds between which it is drawn.
    orders : sequence of int, default=(1, 2, 3)
        The values of k, from 0 to 8, one of which each class draws.
    gc_range : (float, float), default=(0.25, 0.75)
        Bounds of a uniform distribution of g, between 0 and 1.
    strength : float, default=0.3
        :math:`\beta \ge 0`: how much the bases before determine the next one.
    random_state : int, RandomState instance or None, default=None
        Seed. None takes entropy from the system.

    Returns
    -------
    X : ndarray of shape (n_samples,), str
        Strings of the letters A, C, G and T.
    y : ndarray of shape (n_samples,), int64
        Class of each sequence, 0 to `n_classes` - 1, uniformly drawn.

    Raises
    ------
    ValueError
        For a parameter out of range.

    See Also
    --------
    skood.density.SequenceDensity : Density of sequences.
    load_genomics : The bacteria of Ren et al. (2019).
    gc_content : The confounder of a sequence.

    Notes
    -----
    Every call draws other classes, so draw training and test sequences in one call, and take some
    classes as in-distribution and the others as OOD. The data only imitate what the bacteria of Ren
    et al. (2019) are used for; they contain no genes.

    Examples
    --------
    >>> from skood.datasets import make_genomes
    >>> X, y = make_genomes(4, 2, length=12, random_state=0)
    >>> len(X), len(X[0]), sorted(set("".join(X)) - set("ACGT"))
    (4, 12, [])
    """
    n_samples = check_n_samples(n_samples)
    if not is_count(n_classes):
        raise ValueError(f"n_classes={n_classes!r}; expected an integer of at least 1")
    low, high = (length, length) if is_count(length) else _pair("length", length)
    if not (is_count(low) and is_count(high) and low <= high):
        raise ValueError(f"length={length!r}; expected a number of bases, or two in order")
    orders = list(orders)
    if not orders or not all(k == 0 or (is_count(k) and k <= 8) for k in orders):
        raise ValueError(f"orders={orders!r}; expected integers from 0 to 8")
    lowest_gc, highest_gc = _pair("gc_range", gc_range)
    if not 0 < lowest_gc <= highest_gc < 1:
        raise ValueError(f"gc_range={gc_range!r}; expected two values between 0 and 1, in order")
    if not is_finite(strength) or strength < 0:
        raise ValueError(f"strength={strength!r}; expected a finite number of at least 0")
    rng = generator(random_state)
    cumulative, n_contexts = [], []
    for _ in range(n_classes):
        n_contexts.append(4 ** int(rng.choice(orders)))
        gc = rng.uniform(lowest_gc, highest_gc)
        composition = np.where(_IS_GC, gc, 1 - gc) / 2
        weights = composition * np.exp(strength * rng.normal(size=(n_contexts[-1], 4)))
        cumulative.append(np.cumsum(weights / weights.sum(1, keepdims=True), 1))
    y = rng.integers(n_classes, size=n_samples)
    lengths = rng.integers(low, high + 1, size=n_samples)
    starts = np.cumsum([0, *n_contexts])[y]
    table, sizes = np.concatenate(cumulative)[:, :3], np.array(n_contexts)[y]
    # The context of the first bases is random. It is a number in base 4.
    context = rng.integers(sizes)
    codes = np.empty((n_samples, high), np.uint8)
    for t in range(high):
        uniform = rng.random(n_samples)
        codes[:, t] = (uniform[:, None] >= table[starts + context]).sum(1)
        context = (4 * context + codes[:, t]) % sizes
    letters = np.array(list(_BASES))[codes]
    X = np.array(["".join(row[:n]) for row, n in zip(letters, lengths, strict=True)])
    return X, y


def gc_content(X: Sequence[str] | npt.NDArray[np.str_]) -> npt.NDArray[np.float64]:
    """Return the fraction of G and C among the letters of each sequence.

    Parameters
    ----------
    X : sequence of str, of length n
        Upper and lower case count alike.

    Returns
    -------
    ndarray of shape (n,), float64

    Examples
    --------
    >>> from skood.datasets import gc_content
    >>> gc_content(["GATTACA", "GC"])
    array([0.28571429, 1.        ])
    """
    texts = [str(x).upper() for x in X]
    for row, text in enumerate(texts):
        if not text:
            raise ValueError(f"row {row} of X is empty; leave it out")
    return np.array([(text.count("G") + text.count("C")) / len(text) for text in texts])


def _pair(name: str, value: object) -> tuple:
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(map(is_finite, value)):
        raise ValueError(f"{name}={value!r}; expected two numbers")
    return tuple(value)
