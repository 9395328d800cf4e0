"""Shallow convolutional network without normalisation layers."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from skood._estimator.parameters import at_least, estimator, parameter
from skood.classifiers._architecture import image_shape_of
from skood.classifiers._base import NeuralClassifier

__all__ = ["ShallowConvNet"]


@estimator
class ShallowConvNet(NeuralClassifier):
    """Two convolutions and two linear layers, for grey images of about 28 x 28.

    The classifier of Vernekar et al. [1]_, which is also Keras' example for MNIST [2]_:
    convolutions of 3 x 3 without padding, each with ReLU, max pooling that halves height and
    width, dropout, a linear layer with ReLU, dropout, and the linear layer of the logits.

    Parameters
    ----------
    n_filters : tuple of int, default=(32, 64)
        Number of channels of each convolution.
    hidden_features : int, default=128
        Number of penultimate features.
    dropout : (float, float), default=(0.25, 0.5)
        Dropout rates after the pooling and of the penultimate features, in training.

    See Also
    --------
    ConvNet : Network with batch normalisation and fewer weights, also for smaller images.

    Notes
    -----
    Without batch normalisation, the network suits batches that mix in-distribution and generated
    images: in training, batch normalisation would use the statistics of the mixture, which do not
    hold for the unmixed images in scoring. Here, the output for an image does not depend on the
    other images of the batch.

    For images of 28 x 28 x 1 and 10 classes the network has 1 199 882 weights, 1 179 776 of them in
    the linear layer after the pooling; this number grows with the area of the images.

    Vernekar et al. train with Adadelta; the default here is SGD, as for all networks of this
    package.

    References
    ----------
    .. [1] S. Vernekar, A. Gaurav, V. Abdelzad, T. Denouden, R. Salay and K. Czarnecki,
       "Out-of-distribution Detection in Classifiers via Generation", 2019. arXiv:1910.04241
    .. [2] F. Chollet et al., "Keras", 2015, examples/mnist_cnn.py.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood.classifiers import ShallowConvNet
    >>> digits = load_digits()
    >>> network = ShallowConvNet((8, 16), max_steps=10, value_range=(0, 16), random_state=0)
    >>> network.fit(digits.images, digits.target).transform(digits.images[:2]).shape
    (2, 128)
    """

    n_filters: tuple[int, ...] = parameter(tuple, list, default=(32, 64))
    hidden_features: int = parameter(at_least(1), default=128, kw_only=True)
    dropout: tuple[float, float] = parameter(tuple, list, default=(0.25, 0.5), kw_only=True)
    max_epochs: int = parameter(default=30, kw_only=True)
    learning_rate: float = parameter(default=0.05, kw_only=True)

    def _build(self, item_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        n_channels, height, width = image_shape_of(item_shape, self)
        if not self.n_filters or min(self.n_filters) < 1:
            raise ValueError(
                f"n_filters={tuple(self.n_filters)}; expected the channels of at least one "
                "convolution, all of them at least 1"
            )
        if len(self.dropout) != 2 or not all(0 <= rate < 1 for rate in self.dropout):
            raise ValueError(
                f"dropout={self.dropout!r}; expected two rates in [0, 1), after the pooling and of "
                "the penultimate features"
            )
        # Without padding, a 3 x 3 convolution removes two rows and two columns.
        lost = 2 * len(self.n_filters)
        if min(height, width) < lost + 2:
            raise ValueError(
                f"images in X of {height} x {width} pixels are too small for ShallowConvNet with "
                f"n_filters={tuple(self.n_filters)}, which removes {lost} rows and columns and "
                f"halves the rest; expected at least {lost + 2} x {lost + 2}, or use ConvNet"
            )
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([n_channels, *self.n_filters]):
            layers += [nn.Conv2d(n_in, n_out, 3), nn.ReLU()]
        n_pooled = self.n_filters[-1] * ((height - lost) // 2) * ((width - lost) // 2)
        return nn.Sequential(
            *layers,
            nn.MaxPool2d(2),
            nn.Dropout(self.dropout[0]),
            nn.Flatten(),
            nn.Linear(n_pooled, self.hidden_features),
            nn.ReLU(),
            nn.Dropout(self.dropout[1]),
            nn.Linear(self.hidden_features, n_classes),
        )
