"""File formats of exported graphs: how they are written, and how their contents run."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._optional import import_optional

__all__ = ["FORMATS", "Format"]

# Takes items, and returns the named outputs.
Run = Callable[[npt.NDArray], dict[str, npt.NDArray]]

# The content of a file, and a function that runs it.
Format = Callable[[nn.Module, npt.NDArray, dict[str, Any]], tuple[bytes, Run]]

_INPUT = "X"
_ABOUT = "skood.json"

# A file of ONNX without a second file for weights is a protocol buffer of at most 2 GiB.
_LARGEST_ONNX = 2**31 - 2**24

# First version of torch that exports a traced program to ONNX; earlier ones trace a module.
_DYNAMO = (2, 6)


def _as_program(graph: nn.Module, X: npt.NDArray) -> torch.export.ExportedProgram:
    example = torch.from_numpy(np.repeat(X, 2, 0) if len(X) == 1 else X)
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    try:
        with torch.no_grad(), _without_noise():
            return torch.export.export(graph, (example,), dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        raise ValueError(
            f"torch.export cannot trace the network: {type(error).__name__}: {_short(error)}. The "
            "network must not branch on values or fix the size of the batch; skood.save stores "
            "any fitted detector"
        ) from error


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Suppress warnings of torch's exporters about their own code."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, torch.jit.TracerWarning):
            warnings.simplefilter("ignore", category)
        # Versions of torch before 2.6 warn of every layer.
        warnings.filterwarnings("ignore", "Unable to find the path of the module")
        yield


def _short(error: Exception) -> str:
    return str(error).strip().split("\n\n")[0][:500]


def to_torch(graph: nn.Module, X: npt.NDArray, about: dict[str, Any]) -> tuple[bytes, Run]:
    """Return an exported program of torch."""
    file = io.BytesIO()
    torch.export.save(_as_program(graph, X), file, extra_files={_ABOUT: json.dumps(about)})
    content = file.getvalue()
    with _without_noise():
        module = torch.export.load(io.BytesIO(content)).module()

    def run(items: npt.NDArray) -> dict[str, npt.NDArray]:
        with torch.no_grad():
            return {name: value.numpy() for name, value in module(torch.from_numpy(items)).items()}

    return content, run


def to_onnx(graph: nn.Module, X: npt.NDArray, about: dict[str, Any]) -> tuple[bytes, Run]:
    """Return a model of ONNX."""
    onnx, onnxruntime = _imported("onnx"), _imported("onnxruntime")
    size = sum(t.numel() * t.element_size() for t in graph.state_dict().values())
    if size > _LARGEST_ONNX:
        raise ValueError(
            f"the network and the values of the score are {size / 2**30:.1f} GiB, but a file of "
            "ONNX holds less than 2 GiB; fit the detector to fewer rows, give NNGuide a smaller "
            'bank_fraction, or take format="torch"'
        )
    with torch.no_grad():
        names = list(graph(torch.from_numpy(X)))
    try:
        with torch.no_grad(), _without_noise():
            model = _traced(graph, X, names)
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(
            f"the network cannot be written as ONNX: {type(error).__name__}: {_short(error)}. Take "
            'format="torch", or skood.save'
        ) from error
    for key, value in about.items():
        model.metadata_props.add(key=f"skood.{key}", value=json.dumps(value))
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(items: npt.NDArray) -> dict[str, npt.NDArray]:
        return dict(zip(names, session.run(names, {_INPUT: items}), strict=True))

    return content, run


def _traced(graph: nn.Module, X: npt.NDArray, names: list[str]) -> Any:
    """Return the graph as a model of ONNX."""
    settings = {"input_names": [_INPUT], "output_names": names, "verbose": False}
    if torch.__version__ >= _DYNAMO:
        _imported("onnxscript")
        program = _as_program(graph, X)
        return torch.onnx.export(program, external_data=False, dynamo=True, **settings).model_proto
    file, example = io.BytesIO(), torch.from_numpy(X)
    axes = {name: {0: "batch"} for name in [_INPUT, *names]}
    torch.onnx.export(
        _AsTuple(graph), (example,), file, dynamic_axes=axes, opset_version=18, **settings
    )
    return _imported("onnx").load_from_string(file.getvalue())


class _AsTuple(nn.Module):
    """A graph whose outputs are not named."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, X: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.graph(X).values())


def _imported(name: str) -> Any:
    remedy = 'format="torch" needs no further package'
    return import_optional(name, 'format="onnx"', "onnx onnxruntime onnxscript", remedy)


FORMATS: dict[str, Format] = {"onnx": to_onnx, "torch": to_torch}
