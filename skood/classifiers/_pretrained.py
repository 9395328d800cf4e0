"""Pretrained networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from skood._checked_data import CheckedData
from skood._data import check_data
from skood._internal import internal
from skood._torch.packing import pack, unpack
from skood.classifiers._network import Network
from skood.classifiers._network_classifier import NetworkClassifier, last_linear

__all__ = ["PretrainedClassifier"]


class PretrainedClassifier(NetworkClassifier):
    """Any trained torch module, as a classifier that is not trained again.

    Detectors also accept a bare module, and wrap it in this class with the defaults. ``clone``
    shares the module instead of copying it; it pickles, and its hash depends on its content
    alone.

    Parameters
    ----------
    module : Module
        Takes a batch of images (b, C, H, W) or rows (b, d). It stays on its device.
    last_layer : str or nn.Linear, default=None
        The linear layer that maps the features to the logits: a submodule of `module`, or its
        name in ``module.named_modules()``. None takes the last linear layer.
    mean, std : sequence of float, default=None
        Mean and standard deviation by which each channel of images in [0, 1] is normalised.
        None when the module normalises its input, or X is already normalised.
    classes : array-like of shape (n_classes,), default=None
        Labels in the order of the logits. None: 0, 1, 2, ...
    image_shape : tuple of int, default=None
        (C, H, W) of images given as flat rows.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the logits.

    Notes
    -----
    Pixels of uint8 are divided by 255; anything else is passed to the module unchanged.

    Examples
    --------
    >>> import torch
    >>> from skood import MSP, PretrainedClassifier
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> PretrainedClassifier(network).transform(torch.zeros(2, 4)).shape
    (2, 8)
    >>> MSP(network).fit(torch.randn(20, 4)).predict(torch.zeros(2, 4)).shape
    (2,)
    """

    # Detectors hand such a model their checked data instead of an array.
    _reads_checked_data = True

    def __init__(
        self,
        module: nn.Module,
        *,
        last_layer: str | nn.Linear | None = None,
        mean: Any = None,
        std: Any = None,
        classes: Any = None,
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        self.module = module
        self.last_layer = last_layer
        self.mean = mean
        self.std = std
        self.classes = classes
        self.image_shape = image_shape

    @classmethod
    def from_torchvision(cls, name: str, weights: Any = "DEFAULT") -> PretrainedClassifier:
        """Load a classifier of torchvision with its published weights and normalisation.

        Parameters
        ----------
        name : str
            As in :func:`torchvision.models.list_models`, "resnet50" for instance.
        weights : str, WeightsEnum or None, default="DEFAULT"
            None leaves the network untrained. Anything else is downloaded on first use.

        Returns
        -------
        PretrainedClassifier
            It expects images of the size that the weights were trained on: resize them as
            ``weights.transforms()`` does, but do not normalise them, which is done here.
        """
        from torchvision.models import get_model, get_model_weights

        if weights is None:
            return cls(get_model(name).eval())
        if isinstance(weights, str):
            weights = get_model_weights(name)[weights]
        transforms = weights.transforms()
        return cls(
            get_model(name, weights=weights).eval(),
            mean=transforms.mean,
            std=transforms.std,
            classes=weights.meta["categories"],
        )

    def fit(self, X: Any, y: Any = None) -> PretrainedClassifier:
        """Return self; the network is trained already.

        Parameters
        ----------
        X : ignored
        y : ignored

        Returns
        -------
        self
        """
        return self

    @property
    def classes_(self) -> npt.NDArray:
        n_classes = self._last_layer().out_features
        if self.classes is None:
            return np.arange(n_classes)
        if len(self.classes) != n_classes:
            raise ValueError(
                f"classes has {len(self.classes)} labels, but the network has {n_classes} outputs; "
                "give one label for each"
            )
        return np.asarray(self.classes)

    def _last_layer(self) -> nn.Linear:
        if self.last_layer is None:
            return last_linear(self.module)
        layers = dict(self.module.named_modules())
        if isinstance(self.last_layer, nn.Linear) and self.last_layer in layers.values():
            return self.last_layer
        if self.last_layer not in layers:
            linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
            raise ValueError(
                f"last_layer={self.last_layer!r} is no layer of the network; its linear layers "
                f"are {linear}"
            )
        layer = layers[self.last_layer]
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"last_layer={self.last_layer!r} is a {type(layer).__name__}; expected nn.Linear"
            )
        return layer

    def _open(self, data: CheckedData) -> CheckedData:
        if self.image_shape is not None and not data.is_image:
            return data.reshape(tuple(self.image_shape))
        return data

    @internal
    def normalization(self) -> tuple[npt.ArrayLike, npt.ArrayLike]:
        return 0.0 if self.mean is None else self.mean, 1.0 if self.std is None else self.std

    @internal
    def network(self) -> Network:
        last_layer = self._last_layer()
        device, dtype = last_layer.weight.device, last_layer.weight.dtype
        mean, std = (
            None if value is None else torch.as_tensor(value, dtype=dtype, device=device)
            for value in (self.mean, self.std)
        )

        def per_channel(value: Tensor, x: Tensor) -> Tensor:
            if value.numel() not in (1, x.shape[1]):
                raise ValueError(
                    f"X has items of shape {tuple(x.shape[1:])}, but mean or std has "
                    f"{value.numel()} values; expected one for each channel or feature, or one in "
                    "all"
                )
            return value.reshape(-1, 1, 1) if x.ndim == 4 else value

        def tensor(items: npt.NDArray) -> Tensor:
            x = torch.from_numpy(np.ascontiguousarray(items)).to(device)
            x = x.to(dtype) / 255 if items.dtype == np.uint8 else x.to(dtype)
            x = x if mean is None else x - per_channel(mean, x)
            return x if std is None else x / per_channel(std, x)

        return Network(
            self.module,
            last_layer,
            self._open,
            tensor,
            step=1.0 if std is None else 1 / std,
            is_final=self.last_layer is None,
            settings=tuple(
                None if v is None else tuple(np.ravel(v)) for v in (self.mean, self.std)
            ),
        )

    def _outputs(self, X: Any) -> Any:
        # There is no fit, so that there is no earlier X to compare with.
        return self.network().outputs(check_data(BaseEstimator(), X, reset=True))

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_clone__(self) -> PretrainedClassifier:
        return type(self)(**self.get_params(deep=False))

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "module": pack(self.module)}
        if isinstance(self.last_layer, nn.Module):
            names = {layer: name for name, layer in self.module.named_modules()}
            state["last_layer"] = names[self.last_layer]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "module": unpack(state["module"])})
