"""Mean log-density of an ensemble minus its variance."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import HasMethods, at_least, estimator, parameter
from skood._models import fit_members, fit_model
from skood._torch.seeding import Stream, numpy_rng
from skood.likelihood._base import DensityDetector, check_densities, log_density

__all__ = ["WAIC"]

# Training items on which members are compared.
_COMPARED_ROWS = 192
# Relative difference of the scores of a member in batches of two shapes.
_ROUNDING = 1e-6
_DIFFERENT = (
    "To make them differ, give the density random_state=None and WAIC an integer, take "
    "bootstrap=True, or give a list of different densities"
)


@estimator
class WAIC(DensityDetector):
    r"""Detector on an ensemble of densities, which disagree far from their training data.

    With K densities trained from different seeds, the score is [1]_

    .. math:: \mathbb{E}_k \log p_k(x) - \operatorname{Var}_k \log p_k(x)

    the Watanabe-Akaike information criterion of an item.

    Parameters
    ----------
    density : estimator or sequence of them, default=None
        Any estimator with ``fit`` and ``score_samples``; or a list of the members. Members in
        :class:`sklearn.frozen.FrozenEstimator` are not trained again. None takes
        :class:`~skood.density.PixelCNN` for images and
        :class:`~skood.density.NeuralSplineFlow` for rows and
        :class:`~skood.density.SequenceDensity` for strings of letters.
    n_estimators : int, default=5
        Number of members if `density` is a single estimator.
    bootstrap : bool, default=False
        Whether each member is trained on its own bootstrap sample of the rows. Without, members
        that have no ``random_state``, or a fixed one, are equal, and `fit` raises.
    n_jobs : int or None, default=None
        Number of processes that train members; -1 is one per processor. None is 1, or, in
        ``joblib.parallel_config``, the processes of its backend, such as a Dask cluster. Processes
        of one machine share its cores and its GPU.

    Attributes
    ----------
    densities_ : list of estimator
        The fitted members.

    See Also
    --------
    skood.posthoc.DeepEnsemble : Ensemble of classifiers.

    Notes
    -----
    As in [1]_, the variance in squared nats is subtracted from the mean in nats. It is the variance
    of the K values without Bessel's correction, and may outweigh the mean for images. The published
    AUROCs could not be reproduced in [2]_.

    References
    ----------
    .. [1] H. Choi, E. Jang, A. A. Alemi, "WAIC, but Why? Generative Ensembles for Robust Anomaly
       Detection", arXiv:1810.01392, equation 1.
    .. [2] J. Ren et al., "Likelihood Ratios for Out-of-Distribution Detection", NeurIPS 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KernelDensity
    >>> from skood import WAIC
    >>> X = load_iris().data
    >>> detector = WAIC(KernelDensity(bandwidth=0.5), bootstrap=True, random_state=0).fit(X)
    >>> detector.predict([[5.0, 3.4, 1.5, 0.2], [9.0, 9.0, 9.0, 9.0]])
    array([ 1, -1])
    """

    density: Any = parameter(HasMethods(["fit", "score_samples"]), list, tuple, None, default=None)
    n_estimators: int = parameter(at_least(2), default=5)
    bootstrap: bool = parameter("boolean", default=False, kw_only=True)
    n_jobs: int | None = parameter(numbers.Integral, None, default=None, kw_only=True)

    _models_strings = True

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        members = self._members(inliers)
        are_trained = [isinstance(member, FrozenEstimator) for member in members]
        bootstrap, memory = self.bootstrap, self.memory

        def fitted(number: int) -> Any:
            member, rng = members[number], numpy_rng(seed, Stream.DENSITY_MEMBERS, number)
            member_seed = int(rng.integers(2**31 - 1))
            data, labels = inliers, y
            if bootstrap and not are_trained[number]:
                rows = np.sort(rng.integers(len(inliers), size=len(inliers)))
                data, labels = inliers.subset(rows), None if y is None else y[rows]
            return fit_model(member, data, labels, seed=member_seed, memory=memory)

        self.densities_ = list(fit_members(fitted, are_trained, self.n_jobs))
        self._check_members_differ(inliers)

    def _members(self, data: CheckedData) -> Sequence[Any]:
        if not isinstance(self.density, (list, tuple)):
            density = self._given_density(data)
            if isinstance(density, FrozenEstimator):
                raise ValueError(
                    f"density={density!r} is trained already, and its {self.n_estimators} copies "
                    "would all be the same; give a list of trained densities"
                )
            seed = density.get_params(deep=False).get("random_state")
            if seed is not None and not self.bootstrap:
                # Known before the members are trained.
                raise ValueError(
                    f"density={density!r} has random_state={seed!r}, with which all "
                    f"{self.n_estimators} members would be the same. {_DIFFERENT}"
                )
            return [density] * self.n_estimators
        if len(self.density) < 2:
            raise ValueError(
                f"density={self.density!r}; expected two densities at least, each with fit and "
                "score_samples"
            )
        check_densities(self.density, data, "density")
        return self.density

    def _check_members_differ(self, data: CheckedData) -> None:
        rows = np.arange(min(_COMPARED_ROWS, len(data)))
        scores = np.stack([log_density(density, data.subset(rows)) for density in self.densities_])
        if np.isclose(scores, scores[0], rtol=_ROUNDING, atol=0).all():
            raise ValueError(
                f"all {len(scores)} members give each of {len(rows)} training items the same "
                f"log-density, so that the score would be the score of one member. {_DIFFERENT}"
            )

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        scores = np.stack([log_density(density, data) for density in self.densities_])
        with np.errstate(invalid="ignore"):
            # If one member has a density of 0, the mean is -inf, whatever the variance.
            return np.where(np.isneginf(scores).any(0), -np.inf, scores.mean(0) - scores.var(0))
