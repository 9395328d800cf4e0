"""Encoding of estimators, the objects that fitted estimators hold, and functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from torch import nn

import skood
from skood._files._codec import (
    Codec,
    DamagedFile,
    Reader,
    Writer,
    check_attribute,
    field,
)
from skood._files._networks import network_record, restored_network
from skood._moments import ClassMeans, ClassMoments
from skood._torch.estimator import NeuralEstimator
from skood._torch.preprocessing import Preprocessing
from skood.classifiers._reading import Head, Reading
from skood.density._likelihoods import Bernoulli, DiscretizedLogistic, Gaussian
from skood.density._symbol_coding import SymbolCoding
from skood.likelihood._item_distances import mean_squared_error
from skood.posthoc._partial_fit import StreamedSums
from skood.posthoc._reservoir import Reservoir
from skood.training_time._class_gaussians import ClassGaussians

__all__ = ["CODECS", "decode_parameters", "encode_parameters"]

# Parameters that name folders of one machine. Results in these folders are unpickled, so that a
# file must not choose them.
_FOLDERS = ("checkpoint_dir", "memory")
# The threshold takes the place of a descriptor that raises an error.
_REPLACED = ("offset_",)

# Types of attributes that many of our estimators have; others raise where they are used.
_TYPES: dict[str, Any] = {
    "classes_": (np.ndarray, type(None)),
    "feature_names_in_": np.ndarray,
    "history_": dict,
    "input_shape_": (tuple, dict, type(None)),
    "layers_": tuple,
    "n_features_in_": int,
    "offset_": (float, np.floating, np.ndarray),
    "_given_as": tuple,
    "_preprocessing": Preprocessing,
    "reading_": Reading,
}

# Objects of ours that are attributes of fitted estimators, by their names in files.
_PARTS = {
    cls.__name__: cls
    for cls in (
        Bernoulli,
        ClassGaussians,
        ClassMeans,
        ClassMoments,
        DiscretizedLogistic,
        Gaussian,
        Head,
        Preprocessing,
        Reading,
        Reservoir,
        StreamedSums,
        SymbolCoding,
    )
}
# Parameters that files of earlier versions lack, with the values that those versions implied.
_FORMER_VALUES: dict[str, dict[str, Any]] = {
    "ConformalDetector": {"calibration": "marginal", "delta": 0.1},
    "EnsembleDetector": {"calibration": "marginal", "delta": 0.1},
    "HierarchicalRatio": {"lower_latents": "sample"},
    "HierarchicalVAE": {"n_free_nats_steps": None},
    "KNN": {"index": None},
    "LocalIntrinsicDimension": {"combine": "min"},
    "NNGuide": {"index": None},
}
# Functions of ours that are attributes, by their names in files.
_FUNCTIONS: dict[str, Callable[..., Any]] = {"mean_squared_error": mean_squared_error}


@cache
def _public() -> dict[str, Any]:
    """Return the estimators and functions that a file may name."""
    objects = {name: getattr(skood, name) for name in dir(skood)}
    functions = {
        f"{module}.{name}": value
        for module in ("datasets", "functional")
        for name, value in vars(getattr(skood, module)).items()
        if not name.startswith("_")
    }
    return {
        **{
            k: v for k, v in objects.items() if isinstance(v, type) and issubclass(v, BaseEstimator)
        },
        **{k: v for k, v in functions.items() if isinstance(v, FunctionType)},
        "FrozenEstimator": FrozenEstimator,
    }


def _is_estimator_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseEstimator)


@cache
def _names() -> dict[Any, str]:
    return {value: name for name, value in {**_public(), **_FUNCTIONS}.items()}


def _accepts_estimator(value: Any) -> bool:
    if isinstance(value, type):
        return False
    return isinstance(value, BaseEstimator) and (
        type(value) in _names() or not type(value).__module__.startswith(("sklearn.", "skood."))
    )


def encode_parameters(estimator: BaseEstimator, writer: Writer) -> dict[str, Any]:
    """Encode the parameters of an estimator, without folders of this machine."""
    nodes = {}
    for name in estimator.get_params(deep=False):
        value = getattr(estimator, name)
        if name in _FOLDERS and value is not None:
            writer.note(f"{type(estimator).__name__}({name}=...) is None after loading")
            value = None
        nodes[name] = writer.node(value, name)
    return nodes


def decode_parameters(node: dict[str, Any], reader: Reader) -> dict[str, Any]:
    """Decode the parameters of an estimator, and put it on the reader's device."""
    params = {name: reader.value(value) for name, value in field(node, "params", dict).items()}
    for name in _FOLDERS:
        if params.get(name) is not None:
            raise DamagedFile(f"the parameter {name} is not None")
    if "device" in params and reader.device is not None:
        params["device"] = str(reader.device)
    return params


def _encode_estimator(estimator: BaseEstimator, writer: Writer) -> dict[str, Any]:
    cls = type(estimator)
    node = _class_fields(cls, writer)
    node["params"] = encode_parameters(estimator, writer)
    if isinstance(estimator, NeuralEstimator) or cls in _names():
        _validate(estimator, writer)
    attributes = {k: v for k, v in vars(estimator).items() if k not in node["params"]}
    network = attributes.pop("module_", None) if isinstance(estimator, NeuralEstimator) else None
    node["attributes"] = _encode_attributes(estimator, attributes, writer)
    if network is not None:
        node["network"] = writer.node(network_record(estimator), "module_")
    return node


def _validate(estimator: Any, writer: Writer) -> None:
    try:
        estimator._validate_params()
    except ValueError as error:
        writer.refuse(f"has a parameter that it does not take: {error}")


def _class_fields(cls: type, writer: Writer) -> dict[str, Any]:
    if cls in _names():
        return {"class": _names()[cls]}
    if any(
        "__reduce__" in vars(base) or "__reduce_ex__" in vars(base) or "__getstate__" in vars(base)
        for base in cls.__mro__[:-1]
        if not base.__module__.startswith(("skood.", "sklearn."))
    ):
        writer.refuse(f"is a {cls.__name__}, which defines its own pickling")
    name = _path_of(cls, writer)
    return {"class": name, "needs": name}


def _path_of(value: Any, writer: Writer) -> str:
    """Return "module.name" of a class or function of the user, by which it is trusted."""
    module = getattr(value, "__module__", None) or "numpy"
    name = getattr(value, "__qualname__", None) or value.__name__
    if "<" in name:
        writer.refuse(
            f"is {name}, which a file cannot name; define it at the top of a module, and pass it "
            "to skood.load as trusted=[...]"
        )
    return f"{module}.{name}"


def _decode_estimator(node: dict[str, Any], reader: Reader) -> Any:
    cls = _class(node, reader)
    params = _FORMER_VALUES.get(_names().get(cls, ""), {}) | decode_parameters(node, reader)
    estimator = cls(**params)
    if isinstance(estimator, NeuralEstimator) or cls in _names():
        estimator._validate_params()
    attributes = field(node, "attributes", dict)
    if not params.keys().isdisjoint(attributes):
        raise DamagedFile(f"a parameter of {cls.__name__} is an attribute, too")
    _decode_attributes(estimator, attributes, reader)
    if "network" in node:
        if not isinstance(estimator, NeuralEstimator):
            raise DamagedFile(f"{cls.__name__} has no network of its own")
        estimator.module_ = restored_network(estimator, reader.value(node["network"], dict))
    return estimator


def _encode_attributes(obj: Any, attributes: dict[str, Any], writer: Writer) -> dict[str, Any]:
    nodes = {}
    for name, value in attributes.items():
        try:
            check_attribute(type(obj), name, _REPLACED)
        except DamagedFile as error:
            writer.refuse(f"cannot be stored: {error}")
        kinds = _kinds(obj, name)
        if kinds and not isinstance(value, kinds):
            writer.refuse(f"cannot be stored: {name} is a {type(value).__name__}")
        nodes[name] = writer.node(value, name)
    return nodes


def _decode_attributes(obj: Any, nodes: dict[str, Any], reader: Reader) -> None:
    for name, node in nodes.items():
        check_attribute(type(obj), name, _REPLACED)
        setattr(obj, name, reader.value(node, *_kinds(obj, name)))


def _kinds(obj: Any, name: str) -> tuple[type, ...]:
    """Return the types that an attribute of one of our classes may have; () for any."""
    kinds = _TYPES.get(name, ()) if type(obj) in _names() else ()
    return kinds if isinstance(kinds, tuple) else (kinds,)


def _class(node: dict[str, Any], reader: Reader) -> Any:
    name = field(node, "class", str)
    if "needs" in node:
        cls = reader.trusted(name)
    else:
        cls = _public().get(name)
    if not _is_estimator_class(cls):
        raise DamagedFile(f"{name[:80]!r} is no estimator that it can hold")
    return cls


def _encode_part(value: Any, writer: Writer) -> dict[str, Any]:
    if is_dataclass(value):
        # The defaults of fields are attributes of the class.
        nodes = {name: writer.node(part, name) for name, part in vars(value).items()}
    else:
        nodes = _encode_attributes(value, vars(value), writer)
    return {"class": type(value).__name__, "attributes": nodes}


def _decode_part(node: dict[str, Any], reader: Reader) -> Any:
    name = field(node, "class", str)
    if name not in _PARTS:
        raise DamagedFile(f"{name[:80]!r} is no object that it can hold")
    cls = _PARTS[name]
    nodes = field(node, "attributes", dict)
    if is_dataclass(cls):
        return _decode_dataclass(cls, {k: reader.value(v) for k, v in nodes.items()})
    made: Any = object.__new__(cls)
    _decode_attributes(made, nodes, reader)
    return made


def _decode_dataclass(cls: Any, values: dict[str, Any]) -> Any:
    defaults = {field.name: field.default for field in fields(cls)}
    for name, value in values.items():
        if defaults.get(name) not in (None, MISSING) and type(value) is not type(defaults[name]):
            raise DamagedFile(f"{cls.__name__}.{name} is a {type(value).__name__}")
    return cls(**values)


def _encode_function(value: Any, writer: Writer) -> dict[str, Any]:
    if value in _names():
        return {"name": _names()[value]}
    name = _path_of(value, writer)
    return {"name": name, "needs": name}


def _decode_function(node: dict[str, Any], reader: Reader) -> Any:
    name = field(node, "name", str)
    value = reader.trusted(name) if "needs" in node else {**_public(), **_FUNCTIONS}.get(name)
    if value is None or isinstance(value, type):
        raise DamagedFile(f"{name[:80]!r} is no function that it can hold")
    return value


def _accepts_object(value: Any) -> bool:
    """Whether a callable object of the user, for example outliers=MyOutliers(...), is plain."""
    return (
        callable(value) and not isinstance(value, (type, nn.Module)) and hasattr(value, "__dict__")
    )


def _encode_object(value: Any, writer: Writer) -> dict[str, Any]:
    node = _class_fields(type(value), writer)
    node["attributes"] = _encode_attributes(value, vars(value), writer)
    return node


def _decode_object(node: dict[str, Any], reader: Reader) -> Any:
    cls = reader.trusted(field(node, "class", str))
    if not isinstance(cls, type):
        raise DamagedFile("it has an object of a class that is none")
    made: Any = object.__new__(cls)
    _decode_attributes(made, field(node, "attributes", dict), reader)
    return made


CODECS = [
    Codec("estimator", _accepts_estimator, _encode_estimator, _decode_estimator),
    Codec("part", lambda value: type(value) in _PARTS.values(), _encode_part, _decode_part),
    Codec(
        "function",
        lambda value: isinstance(value, (FunctionType, BuiltinFunctionType, np.ufunc)),
        _encode_function,
        _decode_function,
        shared=False,
    ),
    Codec("object", _accepts_object, _encode_object, _decode_object),
]
