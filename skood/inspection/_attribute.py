"""Attribution of the score of any detector to the values of its input."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from skood._data.checked_data import CheckedData
from skood._data.chunks import row_slices
from skood._data.validation import share_forward_pass
from skood._detector import Detector
from skood._models import rows_through
from skood.explanation import Attribution
from skood.inspection._input_gradients import gradient_of
from skood.inspection._occlusion import occluded_columns, occlusions

__all__ = ["attribute"]

_METHODS = ("occlusion", "integrated_gradients", "gradient")
# Standard deviation of the blur, as a fraction of the shorter side of an image.
_BLUR = 1 / 8
# Patches along the shorter side of an image, if their size is not given.
_PATCHES = 8
# Values of items whose gradients are computed in one call.
_TOGETHER = 2**20
# Error of the sum of integrated gradients that is accepted, relative to the sum of their absolute
# values, and relative to the largest difference of scores.
_LARGEST_GAP, _ROUNDING = 0.05, 1e-6

_Array = npt.NDArray[np.float64]


def attribute(
    estimator: Any,
    X: Any,
    *,
    method: str = "occlusion",
    baseline: Any = None,
    patch_size: int | None = None,
    n_steps: int = 64,
) -> Attribution:
    r"""Attribute the score of any detector to the columns of rows, or the pixels of images.

    Occlusion replaces one column, or one patch of an image, by a baseline b, and takes the
    difference of the scores, :math:`s(x) - s(x_{part \leftarrow b})`. It reads nothing but
    ``score_samples``, so that it explains any detector. Integrated gradients [1]_ are

    .. math:: (x_i - b_i) \int_0^1 \partial_i s(b + t (x - b)) \, dt,

    and sum to :math:`s(x) - s(b)`. Negative values mark what lowers the score: what makes the item
    look out-of-distribution.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``score_samples``: a detector of this package or of scikit-learn, or a
        ``Pipeline`` that ends in one.
    X : array-like, DataFrame, Tensor or Dataset of shape (n_samples, ...)
        A few rows or images.
    method : {"occlusion", "integrated_gradients", "gradient"}, default="occlusion"
        "gradient" is the gradient of the score by the input, in units of the score per unit of X.
        The gradients need a score that is arithmetic on the outputs of a torch network or on rows
        of X, as :func:`skood.export` does; or a log-density with ``log_density_gradient``.
    baseline : {"blur", "mean"}, float, array-like or DataFrame, default=None
        What replaces a part of an item. One item, or several, such as ``X_train[:50]``: the
        attributions are then means over these, so that a column is replaced by draws from its
        training distribution. For ``np.median(X_train, axis=0)``, it is replaced by the median.
        For images, "blur" is the image itself after a Gaussian blur by an eighth of the shorter
        side, and "mean" the mean colour of the image. None: "blur" for images; an error for rows.
    patch_size : int, default=None
        Side of the square patches of occlusion, in pixels. None: an eighth of the shorter side.
    n_steps : int, default=64
        Number of points at which the integral is evaluated (midpoint rule).

    Returns
    -------
    Attribution
        ``values`` has shape (n, d) for rows and (n, H, W) for images. Every pixel of a patch has
        the value of its patch, and gradients are summed over the channels.

    Raises
    ------
    TypeError
        If `estimator` has no ``score_samples``, or no gradient for a method that needs one.
    ValueError
        If the baseline does not fit X, or X has neither rows nor images.

    Warns
    -----
    UserWarning
        If the integrated gradients miss the difference of the scores by more than 5 % of the sum of
        their absolute values.

    See Also
    --------
    skood.explanation.explain : Explanations in the terms of a method, if it has them.
    skood.inspection.PixelMapsDisplay : Draws attributions of images.
    skood.inspection.ContributionsDisplay : Draws attributions of rows.

    Notes
    -----
    An occluded item may itself be out-of-distribution, and a patch that leaves an edge lowers some
    scores; a blur leaves fewer edges than a constant. Columns that are replaced one at a time
    hide what two columns share. For :class:`~skood.posthoc.Mahalanobis` without labels, integrated
    gradients with the training mean as their baseline are the contributions that ``explain``
    returns.

    References
    ----------
    .. [1] M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", ICML 2017.
    .. [2] M. D. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks",
       ECCV 2014, section 2.1 (occlusion).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import IsolationForest
    >>> from skood.inspection import attribute
    >>> X = load_iris(as_frame=True).data
    >>> forest = IsolationForest(random_state=0).fit(X)
    >>> odd = X[:1].assign(**{"petal width (cm)": 9.0})
    >>> attribute(forest, odd, baseline=X.median()).largest(n=1)[0][0]
    'petal width (cm)'
    """
    if method not in _METHODS:
        raise ValueError(f"method={method!r}; expected one of {', '.join(map(repr, _METHODS))}")
    if n_steps < 1 or (patch_size is not None and patch_size < 1):
        raise ValueError(f"n_steps={n_steps} and patch_size={patch_size}; expected at least 1")
    if not hasattr(estimator, "score_samples"):
        raise TypeError(
            f"{type(estimator).__name__} has no score_samples; give a fitted detector, for other "
            "libraries inside skood.ExternalDetector"
        )
    check_is_fitted(estimator)
    is_pandas = hasattr(X, "iloc") and hasattr(X, "columns")
    if is_pandas and method != "gradient":
        baseline = _rows_of_frame(baseline, X)
        if method == "occlusion":
            return occluded_columns(estimator, X, baseline)
        baseline = baseline.to_numpy()
    data = _opened(estimator, X)
    if not data.is_rows_or_images:
        raise ValueError(f"X has {data.description}; expected rows (n, d) or images")
    items = data.take(np.arange(len(data)))
    names = None if data.is_image else _names(estimator, data)

    def scores_of(others: npt.NDArray) -> _Array:
        return rows_through(estimator, "score_samples", data.like(others)).astype(np.float64)

    if method == "gradient":
        values, scores = gradient_of(estimator, data)(items.astype(np.float64))
        return Attribution(scores, _of_pixels(values), method, names)
    # An array has no names of columns to check.
    opener = estimator if data.frame is None else None
    baselines = _baselines(baseline, items, lambda b: _opened(opener, b))
    scores = scores_of(items)
    of_baselines = np.mean([scores_of(_like(b, items)) for b in baselines], 0)
    if method == "occlusion":
        if patch_size is None:
            patch_size = max(1, round(min(items.shape[-2:]) / _PATCHES))
        values = occlusions(scores_of, items, baselines, scores, patch_size)
        return Attribution(scores, values, method, names, of_baselines)
    gradient = gradient_of(estimator, data)
    values = np.mean([_integrated(gradient, items, b, n_steps) for b in baselines], 0)
    _warn_of_gaps(values, scores - of_baselines, n_steps)
    return Attribution(scores, _of_pixels(values), method, names, of_baselines)


def _opened(estimator: Any, X: Any) -> CheckedData:
    inner = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    return inner._check(X) if isinstance(inner, Detector) else share_forward_pass(X)


def _names(estimator: Any, data: CheckedData) -> tuple[str, ...]:
    names = data.frame.columns if data.frame is not None else None
    if names is None:
        names = getattr(estimator, "feature_names_in_", [f"x{i}" for i in range(data.n_values)])
    return tuple(map(str, names))


def _rows_of_frame(baseline: Any, X: Any) -> Any:
    """Return the baseline as a frame with the columns of X."""
    if baseline is None or isinstance(baseline, str):
        _refuse_baseline(baseline)
    frame = type(X)
    if hasattr(baseline, "iloc"):
        # A Series has the values of one row.
        rows = baseline if hasattr(baseline, "columns") else baseline.to_frame().T
        missing = [name for name in X.columns if name not in rows.columns]
        if missing:
            raise ValueError(f"baseline lacks the columns {missing[:5]} of X")
        return rows[list(X.columns)]
    values = np.asarray(baseline)
    values = np.full((1, X.shape[1]), values) if values.ndim == 0 else np.atleast_2d(values)
    if values.ndim != 2 or values.shape[1] != X.shape[1]:
        raise ValueError(
            f"baseline has shape {np.shape(baseline)}; expected a row of {X.shape[1]} values, or "
            "several rows"
        )
    return frame(values, columns=X.columns)


def _refuse_baseline(baseline: Any) -> None:
    raise ValueError(
        f"baseline={baseline!r}, but X has rows, and what replaces a column has to come from the "
        "training data: give the median, baseline=np.median(X_train, axis=0), or rows to average "
        "over, baseline=X_train[:50]"
    )


def _baselines(
    baseline: Any, items: npt.NDArray, open_items: Callable[[Any], CheckedData]
) -> list[_Array]:
    """Return arrays that items are replaced with, each of shape (n or 1, *item_shape)."""
    is_image = items.ndim == 4
    if baseline is None and is_image:
        baseline = "blur"
    if baseline is None or (isinstance(baseline, str) and not is_image):
        _refuse_baseline(baseline)
    if isinstance(baseline, str):
        x = items.astype(np.float64)
        if baseline == "mean":
            return [np.broadcast_to(x.mean((2, 3), keepdims=True), x.shape)]
        if baseline == "blur":
            sigma = _BLUR * min(x.shape[2:])
            return [gaussian_filter(x, (0, 0, sigma, sigma), mode="nearest")]
        raise ValueError(f"baseline={baseline!r}; expected 'blur', 'mean', a number or items")
    if np.ndim(baseline) == 0:
        return [np.full((1, *items.shape[1:]), float(baseline))]
    try:
        found = _in_one_form(baseline, items, open_items)
    except ValueError as error:
        raise ValueError(
            f"baseline has shape {np.shape(baseline)}, which does not fit items of shape "
            f"{items.shape[1:]}; give one item or several ({error})"
        ) from error
    if found.shape[1:] != items.shape[1:]:
        raise ValueError(
            f"baseline has items of shape {found.shape[1:]}, but X of {items.shape[1:]}; give one "
            "item or several"
        )
    return list(found.astype(np.float64)[:, None])


def _in_one_form(
    baseline: Any, items: npt.NDArray, open_items: Callable[[Any], CheckedData]
) -> npt.NDArray:
    """Return one or several items of a user as an array (m, *item_shape)."""
    is_item = np.size(baseline) == items[0].size
    if is_item and np.ndim(baseline) < items.ndim:
        baseline = np.asarray(baseline)[None]
    opened = open_items(baseline)
    return opened.take(np.arange(len(opened)))


def _like(baseline: _Array, items: npt.NDArray) -> npt.NDArray:
    """Return a baseline for each item, in the dtype of the items."""
    values = np.broadcast_to(baseline, items.shape)
    if items.dtype.kind in "iu":
        values = np.rint(values)
    return values.astype(items.dtype)


def _integrated(
    gradient: Callable[[_Array], tuple[_Array, _Array]], items: npt.NDArray, b: _Array, n_steps: int
) -> _Array:
    path = items - b
    steps = ((np.arange(n_steps) + 0.5) / n_steps).reshape(-1, *[1] * items.ndim)
    total = np.zeros(items.shape)
    # All items at a few points of the integral.
    for some in row_slices(n_steps, max(1, _TOGETHER // items.size)):
        points = b + steps[some] * path
        found = gradient(points.reshape(-1, *items.shape[1:]))[0]
        total += found.reshape(points.shape).sum(0)
    return path * total / n_steps


def _warn_of_gaps(values: _Array, differences: _Array, n_steps: int) -> None:
    """Warn if integrated gradients do not sum to the difference of the scores."""
    flat = values.reshape(len(values), -1)
    gap = np.abs(flat.sum(1) - differences)
    size = np.maximum(np.abs(flat).sum(1), np.finfo(np.float64).tiny)
    far = gap > _LARGEST_GAP * size + _ROUNDING * np.abs(differences).max(initial=0)
    if far.any():
        warnings.warn(
            f"the integrated gradients of {far.sum()} of {len(gap)} items miss the difference of "
            f"the scores by up to {100 * (gap[far] / size[far]).max():.3g} % of the sum of their "
            f"absolute values; raise n_steps={n_steps}, or use "
            'method="occlusion" for a score with jumps',
            stacklevel=3,
        )


def _of_pixels(values: _Array) -> _Array:
    return values.sum(1) if values.ndim == 4 else values
