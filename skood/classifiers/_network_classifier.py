"""Prediction with a trained network, for trained and pretrained classifiers."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skood._data.validation import check_data
from skood._estimator.internal import internal
from skood._torch.packing import tensors_of
from skood.classifiers._network import Network
from skood.classifiers._outputs import Outputs

__all__ = ["NetworkClassifier", "copy_weights", "last_linear"]


def last_linear(module: nn.Module) -> nn.Linear:
    """Return the last linear layer of `module`.

    Raises
    ------
    ValueError
        If it has none.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ValueError(
            f"the network {type(module).__name__} has no nn.Linear layer to read logits and "
            "penultimate features from; add one as its head"
        )
    return layers[-1]


def copy_weights(source: Network, target: nn.Module, *, keeps_head: bool) -> None:
    """Copy the weights and buffers of a trained network to another network of its architecture.

    Parameters
    ----------
    source : Network
    target : Module
    keeps_head : bool
        Whether to copy the last layer too, if it has the same shape.

    Raises
    ------
    ValueError
        If the last layer has another name, or another weight has another name or shape.
    """
    expected = (
        "in the network to train; give a network of the same architecture, trained on items of the "
        "same shape"
    )
    head = _name_of(last_linear(target), target)
    came = _name_of(last_linear(source.module), source.module)
    if came != head:
        raise ValueError(f"weights_init has the last layer {came!r}, but it is {head!r} {expected}")
    given = tensors_of(source.module)
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    for name, tensor in tensors_of(target).items():
        fits = shapes.get(name) == tuple(tensor.shape)
        if name.rpartition(".")[0] == head:
            if not (keeps_head and fits):
                continue
        elif not fits:
            came = f"the shape {shapes[name]}" if name in shapes else "nothing"
            raise ValueError(
                f"weights_init has {came} for {name!r}, of shape {tuple(tensor.shape)} {expected}"
            )
        tensor.data.copy_(given[name])


def _name_of(layer: nn.Module, module: nn.Module) -> str:
    return next(name for name, part in module.named_modules() if part is layer)


class NetworkClassifier(
    ClassNamePrefixFeaturesOutMixin,
    ClassifierMixin,
    TransformerMixin,
    BaseEstimator,
    metaclass=ABCMeta,
):
    """Base of the classifiers that are torch networks: prediction from logits and features."""

    @abstractmethod
    @internal
    def network(self) -> Network:
        """Return the trained network."""

    @abstractmethod
    @internal
    def normalization(self) -> tuple[npt.ArrayLike, npt.ArrayLike]:
        """Return mean and standard deviation for normalisation, of each channel or of all."""

    @property
    @abstractmethod
    def _n_features_out(self) -> int:
        """Number of penultimate features."""

    def _outputs(self, X: Any, reads: str = "logits") -> Outputs:
        """Return the network's outputs for X; `reads` are the required ones."""
        check_is_fitted(self)
        return self.network().outputs(check_data(self, X, reset=False))

    def decision_function(self, X: Any) -> npt.NDArray[np.float64]:
        """Logits.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            For two classes, as in all of scikit-learn, the second logit minus the first, shape
            (n_samples,).
        """
        logits = self._outputs(X).logits.astype(np.float64)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Probability of each class, the softmax of the logits.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            In the order of `classes_`.
        """
        return np.exp(self._outputs(X).log_proba)

    def predict(self, X: Any) -> npt.NDArray:
        """Return the most probable class.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,)
            In the dtype of `classes_`.
        """
        most_probable = self._outputs(X).logits.argmax(1)
        return self.classes_[most_probable]

    def transform(self, X: Any) -> npt.NDArray:
        """Penultimate features, the input of the last linear layer.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the dtype of the network, usually float32.
        """
        return self._outputs(X, "features").features

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        # Features have the dtype of the network.
        tags.transformer_tags.preserves_dtype = []
        return tags
