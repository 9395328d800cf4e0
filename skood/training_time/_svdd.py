"""Deep support vector data description: a network that maps the data close to a center."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import joblib
import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import (
    NONNEGATIVE,
    Interval,
    StrOptions,
    at_least,
    estimator,
    parameter,
)
from skood._torch.batching import evaluating, map_batches, scoring_batch_size
from skood._torch.run import followed_by
from skood.classifiers import MLP, ConvNet, NeuralClassifier
from skood.classifiers._objective import ClassifierObjective, Task
from skood.training_time._base import TrainingDetector
from skood.training_time._pretraining import pretrain, remove_biases

__all__ = ["DeepSVDD", "HypersphereDetector", "HypersphereObjective"]

# Smallest absolute coordinate of the center; with a center at 0, all-zero weights would be a
# trivial solution.
_SMALLEST = 0.1


@estimator
class HypersphereDetector(ClassNamePrefixFeaturesOutMixin, TransformerMixin, TrainingDetector):
    """Base of the detectors whose score is the distance of phi(x) from a center.

    The objective of a subclass is a :class:`HypersphereObjective`.

    Parameters
    ----------
    backbone : NeuralClassifier or None, default=None
        Architecture and training. Bias terms and the parameters of batch normalisation are removed,
        and the last linear layer maps to `n_latent` dimensions. None: ``ConvNet`` for images and
        ``MLP`` for rows, with ``optimizer="adam", learning_rate=1e-3, weight_decay=5e-7``.
    n_latent : int, default=32
        Dimensions of phi(x), at least 2.
    n_pretraining_epochs : int, default=0
        Number of epochs in which the network is first trained as the encoder of an autoencoder, at
        most the backbone's `max_steps` steps; other parameters of this training are the backbone's.
        0: the one-class training starts from random weights, or from `weights_init`.
    pretraining_weight_decay : float or None, default=None
        Weight of the L2 penalty in the pre-training. None: the `weight_decay` of the backbone.
    pretraining_lr_schedule : str, sequence of (float, float) or None, default=None
        Learning rate in the pre-training, in any form of the backbone's `lr_schedule`. None: the
        `lr_schedule` of the backbone.

    Attributes
    ----------
    backbone_ : NeuralClassifier
        The trained network. It cannot predict, since its outputs are phi(x).
    center_ : ndarray of shape (n_latent,), float64
        c, the mean output for the training rows before the one-class training.
    pretraining_history_ : dict of str to list of float
        Mean squared error of the autoencoder in each epoch, per value, of pixels in [0, 1] or of
        standardised features: "loss" and, if rows were held out, "validation_loss". Empty without
        pre-training.
    """

    backbone: NeuralClassifier | None = parameter(NeuralClassifier, None, default=None)
    n_latent: int = parameter(at_least(2), default=32)
    n_pretraining_epochs: int = parameter(at_least(0), default=0, kw_only=True)
    pretraining_weight_decay: float | None = parameter(
        NONNEGATIVE, None, default=None, kw_only=True
    )
    pretraining_lr_schedule: Any = parameter(
        StrOptions({"cosine", "step", "constant"}), tuple, list, None, default=None, kw_only=True
    )

    _needs_labels = False
    _unused: ClassVar[tuple[str, ...]] = ("label_smoothing",)

    # Parameters and buffers of the pre-trained network; set while a copy of the detector trains.
    _encoder: ClassVar[dict[str, npt.NDArray] | None] = None

    def _n_outputs(self, n_classes: int) -> int:
        return self.n_latent

    def _default_architecture(self, data: CheckedData) -> NeuralClassifier:
        make = ConvNet if data.is_image else MLP
        return make(optimizer="adam", learning_rate=1e-3, weight_decay=5e-7)

    @property
    def _trains_model(self) -> bool:
        return self.backbone is None or super()._trains_model

    def _prepare_with_outliers(
        self,
        inliers: CheckedData,
        y: npt.NDArray | None,
        outliers: CheckedData | Callable[[CheckedData], CheckedData] | None,
        seed: int,
    ) -> tuple[dict[str, Any], Any]:
        if self.n_pretraining_epochs == 0:
            return {"pretraining_history_": {}}, None
        model = self._make_network(inliers, seed)
        model.set_params(max_epochs=self.n_pretraining_epochs)
        for name in ("weight_decay", "lr_schedule"):
            value = getattr(self, f"pretraining_{name}")
            if value is not None:
                model.set_params(**{name: value})
        with followed_by(f"one-class training of {type(model).__name__}"):
            history, encoder = pretrain(
                model, inliers, y, outliers, n_latent=self.n_latent, seed=seed, memory=self.memory
            )
        return {"pretraining_history_": history, "_encoder": encoder}, joblib.hash(encoder)

    def _learn_scores(
        self,
        inliers: CheckedData,
        y: npt.NDArray | None,
        held_out: npt.NDArray[np.integer],
        seed: int,
    ) -> None:
        self.center_ = self.backbone_.module_.get_buffer("center").double().cpu().numpy()

    def _latents(self, data: CheckedData) -> npt.NDArray:
        return self._network.outputs(data).logits

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return -np.square(self._latents(data) - self.center_).sum(1)

    def transform(self, X: Any) -> npt.NDArray:
        """Return the representation phi(x), the output of the network.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_latent)
            In the dtype of the network, usually float32.
        """
        check_is_fitted(self)
        data = self._check(X)
        with self._shows_progress("transform"):
            return self._latents(data)

    @property
    def _n_features_out(self) -> int:
        check_is_fitted(self)
        return self.n_latent

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


@estimator
class DeepSVDD(HypersphereDetector):
    r"""Deep support vector data description.

    A network phi without bias terms is trained to map the data close to a center c, the mean of
    its outputs before this training [1]_. The objective "one-class" is

    .. math:: \frac{1}{n} \sum_i \lVert \varphi(x_i) - c \rVert^2,

    and "soft-boundary" encloses the data in a hypersphere of radius R, except for a fraction
    :math:`\nu`,

    .. math:: R^2 + \frac{1}{\nu n} \sum_i
        \max(0, \lVert \varphi(x_i) - c \rVert^2 - R^2)

    (equations 4 and 3, whose last term is the `weight_decay` of the backbone). The score is
    :math:`-\lVert \varphi(x) - c \rVert^2`, and with "soft-boundary"
    :math:`R^2 - \lVert \varphi(x) - c \rVert^2`.

    Parameters
    ----------
    objective : {"one-class", "soft-boundary"}, default="one-class"
        One of the two objectives above.
    nu : float, default=0.1
        Fraction of the data outside the hypersphere, in (0, 1]; for "soft-boundary".
    n_warm_up_epochs : int, default=10
        Number of first epochs in which R is 0, for "soft-boundary". Later, every step sets R to the
        1 - nu quantile of the distances in its batch. The backbone's `max_epochs` must be larger;
        `fit` warns if R is still 0 at the end.

    Attributes
    ----------
    radius_ : float
        R; for "soft-boundary".

    See Also
    --------
    DeepSAD : Also trains on known outliers.

    Notes
    -----
    No labels are needed: class labels in y are ignored, and rows with y == -1 are left out.

    A trivial solution ("hypersphere collapse", propositions 1 to 3 of [1]_) would ignore the data:
    all-zero weights if c were 0, or a bias term equal to c. Bias terms are therefore removed, and
    coordinates of c between -0.1 and 0.1 are moved to the nearer of the two. Activations should be
    unbounded, as in all architectures here. Dropout in the backbone increases every distance, and
    inputs that are constant but not 0, such as the border of images, can act as a bias.

    Training rows are closer to c than new data. A tenth of 500 rows or more is therefore held out
    for the threshold. With fewer rows, or for another fraction, hold rows out with
    ``ConvNet(validation_fraction=0.1, ...)``; the weights of the epoch with the smallest loss of
    these rows are then kept.

    With `n_pretraining_epochs`, the network is first trained as the encoder of an autoencoder, to
    minimise the mean squared error of the reconstruction. The decoder has the layers of the network
    in reverse order, with one convolution for each size of the feature maps; it ends in a sigmoid
    for images. An architecture with a method ``_build_decoder(item_shape, n_latent)`` provides its
    own, as :class:`~skood.classifiers.LeNet` does. All weights, the last layer included, are the
    start of the one-class training, and so are the running statistics of batch normalisation.

    The published figures are with pre-training. It is not the default, because it doubles or
    triples the time of a fit, and because it helps some data and harms others. Mean AUROC of one
    class against the others, with the same number of epochs of both trainings and without
    pre-training: 0.925 and 0.910 for three classes of Fashion-MNIST (900 images of 14 x 14, three
    seeds, ``ConvNet((16, 32))``), 0.907 and 0.907 with ``LeNet((16, 32))``; but 0.942 and 0.961 for
    rows (13 classes of scikit-learn's digits, wines and tumours, two seeds, the default
    `backbone`).

    As in the authors' code [2]_, the network is in evaluation mode when c is computed, R is a
    quantile of the distances in one batch, and batch normalisation has no parameters. The authors
    normalise the contrast of every image and scale its values to [0, 1], as
    :class:`~skood.preprocessing.GlobalContrastNormalization` and ``value_range="minmax"`` do; here,
    each channel is then standardised over the training data. They train for 150 epochs with Adam,
    or AMSGrad, at a learning rate of 1e-4, and 1e-5 after 50 epochs, in batches of 200. The weight
    decay is 5e-7, and for the autoencoder 5e-4 on MNIST. They sum squared errors over the d values
    of an item, where the autoencoder here takes the mean: `pretraining_weight_decay` is then
    5e-4 / d.

    PyOD's DeepSVDD is for rows, with the objective "one-class" alone. Its last layer has a ReLU
    too, and its defaults are dropout of 0.2 and L2 regularisation of 0.1.

    References
    ----------
    .. [1] L. Ruff, R. A. Vandermeulen, N. Goernitz, L. Deecke, S. A. Siddiqui, A. Binder,
       E. Mueller and M. Kloft, "Deep One-Class Classification", ICML 2018.
    .. [2] https://github.com/lukasruff/Deep-SVDD-PyTorch

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, DeepSVDD
    >>> X, y = load_iris(return_X_y=True)
    >>> backbone = MLP((32,), optimizer="adam", learning_rate=1e-3, max_epochs=30)
    >>> detector = DeepSVDD(backbone, n_latent=8, random_state=0).fit(X[y == 0])
    >>> detector.transform(X).shape
    (150, 8)
    >>> bool(detector.score_samples(X[y == 0]).min() > detector.score_samples(X[y == 2]).max())
    True
    """

    objective: str = parameter(StrOptions({"one-class", "soft-boundary"}), default="one-class")
    nu: float = parameter(Interval(numbers.Real, 0, 1, closed="right"), default=0.1)
    n_warm_up_epochs: int = parameter(at_least(0), default=10)

    def _make_objective(self, task: Task) -> ClassifierObjective:
        if self.objective == "one-class":
            return HypersphereObjective(task, self._encoder)
        return _SoftBoundaryObjective(task, self)

    def _learn_scores(
        self,
        inliers: CheckedData,
        y: npt.NDArray | None,
        held_out: npt.NDArray[np.integer],
        seed: int,
    ) -> None:
        super()._learn_scores(inliers, y, held_out, seed)
        if self.objective == "soft-boundary":
            self.radius_ = float(self.backbone_.module_.get_buffer("radius"))

    def _check_training(self) -> None:
        if self.objective == "soft-boundary" and self.backbone_.module_.get_buffer("radius") == 0:
            warnings.warn(
                "the radius is 0 after training, so the soft boundary had no effect: R is 0 in the "
                f"first n_warm_up_epochs={self.n_warm_up_epochs} of "
                f"{len(self.history_['loss'])} epochs. Give the backbone more max_epochs, or lower "
                "n_warm_up_epochs",
                stacklevel=6,
            )

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        scores = super()._score_samples(data)
        return scores if self.objective == "one-class" else scores + self.radius_**2


class HypersphereObjective(ClassifierObjective):
    """Squared distance of the network's outputs from their initial mean.

    The center is a buffer of the network, from which the detector reads it after training.

    Parameters
    ----------
    task : Task
    encoder : dict of str to ndarray, or None
        Parameters and buffers that the network starts from; None: random weights.
    """

    couples_rows: str | None = None

    def __init__(self, task: Task, encoder: dict[str, npt.NDArray] | None) -> None:
        super().__init__(task)
        remove_biases(task.network)
        if encoder is not None:
            task.network.load_state_dict(
                {name: torch.from_numpy(value.copy()) for name, value in encoder.items()}
            )
        center = torch.from_numpy(self._initial_center(task.data.subset(task.training_rows)))
        task.network.register_buffer("center", center.float().to(self.device))

    def _initial_center(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Return the mean output for `data`, with coordinates away from 0."""
        with evaluating(self.network):
            outputs = map_batches(
                lambda items: self.network(self.network_input(items, None)),
                data,
                scoring_batch_size(self.device, data.item_shape),
                device=self.device,
                n_workers=self.classifier.n_workers,
                verbose=self.classifier.verbose,
                description="center",
            )
        mean = outputs.mean(0, dtype=np.float64)
        return np.where(np.abs(mean) < _SMALLEST, np.copysign(_SMALLEST, mean), mean)

    def squared_distance(self, x: Tensor) -> Tensor:
        return (self.network(x).float() - self.network.get_buffer("center")).square().sum(1)

    def loss(self, *batch: Tensor) -> Tensor:
        x, _ = batch
        return self.squared_distance(x)


class _SoftBoundaryObjective(HypersphereObjective):
    """Squared radius of a hypersphere, plus the excess of squared distances over it."""

    couples_rows = "the radius is a quantile of the distances in a batch"

    def __init__(self, task: Task, detector: DeepSVDD) -> None:
        super().__init__(task, detector._encoder)
        self.nu = detector.nu
        self.n_warm_up_epochs = detector.n_warm_up_epochs
        self.moves_radius = False
        # Squared distances in the last batch.
        self.seen = torch.zeros(0)
        task.network.register_buffer("radius", torch.zeros((), device=self.device))

    def start_epoch(self, epoch: int, *, resumed: bool) -> None:
        self.moves_radius = epoch >= self.n_warm_up_epochs

    def loss(self, *batch: Tensor) -> Tensor:
        x, _ = batch
        distance2 = self.squared_distance(x)
        self.seen = distance2.detach()
        radius2 = self.network.get_buffer("radius").square()
        return radius2 + (distance2 - radius2).clamp(min=0) / self.nu

    def after_step(self) -> None:
        if self.moves_radius:
            radius = torch.quantile(self.seen.sqrt(), 1 - self.nu)
            self.network.get_buffer("radius").copy_(radius)
