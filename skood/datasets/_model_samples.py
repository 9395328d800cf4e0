"""A model's own samples as in-distribution test data."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skood._models import draw_samples
from skood.datasets._checks import check_n_samples
from skood.datasets._random import generator

__all__ = ["model_samples"]


def model_samples(
    model: Any,
    n_samples: int,
    random_state: int | np.random.RandomState | None = None,
) -> npt.NDArray:
    """Draw a model's own samples, as in-distribution data of an evaluation.

    A deep density often assigns other data a higher likelihood than its training data (the first
    paradox), but never generates such data (the second). Its own samples then replace
    in-distribution test rows, and other data sets are OOD [1]_. A score that fails in this test
    fails on the learned distribution, and not because test data differ from training data.

    Parameters
    ----------
    model : estimator
        A fitted density with a method ``sample``: a density of this package, ``KernelDensity`` or
        ``GaussianMixture``; a fitted detector with such a ``density_``
        (:class:`~skood.likelihood.LogLikelihood`, :class:`~skood.likelihood.LikelihoodRatio`,
        :class:`~skood.likelihood.LocalIntrinsicDimension`); or a Pipeline that ends in one of
        these, whose other steps have ``inverse_transform``. It is not changed.
    n_samples : int
        Number of samples.
    random_state : int, RandomState instance or None, default=None
        Seed. None takes entropy from the system, also for models that would read numpy's global
        generator. If ``sample`` takes no seed, a copy of the model gets it as `random_state`.

    Returns
    -------
    ndarray of shape (n_samples, ...)
        The output of the density's ``sample``: for densities of this package, rows
        (n_samples, d) or images (n_samples, C, H, W) in the range and dtype of the training data.
        Rows are converted to images if the detector was fitted to images.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the model is not fitted.
    TypeError
        If the model is no density or detector that can draw samples, or a step of a Pipeline
        cannot be inverted.
    ValueError
        For `n_samples` out of range.

    See Also
    --------
    skood.metrics.auroc : Compares the scores of samples (ID) and of another set (OOD).
    synthetic_outliers : Makes outliers if there are no other sets.

    References
    ----------
    .. [1] H. Kamkari, B. L. Ross, J. C. Cresswell, A. L. Caterini, R. G. Krishnan and
       G. Loaiza-Ganem, "A Geometric Explanation of the Likelihood OOD Detection Paradox",
       ICML 2024. arXiv:2403.18910

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KernelDensity
    >>> from skood import LogLikelihood
    >>> from skood.datasets import model_samples, uniform_noise
    >>> from skood.metrics import auroc
    >>> detector = LogLikelihood(KernelDensity(bandwidth=0.3)).fit(load_iris().data)
    >>> samples = model_samples(detector, 200, random_state=0)
    >>> samples.shape
    (200, 4)
    >>> X = np.concatenate([samples, uniform_noise(200, 4, value_range=(0, 8), random_state=0)])
    >>> auroc(np.repeat([1, -1], 200), detector.score_samples(X)) > 0.95
    True
    """
    n_samples = check_n_samples(n_samples)
    if random_state is None:
        random_state = int(generator(None).integers(2**31))
    return _samples(model, n_samples, random_state)


def _samples(model: Any, n_samples: int, random_state: int | np.random.RandomState) -> npt.NDArray:
    if isinstance(model, FrozenEstimator):
        return _samples(model.estimator, n_samples, random_state)
    if isinstance(model, Pipeline):
        samples = _samples(model[-1], n_samples, random_state)
        return _before_steps(model[:-1], samples) if len(model) > 1 else samples
    is_class = inspect.isclass(model)
    if hasattr(model, "density") and not hasattr(model, "sample") and not is_class:
        check_is_fitted(model)
        samples = _samples(model.density_, n_samples, random_state)
        is_flat_image = samples.ndim == 2 and len(model.input_shape_) == 3
        return samples.reshape(n_samples, *model.input_shape_) if is_flat_image else samples
    if not hasattr(model, "sample") or is_class:
        raise TypeError(
            f"model={model!r} has no samples to draw; expected a fitted density with a method "
            "'sample', such as PixelCNN or KernelDensity, or a fitted detector with such a "
            "density_, such as LogLikelihood"
        )
    return draw_samples(model, n_samples, random_state)


def _before_steps(steps: Pipeline, samples: npt.NDArray) -> npt.NDArray:
    if not hasattr(steps, "inverse_transform"):
        raise TypeError(
            f"the steps {list(steps.named_steps)} cannot be inverted; expected every step before "
            "the density to have inverse_transform"
        )
    return steps.inverse_transform(samples)
