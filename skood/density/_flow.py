"""Neural spline flow: a density of rows."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import zuko
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import at_least, estimator, parameter
from skood._torch.jacobian import backward_jacobian
from skood._torch.preprocessing import Learned, Preprocessing
from skood.density._invertible import Derivative, InvertibleDensity, MatrixDerivative

__all__ = ["NeuralSplineFlow"]

# Least slope of a spline's bins and derivatives.
_LEAST_SLOPE = 1e-3


@estimator
class NeuralSplineFlow(InvertibleDensity):
    r"""Density of rows: an autoregressive flow of rational-quadratic splines.

    An invertible network f maps standardised rows to a standard normal distribution, and
    log p(x) = log N(f(x); 0, I) + log abs(det df/dx).

    Parameters
    ----------
    n_transforms : int, default=3
        Number of autoregressive transforms.
    n_bins : int, default=8
        Number of bins of each spline.
    hidden_features : tuple of int, default=(64, 64)
        Hidden widths of the networks that output the splines' parameters.
    precision : {"auto", "bf16", "fp32"}, default="fp32"
        Precision of training. Rows are always scored in float32.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained flow over standardised rows.
    mean_, scale_ : ndarray of shape (n_features,)
        Mean and standard deviation of the training data; 1 for a constant feature.
    history_ : dict of str to list of float
        Loss of each epoch, in nats per row: "loss" and "validation_loss".
    dtype_ : numpy dtype
        Dtype of samples, float64.

    See Also
    --------
    ImageFlow : Flow of images.
    PixelCNN : Density of images.

    References
    ----------
    .. [1] C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, "Neural Spline Flows",
       NeurIPS 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood.density import NeuralSplineFlow
    >>> X = load_iris().data
    >>> flow = NeuralSplineFlow(max_epochs=5, random_state=0).fit(X)
    >>> flow.score_samples(X[:3]).shape
    (3,)
    """

    n_transforms: int = parameter(at_least(1), default=3)
    n_bins: int = parameter(at_least(2), default=8)
    hidden_features: tuple[int, ...] = parameter(tuple, list, default=(64, 64))
    clip_norm: float | None = parameter(default=10.0, kw_only=True)
    patience: int | None = parameter(default=20, kw_only=True)
    precision: str = parameter(default="fp32", kw_only=True)

    _samples_at_once = None

    mean_ = Learned("mean")
    scale_ = Learned("scale")

    def _make_preprocessing(self, data: CheckedData) -> Preprocessing:
        if data.is_image:
            raise ValueError(
                f"X has images of shape {data.item_shape}, but NeuralSplineFlow models rows; "
                "use PixelCNN for images, or reshape X to (n_samples, n_features)"
            )
        self.dtype_ = np.dtype(np.float64)
        return Preprocessing(self, data)

    def _learn(self, data: CheckedData) -> None:
        self._preprocessing.learn_moments(data)

    def _make_network(self, item_shape: tuple[int, ...]) -> nn.Module:
        # zuko.flows.NSF has another least slope in older versions, which is another function of the
        # same weights.
        return zuko.flows.MAF(
            item_shape[0],
            transforms=self.n_transforms,
            univariate=partial(zuko.transforms.MonotonicRQSTransform, slope=_LEAST_SLOPE),
            shapes=[(self.n_bins,), (self.n_bins,), (self.n_bins - 1,)],
            hidden_features=tuple(self.hidden_features),
        )

    def _mutate(self, x: Tensor, data: CheckedData, generator: torch.Generator) -> Tensor:
        return self._swap_values(x, data, generator)

    def _forward(self, module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = module().transform.call_and_ladj(x)
        return z, log_det.double() - float(np.log(self.scale_).sum())

    def _inverse(self, module: nn.Module, z: Tensor) -> Tensor:
        return module().transform.inv(z)

    def _inverse_derivative(self, module: nn.Module, z: Tensor) -> Derivative:
        # The inverse takes a pass for each feature; the map to latents takes one.
        x = self._inverse(module, z)
        return MatrixDerivative(torch.linalg.inv(backward_jacobian(module().transform, x)))
