"""Class-conditional densities p(x | y), and their mixture over the classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from skood._data.labels import check_labels, encode_labels

__all__ = ["ClassConditioning"]


class ClassConditioning:
    """Mixin of the densities, which may have the parameter `conditional`: handles labels.

    A *class index* is the position of a label in ``classes_``.

    Parameters
    ----------
    conditional : bool, default=False
        Model p(x | y): `fit` then needs y. Scores are log p(x) of the mixture of the classes,
        weighted by their training frequencies.
    """

    # False in a density that cannot model p(x | y) and has no such parameter.
    conditional: bool = False
    classes_: npt.NDArray
    class_log_prior_: npt.NDArray[np.float64]

    def _learn_classes(self, y: Any, n_items: int) -> npt.NDArray[np.integer] | None:
        """Learn the classes and their frequencies.

        Returns
        -------
        ndarray of shape (n_items,) or None
            Class indices to condition on; None for a model of p(x).
        """
        if not self.conditional:
            return None
        if y is None:
            raise ValueError(
                f"{type(self).__name__}(conditional=True) models p(x | y) and requires y to be "
                "passed to fit, but the target y is None"
            )
        y = check_labels(y, n_items, items=None)
        self.classes_, class_indices, counts = np.unique(y, return_inverse=True, return_counts=True)
        self.class_log_prior_ = np.log(counts / n_items)
        return class_indices

    def _class_indices(self, y: Any, n_items: int) -> npt.NDArray[np.int64] | None:
        """Return the class indices of labels, if the model is conditional and labels are given."""
        if not self.conditional or y is None:
            return None
        known = f", which y in fit did not contain; expected some of {self.classes_}"
        return encode_labels(check_labels(y, n_items, items=None), self.classes_, known=known)

    def _draw_classes(self, n_items: int, generator: torch.Generator) -> Tensor | None:
        """Draw class indices by their training frequencies, for a conditional model."""
        if not self.conditional:
            return None
        prior = torch.as_tensor(np.exp(self.class_log_prior_), device=generator.device)
        return torch.multinomial(prior, n_items, replacement=True, generator=generator)

    def _one_hot(self, class_indices: Tensor | None) -> Tensor | None:
        """One-hot vectors of shape (b, n_classes), float32; None for None."""
        if class_indices is None:
            return None
        return F.one_hot(class_indices, len(self.classes_)).float()

    def _given_each_class(self, log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Stack log p(x | y) of each class.

        Parameters
        ----------
        log_prob : callable
            Takes class indices of shape (b,), returns log p(x | y) of shape (b, ...) in nats.
        x : Tensor of shape (b, ...)

        Returns
        -------
        Tensor of shape (b, n_classes, ...), float64
        """
        classes = torch.arange(len(self.classes_), device=x.device)
        return torch.stack([log_prob(k.expand(len(x))).double() for k in classes], 1)

    def _joint(self, given_each_class: Tensor) -> Tensor:
        """Log p(x, y) of each class, from the result of `_given_each_class`; the same shape.

        Its log-sum-exp over axis 1 is log p(x), and its largest entry is the most probable class.
        """
        log_prior = torch.as_tensor(self.class_log_prior_, device=given_each_class.device)
        return given_each_class + log_prior.view(-1, *[1] * (given_each_class.ndim - 2))

    def _marginal_statistics(
        self, statistics: Callable[[Tensor | None], Tensor], x: Tensor
    ) -> Tensor:
        """Statistics of p(x) from statistics of p(x | y), the first of which is log p(x | y).

        Parameters
        ----------
        statistics : callable
            Takes class indices of shape (b,), or None for a model that is not conditional, returns
            statistics of shape (b, n_statistics).
        x : Tensor of shape (b, ...)

        Returns
        -------
        Tensor of shape (b, n_statistics), float64
            Log p(x), and the means of the others over p(y | x).
        """
        if not self.conditional:
            return statistics(None)
        given_each_class = self._given_each_class(statistics, x)
        joint = self._joint(given_each_class[:, :, 0])
        means = (joint.softmax(1)[:, :, None] * given_each_class[:, :, 1:]).sum(1)
        return torch.cat((joint.logsumexp(1, keepdim=True), means), 1)
