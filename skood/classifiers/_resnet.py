"""Residual network."""

from __future__ import annotations

from torch import nn

from skood._estimator.parameters import StrOptions, at_least, estimator, parameter
from skood.classifiers._architecture import image_shape_of, initialize_convolutions
from skood.classifiers._base import NeuralClassifier

__all__ = ["ResNet"]

# Blocks of each stage.
_BLOCKS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3]}
_SMALLER_THAN = 64


@estimator
class ResNet(NeuralClassifier):
    """Residual network [1]_.

    The variant of torchvision: at depth 50, the 3 x 3 convolutions have the strides.

    Parameters
    ----------
    depth : {18, 34, 50}, default=18
        Number of layers with weights. 18 and 34 give 512 penultimate features, 50 gives 2048.
    stem : {"auto", "small", "large"}, default="auto"
        First layers. "large", for photographs: a 7 x 7 convolution and max pooling, which reduce
        height and width to a quarter. "small", common for CIFAR: a 3 x 3 convolution that preserves
        them. "auto": "small" below 64 pixels.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition",
       CVPR 2016. arXiv:1512.03385

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import ResNet
    >>> digits = load_digits()
    >>> network = ResNet(batch_size=16, max_steps=2, value_range=(0, 16), random_state=0)
    >>> network.fit(digits.images, digits.target).transform(digits.images[:2]).shape
    (2, 512)
    """

    depth: int = parameter(at_least(1), default=18)
    stem: str = parameter(StrOptions({"auto", "small", "large"}), default="auto", kw_only=True)

    def _build(self, item_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        from torchvision.models import resnet

        n_channels, height, width = image_shape_of(item_shape, self)
        if self.depth not in _BLOCKS:
            raise ValueError(f"depth={self.depth}; expected one of {list(_BLOCKS)} for ResNet")
        block = resnet.BasicBlock if self.depth < 50 else resnet.Bottleneck
        network = resnet.ResNet(block, _BLOCKS[self.depth], num_classes=n_classes)
        if self.stem == "small" or (self.stem == "auto" and min(height, width) < _SMALLER_THAN):
            network.conv1 = nn.Conv2d(n_channels, 64, 3, padding=1, bias=False)
            network.maxpool = nn.Identity()
        else:
            network.conv1 = nn.Conv2d(n_channels, 64, 7, stride=2, padding=3, bias=False)
        initialize_convolutions(network.conv1)
        return network
