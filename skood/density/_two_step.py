"""Two-step density: a density of the latents of an autoencoder."""

from __future__ import annotations

import numbers
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
)
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from skood._data.checked_data import CheckedData
from skood._data.validation import check_data, check_scores
from skood._estimator.docs_link import DocumentationLinkMixin
from skood._estimator.methods import check_provides
from skood._estimator.parameters import HasMethods, StrOptions, estimator, fit_context, parameter
from skood._models import draw_samples, fit_model, rows_through
from skood._progress import progress_scope
from skood._torch.batching import map_batches
from skood._torch.checkpoint import check_checkpoint_dirs
from skood._torch.jacobian import forward_jacobian
from skood._torch.run import followed_by
from skood._torch.seeding import draw_seed
from skood.density._autoencoder import Autoencoder
from skood.density._flow import NeuralSplineFlow
from skood.density._image_flow import ImageFlow
from skood.density._neural_density import LogDensityMixin
from skood.density._pixelcnn import PixelCNN

__all__ = ["TwoStep"]

# Number of latents whose Jacobians are computed at once.
_JACOBIANS = 32
# Most latents of the default autoencoder.
_MOST_LATENTS = 32
# Singular values below this fraction of the largest are rounding errors of float32.
_ROUNDING = 1e-7


@estimator
class TwoStep(
    DocumentationLinkMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    LogDensityMixin,
    BaseEstimator,
):
    r"""Density of data near a manifold: an autoencoder, and a density of its latents.

    Data in many dimensions often lie near a manifold of fewer dimensions, where a density in all
    dimensions is infinite. In the first step an autoencoder (f, g) learns the manifold, and in the
    second step another model learns the density of the latents f(x) [1]_. The density on the
    manifold is

    .. math:: \log p(x) = \log p_Z(f(x)) - \tfrac{1}{2} \log \det J^T J

    where J is the derivative of the decoder g at f(x).

    Parameters
    ----------
    autoencoder : estimator, default=None
        An :class:`~skood.density.Autoencoder`, a :class:`~skood.density.VAE`, or a linear
        transformer of scikit-learn with ``components_``, such as
        :class:`~sklearn.decomposition.PCA`; one in :class:`sklearn.frozen.FrozenEstimator` is not
        trained again. None takes an Autoencoder with one latent for two values of an item, at most
        32.
    density : estimator, default=None
        Any estimator of rows with ``fit`` and ``score_samples``. None takes
        :class:`~skood.density.NeuralSplineFlow`.
    memory : str or joblib.Memory, default=None
        Where fitted models are cached by their parameters and data. The folder must be
        trusted, since its files are pickles, which can run code.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown. "auto" shows it in a terminal or notebook, for work that takes
        more than a few seconds.
    random_state : int, RandomState instance or None, default=None
        Seed for models whose own ``random_state`` is None.

    Attributes
    ----------
    autoencoder_, density_ : estimator
        The fitted models.

    See Also
    --------
    VAE : Density with a latent space, which models noise around the manifold.

    Notes
    -----
    Scores are log-densities on the manifold, of its dimension, in the units of X. They cannot be
    compared with scores of other densities, and ignore the distance of an item from the manifold.

    References
    ----------
    .. [1] G. Loaiza-Ganem, B. L. Ross, J. C. Cresswell, A. L. Caterini, "Diagnosing and Fixing
       Manifold Overfitting in Deep Generative Models", TMLR 2022, equation 7.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.neighbors import KernelDensity
    >>> from skood import TwoStep
    >>> X = load_digits().images
    >>> density = TwoStep(PCA(8, random_state=0), KernelDensity(bandwidth=4.0)).fit(X)
    >>> density.score_samples(X[:3]).shape
    (3,)
    """

    autoencoder: Any = parameter(
        HasMethods(["fit", "transform", "inverse_transform"]), None, default=None
    )
    density: Any = parameter(HasMethods(["fit", "score_samples"]), None, default=None)
    memory: str | joblib.Memory | None = parameter(
        str, HasMethods(["cache"]), None, default=None, kw_only=True
    )
    verbose: bool | int | str = parameter(
        "verbose", StrOptions({"auto"}), default="auto", kw_only=True
    )
    random_state: int | np.random.RandomState | None = parameter(
        "random_state", default=None, kw_only=True
    )

    _reads_checked_data = True

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None) -> TwoStep:
        """Train the autoencoder, then the density of its latents.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            In-distribution data.
        y : array-like of shape (n_samples,), default=None
            Passed to both models.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            When X is invalid, or the decoder of `autoencoder` cannot be differentiated.
        OSError
            When nothing can be written to the `checkpoint_dir` of a model.
        """
        check_checkpoint_dirs(self)
        data = check_data(self, X, reset=True, min_samples=2)
        autoencoder = self.autoencoder
        if autoencoder is None:
            n_latent = min(_MOST_LATENTS, max(1, self.n_features_in_ // 2))
            autoencoder = Autoencoder(n_latent)
        density = NeuralSplineFlow() if self.density is None else self.density
        _check_decoder(autoencoder, is_fitted=False)
        self._check_n_latent(autoencoder, getattr(autoencoder, "n_latent", 0))
        _check_reads_rows(density)
        seed = None if self.random_state is None else draw_seed(self.random_state)
        with progress_scope(self.verbose, type(self).__name__):
            with followed_by(f"training of {type(density).__name__} in the latents"):
                self.autoencoder_ = fit_model(autoencoder, data, y, seed=seed, memory=self.memory)
            _check_decoder(self.autoencoder_, is_fitted=True)
            latents = CheckedData.of(self._latents(data))
            self._n_features_out = latents.item_shape[0]
            self._check_n_latent(autoencoder, latents.item_shape[0])
            self.density_ = fit_model(density, latents, y, seed=seed, memory=self.memory)
        return self

    def _check_n_latent(self, autoencoder: Any, n_latent: Any) -> None:
        # The autoencoder itself refuses anything that is not a number.
        if isinstance(n_latent, numbers.Integral) and n_latent > self.n_features_in_:
            raise ValueError(
                f"autoencoder={autoencoder!r} makes {n_latent} latents of items of "
                f"{self.n_features_in_} values; expected no more latents than values"
            )

    def _latents(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return rows_through(self.autoencoder_, "transform", data).astype(np.float64)

    def transform(self, X: Any) -> npt.NDArray[np.float64]:
        """Latents of X.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_latent), float64
        """
        check_is_fitted(self)
        return self._latents(check_data(self, X, reset=False))

    def inverse_transform(self, Z: Any) -> npt.NDArray:
        r"""Decode latents.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_latent)

        Returns
        -------
        ndarray of shape (n_samples, \*input_shape)
            In the units of X.
        """
        check_is_fitted(self)
        items = np.asarray(self.autoencoder_.inverse_transform(Z))
        return items.reshape(len(items), *self.input_shape_)

    def score_samples(self, X: Any) -> npt.NDArray[np.float64]:
        """Log-density of each item on the manifold.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            In nats, in the units of X.

        Raises
        ------
        ValueError
            When X does not match the X of `fit`, or the decoder maps many latents to one item.
        """
        check_is_fitted(self)
        Z = CheckedData.of(self._latents(check_data(self, X, reset=False)))
        scores = rows_through(self.density_, "score_samples", Z).astype(np.float64)
        scores = scores - self._log_volumes(Z)
        check_scores(self, scores)
        return scores

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> npt.NDArray:
        r"""Draw latents from the density, and decode them.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        ndarray of shape (n_samples, \*input_shape)
            In the units of X; not rounded to its values.
        """
        check_is_fitted(self)
        density = self.density_
        if isinstance(density, FrozenEstimator):
            density = density.estimator
        return self.inverse_transform(draw_samples(density, n_samples, draw_seed(random_state)))

    def _log_volumes(self, latents: CheckedData) -> npt.NDArray[np.float64]:
        """Half the log-determinants of J'J, (n,)."""
        if hasattr(self.autoencoder_, "components_"):
            # A linear decoder: differences are exact up to rounding.
            basis = np.eye(latents.item_shape[0])
            origin = np.zeros_like(basis[:1])
            decoded = self.autoencoder_.inverse_transform(np.concatenate([origin, basis]))
            values = np.linalg.svd(decoded[1:] - decoded[0], compute_uv=False)
            return np.full(len(latents), _log_volume(torch.from_numpy(values)[None]).item())
        decode, device = self.autoencoder_.decoder()

        def log_volume(z: npt.NDArray) -> torch.Tensor:
            # Forward mode has no batching rule for tensors of inference mode.
            with torch.inference_mode(False):
                inputs = torch.as_tensor(z, dtype=torch.float32, device=device)
                jacobian = forward_jacobian(decode, inputs)
            return _log_volume(torch.linalg.svdvals(jacobian.double()))

        with progress_scope(self.verbose, type(self).__name__):
            return map_batches(log_volume, latents, _JACOBIANS, device=device)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _check_decoder(autoencoder: Any, *, is_fitted: bool) -> None:
    """Raise if the decoder of an autoencoder cannot be differentiated."""
    is_frozen = isinstance(autoencoder, FrozenEstimator)
    given = autoencoder.estimator if is_frozen else autoencoder
    if getattr(given, "conditional", False):
        raise ValueError("a conditional VAE has a decoder for each class; expected one of p(x)")
    # A transformer of another library may learn components_ in `fit`.
    is_known = getattr(given, "_reads_checked_data", False) or isinstance(
        given, (Pipeline, MetaEstimatorMixin)
    )
    if is_known or is_fitted or is_frozen:
        check_provides(
            autoencoder,
            "decoder",
            "components_",
            message=f"autoencoder={given!r} has a decoder that cannot be differentiated; expected "
            "an Autoencoder, a VAE or a linear transformer with components_, PCA for instance",
        )


def _check_reads_rows(density: Any) -> None:
    """Raise if a density models images alone."""
    given = density.estimator if isinstance(density, FrozenEstimator) else density
    if isinstance(given, (PixelCNN, ImageFlow)) and given.image_shape is None:
        raise ValueError(
            f"density={given!r} models images, but latents are rows; expected a density of rows, "
            "NeuralSplineFlow for instance"
        )


def _log_volume(singular_values: torch.Tensor) -> torch.Tensor:
    """Sum of logarithms of J's singular values, (b,) from (b, k)."""
    largest, smallest = singular_values.amax(1), singular_values.amin(1)
    degenerate = smallest <= _ROUNDING * largest
    if degenerate.any():
        raise ValueError(
            f"TwoStep cannot give {int(degenerate.sum())} item(s) a density: the decoder maps many "
            "latents to one item, so that its manifold has fewer dimensions than latents; fit an "
            "autoencoder with a smaller n_latent"
        )
    return singular_values.log().sum(1)
