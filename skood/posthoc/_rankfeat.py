"""Energy after the dominant direction of a feature map is removed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood import functional as F
from skood._data.checked_data import CheckedData
from skood._estimator.parameters import POSITIVE, estimator, parameter
from skood.classifiers._layers import last_map, modules_named, named_layers, output_shapes
from skood.classifiers._network import Network
from skood.posthoc._base import NetworkDetector, check_magnitude, in_float64
from skood.posthoc._models import require_logits

__all__ = ["RankFeat"]


@estimator
class RankFeat(NetworkDetector):
    r"""Energy after the rank-1 part of a feature map is removed.

    With the map X of shape (channels, pixels), its largest singular value :math:`s_1` and the
    singular vectors :math:`u_1, v_1`, the rest of the network runs on

    .. math::

        X' = X - s_1 u_1 v_1^\top, \qquad T \log \sum_k \exp(f_k(X') / T)

    Out-of-distribution images tend to have one dominant direction, which determines their logits.
    The network has to be convolutional.

    Parameters
    ----------
    layer : str or tuple of str, default=None
        Name of the module whose output is X, as in ``module.named_modules()``. The logits
        for several modules are averaged. None: the last module before the pooling whose output has
        more than one pixel.
    temperature : float, default=1.0
        Temperature T.

    Attributes
    ----------
    layers_ : tuple of str
        Names of the modules whose output is X.

    See Also
    --------
    Energy : The same score of the unchanged map.

    Notes
    -----
    The authors average the logits of the last two stages of a residual network,
    ``layer=("layer3", "layer4")``. Their code can approximate the singular vectors with twenty
    steps of a power iteration from a random start; here they are exact.

    References
    ----------
    .. [1] Y. Song, N. Sebe, W. Wang, "RankFeat: Rank-1 Feature Removal for Out-of-distribution
       Detection", NeurIPS 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import ConvNet, RankFeat
    >>> digits = load_digits()
    >>> network = ConvNet((8, 16), max_steps=10, value_range=(0, 16), random_state=0)
    >>> detector = RankFeat(network).fit(digits.images, digits.target)
    >>> detector.score_samples(digits.images[:3]).shape
    (3,)
    """

    layer: str | Sequence[str] | None = parameter(str, tuple, list, None, default=None)
    temperature: float = parameter(POSITIVE, default=1.0)

    def _learn_from_data(
        self, data: CheckedData, y: npt.NDArray | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        require_logits(self._outputs(data.subset(np.arange(1))), type(self).__name__)
        shapes = output_shapes(self._network, data)
        maps = {name: shape for name, shape in shapes.items() if len(shape) > 1}
        if not maps:
            raise ValueError(
                "RankFeat removes a direction from a map (C, ...), but no module before the last "
                "layer outputs a map; give a convolutional network"
            )
        layer = last_map(maps) if self.layer is None else self.layer
        self.layers_ = named_layers(layer, maps, "layer")
        return None

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        network = self._network
        layers = modules_named(network, self.layers_)

        def mean_logits(x: Tensor) -> Tensor:
            logits = [_logits_without(network, x, layer).double() for layer in layers]
            return torch.stack(logits).mean(0)

        logits = network.map(mean_logits, data, "logits without the largest singular value")
        return in_float64(lambda rows: F.energy(rows, self.temperature), np.asarray(logits))


def _logits_without(network: Network, x: Tensor, layer: nn.Module) -> Tensor:
    """Return the logits of a pass in which the output of `layer` lacks its rank-1 part."""
    hook = layer.register_forward_hook(lambda layer, args, output: _without_rank_one(output))
    try:
        return network.forward(x)[1]
    finally:
        hook.remove()


def _without_rank_one(maps: Tensor) -> Tensor:
    values = maps.flatten(2).double()
    check_magnitude(values.cpu().numpy())
    n_channels, n_pixels = values.shape[1:]
    # The last eigenvector of the smaller product is u_1 or v_1.
    if n_channels < n_pixels:
        first = torch.linalg.eigh(values @ values.mT).eigenvectors[..., -1:]
        values = values - first @ (first.mT @ values)
    else:
        first = torch.linalg.eigh(values.mT @ values).eigenvectors[..., -1:]
        values = values - (values @ first) @ first.mT
    return values.reshape(maps.shape).to(maps.dtype)
