"""Trained networks of other origin, as classifiers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import Tags

from skood._estimator.internal import internal
from skood._estimator.parameters import estimator, parameter
from skood.classifiers._module import ModuleHandle
from skood.classifiers._network_classifier import NetworkClassifier, last_linear
from skood.classifiers._outputs import Outputs

__all__ = ["PretrainedClassifier"]


@estimator
class PretrainedClassifier(ModuleHandle, NetworkClassifier):
    """Any trained torch module, as a classifier that is not trained again.

    Detectors also accept a bare module, and wrap it in this class with the default parameters.
    ``clone`` shares the module instead of copying it. The estimator can be pickled, and its hash
    depends on its content alone.

    Parameters
    ----------
    module : Module
        Takes a batch of images (b, C, H, W), of rows (b, d) or of other items of X; fields of a
        dict are keyword arguments. It stays on its device. Scripted, exported and quantised modules
        work with detectors on logits.
    output : str, int or callable, default=None
        The logits among the returned values: a key, a position, or a function of what the module
        returns. None: a returned tensor, ``logits`` of an output object, or the first element of a
        tuple.
    features_from : str, callable or tuple of both, default=None
        The penultimate features: the output of a layer, given by its name in
        ``module.named_modules()``; a function of what the module returns; or a layer and a function
        of its output. None: the input of the layer that computes the logits.
    multilabel : bool, default=False
        Whether an item may have several labels, each with the sigmoid of its logit as probability.
    classes : array-like of shape (n_classes,), default=None
        Labels in the order of the logits. None: 0, 1, 2, ...
    batch_size : int, default=None
        Number of items in a batch, to bound the memory. None: chosen by the size of an item. If the
        module was exported for one batch size, give that size.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the logits.

    Raises
    ------
    ValueError
        If the module does not accept X, does not return one row of logits per item, or returns
        logits that depend on the other items of the batch.

    See Also
    --------
    FeatureExtractor : A module whose output is a feature vector.

    Notes
    -----
    The logits are what the module returns. A single logit z stands for the logits (0, z).
    Probabilities are recognised by their values; the logits are then the values before the final
    softmax, log-softmax or sigmoid.

    The layer that computes the logits, a linear layer or a convolution with a 1 x 1 kernel, is
    verified: on the first items of X, its output must equal the logits up to rounding, a constant
    factor, and the final softmax or sigmoid. Its input is the features. The comparison is repeated
    for every later batch. If no layer passes, detectors on logits work, detectors on features need
    `features_from`, and detectors that need the weights raise an error that states why each layer
    fails.

    Networks in float16 and bfloat16 compute in their own precision; their outputs are converted to
    float32, and detectors that need gradients work on a copy in float32.

    Scores in batches of the same size agree to the last bit, and in batches of other sizes to a
    relative error of about 1e-6.

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
            A name of :func:`torchvision.models.list_models`, such as "resnet50".
        weights : str, WeightsEnum or None, default="DEFAULT"
            None: an untrained network with the normalisation of its default weights. Other weights
            are downloaded on first use.

        Returns
        -------
        PretrainedClassifier
            Takes images of the size that the weights were trained on. Resize images as
            ``weights.transforms()`` does, but do not normalise them; the classifier does.
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

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Any, architecture: str, *, mean: Any, std: Any, classes: Any = None
    ) -> PretrainedClassifier:
        """Load weights that were trained with OpenOOD, pytorch-ood or code of the same layout.

        Parameters
        ----------
        checkpoint : path or mapping of str to Tensor
            A file of ``torch.save``, a .safetensors file, or a state dict. The dicts that training
            scripts save, with the weights as ``state_dict``, and the prefix ``module.`` of
            DataParallel are recognised.
        architecture : str
            The layout of the weights. "resnet18_32x32", "resnet18_64x64", "resnet18_224x224",
            "resnet50": networks of OpenOOD; the last two are torchvision's. "wrn-40-2", or
            "wrn-DEPTH-WIDTH": the wide residual network of Outlier Exposure, pytorch-ood and
            OpenOOD. "densenet-100-12", or "densenet-DEPTH-GROWTH": the DenseNet-BC of OpenOOD.
        mean, std : float or array-like of float
            Mean and standard deviation that the network was trained with, for pixels in [0, 1]. The
            weights do not contain them, and libraries differ: see :doc:`/user_guide/migrating`.
            None: pixels are not normalised.
        classes : array-like of shape (n_classes,), default=None
            Labels in the order of the logits. None: 0, 1, 2, ...

        Returns
        -------
        PretrainedClassifier
            The network is on the CPU, in float32.

        Raises
        ------
        ValueError
            If the file holds other objects than tensors, or if a name or a shape differs from the
            architecture's; all weights must be used.

        Examples
        --------
        >>> import torch
        >>> from torchvision.models import resnet18
        >>> from skood import PretrainedClassifier
        >>> weights = resnet18(num_classes=10).state_dict()
        >>> classifier = PretrainedClassifier.from_checkpoint(
        ...     weights, "resnet18_224x224", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        ... )
        >>> classifier.transform(torch.rand(2, 3, 64, 64)).shape
        (2, 512)
        """
        from skood.classifiers._checkpoint import load_network

        network = load_network(checkpoint, architecture)
        classifier = cls(network, mean=mean, std=std, classes=classes)
        classifier._labels_for(last_linear(network).out_features)
        return classifier

    @property
    def classes_(self) -> npt.NDArray:
        if self.classes is None and not hasattr(self, "reading_"):
            raise AttributeError(
                "classes_ of a PretrainedClassifier is unknown before it has read data: call "
                "fit(X), or give classes="
            )
        if not hasattr(self, "reading_"):
            return np.asarray(self.classes)
        return self._labels_for(self.network().n_classes)

    def _labels_for(self, n_classes: int) -> npt.NDArray:
        """Return the labels of the columns of the logits."""
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
        """Return the most probable class; for a multilabel network, all probable labels.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
            In the dtype of `classes_`. For a multilabel network, 1 if the probability of the label
            is above 1/2, and 0 otherwise.
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
