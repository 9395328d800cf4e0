"""Classifier with a reject class, trained on generated out-of-distribution samples."""

from __future__ import annotations

import numbers
from dataclasses import replace
from functools import partial
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, check_memory
from torch import Tensor

from skood._data import Source, check_data
from skood._parameters import Interval, StrOptions
from skood._torch.device import resolve_device
from skood._torch.seeding import draw_seed, numpy_rng, torch_rng
from skood._torch.training import TrainingSettings, train
from skood.base import BaseDetector
from skood.classifiers import MLP, NeuralClassifier, ShallowConvNet
from skood.density import VAE
from skood.training_time._boundary import BoundarySampler

__all__ = ["OODGen"]

# Streams of randomness that one seed is split into.
_SPLIT, _SAMPLER, _OFF_MANIFOLD, _HELD_OUT = range(4)
# What the rows of a training batch are.
_REAL, _OFF, _ON = range(3)


class OODGen(BaseDetector):
    r"""Out-of-distribution detection via generation: a classifier with a reject class.

    A conditional VAE makes samples off the manifold of the data and at its end
    (:class:`BoundarySampler`), and a classifier learns to tell the N classes and, as one more,
    these samples apart. With p its softmax, the score is

    .. math:: 1 - p_{N+1}(x) \quad \text{("reject")} \qquad \text{or} \qquad
        \max_{k \le N} p_k(x) \quad \text{("max")}.

    Parameters
    ----------
    classifier : NeuralClassifier or None, default=None
        Architecture and training; rows that its `validation_fraction` holds out are what the
        threshold is read from. None: ``ShallowConvNet(optimizer="adam", learning_rate=1e-3,
        validation_fraction=0.1)`` for images, ``MLP(validation_fraction=0.1)`` for rows.
    vae : VAE or None, default=None
        See :class:`BoundarySampler`; one in a ``FrozenEstimator`` is not trained again.
    n_epochs_between_type1 : int, default=5
        Epochs after which the samples off the manifold are drawn anew, one for each training
        item. Those on it are drawn anew for every batch.
    reject_weight : float, default=0.1
        Weight of the cross-entropy of generated samples; that of real ones is 1.
    variant : {"reject", "max"}, default="reject"
        Which score. (Named so because ``score`` is a method wherever scikit-learn looks for it.)
    distance : (float, float or None), default=(0.1, None)
        How far samples off the manifold are moved, see :class:`BoundarySampler`.
    directions : {"uniform", "reduced"}, default="uniform"
        Where they are moved to, see :class:`BoundarySampler`.
    quantile : float, default=0.95
        Part of each class's latents inside its ellipsoid.
    radius : (float, float), default=(1.0, 1.5)
        How far samples on the manifold are from the middle of their class, in radii of its
        ellipsoid.
    contamination : float, default=0.05
        Part of the in-distribution data that the threshold takes as outliers.
    memory : str, joblib.Memory or None, default=None
        Where fitted models are cached, so that a grid over `variant` trains once. Needs an integer
        `random_state`.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown. "auto" shows it on a terminal or in a notebook, for work of more
        than a few seconds.
    random_state : int, RandomState instance or None, default=None
        Seed.

    Attributes
    ----------
    sampler_ : BoundarySampler
        Generator of the samples, with the fitted VAE.
    classifier_ : NeuralClassifier
        The trained classifier with N + 1 outputs; the label of the last is -1.
    classes_ : ndarray of shape (N,)
        Labels of the in-distribution classes.
    history_ : dict of str to list of float
        Of each epoch: "loss" and, where rows were held out, "validation_loss",
        "validation_accuracy" (of real items, among the N classes), and the part of generated
        samples that is rejected, "validation_off_manifold_recall" and
        "validation_on_manifold_recall".
    offset_ : float
        Threshold of `predict`.
    input_shape_ : tuple of int
        Shape of an item, (C, H, W) or (d,).
    n_features_in_ : int
        Values in an item.

    See Also
    --------
    BoundarySampler : The generated samples by themselves.
    skood.inspection.BoundarySamplesDisplay : A sheet of them.

    Notes
    -----
    A batch holds as many generated samples as real items: half moved off the manifold from
    items of the batch, half decoded outside the ellipsoids of their classes. Both pass through
    the classifier's augmentation and normalisation like real items.

    References
    ----------
    .. [1] S. Vernekar, A. Gaurav, V. Abdelzad, T. Denouden, R. Salay and K. Czarnecki,
       "Out-of-distribution Detection in Classifiers via Generation", arXiv:1910.04241.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, OODGen, VAE
    >>> X, y = load_iris(return_X_y=True)
    >>> vae = VAE(n_latent=2, conditional=True, max_epochs=20)
    >>> detector = OODGen(MLP((32,), max_epochs=20), vae, random_state=0).fit(X, y)
    >>> detector.predict_proba(X).shape
    (150, 4)
    """

    _parameter_constraints: dict = {
        **BaseDetector._parameter_constraints,
        "classifier": [NeuralClassifier, None],
        "vae": [BaseEstimator, None],
        "n_epochs_between_type1": [Interval(numbers.Integral, 1, None, closed="left")],
        "reject_weight": [Interval(numbers.Real, 0, None, closed="neither")],
        "variant": [StrOptions({"reject", "max"})],
        "distance": [tuple, list],
        "directions": [StrOptions({"uniform", "reduced"})],
        "quantile": [Interval(numbers.Real, 0, 1, closed="neither")],
        "radius": [tuple, list],
        "memory": [str, joblib.Memory, None],
        "verbose": ["verbose", StrOptions({"auto"})],
    }

    def __init__(
        self,
        classifier: NeuralClassifier | None = None,
        vae: VAE | None = None,
        n_epochs_between_type1: int = 5,
        reject_weight: float = 0.1,
        variant: str = "reject",
        *,
        distance: tuple[float, float | None] = (0.1, None),
        directions: str = "uniform",
        quantile: float = 0.95,
        radius: tuple[float, float] = (1.0, 1.5),
        contamination: float = 0.05,
        memory: str | joblib.Memory | None = None,
        verbose: bool | int | str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.classifier = classifier
        self.vae = vae
        self.n_epochs_between_type1 = n_epochs_between_type1
        self.reject_weight = reject_weight
        self.variant = variant
        self.distance = distance
        self.directions = directions
        self.quantile = quantile
        self.radius = radius
        self.contamination = contamination
        self.memory = memory
        self.verbose = verbose
        self.random_state = random_state

    def _fit(
        self, inliers: Source, y: npt.NDArray | None, outliers: Source | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        classifier = self.classifier
        if classifier is None:
            classifier = _default_classifier(inliers, self.verbose)
        classifier = clone(classifier)
        if classifier.random_state is None:
            classifier.set_params(random_state=seed)
        sampler = BoundarySampler(
            self.vae,
            distance=self.distance,
            directions=self.directions,
            quantile=self.quantile,
            radius=self.radius,
            verbose=self.verbose,
            random_state=int(numpy_rng(seed, _SAMPLER).integers(2**31 - 1)),
        )
        fit = check_memory(self.memory).cache(_fit)
        self.sampler_, self.classifier_, self.history_, held_out = fit(
            sampler,
            classifier,
            inliers,
            y,
            self.n_epochs_between_type1,
            float(self.reject_weight),
            seed,
        )
        self.classes_ = self.classifier_.classes_[:-1]
        return held_out if len(held_out) else None

    def _score_samples(self, source: Source) -> npt.NDArray[np.float64]:
        log_proba = self.classifier_._outputs(source).log_proba
        if self.variant == "reject":
            return -np.expm1(log_proba[:, -1])
        return np.exp(log_proba[:, :-1].max(1))

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Probability of each class and of rejection.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, N + 1), float64
            In the order of `classes_`, and last that of being out-of-distribution.
        """
        check_is_fitted(self)
        return self.classifier_.predict_proba(check_data(self, X, reset=False))

    def predict_class(self, X: Any) -> npt.NDArray:
        """Return the most probable of the N classes and rejection.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels, and -1 ("-1" among strings) where rejection is more probable than any class.
        """
        check_is_fitted(self)
        return self.classifier_.predict(check_data(self, X, reset=False))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _default_classifier(source: Source, verbose: bool | int | str) -> NeuralClassifier:
    if not source.is_image:
        return MLP(validation_fraction=0.1, verbose=verbose)
    return ShallowConvNet(
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        validation_fraction=0.1,
        verbose=verbose,
    )


def _fit(
    sampler: BoundarySampler,
    classifier: NeuralClassifier,
    inliers: Source,
    y: npt.NDArray,
    n_epochs_between_type1: int,
    reject_weight: float,
    seed: int,
) -> tuple[BoundarySampler, NeuralClassifier, dict[str, list[float]], npt.NDArray[np.integer]]:
    """Train the VAE, then the classifier on real and generated items.

    Returns
    -------
    sampler, classifier : fitted estimators
    history : dict of str to list of float
    held_out : ndarray
        Rows of `inliers` that neither was trained on.
    """
    targets = classifier._targets(y, len(inliers), reset=True)
    labels, n_classes = classifier.classes_, len(classifier.classes_)
    training, held_out = _split(targets, classifier.validation_fraction, seed)
    n_training = len(training)
    order = np.concatenate([training, held_out])
    source, targets = inliers.subset(order), targets[order]

    sampler.fit(source.subset(np.arange(n_training)), labels[targets[:n_training]])
    for_vae = sampler.vae_._open(source, reset=False)
    source = classifier._open(source, reset=True)
    classifier._learn_normalization(source.subset(np.arange(n_training)))
    device = resolve_device(classifier.device)
    own_seed = draw_seed(classifier.random_state)
    module = classifier._untrained(source, n_classes + 1, device, own_seed)

    off_manifold = np.empty((len(source), *source.item_shape), np.float32)

    def move(rows: npt.NDArray[np.integer], *stream: int) -> None:
        stream_seed = int(numpy_rng(seed, *stream).integers(2**31 - 1))
        moved = sampler._off_manifold(for_vae.subset(rows), targets[rows], stream_seed)
        off_manifold[rows] = moved.reshape(-1, *source.item_shape)

    move(np.arange(n_training, len(source)), _HELD_OUT)
    drawn = None

    def start_epoch(epoch: int) -> None:
        nonlocal drawn
        if drawn != epoch // n_epochs_between_type1:
            drawn = epoch // n_epochs_between_type1
            move(np.arange(n_training), _OFF_MANIFOLD, drawn)

    def fetch(
        rows: npt.NDArray[np.integer], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        half = len(rows) // 2
        off, on = rows[:half], rows[half : 2 * half]
        # Those of held-out rows are the same after every epoch.
        random = generator or torch_rng(device, seed, _HELD_OUT, int(rows[0]))
        items = [
            source.take(rows),
            off_manifold[off],
            sampler._on_manifold(targets[on], random).reshape(-1, *source.item_shape),
        ]
        x = torch.cat([classifier._batch(part, device, generator) for part in items if len(part)])
        kind = np.repeat([_REAL, _OFF, _ON], [len(rows), half, half])
        target = np.append(targets[rows], np.full(2 * half, n_classes))
        return x, torch.as_tensor(target, device=device), torch.as_tensor(kind, device=device)

    def loss(x: Tensor, target: Tensor, kind: Tensor) -> Tensor:
        weight = torch.where(kind == _REAL, 1.0, reject_weight)
        return weight * F.cross_entropy(module(x).float(), target, reduction="none")

    def accuracy(x: Tensor, target: Tensor, kind: Tensor) -> Tensor:
        real = kind == _REAL
        return module(x[real])[:, :-1].argmax(1) == target[real]

    def recall(of: int, x: Tensor, target: Tensor, kind: Tensor) -> Tensor:
        return module(x[kind == of]).argmax(1) == n_classes

    others = (targets, held_out, sampler.get_params(), n_epochs_between_type1, reject_weight)
    history = train(
        module,
        loss,
        fetch,
        len(source),
        replace(TrainingSettings.of(classifier), validation_fraction=0.0),
        seed=own_seed,
        device=device,
        start_epoch=start_epoch,
        measures={
            "accuracy": accuracy,
            "off_manifold_recall": partial(recall, _OFF),
            "on_manifold_recall": partial(recall, _ON),
        },
        held_out=len(held_out),
        checkpoint=classifier._checkpoint(source, others, own_seed),
        description="OODGen",
    )
    classifier.module_, classifier.history_ = module, history
    classifier.classes_ = np.append(labels, -1)
    return sampler, classifier, history, held_out


def _split(
    targets: npt.NDArray[np.int64], validation_fraction: float, seed: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows to train on and rows to hold out, the same part of every class."""
    random = numpy_rng(seed, _SPLIT)
    parts: tuple[list, list] = [], []
    for k in range(targets.max() + 1):
        rows = random.permutation(np.flatnonzero(targets == k))
        n_held_out = int(validation_fraction * len(rows))
        parts[0].append(rows[n_held_out:])
        parts[1].append(rows[:n_held_out])
    training, held_out = (np.sort(np.concatenate(part)) for part in parts)
    return training, held_out
