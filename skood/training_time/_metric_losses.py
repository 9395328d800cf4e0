"""Variational metric learning: balanced batches, and the two terms of the loss."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["class_balanced_batches", "class_divergence", "triplet_margin_loss"]


def class_balanced_batches(
    class_indices: npt.NDArray[np.integer],
    n_classes_per_batch: int,
    n_samples_per_batch: int,
    rng: np.random.Generator,
) -> list[npt.NDArray[np.intp]]:
    """Divide rows into batches of a few classes, with the same number of rows per class.

    Parameters
    ----------
    class_indices : ndarray of shape (n,)
    n_classes_per_batch : int
        Number of classes in a batch, drawn at random; all classes if there are fewer.
    n_samples_per_batch : int
        Number of rows per class. A class uses all its rows, in random order, before any recurs.
    rng : numpy Generator

    Returns
    -------
    list of ndarray of shape (n_classes_per_batch * n_samples_per_batch,)
        Rows, class by class. The number of batches is the number that n rows fill, at least one.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.training_time._metric_losses import class_balanced_batches
    >>> labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2])
    >>> batches = class_balanced_batches(labels, 2, 2, np.random.default_rng(0))
    >>> [labels[batch].tolist() for batch in batches]
    [[1, 1, 2, 2], [2, 2, 0, 0]]
    """
    classes = np.unique(class_indices)
    rows_of = {k: np.flatnonzero(class_indices == k) for k in classes}
    waiting = {k: np.empty(0, np.intp) for k in classes}
    n_classes = min(n_classes_per_batch, len(classes))

    def next_rows(k: int) -> npt.NDArray[np.intp]:
        while len(waiting[k]) < n_samples_per_batch:
            waiting[k] = np.concatenate([waiting[k], rng.permutation(rows_of[k])])
        rows, waiting[k] = np.split(waiting[k], [n_samples_per_batch])
        return rows

    n_batches = max(1, len(class_indices) // (n_classes * n_samples_per_batch))
    return [
        np.concatenate([next_rows(k) for k in rng.choice(classes, n_classes, replace=False)])
        for _ in range(n_batches)
    ]


def triplet_margin_loss(
    embeddings: Tensor, class_index: Tensor, margin: float | Tensor, *, gap: float = 0.1
) -> Tensor:
    r"""Triplet loss with a margin between classes, over all triplets of a batch.

    For every anchor a, every other row p of its class and every row n of another class, with d the
    Euclidean distance,

    .. math:: t = \max(0, d_{ap} - d_{an} + \text{gap}) + \max(0, M - d_{an})

    and the loss is the mean of the :math:`t > 0`.

    Parameters
    ----------
    embeddings : Tensor of shape (b, d)
    class_index : Tensor of shape (b,)
    margin : float or Tensor of shape ()
        M, the required distance between classes.
    gap : float, default=0.1
        Required difference between the distances to other classes and within a class.

    Returns
    -------
    Tensor of shape ()
        0 if no t is positive, as in a batch of a single class.

    Notes
    -----
    The number of triplets grows with b cubed: 2.9 million for 400 rows of 20 classes. They are not
    enumerated: with the distances :math:`d_{an}` of an anchor in ascending order, the positive
    terms of the sum over n are the first ones, so time and memory grow with b squared.

    References
    ----------
    .. [1] O. Dinari and O. Freifeld, "Variational- and Metric-based Deep Latent Space for
       Out-of-Distribution Detection", UAI 2022.

    Examples
    --------
    >>> import torch
    >>> from skood.training_time._metric_losses import triplet_margin_loss
    >>> z = torch.tensor([[0.0], [1.0], [3.0]])
    >>> triplet_margin_loss(z, torch.tensor([0, 0, 1]), margin=4.0)
    tensor(1.5000)
    """
    # Matrix products would lose small distances between rows of large norm to rounding.
    distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    same = class_index[:, None] == class_index
    itself = torch.eye(len(same), dtype=torch.bool, device=same.device)
    positive = same & ~itself
    # Row a: d_an in ascending order, then infinity.
    negatives = distances.masked_fill(same, math.inf).sort(1).values
    sums = F.pad(negatives.masked_fill(negatives.isinf(), 0.0).cumsum(1), (1, 0))
    limits = distances + gap
    n_near = torch.searchsorted(negatives.detach(), limits.detach())
    nearer = n_near * limits - sums.gather(1, n_near)
    apart = F.relu(margin - negatives).sum(1)
    total = torch.where(positive, nearer, 0.0).sum() + (apart * positive.sum(1)).sum()
    reach = limits.detach().clamp(min=margin)
    n_active = torch.where(positive, torch.searchsorted(negatives.detach(), reach), 0).sum()
    return total / n_active.clamp(min=1)


def class_divergence(
    z: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    class_index: Tensor,
    class_means: Tensor,
    *,
    scale: float = 0.1,
) -> Tensor:
    r"""Kullback-Leibler divergence of q(z | x) from a Gaussian of its class, estimated by one draw.

    The mean over the classes of the batch, and within each class over rows and latent dimensions,
    of

    .. math:: \log \mathcal{N}(z; \mu(x), \sigma(x)) - \log \mathcal{N}(z; m_y, \text{scale})

    in nats per dimension.

    Parameters
    ----------
    z : Tensor of shape (b, n_latent)
        Draws from q(z | x).
    mean, log_variance : Tensor of shape (b, n_latent)
        Parameters of q(z | x).
    class_index : Tensor of shape (b,)
    class_means : Tensor of shape (n_classes, n_latent)
        Means m.
    scale : float, default=0.1
        Standard deviation of the Gaussian of a class.

    Returns
    -------
    Tensor of shape ()

    References
    ----------
    .. [1] O. Dinari and O. Freifeld, "Variational- and Metric-based Deep Latent Space for
       Out-of-Distribution Detection", UAI 2022.

    Examples
    --------
    >>> import torch
    >>> from skood.training_time._metric_losses import class_divergence
    >>> z, zeros = torch.tensor([[0.1]]), torch.zeros(1, 1)
    >>> class_divergence(z, zeros, zeros, torch.tensor([0]), zeros)
    tensor(-1.8076)
    """
    log_q = -(log_variance + (z - mean).square() / log_variance.exp()) / 2
    log_p = -math.log(scale) - ((z - class_means[class_index]) / scale).square() / 2
    of_rows = (log_q - log_p).mean(1)
    zeros = of_rows.new_zeros(len(class_means))
    sums = zeros.index_add(0, class_index, of_rows)
    counts = zeros.index_add(0, class_index, torch.ones_like(of_rows))
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum()
