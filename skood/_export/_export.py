"""Export of fitted detectors, for services without this package."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

import skood
from skood._export._calibrated import CALIBRATED
from skood._export._example import as_given, random_items
from skood._export._formats import FORMATS
from skood._export._graph import DetectorGraph, models_of, unwrapped
from skood._export._refusals import check_detector
from skood._export._scores import FORMULAS
from skood._safe_files import whole_file
from skood.posthoc import DeepEnsemble

__all__ = ["export", "exportable"]

# Largest difference between scores of the file and of the detector, relative to their size.
_TOLERANCE = 1e-4


def export(
    detector: Any, path: str | os.PathLike[str], X: Any = None, *, format: str = "onnx"
) -> None:
    """Write network, score and threshold of a fitted detector as one graph.

    The graph takes a batch of items of any size, as the detector takes them: the scaling of pixels,
    their normalisation and the standardisation of rows are inside. It runs without this package, in
    onnxruntime or in torch. Before the file is written, its content is run on example items and
    compared with the detector.

    Parameters
    ----------
    detector : Detector
        Fitted. Its score must be arithmetic on the features and logits of a torch network, or on
        rows of X with ``features=None``; or the detector is a
        :class:`~skood.calibration.ConformalDetector`, a :class:`~skood.calibration.TunedThreshold`
        or an :class:`~skood.calibration.EnsembleDetector` of such detectors.
    path : str or PathLike
        File to write, such as "detector.onnx" or "detector.pt2". An existing file is replaced.
    X : array-like or Tensor of shape (n_samples, ...), default=None
        A few items, in the dtype and with the order of axes that the service will send. None:
        random items of the shape and the order of axes in `fit`, in uint8 if a classifier of this
        package was trained on uint8, and in float32 otherwise.
    format : {"onnx", "torch"}, default="onnx"
        "onnx" writes a model of ONNX, for onnxruntime, and needs ``pip install onnx onnxruntime
        onnxscript``; "torch" writes an exported program, which :func:`torch.export.load` reads.

    Raises
    ------
    TypeError
        If the score is not tensor arithmetic; the message says why.
    ValueError
        If torch or ONNX cannot express the network, or if the graph's scores differ from
        ``score_samples`` by more than 1e-4 of their size.
    ImportError
        If a package for ONNX is missing.

    Notes
    -----
    The graph has one input, ``X``, and these outputs, all with a row for each item:

    - ``score``, float64: as ``score_samples``, up to the rounding errors of the network in float32;
    - ``decision``, float64: ``score`` minus the threshold;
    - ``is_inlier``, int64: +1 or -1, as ``predict``;
    - ``p_value``, float64: as ``p_values`` of conformal detectors;
    - ``probabilities``, float64, and ``class_index``, int64: as ``predict_proba``, and the column
      of the largest, if the detector has a classifier. ``class_index`` is missing if an item can
      have several labels.

    A graph raises no errors. An item that ``score_samples`` refuses, since it contains NaN,
    infinite values or pixels outside their range, gets the score NaN and the prediction -1.

    The file also contains the version of this package, the class of the detector, its threshold and
    the labels of its classes in JSON: ``skood.version``, ``skood.detector``, ``skood.offset`` and
    ``skood.classes`` in the metadata of ONNX, and "skood.json" among the ``extra_files`` of an
    exported program.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> import skood
    >>> network = torch.nn.Linear(4, 3)
    >>> X = torch.randn(50, 4)
    >>> detector = skood.Energy(network).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "detector.pt2"
    ...     skood.export(detector, path, X[:5], format="torch")
    ...     graph = torch.export.load(path).module()
    >>> outputs = graph(X)
    >>> list(outputs)
    ['score', 'decision', 'is_inlier', 'class_index', 'probabilities']
    >>> bool((outputs["is_inlier"].numpy() == detector.predict(X)).all())
    True
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r}; expected one of {sorted(FORMATS)}")
    detector = unwrapped(detector)
    check_detector(detector)
    models = models_of(detector)
    data = detector._check(random_items(detector, models) if X is None else X)
    if data.has_fields:
        raise TypeError(
            f"{type(detector).__name__} cannot be exported: its items are dicts of fields, and the "
            "graph takes one array; skood.save stores any fitted detector"
        )
    scores = detector.score_samples(data)
    graph = DetectorGraph(detector, data).eval()
    items = as_given(data)
    content, run = FORMATS[format](graph, items, _about(detector))
    # A batch of one item, too, since a graph may be specialised to a size.
    for rows in (slice(None), slice(1)):
        _compare(run(items[rows]), scores[rows], detector)
    with whole_file(path) as file:
        file.write(content)


def exportable() -> list[str]:
    """Return the names of the classes that :func:`export` takes.

    Returns
    -------
    list of str
        In alphabetical order.
    """
    return sorted(cls.__name__ for cls in [*FORMULAS, DeepEnsemble, *CALIBRATED])


def _about(detector: Any) -> dict[str, Any]:
    classes = getattr(detector, "classes_", None)
    return {
        "version": skood.__version__,
        "detector": type(detector).__name__,
        # JSON has no infinity.
        "offset": float(detector.offset_) if np.isfinite(detector.offset_) else None,
        "classes": None if classes is None else np.asarray(classes).tolist(),
    }


def _compare(
    outputs: dict[str, npt.NDArray], scores: npt.NDArray[np.float64], detector: Any
) -> None:
    """Raise an error if a graph differs from its detector."""
    size = np.maximum(np.abs(scores), np.median(np.abs(scores)))
    difference = np.abs(outputs["score"] - scores)
    name = type(detector).__name__
    # NaN compares as False.
    if not (difference <= _TOLERANCE * size).all():
        worst = float(np.max(difference / np.maximum(size, np.finfo(np.float64).tiny)))
        raise ValueError(
            f"the graph of {name} gives other scores than score_samples: they differ by up to "
            f"{worst:.2g} of their size, but at most {_TOLERANCE} is expected. If X is None, give "
            "X, a few items like those in fit; if the difference remains, store the detector with "
            "skood.save"
        )
    decision = scores - detector.offset_
    clear = np.abs(decision) > _TOLERANCE * size
    if (outputs["is_inlier"] != np.where(decision >= 0, 1, -1))[clear].any():
        raise ValueError(f"the graph of {name} predicts otherwise than the detector")
