"""Contrast normalisation of each item."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from skood._data.checked_data import CheckedData
from skood._data.chunks import row_slices
from skood._data.validation import check_data
from skood._estimator.docs_link import DocumentationLinkMixin
from skood._estimator.parameters import StrOptions, estimator, fit_context, parameter

__all__ = ["GlobalContrastNormalization"]

# Items with smaller deviations than this fraction of their largest value are constant up to
# rounding.
_ROUNDING = 10 * np.finfo(np.float64).eps


@estimator
class GlobalContrastNormalization(
    OneToOneFeatureMixin, TransformerMixin, DocumentationLinkMixin, BaseEstimator
):
    r"""Global contrast normalisation: each item minus its mean, divided by its contrast.

    For an item x of d values with mean :math:`\bar x`,

    .. math:: \frac{x - \bar x}{s}, \quad
        s = \frac{1}{d} \sum_k |x_k - \bar x| \;\text{("l1")}, \quad
        s = \Bigl(\frac{1}{d} \sum_k (x_k - \bar x)^2\Bigr)^{1/2} \;\text{("l2")}.

    The mean and the contrast s are of all pixels and channels of one item, so that brightness and
    contrast of an image are removed. Nothing is learned from the data.

    Parameters
    ----------
    norm : {"l1", "l2"}, default="l1"
        Contrast: the mean absolute deviation, or the standard deviation.

    Attributes
    ----------
    input_shape_ : tuple of int
        Shape of an item, (C, H, W) or (d,).
    n_features_in_ : int
        Number of values in an item.

    See Also
    --------
    sklearn.preprocessing.StandardScaler : Standardises each feature over all items.

    Notes
    -----
    Deep SVDD [1]_ normalises images with "l1" and then scales them to [0, 1] by the smallest and
    the largest value of the training data. In a Pipeline, ``value_range="minmax"`` of the next
    model does the second step, and accepts new images whose values lie outside [0, 1]. The result
    has no range of its own; a model without `value_range` therefore refuses it.

    The result does not depend on the range of the pixels, 0..255 or 0..1. A constant item, which
    has no contrast, becomes 0. In the authors' code [2]_, constant images become NaN, and "l2"
    divides by :math:`s / \sqrt d`.

    References
    ----------
    .. [1] L. Ruff, R. A. Vandermeulen, N. Goernitz, L. Deecke, S. A. Siddiqui, A. Binder,
       E. Mueller and M. Kloft, "Deep One-Class Classification", ICML 2018.
    .. [2] https://github.com/lukasruff/Deep-SVDD-PyTorch

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.pipeline import make_pipeline
    >>> from skood import ConvNet, DeepSVDD
    >>> from skood.preprocessing import GlobalContrastNormalization
    >>> digits = load_digits()
    >>> zeros = digits.images[digits.target == 0]
    >>> backbone = ConvNet((8, 16), optimizer="adam", value_range="minmax", max_steps=10)
    >>> detector = make_pipeline(GlobalContrastNormalization(), DeepSVDD(backbone, random_state=0))
    >>> detector.fit(zeros).score_samples(digits.images).shape
    (1797,)
    """

    norm: str = parameter(StrOptions({"l1", "l2"}), default="l1")

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> GlobalContrastNormalization:
        """Check the data; nothing else is learned.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            Rows (n, d) or images (n, H, W), (n, C, H, W) or (n, H, W, C).
        y : ignored

        Returns
        -------
        self
        """
        check_data(self, X, reset=True)
        return self

    def transform(self, X: Any) -> npt.NDArray:
        """Normalise the contrast of each item.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, ...)
            In the shape of X; float32 for images, float64 for rows of float64.
        """
        check_is_fitted(self)
        data = check_data(self, X, reset=False)
        parts = [self._normalized(data, rows) for rows in row_slices(len(data), 4096)]
        return np.concatenate(parts)

    def _normalized(self, data: CheckedData, rows: slice) -> npt.NDArray:
        items = data.take(np.arange(rows.start, rows.stop))
        values = items.reshape(len(items), -1).astype(np.float64)
        largest = np.abs(values).max(1, keepdims=True)
        values -= values.mean(1, keepdims=True)
        deviations = np.abs(values) if self.norm == "l1" else np.square(values)
        contrast = deviations.mean(1, keepdims=True)
        if self.norm == "l2":
            contrast = np.sqrt(contrast)
        varies = contrast > _ROUNDING * largest
        normalized = np.where(varies, values / np.where(varies, contrast, 1.0), 0.0)
        is_wide = items.dtype == np.float64 and not data.is_image
        shaped = normalized.astype(np.float64 if is_wide else np.float32).reshape(items.shape)
        if data.channels_last:
            return np.moveaxis(shaped, 1, -1)
        return shaped.reshape(len(items), *data.came_as)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "input_shape_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
