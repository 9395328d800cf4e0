"""Variational- and metric-based deep latent space."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from skood._data.checked_data import CheckedData
from skood._data.labels import encode_labels
from skood._estimator.parameters import HasMethods, Interval, StrOptions, estimator, parameter
from skood._models import fit_model
from skood._moments import ClassMoments
from skood._open_set import OpenSetDetector
from skood.classifiers._layers import layers_of
from skood.training_time._class_gaussians import ClassGaussians
from skood.training_time._layer_features import (
    distinct_layers,
    layer_features,
    reconstruction_errors,
)
from skood.training_time._metric_learning import MetricLearningDetector

__all__ = ["VMDLS"]


@estimator
class VMDLS(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, OpenSetDetector, MetricLearningDetector
):
    r"""Variational- and metric-based deep latent space.

    A backbone with two heads maps an item to a Gaussian :math:`q(z|x) = \mathcal{N}(\mu, \sigma)`.
    Training draws z and minimises

    .. math:: L_\text{metric}(z) + \lambda \, L_\text{KL}(z)

    where a triplet loss pulls the rows of a class together and pushes classes apart by a margin
    that grows from 0.15 to `margin`, and a Kullback-Leibler divergence makes each class a narrow
    Gaussian around the mean of its z in the previous epoch. There is no softmax.

    By default, the features f(x) of an item are the spatial means of the inner layers, the
    penultimate features and :math:`\mu`, concatenated. With the log-likelihood :math:`l_k(x)` of
    f(x) under a Gaussian of the training features of class k, the score is

    .. math:: s(x) = w(x) \, \min\big( \max_k l_k(x) - B, -1 \big)

    where B is the largest :math:`l_k` of the calibration rows plus 1, and :math:`w = 1` or, with an
    autoencoder, the error of the reconstruction :math:`\hat x` in the first layer :math:`g`:

    .. math:: w(x) = \operatorname{mean}\big( (g(x) - g(\hat x))^2 \big) / w_\text{max}

    Parameters
    ----------
    reconstruction : transformer or None, default=None
        Autoencoder for w: an estimator with ``transform`` and ``inverse_transform``,
        such as :class:`skood.density.Autoencoder`. It is trained on the training rows of the
        backbone, unless it is in a :class:`sklearn.frozen.FrozenEstimator`.
    features : {"ensemble", "penultimate", "latent"}, default="ensemble"
        Features f(x): all of the above, the penultimate features alone, or :math:`\mu` alone. See
        Notes.
    layers : tuple of str, default=None
        Names of the inner layers of "ensemble", as in ``module.named_modules()``; the first one is
        g. None: the `ensemble_layers` of the backbone if its class has such an attribute, as
        :class:`~skood.classifiers.MNISTConvNet` does; otherwise the last module at each resolution
        of the maps, and every nonlinearity that outputs rows.
    shrinkage : float or "oas", default=0.0
        Shrinkage of each class's covariance towards a multiple of the identity, from 0 to 1, for
        classes with few rows. "oas" estimates it as :class:`sklearn.covariance.OAS` does.
    memory : str, joblib.Memory or None, default=None
        Cache of the trained backbone and autoencoder: a search over `reconstruction`, `features`,
        `layers` and `shrinkage` trains the backbone once. Needs an integer `random_state`.

    Attributes
    ----------
    backbone_ : NeuralClassifier
        The trained backbone. Its ``transform`` returns penultimate features; it cannot predict.
    classes_ : ndarray of shape (n_classes,)
        Labels.
    layers_ : tuple of str
        Names of the inner layers in f(x); empty unless `features` is "ensemble". A layer whose
        means are the penultimate features is left out.
    gaussians_ : ClassGaussians
        Gaussians of the training features, with ``means``, ``covariances`` and
        ``log_likelihood(features)``.
    log_likelihood_bound_ : float
        B, in nats.
    reconstruction_ : transformer or None
        The fitted autoencoder.
    first_layer_ : str
        Name of the layer g, with an autoencoder.
    reconstruction_error_ : float
        :math:`w_\text{max}`, the largest error of a calibration row, with an autoencoder.
    history_ : dict of str to list of float
        Of each epoch: "loss" and its terms "metric" and "kl"; if rows were held out, the same with
        the prefix ``validation_``, and "validation_accuracy" of the nearest class mean in the
        latent space. The loss grows with the margin, so the weights of the last epoch are kept.

    See Also
    --------
    skood.posthoc.LayerMahalanobis : Distances in the layers of a classifier trained with
        cross-entropy.
    skood.inspection.LatentSpaceDisplay : Shows the latent space.

    Notes
    -----
    `predict_proba` applies Bayes' theorem to the Gaussians of the classes, with equal priors.

    To the covariance of each class a multiple of the identity is added, the smallest of 0, 1e-6,
    2e-6, 4e-6, ... for which the covariances of all classes are positive definite.

    :math:`\mu` is a linear map of the penultimate features. Together with these features, as in
    "ensemble" and in the authors' code, it adds no information: in `n_latent` directions every
    covariance is that multiple of the identity alone, so :math:`\mu` adds nearly the same number to
    the log-likelihood of every item. The ranking of items is the same as without :math:`\mu` (rank
    correlation 1.000). "latent" scores the space in which training separates the classes,
    "penultimate" the features that are mapped to it.

    Fine-tuning begins with the weights of a trained classifier, given as `weights_init` of the
    backbone. In the first `n_head_epochs` epochs only the heads are trained; as in the authors'
    code, batch normalisation uses the statistics of the batch and updates its running means and
    variances in these epochs too. Published are SGD, 20 epochs with `head_learning_rate` 0.01, a
    `learning_rate` of 0.001 for the rest of 200 (CIFAR-100) or 500 epochs (CIFAR-10), and a margin
    that grows from epoch 40 on. The authors' code trains the heads alone for 22 epochs.

    Differences from the authors' code: embeddings are not normalised by default, since the paper's
    classes are far from each other and from the origin; covariances are computed on all training
    rows instead of the last batch; B and :math:`w_\text{max}` come from in-distribution calibration
    rows instead of the test data, so that a score depends on its row alone.

    References
    ----------
    .. [1] O. Dinari and O. Freifeld, "Variational- and Metric-based Deep Latent Space for
       Out-of-Distribution Detection", UAI 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, VMDLS
    >>> X, y = load_iris(return_X_y=True)
    >>> backbone = MLP((32,), max_epochs=40, optimizer="adam", learning_rate=1e-3)
    >>> detector = VMDLS(backbone, n_latent=2, random_state=0).fit(X, y)
    >>> detector.transform(X).shape, detector.predict_proba(X).shape
    ((150, 2), (150, 3))
    >>> detector.predict_class([[5.0, 3.4, 1.5, 0.2], [9.0, 9.0, 9.0, 9.0]])
    array([ 0, -1])
    """

    reconstruction: Any = parameter(
        HasMethods(["fit", "transform", "inverse_transform"]), None, default=None, kw_only=True
    )
    features: str = parameter(
        StrOptions({"ensemble", "penultimate", "latent"}), default="ensemble", kw_only=True
    )
    layers: Sequence[str] | str | None = parameter(
        tuple, list, str, None, default=None, kw_only=True
    )
    shrinkage: float | str = parameter(
        Interval(numbers.Real, 0, 1, closed="both"), StrOptions({"oas"}), default=0.0, kw_only=True
    )

    _scoring_parameters = ("contamination", "features", "layers", "reconstruction", "shrinkage")

    def _next_phase(self) -> str | None:
        if self.reconstruction is None or isinstance(self.reconstruction, FrozenEstimator):
            return None
        return f"training of {type(self.reconstruction).__name__}"

    def _learn_scores(
        self,
        inliers: CheckedData,
        y: npt.NDArray | None,
        held_out: npt.NDArray[np.integer],
        seed: int,
    ) -> None:
        rows = np.setdiff1d(np.arange(len(inliers)), held_out)
        training = inliers.subset(rows)
        class_indices = encode_labels(np.asarray(y)[rows], self.classes_)
        chosen = self.layers
        if chosen is None:
            chosen = getattr(self.backbone_, "ensemble_layers", None)
        layers = layers_of(self._network, training, chosen)
        self.layers_: tuple[str, ...] = ()
        if self.features == "ensemble":
            self.layers_ = distinct_layers(self._network, layers, training)
        moments = ClassMoments(len(self.classes_), pooled=False)
        for part, features in self._features(training):
            moments.add(features, class_indices[part])
        self.gaussians_ = ClassGaussians(moments, self.shrinkage)

        calibration = inliers.subset(held_out) if len(held_out) else training
        self.log_likelihood_bound_ = float(self._log_likelihood(calibration).max()) + 1
        self.reconstruction_ = None
        if self.reconstruction is not None:
            self.first_layer_ = layers[0]
            self.reconstruction_ = fit_model(
                self.reconstruction,
                training,
                None,
                seed=None if self.random_state is None else seed,
                memory=self.memory,
            )
            self.reconstruction_error_ = float(self._reconstruction_errors(calibration).max())

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self._scores(data, self._log_likelihood(data))

    def _scores(
        self, data: CheckedData, log_likelihood: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        relative = np.minimum(log_likelihood.max(1) - self.log_likelihood_bound_, -1.0)
        if self.reconstruction_ is None:
            return relative
        largest = max(self.reconstruction_error_, float(np.finfo(np.float32).tiny))
        return relative * (self._reconstruction_errors(data) / largest)

    def _features(self, data: CheckedData) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        return layer_features(
            self._network,
            self.layers_,
            data,
            n_outputs=0 if self.features == "penultimate" else self.n_latent,
            with_penultimate=self.features != "latent",
        )

    def _log_likelihood(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Return the log-likelihood of the features under each class, shape (n, n_classes)."""
        parts = [self.gaussians_.log_likelihood(f) for _, f in self._features(data)]
        return np.concatenate(parts)

    def _reconstruction_errors(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return reconstruction_errors(
            self._network,
            self.first_layer_,
            self.reconstruction_,
            data,
            self.backbone_.value_range_,
        )

    def transform(self, X: Any) -> npt.NDArray[np.float64]:
        r"""Return the latents of X, the means :math:`\mu` of q(z | x).

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_latent), float64
        """
        check_is_fitted(self)
        data = self._check(X)
        with self._shows_progress("encoding"):
            return self._network.outputs(data).logits[:, : self.n_latent].astype(np.float64)

    def _class_proba(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return softmax(self._log_likelihood(data), axis=1)

    def _scores_and_class_proba(
        self, data: CheckedData
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        log_likelihood = self._log_likelihood(data)
        return self._scores(data, log_likelihood), softmax(log_likelihood, axis=1)

    @property
    def _n_features_out(self) -> int:
        check_is_fitted(self)
        return self.n_latent
