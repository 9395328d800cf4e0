"""Choice of the points of a latent space to draw, and their reduction to two dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.manifold import TSNE
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array, get_tags
from sklearn.utils.validation import _num_samples
from torch import Tensor

from skood._data.labels import check_labels, is_outlier
from skood._data.memory_layout import from_torch
from skood._data.validation import take_rows
from skood._torch.seeding import Stream, numpy_rng

__all__ = ["axis_labels", "by_name", "check_latents", "choose_points", "reduce_to_plane"]


def by_name(outliers: Any) -> dict[str, Any]:
    """Return OOD data, or a dict of OOD data by name, or None, as a dict."""
    if outliers is None:
        return {}
    return dict(outliers) if isinstance(outliers, Mapping) else {"OOD": outliers}


def choose_points(
    X: Any, y: Any, X_ood: Any, max_points: int | None, seed: int, *, name: str
) -> tuple[Any, npt.NDArray | None, list[tuple[str, Any]]]:
    """Choose at most `max_points` ID items, and at most `max_points` items of each OOD set.

    Parameters
    ----------
    X : array-like, Tensor or Dataset of shape (n_samples, ...)
    y : array-like of shape (n_samples,) or None
        Labels; -1 marks OOD items.
    X_ood : array-like, Tensor or Dataset, a dict of these by name, or None
    max_points : int or None
    seed : int
    name : str
        Name of X, for error messages.

    Returns
    -------
    inliers : array-like, Tensor or Dataset
        ID items in the order of X.
    labels : ndarray or None
        Their labels.
    outliers : list of (str, array-like, Tensor or Dataset)
        OOD sets with their names. OOD items of X come first, as "OOD".

    Raises
    ------
    ValueError
        When `max_points` is below 2, y does not have one label for each item, or all are OOD.
    """
    if max_points is not None and max_points < 2:
        raise ValueError(f"max_points={max_points!r}; expected at least 2, or None for no limit")
    n_items = _num_samples(X)
    labels = None if y is None else check_labels(y, n_items, items=name)
    is_ood = np.zeros(n_items, dtype=bool) if labels is None else is_outlier(labels)
    if is_ood.all():
        raise ValueError(
            f"none of the {n_items} items of {name} is in-distribution (-1 in y marks OOD); "
            "expected at least one"
        )

    def at_most(rows: npt.NDArray[np.intp], number: int) -> npt.NDArray[np.intp]:
        if max_points is None or len(rows) <= max_points:
            return rows
        rng = numpy_rng(seed, Stream.SHOWN_POINTS, number)
        return np.sort(rng.choice(rows, max_points, replace=False))

    inside, outside = at_most(np.flatnonzero(~is_ood), 0), at_most(np.flatnonzero(is_ood), 1)
    outliers = [("OOD", take_rows(X, outside))] if len(outside) else []
    for number, (set_name, items) in enumerate(by_name(X_ood).items(), 2):
        rows = at_most(np.arange(_num_samples(items)), number)
        outliers.append((str(set_name), take_rows(items, rows)))
    return take_rows(X, inside), None if labels is None else labels[inside], outliers


def check_latents(latents: Any, name: str, n_latent: int | None = None) -> npt.NDArray[np.float64]:
    """Return latents as an array of float64.

    Parameters
    ----------
    latents : array-like or Tensor of shape (n_samples, n_latent)
    name : str
        For error messages.
    n_latent : int, default=None
        Expected number of dimensions; None accepts any number from 2.

    Raises
    ------
    ValueError
        When there are no latents, their shape is wrong, or they hold NaN or infinity.
    """
    latents = from_torch(latents) if isinstance(latents, Tensor) else latents
    latents = check_array(
        latents,
        dtype=np.float64,
        ensure_2d=False,
        allow_nd=True,
        ensure_all_finite=False,
        ensure_min_features=0,
        input_name=name,
    )
    if latents.ndim != 2:
        raise ValueError(
            f"{name} has shape {latents.shape}; expected (n_samples, n_latent), one vector for "
            "each item: flatten or average the other axes"
        )
    if latents.shape[1] < 2:
        raise ValueError(
            f"{name} has shape {latents.shape}; expected at least two dimensions to draw in a "
            "plane. Draw a histogram of a single one"
        )
    if n_latent not in (None, latents.shape[1]):
        raise ValueError(
            f"{name} has {latents.shape[1]} columns, and latents has {n_latent}; expected latents "
            "of one model"
        )
    wrong = ~np.isfinite(latents).all(1)
    if wrong.any():
        raise ValueError(
            f"{name} holds NaN or infinity in {wrong.sum()} of {len(latents)} rows; expected "
            "finite latents: leave these rows out, or check whether training diverged"
        )
    return latents


def reduce_to_plane(
    latents: npt.NDArray[np.float64],
    labels: npt.NDArray | None,
    outliers: Sequence[npt.NDArray[np.float64]],
    method: Any,
    seed: int,
) -> tuple[list[npt.NDArray], Any]:
    """Reduce ID and OOD latents to the same two dimensions.

    Parameters
    ----------
    latents : ndarray of shape (n_samples, n_latent)
        Latents of ID points.
    labels : ndarray of shape (n_samples,) or None
        For a transformer that requires labels.
    outliers : list of ndarray of shape (n_ood_samples, n_latent)
        Latents of OOD sets.
    method : {"pca", "tsne"} or transformer
    seed : int
        For a transformer whose ``random_state`` is None.

    Returns
    -------
    coordinates : list of ndarray of shape (..., 2)
        Coordinates of the ID points and of each OOD set.
    reduction : estimator or None
        Fitted transformer; None for latents of two dimensions.

    Raises
    ------
    TypeError
        When `method` is no transformer.
    ValueError
        When all latents are equal, or `method` does not return two columns.
    """
    everything = np.concatenate([latents, *outliers])
    reduction = _make_reduction(method, len(everything), seed)
    if latents.shape[1] == 2:
        return [latents, *outliers], None
    has_transform = hasattr(reduction, "transform")
    learned_from = latents if has_transform else everything
    if (learned_from == learned_from[0]).all():
        raise ValueError(
            f"the latents of all {len(learned_from)} points are the same, which determines no "
            "directions to draw them in; expected at least two that differ"
        )
    if has_transform:
        # UMAP does not require labels, but if given them would separate the classes.
        needs_labels = get_tags(_last_step(reduction)).target_tags.required
        reduction.fit(latents, labels if needs_labels else None)
        coordinates = np.asarray(reduction.transform(everything))
    else:
        coordinates = np.asarray(reduction.fit_transform(everything))
    if coordinates.shape[1:] != (2,):
        raise ValueError(
            f"method={method!r} returns an array of shape {coordinates.shape}; expected two "
            "columns, which most transformers return with n_components=2"
        )
    ends = np.cumsum([len(latents), *map(len, outliers)])[:-1]
    return np.split(coordinates, ends), reduction


def axis_labels(reduction: Any) -> list[str]:
    """Describe the two coordinates of a fitted transformer; for None, of the latents."""
    if reduction is None:
        return ["latent 1", "latent 2"]
    last = _last_step(reduction)
    if isinstance(last, PCA):
        return [
            f"principal component {number} ({100 * part:.0f} % of variance)"
            for number, part in enumerate(last.explained_variance_ratio_, 1)
        ]
    name = "t-SNE" if isinstance(last, TSNE) else type(last).__name__
    return [f"{name} 1", f"{name} 2"]


def _last_step(reduction: Any) -> Any:
    if isinstance(reduction, FrozenEstimator):
        reduction = reduction.estimator
    return reduction[-1] if isinstance(reduction, Pipeline) else reduction


def _make_reduction(method: Any, n_points: int, seed: int) -> Any:
    if isinstance(method, str) and method == "pca":
        return PCA(2, random_state=seed)
    if isinstance(method, str) and method == "tsne":
        # t-SNE uses 3 x perplexity neighbours of a point.
        return TSNE(2, init="pca", perplexity=min(30, (n_points - 1) / 3), random_state=seed)
    if isinstance(method, type) or not (
        hasattr(method, "fit_transform") or hasattr(method, "transform")
    ):
        raise TypeError(
            f"method={method!r}; expected 'pca', 'tsne' or a transformer of scikit-learn that "
            "returns two columns, such as Isomap(n_components=2)"
        )
    reduction = clone(method)
    if reduction.get_params(deep=False).get("random_state", seed) is None:
        reduction.set_params(random_state=seed)
    return reduction
