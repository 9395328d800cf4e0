"""Wide residual network."""

from __future__ import annotations

import numbers

from torch import Tensor, nn

from skood._estimator.parameters import Interval, at_least, estimator, parameter
from skood.classifiers._architecture import image_shape_of, initialize_convolutions
from skood.classifiers._base import NeuralClassifier

__all__ = ["WideResNet"]


@estimator
class WideResNet(NeuralClassifier):
    """Wide residual network [1]_, for images of 32 x 32.

    A 3 x 3 convolution and three stages of pre-activation residual blocks (batch normalisation
    and ReLU before each convolution); the second and the third stage halve height and width.

    Parameters
    ----------
    depth : int, default=28
        Number of layers with weights: 4 plus a multiple of 6.
    widen_factor : int, default=10
        Factor of the 16, 32 and 64 channels of the stages; 10 gives 640 penultimate features.
    dropout : float, default=0.0
        Dropout rate between the two convolutions of a block, in training.
    lr_schedule : {"cosine", "step", "constant"}, default="step"
        "step" divides by 10 at half and at three quarters of the training; [1]_ divides by 5
        at 30, 60 and 80 %.

    References
    ----------
    .. [1] S. Zagoruyko, N. Komodakis, "Wide residual networks", BMVC 2016. arXiv:1605.07146

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import WideResNet
    >>> digits = load_digits()
    >>> network = WideResNet(10, 1, max_steps=5, value_range=(0, 16), random_state=0)
    >>> network.fit(digits.images, digits.target).transform(digits.images[:2]).shape
    (2, 64)
    """

    depth: int = parameter(at_least(1), default=28)
    widen_factor: int = parameter(at_least(1), default=10)
    dropout: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.0, kw_only=True
    )
    max_epochs: int = parameter(default=200, kw_only=True)
    lr_schedule: str = parameter(default="step", kw_only=True)

    def _build(self, item_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        n_channels, _, _ = image_shape_of(item_shape, self)
        n_blocks, rest = divmod(self.depth - 4, 6)
        if n_blocks < 1 or rest:
            raise ValueError(
                f"depth={self.depth}; expected 4 and a multiple of 6 for WideResNet, such as 16, "
                "28 or 40: three stages of blocks with two convolutions each"
            )
        n_in = 16
        layers: list[nn.Module] = [nn.Conv2d(n_channels, n_in, 3, padding=1, bias=False)]
        for stage in range(3):
            n_out = 16 * 2**stage * self.widen_factor
            for block in range(n_blocks):
                stride = 2 if stage and not block else 1
                layers.append(_Block(n_in, n_out, stride, self.dropout))
                n_in = n_out
        layers += [nn.BatchNorm2d(n_in), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        network = nn.Sequential(*layers, nn.Linear(n_in, n_classes))
        initialize_convolutions(network)
        return network


class _Block(nn.Module):
    """Two convolutions and a shortcut, which is a convolution where the shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(n_in), nn.ReLU())
        self.residual = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
        )
        changes = n_in != n_out or stride > 1
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(x)
        return self.residual(active) + (x if self.shortcut is None else self.shortcut(active))
