"""Gradients of scores by the items of X."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from skood._data.checked_data import CheckedData
from skood._data.chunks import row_slices
from skood._export._calibrated import CALIBRATED, members_of
from skood._export._graph import DetectorGraph, models_of, unwrapped
from skood._torch.preprocessing import Preprocessing
from skood.likelihood import LogLikelihood

__all__ = ["gradient_of"]

_Array = npt.NDArray[np.float64]
# Values of items that are differentiated at once, and items at most.
_VALUES, _MOST = 2**17, 1024

Gradient = Callable[[_Array], tuple[_Array, _Array]]


def gradient_of(estimator: Any, data: CheckedData) -> Gradient:
    r"""Return a function of items (n, \*item_shape) that returns gradients and scores.

    Parameters
    ----------
    estimator : estimator
        A fitted detector.
    data : CheckedData
        Items of the shape, the axes and the dtype that the function takes.

    Raises
    ------
    TypeError
        If the score has no gradient.
    """
    detector = unwrapped(estimator)
    if hasattr(detector, "estimator_"):
        return gradient_of(detector.estimator_, data)
    if isinstance(detector, Pipeline):
        raise TypeError(
            "a Pipeline has no gradient by its input; give the detector alone and the rows that "
            "its other steps make, attribute(pipeline[-1], pipeline[:-1].transform(X)), or "
            'method="occlusion"'
        )
    if isinstance(detector, LogLikelihood):
        return _of_density(detector, data)
    if type(detector) in CALIBRATED and len(members_of(detector)) > 1:
        raise TypeError(
            f"the score of {type(detector).__name__} with several detectors inside is computed "
            'from ranks, which have no gradient; use method="occlusion", or give one of them'
        )
    try:
        models_of(detector)
        graph = DetectorGraph(detector, data).eval()
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the score of {type(detector).__name__} is not arithmetic of torch that can be "
            f'differentiated; use method="occlusion" ({error})'
        ) from error
    return _of_graph(graph, data, type(detector).__name__)


def _of_graph(graph: DetectorGraph, data: CheckedData, name: str) -> Gradient:
    def gradient(items: _Array) -> tuple[_Array, _Array]:
        values, scores = np.empty(items.shape), np.empty(len(items))
        size = min(_MOST, max(8, _VALUES // items[0].size))
        for rows in row_slices(len(items), size):
            given = items[rows]
            given = np.moveaxis(given, 1, -1) if data.channels_last else given
            came = np.ascontiguousarray(given.reshape(len(given), *data.came_as))
            with torch.inference_mode(False), torch.enable_grad():
                x = torch.from_numpy(came).requires_grad_()
                score = graph.root([source(x) for source in graph.sources])["score"]
                (found,) = torch.autograd.grad(score.sum(), x)
            back = np.moveaxis(found.numpy(), -1, 1) if data.channels_last else found.numpy()
            values[rows] = back.reshape(values[rows].shape)
            scores[rows] = score.detach().numpy()
        if not np.isfinite(values).all():
            raise ValueError(
                f"the gradient of the score of {name} is not finite, for example because the item "
                'is a training row, at distance 0; use method="occlusion"'
            )
        return values, scores

    return gradient


def _of_density(detector: LogLikelihood, data: CheckedData) -> Gradient:
    density = detector.density_
    density = density.estimator if isinstance(density, FrozenEstimator) else density
    known = getattr(density, "_preprocessing", None)
    if not hasattr(density, "log_density_gradient") or not isinstance(known, Preprocessing):
        raise TypeError(
            f'{type(density).__name__} has no log_density_gradient; use method="occlusion"'
        )
    # The gradient is by the input of the network, in which one unit is this many units of X.
    if known.value_range is None:
        unit: Any = known.scale
    else:
        unit = known.value_range[1] - known.value_range[0]

    def gradient(items: _Array) -> tuple[_Array, _Array]:
        others = data.like(items.astype(data.dtype))
        found = density.log_density_gradient(others) / unit
        return found.reshape(items.shape), detector.score_samples(others)

    return gradient
