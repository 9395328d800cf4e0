"""Convolutional network of Dinari and Freifeld for MNIST."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from skood._estimator.parameters import at_least, estimator, parameter
from skood.classifiers._architecture import image_shape_of
from skood.classifiers._base import NeuralClassifier

__all__ = ["MNISTConvNet"]

_SMALLEST = 8


@estimator
class MNISTConvNet(NeuralClassifier):
    """Five convolutions and a linear layer without normalisation, for grey images of 28 x 28.

    The network C100-C100-P-C100-C100-P-C100-P-FC500 that Dinari and Freifeld [1]_ train on MNIST:
    convolutions of 3 x 3 with zero padding and biases, each with ReLU; max pooling that halves
    height and width; a linear layer, whose output without a nonlinearity is the penultimate
    features; and the linear layer of the logits. The layers are named ``conv1``, ``relu1``,
    ``conv2``, ``relu2``, ``pool1``, ``conv3``, ``relu3``, ``conv4``, ``relu4``, ``pool2``,
    ``conv5``, ``relu5``, ``pool3``, ``flatten``, ``hidden`` and ``head``.

    Parameters
    ----------
    n_filters : int, default=100
        Number of channels of each convolution.
    hidden_features : int, default=500
        Number of penultimate features, which may be negative.

    Attributes
    ----------
    ensemble_layers : tuple of str
        ("conv2", "pool1", "relu3"), the layers that :class:`~skood.training_time.VMDLS` reads by
        default: the second convolution before its ReLU, the first pooling, and the third
        convolution after its ReLU, as in the authors' code.

    See Also
    --------
    ConvNet : Network with batch normalisation, which trains at higher learning rates.
    multi_step : Schedule of the learning rate by epochs.

    Notes
    -----
    The defaults of the training are published: Adam without weight decay, and a constant learning
    rate for 100 epochs. The authors also augment the images, and train for up to 500 epochs with a
    tenth of the learning rate after every hundredth::

        MNISTConvNet(
            max_epochs=500,
            lr_schedule=multi_step([100, 200, 300, 400], max_epochs=500),
            augmentation=("rotate", "resized_crop"),
        )

    For images of 28 x 28 x 1 and 10 classes the network has 816 910 weights.

    References
    ----------
    .. [1] O. Dinari and O. Freifeld, "Variational- and Metric-based Deep Latent Space for
       Out-of-Distribution Detection", UAI 2022. Code: github.com/BGU-CS-VIL/vmdls

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood.classifiers import MNISTConvNet
    >>> digits = load_digits()
    >>> network = MNISTConvNet(8, hidden_features=20, max_steps=10, value_range=(0, 16))
    >>> network.fit(digits.images, digits.target).transform(digits.images[:2]).shape
    (2, 20)
    """

    n_filters: int = parameter(at_least(1), default=100)
    hidden_features: int = parameter(at_least(1), default=500, kw_only=True)
    max_epochs: int = parameter(default=100, kw_only=True)
    learning_rate: float = parameter(default=1e-4, kw_only=True)
    optimizer: str = parameter(default="adam", kw_only=True)
    weight_decay: float = parameter(default=0.0, kw_only=True)
    lr_schedule: str | Sequence[tuple[float, float]] = parameter(default="constant", kw_only=True)

    ensemble_layers: ClassVar[tuple[str, ...]] = ("conv2", "pool1", "relu3")

    def _build(self, item_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        n_channels, height, width = image_shape_of(item_shape, self)
        if min(height, width) < _SMALLEST:
            raise ValueError(
                f"images in X of {height} x {width} pixels are too small for MNISTConvNet, which "
                f"halves them three times; expected at least {_SMALLEST} x {_SMALLEST}, or use "
                "ConvNet"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(1, 6):
            n_in = n_channels if number == 1 else self.n_filters
            layers[f"conv{number}"] = nn.Conv2d(n_in, self.n_filters, 3, padding=1)
            layers[f"relu{number}"] = nn.ReLU()
            if number in (2, 4, 5):
                layers[f"pool{(number + 1) // 2}"] = nn.MaxPool2d(2)
        n_pooled = self.n_filters * (height // 8) * (width // 8)
        layers["flatten"] = nn.Flatten()
        layers["hidden"] = nn.Linear(n_pooled, self.hidden_features)
        layers["head"] = nn.Linear(self.hidden_features, n_classes)
        return nn.Sequential(layers)
