"""Trained networks whose output is a feature vector."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags

from skood._estimator.parameters import estimator
from skood.classifiers._module import ModuleHandle

__all__ = ["FeatureExtractor"]


@estimator
class FeatureExtractor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ModuleHandle):
    """Any trained torch module whose output is a feature vector, as a transformer.

    For encoders without a head: networks of timm with ``num_classes=0``, DINO, CLIP, BERT. A
    detector on features wraps a bare module without a head in this class.

    Parameters
    ----------
    module : Module
        Takes a batch of images (b, C, H, W), of rows (b, d) or of other items of X; fields of a
        dict are keyword arguments. It stays on its device.
    output : str, int or callable, default=None
        The feature among the returned values: a key, a position, or a function of what the module
        returns. None: a returned tensor; ``image_embeds``, ``text_embeds``, ``embeddings`` or
        ``pooler_output`` of an output object; the first element of a tuple.

    Raises
    ------
    ValueError
        If the module does not accept X, does not return one vector per item, or returns vectors
        that depend on the other items of the batch.

    See Also
    --------
    PretrainedClassifier : Its `transform` returns the features before the last layer.

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

    @property
    def _n_features_out(self) -> int:
        return self.reading_.n_features

    def _network_settings(self) -> dict[str, Any]:
        return {"is_extractor": True}

    def transform(self, X: Any) -> npt.NDArray:
        """Return the feature vector of each item.

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
        # Features have the dtype of the network.
        tags.transformer_tags.preserves_dtype = []
        return tags
