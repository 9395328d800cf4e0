"""Trained networks of any origin, as classifiers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import Tags

from skood._internal import internal
from skood._parameters import estimator, parameter
from skood.classifiers._module import ModuleHandle
from skood.classifiers._network_classifier import NetworkClassifier
from skood.classifiers._outputs import Outputs

__all__ = ["PretrainedClassifier"]


@estimator
class PretrainedClassifier(ModuleHandle, NetworkClassifier):
    """Any trained torch module, as a classifier that is not trained again.

    Detectors also accept a bare module, and wrap it in this class with the defaults. ``clone``
    shares the module instead of copying it; it pickles, and its hash depends on its content
    alone.

    Parameters
    ----------
    module : Module
        Takes a batch of images (b, C, H, W), of rows (b, d) or of whatever else X holds; fields of
        a dict by their names. It stays on its device. Scripted, exported and quantised modules
        serve detectors on logits.
    output : str, int or callable, default=None
        Which part of what the module returns are the logits: a key, a position, or a function of
        what it returns. None takes a tensor, ``logits`` of an output object, or the first element
        of a tuple.
    features_from : str, callable or tuple of both, default=None
        The penultimate features: the name of a layer in ``module.named_modules()``, whose output
        they are, a function of what the module returns, or a layer and a function of its output.
        None takes the input of the layer that makes the logits.
    multilabel : bool, default=False
        Whether an item may have several labels, each with the sigmoid of its logit.
    classes : array-like of shape (n_classes,), default=None
        Labels in the order of the logits. None: 0, 1, 2, ...
    batch_size : int, default=None
        Items in a batch, to bound the memory. None chooses it by the size of an item. A module
        that was exported for one batch size needs this one.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the logits.
    reading_ : object
        How the output of the module is read, once `fit` or a detector has found it out.

    Raises
    ------
    ValueError
        When the module does not take X, puts out anything else than one row of logits for each
        item, or an item's logits depend on the other items of its batch.

    See Also
    --------
    FeatureExtractor : A module whose output is the feature.

    Notes
    -----
    The logits are what the module returns. One logit z stands for the logits (0, z). Probabilities
    are recognised by their values, and the logits are then taken from before the final softmax,
    log-softmax or sigmoid.

    The layer that makes the logits, a linear layer or a convolution of one pixel, is proved: its
    output has to equal the logits in value on the first items of X, up to rounding, a constant
    factor, and the final softmax or sigmoid. Its input are the features. It is compared again in
    every later batch. Where no layer passes, detectors on logits work, those on features need
    `features_from`, and those that need weights say why each layer fails.

    Networks in float16 and bfloat16 compute in their own precision; their outputs are converted to
    float32, and detectors that need gradients work on a copy in float32.

    A score agrees to the last bit in batches of one size, and to about 1e-6 of its size otherwise.

    Examples
    --------
    >>> import torch
    >>> from skood import MSP, PretrainedClassifier
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> PretrainedClassifier(network).transform(torch.randn(5, 4)).shape
    (5, 8)
    >>> MSP(network).fit(torch.randn(20, 4)).predict(torch.zeros(2, 4)).shape
    (2,)
    """

    features_from: Any = parameter(str, callable, tuple, None, default=None, kw_only=True)
    multilabel: bool = parameter("boolean", default=False, kw_only=True)
    classes: Any = parameter("array-like", None, default=None, kw_only=True)

    @classmethod
    def from_torchvision(cls, name: str, weights: Any = "DEFAULT") -> PretrainedClassifier:
        """Load a classifier of torchvision with its published weights and normalisation.

        Parameters
        ----------
        name : str
            As in :func:`torchvision.models.list_models`, "resnet50" for instance.
        weights : str, WeightsEnum or None, default="DEFAULT"
            None leaves the network untrained, with the normalisation of its default weights.
            Anything else is downloaded on first use.

        Returns
        -------
        PretrainedClassifier
            It expects images of the size that the weights were trained on: resize them as
            ``weights.transforms()`` does, but do not normalise them, which is done here.
        """
        from torchvision.models import get_model, get_model_weights

        if isinstance(weights, str):
            weights = get_model_weights(name)[weights]
        if weights is None:
            transforms = get_model_weights(name)["DEFAULT"].transforms()
            return cls(get_model(name).eval(), mean=transforms.mean, std=transforms.std)
        transforms = weights.transforms()
        return cls(
            get_model(name, weights=weights).eval(),
            mean=transforms.mean,
            std=transforms.std,
            classes=weights.meta["categories"],
        )

    @property
    def classes_(self) -> npt.NDArray:
        if self.classes is None and not hasattr(self, "reading_"):
            raise AttributeError(
                "classes_ of a PretrainedClassifier is known once it has seen data: call fit(X), "
                "or give classes="
            )
        if not hasattr(self, "reading_"):
            return np.asarray(self.classes)
        return self._labels_for(self.network().n_classes)

    def _labels_for(self, n_classes: int) -> npt.NDArray:
        """Return the labels of that many columns of the logits."""
        if self.classes is None:
            return np.arange(n_classes)
        if len(self.classes) != n_classes:
            raise ValueError(
                f"classes has {len(self.classes)} labels, but the network has {n_classes} outputs; "
                "give one label for each"
            )
        return np.asarray(self.classes)

    @property
    def _n_features_out(self) -> int:
        return self.reading_.n_features

    @internal
    def normalization(self) -> tuple[npt.ArrayLike, npt.ArrayLike]:
        return 0.0 if self.mean is None else self.mean, 1.0 if self.std is None else self.std

    def _network_settings(self) -> dict[str, Any]:
        return {"features_from": self.features_from, "multilabel": self.multilabel}

    def _outputs(self, X: Any, reads: str = "logits") -> Outputs:
        network, data = self.network(), self._check(X)
        network.read(data)
        network.require(reads, type(self).__name__)
        return network.outputs(data)

    def predict(self, X: Any) -> npt.NDArray:
        """Return the most probable class, or of a multilabel network all probable labels.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
            In the dtype of `classes_`; of a multilabel network 1 where the probability of the
            label is above 1/2, and 0 elsewhere.
        """
        outputs = self._outputs(X)
        if self.multilabel:
            return (outputs.logits > 0).astype(np.int64)
        return self._labels_for(outputs.logits.shape[1])[outputs.logits.argmax(1)]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = self.multilabel
        tags.classifier_tags.multi_class = not self.multilabel
        return tags
