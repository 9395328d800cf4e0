"""LeNet-type network without bias terms, for one-class training."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from skood._estimator.parameters import at_least, estimator, parameter
from skood.classifiers._architecture import image_shape_of
from skood.classifiers._base import NeuralClassifier

__all__ = ["LeNet"]

# Added to variances, as in the authors' code.
_EPS = 1e-4


@estimator
class LeNet(NeuralClassifier):
    """LeNet-type network of Deep SVDD and Deep SAD, for images of about 28 x 28 or 32 x 32.

    Convolutions of 5 x 5, each with batch normalisation, leaky ReLU and max pooling that halves
    height and width, then linear layers. Convolutions and hidden layers have no bias terms, and
    batch normalisation has no parameters [1]_.

    Parameters
    ----------
    n_filters : tuple of int, default=(8, 4)
        Number of channels of each convolution.
    hidden_features : int, default=None
        Width of a hidden layer with batch normalisation and leaky ReLU before the last linear
        layer. None: no hidden layer.

    See Also
    --------
    ConvNet : Small network for classification.

    Notes
    -----
    The networks of the authors' code [2]_ are ``LeNet((8, 4))`` with 32 outputs for MNIST,
    ``LeNet((16, 32), hidden_features=128)`` with 64 outputs for Fashion-MNIST, and
    ``LeNet((32, 64, 128))`` with 128 outputs for CIFAR-10; the number of outputs is the `n_latent`
    of the detector. The slope of leaky ReLU is 0.01, as in the code; the paper has 0.1.

    References
    ----------
    .. [1] L. Ruff, R. A. Vandermeulen, N. Goernitz, L. Deecke, S. A. Siddiqui, A. Binder,
       E. Mueller and M. Kloft, "Deep One-Class Classification", ICML 2018.
    .. [2] https://github.com/lukasruff/Deep-SAD-PyTorch

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import DeepSVDD, LeNet
    >>> digits = load_digits()
    >>> zeros = digits.images[digits.target == 0]
    >>> backbone = LeNet((8, 4), optimizer="adam", value_range=(0, 16), max_steps=10)
    >>> DeepSVDD(backbone, random_state=0).fit(zeros).transform(zeros).shape
    (178, 32)
    """

    n_filters: tuple[int, ...] = parameter(tuple, list, default=(8, 4))
    hidden_features: int | None = parameter(at_least(1), None, default=None, kw_only=True)
    max_epochs: int = parameter(default=30, kw_only=True)

    def _build(self, item_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        n_channels, height, width = image_shape_of(item_shape, self)
        halvings = len(self.n_filters)
        if min(height, width) < 2**halvings:
            raise ValueError(
                f"images of {height} x {width} pixels cannot be halved {halvings} times; give "
                f"fewer convolutions than n_filters={tuple(self.n_filters)}"
            )
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([n_channels, *self.n_filters]):
            layers += [
                nn.Conv2d(n_in, n_out, 5, padding=2, bias=False),
                nn.BatchNorm2d(n_out, eps=_EPS, affine=False),
                nn.LeakyReLU(),
                nn.MaxPool2d(2),
            ]
        n_features = self.n_filters[-1] * (height >> halvings) * (width >> halvings)
        layers.append(nn.Flatten())
        if self.hidden_features is not None:
            layers += [
                nn.Linear(n_features, self.hidden_features, bias=False),
                nn.BatchNorm1d(self.hidden_features, eps=_EPS, affine=False),
                nn.LeakyReLU(),
            ]
            n_features = self.hidden_features
        return nn.Sequential(*layers, nn.Linear(n_features, n_classes))

    def _build_decoder(self, item_shape: tuple[int, ...], n_latent: int) -> nn.Module | None:
        """Return the authors' decoder, which reads the latents, or the hidden layer, as a map.

        The map is 4 x 4. None if their number is not a multiple of 16.
        """
        n_channels, height, width = image_shape_of(item_shape, self)
        n_features = self.hidden_features or n_latent
        if n_features % 16:
            return None
        layers: list[nn.Module] = []
        if self.hidden_features is not None:
            layers += [
                nn.Linear(n_latent, n_features, bias=False),
                nn.BatchNorm1d(n_features, eps=_EPS, affine=False),
            ]
        layers += [nn.Unflatten(1, (n_features // 16, 4, 4)), nn.LeakyReLU()]
        filters = [n_features // 16, *reversed(self.n_filters), n_channels]
        for halvings, (n_in, n_out) in enumerate(pairwise(filters)):
            times = len(self.n_filters) - halvings
            layers += [
                nn.Upsample((height >> times, width >> times)),
                nn.Conv2d(n_in, n_out, 5, padding=2, bias=False),
                nn.BatchNorm2d(n_out, eps=_EPS, affine=False),
                nn.LeakyReLU(),
            ]
        return nn.Sequential(*layers[:-2])
