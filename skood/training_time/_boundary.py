"""Samples off the manifold of in-distribution data, and on it beyond the data, from a VAE."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from skood._data.checked_data import CheckedData
from skood._data.labels import check_labels, encode_labels
from skood._data.outliers import split_outliers
from skood._data.validation import check_data
from skood._estimator.docs_link import DocumentationLinkMixin
from skood._estimator.internal import internal
from skood._estimator.parameters import FRACTION, StrOptions, estimator, fit_context, parameter
from skood._models import fit_model
from skood._progress import progress_scope
from skood._torch.seeding import Stream, draw_seed, torch_rng
from skood.density import VAE
from skood.training_time._boundary_draws import BoundaryDraws
from skood.training_time._directions import DIRECTIONS
from skood.training_time._ellipsoids import fit_ellipsoid

__all__ = ["BoundarySampler"]


@estimator
class BoundarySampler(DocumentationLinkMixin, BaseEstimator):
    r"""Out-of-distribution samples close to in-distribution data.

    The decoder g of a variational autoencoder describes the data as a manifold. Points near the
    manifold, and points on it outside the region of the data, are out-of-distribution [1]_.

    *Off the manifold* (type 1): :math:`x + s \varepsilon v` with a sign s, a distance
    :math:`\varepsilon` and a unit vector v orthogonal to all columns of the Jacobian
    J = dg/dz at the latent z of x:

    .. math:: v = \frac{(I - Q Q^\top) w}{\lVert (I - Q Q^\top) w \rVert}, \qquad
        J = Q R, \quad w \sim \mathcal{N}(0, I).

    *On the manifold* (type 2): :math:`g(m_c + r L_c u)` with the mean :math:`m_c` and the
    Cholesky factor :math:`L_c` of the covariance of the latents of a class, u uniform on the unit
    sphere, and a Mahalanobis radius r beyond 95 % of the class.

    The defaults of `directions`, `radius` and `vae`, and the `reconstruction_weight` of
    :class:`OODGen`, were selected on 6 000 images of Fashion-MNIST by the mean AUROC of
    :class:`OODGen` against Omniglot, two kinds of noise and
    :func:`~skood.datasets.synthetic_outliers`, and by the fraction of reconstructions of held-out
    images that it accepts. Results on Omniglot are therefore no independent test of the defaults;
    the other OOD sets of reported results were not used. ``benchmarks/oodgen_trials.py`` compares
    settings on photographs, rendered characters, synthetic outliers and noise.

    Parameters
    ----------
    vae : VAE or None, default=None
        Fitted to X, unless it is in a ``FrozenEstimator``. A conditional VAE decodes each class
        separately. None: ``VAE()``, conditional if there are labels; for images, with the
        likelihood "bernoulli" and ``sample_latents=False``, as in the released code; for rows of d
        values, with min(8, ceil(d / 2)) latents.
    distance : (float, float or None), default=(0.1, None)
        Smallest and largest :math:`\varepsilon`, drawn uniformly, in units of pixels in [0, 1]
        or of the standard deviation of a feature. None: the square root of the number of values,
        28 for an image of 28 x 28.
    directions : {"mixed", "uniform", "reduced"}, default="mixed"
        Distribution of v. "uniform": as above and in [1]_, uniform on the unit sphere of the null
        space of :math:`J^\top`. "reduced": as in the released code, a sum of the vectors of the
        reduced row echelon basis of that space, each scaled to length 1, with weights from
        U(-1, 1); v is then concentrated on the first `n_latent` values of an item. "mixed": one of
        the two with equal probability for each item, so that a classifier learns both noise over
        the whole item and deviations of a few values. "uniform" suits features in arbitrary order.
    quantile : float, default=0.95
        Fraction of the latents of each class inside its ellipsoid.
    radius : (float, float), default=(1.0, 8.0)
        Smallest and largest r, drawn uniformly, as multiples of the ellipsoid's radius. [1]_ has
        (1, 1.5); in the released code the median multiple of a class is 1.6 to 4.2. If all samples
        lie close to the data, a classifier learns to recognise decoded items; distant samples teach
        it where the data end.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown. "auto" shows it in a terminal or notebook, for work that takes
        more than a few seconds.
    random_state : int, RandomState instance or None, default=None
        Seed of a VAE whose own ``random_state`` is None.

    Attributes
    ----------
    vae_ : VAE
        The fitted VAE.
    classes_ : ndarray of shape (n_classes,) or None
        Labels; None if `fit` received none, and all data form one class.
    class_frequency_ : ndarray of shape (n_classes,)
        Fraction of the data in each class.
    mean_ : ndarray of shape (n_classes, n_latent)
        Mean of the latents of each class.
    cholesky_ : ndarray of shape (n_classes, n_latent, n_latent)
        Lower triangular factor of the covariance of the latents.
    radius_ : ndarray of shape (n_classes,)
        Mahalanobis radius of each class's ellipsoid.

    See Also
    --------
    OODGen : Classifier that learns to reject these samples.

    Notes
    -----
    The Jacobian is computed in forward mode, at the cost of about `n_latent` + 1 passes through the
    decoder.

    References
    ----------
    .. [1] S. Vernekar, A. Gaurav, V. Abdelzad, T. Denouden, R. Salay and K. Czarnecki,
       "Out-of-distribution Detection in Classifiers via Generation", arXiv:1910.04241, section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood.density import VAE
    >>> from skood.training_time import BoundarySampler
    >>> X, y = load_iris(return_X_y=True)
    >>> vae = VAE(n_latent=2, conditional=True, max_epochs=20, random_state=0)
    >>> sampler = BoundarySampler(vae).fit(X, y)
    >>> sampler.sample_off_manifold(X, y, random_state=0).shape
    (150, 4)
    >>> sampler.sample_on_manifold(10, random_state=0).shape
    (10, 4)
    """

    vae: VAE | None = parameter(BaseEstimator, None, default=None)
    distance: tuple[float, float | None] = parameter(tuple, list, default=(0.1, None), kw_only=True)
    directions: str = parameter(StrOptions(set(DIRECTIONS)), default="mixed", kw_only=True)
    quantile: float = parameter(FRACTION, default=0.95, kw_only=True)
    radius: tuple[float, float] = parameter(tuple, list, default=(1.0, 8.0), kw_only=True)
    verbose: bool | int | str = parameter(
        "verbose", StrOptions({"auto"}), default="auto", kw_only=True
    )
    random_state: int | np.random.RandomState | None = parameter(
        "random_state", default=None, kw_only=True
    )

    _reads_checked_data = True

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None) -> BoundarySampler:
        """Fit the VAE, and an ellipsoid to the latents of each class.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            Rows (n, d) or images (n, H, W), (n, C, H, W) or (n, H, W, C).
        y : array-like of shape (n_samples,), default=None
            Class labels. Rows with y == -1 are left out.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the number of latents is not smaller than the number of values in an item, so that no
            direction leaves the manifold; or if a class has too few samples, or too few distinct
            ones, for an invertible covariance of its latents.
        """
        data = check_data(self, X, reset=True, min_samples=2)
        inliers, y, _ = split_outliers(data, y)
        return self.fit_cached(inliers, y, None)

    @internal
    def fit_cached(
        self, inliers: CheckedData, y: npt.NDArray | None, memory: str | joblib.Memory | None
    ) -> BoundarySampler:
        """Fit to checked in-distribution data, with a cached VAE.

        Parameters
        ----------
        inliers : CheckedData
        y : ndarray of shape (n,) or None
            Checked labels.
        memory : str, joblib.Memory or None
            Cache of the fitted VAE.
        """
        largest = self.distance[-1] if self.distance[-1] is not None else np.inf
        for name, bounds in [("distance", (*self.distance[:-1], largest)), ("radius", self.radius)]:
            if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1]:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}; expected (low, high) with 0 <= low <= high"
                )
        data = check_data(self, inliers, reset=True, min_samples=2)
        self.classes_, class_indices = None, np.zeros(len(data), dtype=np.intp)
        if y is not None:
            self.classes_, class_indices = np.unique(y, return_inverse=True)
        vae = self.vae
        if vae is None:
            vae = _default_vae(data, conditional=y is not None)
        self._check_vae(vae, class_indices)
        with progress_scope(self.verbose, label=type(self).__name__):
            seed = draw_seed(self.random_state)
            model = fit_model(vae, data, y, seed=seed, memory=memory)
            self.vae_ = model.estimator if isinstance(model, FrozenEstimator) else model
            # A frame, if scikit-learn is configured so.
            latents = np.asarray(self.vae_.transform(data, y))
        n_classes = class_indices.max() + 1
        self._class_indices_of_vae = self.vae_.generator().class_indices(self.classes_, n_classes)
        ellipsoids = [
            fit_ellipsoid(latents[class_indices == k], self.quantile, self._name(k))
            for k in range(n_classes)
        ]
        self.mean_, self.cholesky_, self.radius_ = map(np.array, zip(*ellipsoids, strict=True))
        self.class_frequency_ = np.bincount(class_indices) / len(class_indices)
        return self

    def _check_vae(self, vae: Any, class_indices: npt.NDArray[np.intp]) -> None:
        """Raise an error before training if the VAE cannot describe these data."""
        vae = vae.estimator if isinstance(vae, FrozenEstimator) else vae
        if not isinstance(vae, VAE):
            raise TypeError(f"vae={self.vae!r}; expected a skood.density.VAE")
        if vae.n_latent >= self.n_features_in_:
            raise ValueError(
                f"n_features={self.n_features_in_}, and the VAE has n_latent={vae.n_latent}: no "
                "direction leaves its manifold; give X more features, or vae=VAE(n_latent=...) "
                "fewer latents"
            )
        if vae.conditional and self.classes_ is None:
            raise ValueError(
                f"vae={self.vae!r} is conditional and requires y to be passed to fit, but the "
                "target y is None; give labels, or a VAE with conditional=False"
            )
        counts = np.bincount(class_indices)
        if counts.min() <= vae.n_latent:
            raise ValueError(
                f"{self._name(counts.argmin())} has {counts.min()} sample(s), but more than "
                f"n_latent={vae.n_latent} are needed for the covariance of its latents; give more, "
                "leave the class out, or take a VAE with fewer latents"
            )

    def _name(self, class_index: np.intp | int) -> str:
        return "X" if self.classes_ is None else f"class {self.classes_[class_index]}"

    def sample_off_manifold(
        self, X: Any, y: Any = None, random_state: int | np.random.RandomState | None = None
    ) -> npt.NDArray:
        r"""Move each item away from the manifold, once.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            In-distribution items.
        y : array-like of shape (n_samples,), default=None
            Labels of X. None: a conditional VAE uses the most probable class of each item.
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d), float32 or, for such X, float64
            In the units of X; pixels are clipped to their range.
        """
        check_is_fitted(self)
        data = check_data(self, X, reset=False)
        model = self.vae_.generator()
        class_indices = model.class_indices(y, len(data))
        if class_indices is not None:
            class_indices = torch.as_tensor(class_indices, device=model.device)
        return self.draws().moved(data, class_indices, draw_seed(random_state))

    def sample_on_manifold(
        self,
        n_samples: int = 1,
        y: Any = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> npt.NDArray:
        """Decode latents that lie outside the ellipsoid of their class.

        Parameters
        ----------
        n_samples : int, default=1
            Ignored if `y` is given.
        y : array-like of shape (n_samples,), default=None
            Class of each sample. None draws classes by their training frequencies.
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d), float32 or, for such X, float64
            In the units of X.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r}; expected at least 1")
        generator = torch_rng(torch.device("cpu"), draw_seed(random_state), Stream.ON_MANIFOLD)
        if y is None:
            frequency = torch.from_numpy(self.class_frequency_)
            class_indices = torch.multinomial(frequency, n_samples, True, generator=generator)
        else:
            class_indices = torch.from_numpy(self._class_indices(y))
        draws = self.draws()
        parts = [
            draws.on_manifold_in_units_of_x(part, generator) for part in class_indices.split(4096)
        ]
        return torch.cat(parts).cpu().numpy()

    def _class_indices(self, y: Any) -> npt.NDArray[np.int64]:
        """Return the positions of labels in ``classes_``."""
        if self.classes_ is None:
            raise ValueError("y was given, but the sampler was fitted without; leave y out")
        return encode_labels(check_labels(y), self.classes_)

    @internal
    def draws(self) -> BoundaryDraws:
        """Return the fitted sampler as functions of tensors."""
        low, high = self.distance
        return BoundaryDraws(
            model=self.vae_.generator(),
            vae_class_indices=self._class_indices_of_vae,
            means=self.mean_,
            cholesky=self.cholesky_,
            radii=self.radius_,
            radius=self.radius,
            distance=(low, np.sqrt(self.n_features_in_) if high is None else high),
            directions=self.directions,
            input_shape=self.input_shape_,
            verbose=self.verbose,
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _default_vae(data: CheckedData, *, conditional: bool) -> VAE:
    if data.is_image:
        return VAE(likelihood="bernoulli", conditional=conditional, sample_latents=False)
    n_latent = min(8, (data.item_shape[0] + 1) // 2)
    return VAE(n_latent, conditional=conditional)
