"""Detectors that perturb the input along a gradient."""

from __future__ import annotations

import numbers
import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood import functional as F
from skood._data.checked_data import CheckedData
from skood._estimator.parameters import (
    NONNEGATIVE,
    POSITIVE,
    Interval,
    StrOptions,
    at_least,
    estimator,
    parameter,
)
from skood._torch.seeding import Stream, numpy_rng
from skood.classifiers import PretrainedClassifier
from skood.functional._shaping import number_kept, ratio
from skood.posthoc._base import NetworkDetector, in_float64

__all__ = ["IODIN", "ODIN", "AdaSCALE"]

# Number of items that are inspected for normalised pixels.
_N_INSPECTED = 100


@estimator
class ODIN(NetworkDetector):
    r"""Maximum softmax probability at a high temperature, after a step that increases it.

    .. math::

        s(x) &= \max_k S_k(x'; T), \qquad S(x; T) = \mathrm{softmax}(f(x) / T), \\
        x' &= x - \epsilon \, \mathrm{sign}\left(-\nabla_x \log S_{\hat y}(x; T)\right)

    Parameters
    ----------
    temperature : float, default=1000.0
        Temperature T of the softmax.
    epsilon : float, default=0.0014
        Size of the step: for images in pixels from 0 to 1, for rows in standard deviations of each
        feature. 0 skips the perturbation and the two passes that it costs.

    See Also
    --------
    IODIN : Perturbs only the entries with the largest gradient.

    Notes
    -----
    As in the authors' code, the temperature divides the logits before the gradient is taken,
    a gradient of zero counts as positive, and :math:`x'` is not clipped. The published
    :math:`\epsilon` for networks trained on CIFAR, chosen for each pair of data sets, are 0.0005
    to 0.0048. `GridSearchCV` finds one without training the classifier again.

    The step is taken in pixels from 0 to 1, before normalisation. A
    :class:`~skood.classifiers.PretrainedClassifier` without `std` and a bare module treat X as
    such pixels. If X is already normalised, for instance with the usual standard deviations of
    about 0.25, the step is about four times too small: give X in [0, 1] with ``mean`` and ``std``,
    or divide `epsilon` by the standard deviation.

    References
    ----------
    .. [1] S. Liang, Y. Li, R. Srikant, "Enhancing The Reliability of Out-of-distribution Image
       Detection in Neural Networks", ICLR 2018, equations 1 and 2.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.frozen import FrozenEstimator
    >>> from skood import ConvNet, ODIN
    >>> X, y = load_digits(return_X_y=True)
    >>> network = ConvNet((8, 16), max_epochs=1, image_shape=(1, 8, 8), value_range=(0, 16))
    >>> detector = ODIN(FrozenEstimator(network.fit(X, y)), epsilon=0.01).fit(X)
    >>> detector.score_samples(X[:3]).shape
    (3,)
    """

    temperature: float = parameter(POSITIVE, default=1000.0)
    epsilon: float = parameter(NONNEGATIVE, default=0.0014)

    def _learn_from_data(
        self, data: CheckedData, y: npt.NDArray | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        if self.epsilon > 0:
            self._warn_of_normalised(data)
        return None

    def _warn_of_normalised(self, data: CheckedData) -> None:
        """Warn if images are normalised by an unknown standard deviation."""
        trained = self.classifier_
        if not isinstance(trained, PretrainedClassifier) or trained.std is not None:
            return
        some = data.take(np.arange(min(_N_INSPECTED, len(data))))
        if data.is_image and some.min() < 0:
            warnings.warn(
                f"X has pixels from {some.min():.3g} to {some.max():.3g}, so it seems to be "
                f"normalised, and epsilon={self.epsilon} counts in its units instead of pixels "
                "from 0 to 1: with the usual standard deviations, the step is about four times too "
                "small. Give PretrainedClassifier mean and std, and X in [0, 1]; or divide epsilon "
                "by the standard deviation",
                stacklevel=2,
            )

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return in_float64(
            lambda logits: F.msp(F.log_softmax(logits, self.temperature)),
            self._outputs(data).logits if self.epsilon == 0 else self._perturbed_logits(data),
        )

    def _perturbed_logits(self, data: CheckedData) -> npt.NDArray:
        network = self._network.in_float32()

        def perturbed_logits(x: Tensor) -> Tensor:
            def loss(logits: Tensor) -> Tensor:
                predicted = logits.detach().argmax(1)
                scaled = logits / self.temperature
                return nn.functional.cross_entropy(scaled, predicted, reduction="sum")

            gradient, _, _ = network.gradient(x, loss)
            direction = torch.where(gradient >= 0, -1.0, 1.0).to(x.dtype) * self._mask(gradient)
            return network.forward(network.perturbed(x, direction, self.epsilon))[1]

        logits = network.map(perturbed_logits, data, "logits of perturbed inputs")
        assert isinstance(logits, np.ndarray), "one tensor in, one array out"
        return logits

    def _mask(self, gradient: Tensor) -> Tensor | float:
        """Return the mask of the entries that are perturbed."""
        return 1.0


@estimator
class IODIN(ODIN):
    r"""ODIN that perturbs only the entries with the largest gradient.

    Parameters
    ----------
    n_entries : int, default=1
        Number of perturbed entries of an image; a pixel has one entry for each channel.

    Notes
    -----
    As in OpenOOD, the default perturbs one entry.

    References
    ----------
    .. [1] S. Regmi, "Going Beyond Conventional OOD Detection", 2024, arXiv:2411.10794.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import IODIN, MLP
    >>> X, y = load_iris(return_X_y=True)
    >>> IODIN(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    n_entries: int = parameter(at_least(1), default=1)

    def _mask(self, gradient: Tensor) -> Tensor:
        size = gradient.abs().flatten(1)
        largest = size.topk(min(self.n_entries, size.shape[1]), dim=1).indices
        return torch.zeros_like(size).scatter_(1, largest, 1.0).view_as(gradient)


@estimator
class AdaSCALE(NetworkDetector):
    r"""Energy of scaled activations, with a percentile adapted to their shift by a perturbation.

    The perturbation moves the entries of x in which the largest logit has the smallest gradient,
    along the sign of the gradient. With the features z before and :math:`\tilde z` after the
    perturbation,

    .. math::

        Q' = \lambda \sum_{top\text{-}k_2} |z - \tilde z| + \sum_{top\text{-}k_1} \tilde z^+,
        \qquad p = p_{min} + (1 - F(Q')) (p_{max} - p_{min}),

    where both sums are over the largest entries of z, and F is the distribution function of Q' on
    the training data. The score is the energy at the percentile p: of activations scaled as in
    :class:`SCALE` ("activations"), or of logits scaled by the squared ratio ("logits").

    Parameters
    ----------
    percentiles : tuple of float, default=(75.0, 85.0)
        Smallest and largest p.
    variant : {"activations", "logits"}, default="activations"
        What is scaled: AdaSCALE-A or AdaSCALE-L.
    k1 : float, default=5.0
        Percentage of the features in the second sum.
    k2 : float, default=1.0
        Percentage of the features in the first sum.
    shift_weight : float, default=10.0
        Lambda.
    perturbed_fraction : float, default=0.05
        Fraction of the entries of x that is moved.
    step : float, default=0.5
        Size of the step, in standard deviations of a channel, or in the input units of a module
        that normalises its own input.
    n_samples : int, default=5000
        Number of training rows, drawn at random, that F is learned from.

    Attributes
    ----------
    shifts_ : ndarray of shape (min(n_samples, n_training),)
        Q' of training rows, sorted.

    References
    ----------
    .. [1] S. Regmi, "AdaSCALE: Adaptive Scaling for OOD Detection", 2025, arXiv:2503.08023.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, AdaSCALE
    >>> X, y = load_iris(return_X_y=True)
    >>> AdaSCALE(MLP(max_epochs=2)).fit(X, y).score_samples(X).shape
    (150,)
    """

    percentiles: tuple[float, float] = parameter(tuple, list, default=(75.0, 85.0))
    variant: str = parameter(StrOptions({"activations", "logits"}), default="activations")
    k1: float = parameter(Interval(numbers.Real, 0, 100, closed="right"), default=5.0, kw_only=True)
    k2: float = parameter(Interval(numbers.Real, 0, 100, closed="right"), default=1.0, kw_only=True)
    shift_weight: float = parameter(NONNEGATIVE, default=10.0, kw_only=True)
    perturbed_fraction: float = parameter(
        Interval(numbers.Real, 0, 1, closed="right"), default=0.05, kw_only=True
    )
    step: float = parameter(POSITIVE, default=0.5, kw_only=True)
    n_samples: int = parameter(at_least(1), default=5000, kw_only=True)

    _reads = "head"
    _needs = "data"

    def _check_parameters(self) -> None:
        low, high = self.percentiles
        if not 0 <= low <= high < 100:
            raise ValueError(
                f"percentiles={self.percentiles!r}; expected (low, high) with "
                "0 <= low <= high < 100"
            )

    def _learn_from_data(
        self, data: CheckedData, y: npt.NDArray | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        n_samples = min(self.n_samples, len(data))
        rng = numpy_rng(seed, Stream.SHIFT_ROWS)
        rows = np.sort(rng.choice(len(data), n_samples, replace=False))
        moved = self._before_and_after(data.subset(rows))
        self.shifts_ = np.sort(in_float64(self._shift, moved))
        return None

    def _before_and_after(self, data: CheckedData) -> npt.NDArray:
        """Return features before and after the perturbation, shape (n, 2, d)."""
        network = self._network.in_float32()

        def passes(x: Tensor) -> Tensor:
            gradient, features, _ = network.gradient(x, lambda logits: logits.amax(1).sum())
            size = gradient.abs().flatten(1)
            n_moved = max(1, int(size.shape[1] * self.perturbed_fraction))
            smallest = size.topk(n_moved, dim=1, largest=False).indices
            mask = torch.zeros_like(size).scatter_(1, smallest, 1.0).view_as(x)
            moved = network.forward(x + self.step * gradient.sign() * mask)[0]
            return torch.stack([features, moved], 1)

        return np.asarray(network.map(passes, data, "features of perturbed inputs"))

    def _shift(self, pairs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        features, moved = pairs[:, 0], pairs[:, 1]
        n_features = features.shape[1]
        order = np.argsort(-features, axis=1, kind="stable")
        first, second = (
            order[:, : max(1, int(n_features * percent / 100))] for percent in (self.k1, self.k2)
        )
        correction = np.take_along_axis(np.maximum(moved, 0), first, 1).sum(1)
        shift = np.take_along_axis(np.abs(features - moved), second, 1).sum(1)
        return correction + self.shift_weight * shift

    def _score(self, pairs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        features = pairs[:, 0]
        low, high = self.percentiles
        rank = np.searchsorted(self.shifts_, self._shift(pairs), side="right") / len(self.shifts_)
        percentile = low + (1 - rank) * (high - low)
        weight, bias = self._network.head
        positive = np.maximum(features, 0)
        n_kept = np.array([number_kept(features.shape[1], p) for p in percentile])
        sums = np.cumsum(-np.sort(-positive, axis=1), axis=1)
        r = ratio(positive.sum(1), np.take_along_axis(sums, n_kept[:, None] - 1, 1)[:, 0])[:, None]
        if self.variant == "logits":
            return F.energy((features @ weight.T + bias) * r**2)
        return F.energy((features * np.exp(r)) @ weight.T + bias)

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return in_float64(self._score, self._before_and_after(data))
