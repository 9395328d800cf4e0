"""Trained networks whose output is the feature."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from torch import nn

from skood._parameters import estimator
from skood.classifiers._module import ModuleHandle

__all__ = ["FeatureExtractor"]


@estimator
class FeatureExtractor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ModuleHandle):
    """Any trained torch module whose output is the feature, as a transformer.

    For encoders without a head: networks of timm with ``num_classes=0``, DINO, CLIP, BERT. A bare
    module without a head, given to a detector on features, is wrapped in this class.

    Parameters
    ----------
    module : Module
        Takes a batch of images (b, C, H, W), of rows (b, d) or of whatever else X holds; fields of
        a dict by their names. It stays on its device.
    output : str, int or callable, default=None
        Which part of what the module returns is the feature: a key, a position, or a function of
        what it returns. None takes a tensor, ``image_embeds``, ``text_embeds``, ``embeddings`` or
        ``pooler_output`` of an output object, or the first element of a tuple.
    batch_size : int, default=None
        Items in a batch, to bound the memory. None chooses it by the size of an item.

    Attributes
    ----------
    reading_ : object
        How the output of the module is read.

    Raises
    ------
    ValueError
        When the module does not take X, puts out anything else than one vector for each item, or
        an item's vector depends on the other items of its batch.

    See Also
    --------
    PretrainedClassifier : Its `transform` gives the features before the last layer.

    Examples
    --------
    >>> import torch
    >>> from skood import KNN, FeatureExtractor
    >>> encoder = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
    >>> extractor = FeatureExtractor(encoder).fit(torch.randn(20, 4))
    >>> extractor.transform(torch.zeros(2, 4)).shape
    (2, 8)
    >>> KNN(extractor, n_neighbors=5).fit(torch.randn(20, 4)).predict(torch.zeros(2, 4)).shape
    (2,)
    """

    def __init__(
        self,
        module: nn.Module,
        output: Any = None,
        *,
        mean: Any = None,
        std: Any = None,
        value_range: Any = None,
        image_shape: tuple[int, int, int] | None = None,
        channels: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.module = module
        self.output = output
        self.mean = mean
        self.std = std
        self.value_range = value_range
        self.image_shape = image_shape
        self.channels = channels
        self.batch_size = batch_size

    @property
    def _n_features_out(self) -> int:
        return self.reading_.n_features

    def _network_settings(self) -> dict[str, Any]:
        return {"is_extractor": True}

    def transform(self, X: Any) -> npt.NDArray:
        """Return the feature of each item.

        Parameters
        ----------
        X : array-like, Tensor, Dataset, DataLoader or dict of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the dtype of the network, float32 for half precision.
        """
        return self.network().outputs(self._check(X)).features

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        # Features come in the dtype of the network.
        tags.transformer_tags.preserves_dtype = []
        return tags
