"""Samples around in-distribution data, off their manifold and at its end, made by a VAE."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import solve_triangular
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skood._data import Source, check_data
from skood._parameters import Interval, StrOptions, fit_context
from skood._progress import progress_scope, tracked
from skood._torch.batching import scoring_batch_size
from skood._torch.jacobian import forward_jacobian
from skood._torch.seeding import draw_seed, torch_rng
from skood.base import fit_model, split_outliers
from skood.density import VAE

__all__ = ["BoundarySampler", "normal_vectors", "reduced_normal_vectors"]


class BoundarySampler(BaseEstimator):
    r"""Out-of-distribution samples close to in-distribution data.

    The decoder g of a variational autoencoder describes the data as a manifold; what lies next
    to the manifold, and on it beyond where the data end, is out-of-distribution [1]_.

    *Off the manifold* (type 1): :math:`x + s \varepsilon v` with a sign s, a distance
    :math:`\varepsilon` and a unit vector v orthogonal to all columns of the Jacobian
    J = dg/dz at the latent z of x:

    .. math:: v = \frac{(I - Q Q^\top) w}{\lVert (I - Q Q^\top) w \rVert}, \qquad
        J = Q R, \quad w \sim \mathcal{N}(0, I).

    *On the manifold* (type 2): :math:`g(m_c + r L_c u)` with the mean :math:`m_c` and the
    Cholesky factor :math:`L_c` of the covariance of the latents of a class, u uniform on the unit
    sphere, and a Mahalanobis radius r beyond that of 95 % of the class.

    Parameters
    ----------
    vae : VAE or None, default=None
        Fitted to X, or as it is if in a ``FrozenEstimator``. A conditional one decodes each class
        by itself. None: ``VAE()``, conditional where there are labels, with the likelihood
        "bernoulli" for images, and for rows of d values with min(8, ceil(d / 2)) latents.
    distance : (float, float or None), default=(0.1, None)
        Smallest and largest :math:`\varepsilon`, drawn uniformly, in units of pixels in [0, 1]
        or of the standard deviation of a feature. None is the root of the number of values, 28
        for an image of 28 x 28.
    directions : {"uniform", "reduced"}, default="uniform"
        How v is drawn. "uniform": as above, uniform on the unit sphere of the null space of
        :math:`J^\top`. "reduced": as in the released code, a combination of the reduced row echelon
        basis of that space with weights from U(-1, 1), which puts most of v on the first `n_latent`
        values of an item.
    quantile : float, default=0.95
        Part of each class's latents that lies within its ellipsoid.
    radius : (float, float), default=(1.0, 1.5)
        Smallest and largest r, drawn uniformly, as multiples of that ellipsoid's radius.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown. "auto" shows it on a terminal or in a notebook, for work of more
        than a few seconds.
    random_state : int, RandomState instance or None, default=None
        Seed of the VAE where that has none.

    Attributes
    ----------
    vae_ : VAE
        The fitted VAE.
    classes_ : ndarray of shape (n_classes,) or None
        Labels; None where `fit` got none, and all data count as one class.
    class_frequency_ : ndarray of shape (n_classes,)
        Part of the data that each class makes up.
    mean_ : ndarray of shape (n_classes, n_latent)
        Mean of the latents of each class.
    cholesky_ : ndarray of shape (n_classes, n_latent, n_latent)
        Lower triangular factor of their covariance.
    radius_ : ndarray of shape (n_classes,)
        Mahalanobis radius of each class's ellipsoid.
    input_shape_ : tuple of int
        Shape of an item, (C, H, W) or (d,).
    n_features_in_ : int
        Values in an item.

    See Also
    --------
    OODGen : Classifier that learns to reject such samples.

    Notes
    -----
    The Jacobian is computed in forward mode, at the cost of about `n_latent` + 1 passes of the
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

    _reads_sources = True

    _parameter_constraints: dict = {
        "vae": [BaseEstimator, None],
        "distance": [tuple, list],
        "directions": [StrOptions({"uniform", "reduced"})],
        "quantile": [Interval(numbers.Real, 0, 1, closed="neither")],
        "radius": [tuple, list],
        "verbose": ["verbose", StrOptions({"auto"})],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        vae: VAE | None = None,
        *,
        distance: tuple[float, float | None] = (0.1, None),
        directions: str = "uniform",
        quantile: float = 0.95,
        radius: tuple[float, float] = (1.0, 1.5),
        verbose: bool | int | str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.vae = vae
        self.distance = distance
        self.directions = directions
        self.quantile = quantile
        self.radius = radius
        self.verbose = verbose
        self.random_state = random_state

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
            When there are as many latents as values in an item, so that no direction leaves the
            manifold, or when a class has too few samples, or too few different ones, for the
            covariance of its latents to be inverted.
        """
        largest = self.distance[-1] if self.distance[-1] is not None else np.inf
        for name, bounds in [("distance", (*self.distance[:-1], largest)), ("radius", self.radius)]:
            if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1]:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}; expected (low, high) with 0 <= low <= high"
                )
        source = check_data(self, X, reset=True, min_samples=2)
        source, y, _ = split_outliers(source, y)
        self.classes_, members = (None, np.zeros(len(source), dtype=np.intp))
        if y is not None:
            self.classes_, members = np.unique(y, return_inverse=True)
        vae = self.vae
        if vae is None:
            vae = _default_vae(source, conditional=y is not None)
        self._check_sizes(vae, members)
        with progress_scope(self.verbose, label=type(self).__name__):
            model = fit_model(vae, source, y, seed=draw_seed(self.random_state))
            self.vae_ = model.estimator if isinstance(model, FrozenEstimator) else model
            latents = self.vae_.transform(source, y)
        ellipsoids = [self._ellipsoid(latents[members == k], k) for k in range(members.max() + 1)]
        self.mean_, self.cholesky_, self.radius_ = map(np.array, zip(*ellipsoids, strict=True))
        self.class_frequency_ = np.bincount(members) / len(members)
        return self

    def _check_sizes(self, vae: Any, members: npt.NDArray[np.intp]) -> None:
        """Raise before anything is trained where the geometry cannot be had."""
        vae = vae.estimator if isinstance(vae, FrozenEstimator) else vae
        if not isinstance(vae, VAE):
            raise TypeError(f"vae={self.vae!r}; expected a skood.density.VAE")
        if vae.n_latent >= self.n_features_in_:
            raise ValueError(
                f"n_features={self.n_features_in_}, and the VAE has n_latent={vae.n_latent}: no "
                "direction leaves its manifold; give X more features, or vae=VAE(n_latent=...) "
                "fewer latents"
            )
        counts = np.bincount(members)
        if counts.min() <= vae.n_latent:
            raise ValueError(
                f"{self._name(counts.argmin())} has {counts.min()} sample(s), but more than "
                f"n_latent={vae.n_latent} are needed for the covariance of its latents; give more, "
                "leave the class out, or take a VAE with fewer latents"
            )

    def _name(self, k: np.intp | int) -> str:
        return "X" if self.classes_ is None else f"class {self.classes_[k]}"

    def _ellipsoid(
        self, latents: npt.NDArray[np.float64], k: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
        """Mean, Cholesky factor of the covariance and radius of the latents of class k."""
        n_latent = latents.shape[1]
        mean = latents.mean(0)
        covariance = np.cov(latents, rowvar=False).reshape(n_latent, n_latent)
        try:
            cholesky = np.linalg.cholesky(covariance).astype(np.float64)
        except np.linalg.LinAlgError as error:
            rank = np.linalg.matrix_rank(covariance, hermitian=True)
            raise ValueError(
                f"the latents of {self._name(k)} vary in {rank} of {n_latent} directions only, so "
                "their covariance has no inverse; X may repeat the same values, or the VAE has "
                "more latents than it uses: lower its n_latent, or train it for longer"
            ) from error
        distances = np.linalg.norm(
            solve_triangular(cholesky, (latents - mean).T, lower=True), axis=0
        )
        return mean, cholesky, float(np.quantile(distances, self.quantile))

    def sample_off_manifold(
        self, X: Any, y: Any = None, random_state: int | np.random.RandomState | None = None
    ) -> npt.NDArray:
        r"""Move each item away from the manifold, once.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            In-distribution items.
        y : array-like of shape (n_samples,), default=None
            Their labels. Without, a conditional VAE takes the most probable class of each.
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d), float32 or, for such X, float64
            In the units of X; pixels are clipped to their range.
        """
        check_is_fitted(self)
        source = self.vae_._open(check_data(self, X, reset=False), reset=False)
        members = self.vae_._numbers(y, len(source))
        return self._off_manifold(source, members, draw_seed(random_state))

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
            Ignored where `y` is given.
        y : array-like of shape (n_samples,), default=None
            The class of each sample. None draws classes as they occur in training.
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d), float32 or, for such X, float64
            In the units of X.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r}; expected at least 1")
        generator = torch_rng(torch.device("cpu"), draw_seed(random_state))
        if y is None:
            frequency = torch.from_numpy(self.class_frequency_)
            members = torch.multinomial(frequency, n_samples, True, generator=generator).numpy()
        else:
            members = self._members(y)
        size = 4096
        return np.concatenate(
            [
                self._on_manifold(members[start : start + size], generator)
                for start in range(0, len(members), size)
            ]
        )

    def _members(self, y: Any) -> npt.NDArray[np.intp]:
        """Class numbers of labels."""
        if self.classes_ is None:
            raise ValueError("y was given, but the sampler was fitted without; leave y out")
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y has the labels {unknown[:5]}; expected some of {self.classes_}")
        return np.searchsorted(self.classes_, y)

    def _off_manifold(
        self, source: Source, members: npt.NDArray[np.integer] | None, seed: int
    ) -> npt.NDArray:
        """Type 1 from a source of the VAE, in the units of X."""
        vae, n = self.vae_, len(source)
        _, device = vae._ready()
        generator = torch_rng(device, seed)
        moved = np.empty((n, *self.input_shape_), np.result_type(vae.dtype_, np.float32))
        size = scoring_batch_size(device)
        starts = tracked(
            range(0, n, size),
            description="moving items off the manifold",
            unit="batch",
            verbose=self.verbose,
        )
        for start in starts:
            rows = np.arange(start, min(start + size, n))
            condition = None
            if members is not None and vae.conditional:
                condition = torch.as_tensor(members[rows], device=device)
            with torch.no_grad():
                x = vae._tensor(source.take(rows), device)
                x = self._move(x, condition, generator)
            moved[rows] = vae._in_units_of_x(x.double().cpu().numpy())
        return moved

    def _move(self, x: Tensor, condition: Tensor | None, generator: torch.Generator) -> Tensor:
        """Type 1 of one batch, as the VAE reads and makes it."""
        vae, device = self.vae_, x.device
        module = vae.module_
        z, condition = vae._posterior_mean(module, x, condition)
        jacobian = forward_jacobian(lambda z: vae._decoder(module, z, condition), z)
        shape = len(x), x[0].numel()
        if self.directions == "uniform":
            noise = torch.randn(shape, generator=generator, device=device)
            normal = normal_vectors(jacobian, noise).view_as(x)
        else:
            weights = 2 * torch.rand(shape, generator=generator, device=device) - 1
            normal = reduced_normal_vectors(jacobian, weights).view_as(x)
        low, high = self.distance
        high = np.sqrt(self.n_features_in_) if high is None else high
        uniform = torch.rand((len(x),), generator=generator, device=device)
        sign = 1 - 2 * torch.randint(2, (len(x),), generator=generator, device=device)
        step = sign * (low + (high - low) * uniform)
        x = x + step.view(-1, *[1] * (x.ndim - 1)) * normal
        return x if vae.value_range_ is None else x.clamp(0, 1)

    def _on_manifold(
        self, members: npt.NDArray[np.integer], generator: torch.Generator
    ) -> npt.NDArray:
        """Type 2 of classes by number, in the units of X."""
        vae = self.vae_
        module, device = vae._ready()
        z = torch.as_tensor(self._latents(members, generator), dtype=torch.float32, device=device)
        condition = torch.as_tensor(members, device=device) if vae.conditional else None
        with torch.no_grad():
            x = vae._decoder(module, z, condition)
        decoded = vae._in_units_of_x(x.double().cpu().numpy())
        return decoded.astype(np.result_type(vae.dtype_, np.float32))

    def _latents(
        self, members: npt.NDArray[np.integer], generator: torch.Generator
    ) -> npt.NDArray[np.float64]:
        """Latents outside the ellipsoids of classes by number, shape (n, n_latent)."""
        shape = len(members), self.vae_.n_latent
        options = {"generator": generator, "device": generator.device, "dtype": torch.float64}
        direction = torch.randn(shape, **options).cpu().numpy()
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        low, high = self.radius
        times = low + (high - low) * torch.rand((len(members), 1), **options).cpu().numpy()
        steps = self.radius_[members, None] * times * direction
        return self.mean_[members] + np.einsum("nij,nj->ni", self.cholesky_[members], steps)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def normal_vectors(jacobian: Tensor, noise: Tensor) -> Tensor:
    """Make unit vectors orthogonal to all columns of a Jacobian.

    Parameters
    ----------
    jacobian : Tensor of shape (b, D, d)
        With d < D; of any rank.
    noise : Tensor of shape (b, D)
        Standard normal, for vectors that are uniform on the sphere of the null space.

    Returns
    -------
    Tensor of shape (b, D)
    """
    basis = torch.linalg.qr(jacobian)[0]
    normal = noise[:, :, None]
    # Twice, since the first projection leaves rounding errors of the size of the noise.
    for _ in range(2):
        normal = normal - basis @ (basis.mT @ normal)
    return torch.nn.functional.normalize(normal[:, :, 0], dim=1)


def reduced_normal_vectors(jacobian: Tensor, weights: Tensor) -> Tensor:
    """Combine the reduced row echelon basis of the null space, as released code of OODGen does.

    Its first d values follow from the others, so that all columns of the Jacobian are orthogonal.

    Parameters
    ----------
    jacobian : Tensor of shape (b, D, d)
        With d < D.
    weights : Tensor of shape (b, D)
        Of which the last D - d are used.

    Returns
    -------
    Tensor of shape (b, D)
        Unit vectors.
    """
    d = jacobian.shape[2]
    first, rest = jacobian.double().mT.split([d, jacobian.shape[1] - d], dim=2)
    free = weights[:, d:, None].double()
    pivots = -torch.linalg.pinv(first) @ (rest @ free)
    normal = torch.cat([pivots, free], 1)[:, :, 0]
    return torch.nn.functional.normalize(normal, dim=1).to(weights.dtype)


def _default_vae(source: Source, *, conditional: bool) -> VAE:
    if source.is_image:
        return VAE(likelihood="bernoulli", conditional=conditional)
    n_latent = min(8, (source.item_shape[0] + 1) // 2)
    return VAE(n_latent, conditional=conditional)
