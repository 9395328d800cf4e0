"""The networks that our estimators trained, as named tensors, and their reconstruction.

A file holds no code: `load` builds the network with the method that `fit` builds it with
(``_make_network``), from the estimator's parameters and fitted attributes, and fills in the
tensors. The format of a file therefore depends on the names and shapes of the tensors of every
network of this package. After a change of a network's code, files of earlier versions load only if

- each parameter and buffer of the network has its old name, shape and dtype, and
- the network computes the same function of them.

A change of either needs a reader of the old names here, and a new number of the file's format. A
change of a default does not, since a file states all parameters. A new parameter of an
architecture needs a default with which the network is the old one.

The names are torch's, for example ``0.weight``. ResNet and DenseNet are modules of torchvision with
the names of its published weights, by which detectors also name inner layers.
The modules of zuko have other names in other versions: files have the names of
:func:`_spline_tensors`, and also the masks, which zuko derives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skood._files._codec import DamagedFile
from skood._torch.estimator import NeuralEstimator
from skood._torch.packing import tensors_of
from skood._torch.seeding import isolated_rng
from skood.classifiers import NeuralClassifier
from skood.classifiers._network_classifier import last_linear
from skood.density import NeuralSplineFlow
from skood.density._base import NeuralModel

__all__ = ["network_record", "restored_network"]

# Functions that make tensors, and the most calls of them that build a network, for each of its
# tensors and in any case.
_FACTORIES = {torch.empty, torch.ones, torch.rand, torch.randn, torch.zeros}
_CALLS_A_TENSOR, _CALLS = 10, 100
# Functions of the random initial values in the layers that zuko makes.
_DRAWS = {Tensor.uniform_, nn.init.uniform_, nn.init.kaiming_uniform_}
# Most entries of the matrix of dependencies that zuko derives masks from, for each stored value
# and in any case.
_ENTRIES_A_VALUE, _ENTRIES = 100, 100_000_000


def network_record(estimator: NeuralEstimator) -> dict[str, Any]:
    """Describe the trained network of an estimator.

    Returns
    -------
    dict
        "tensors": parameters and buffers by name, on the CPU and contiguous. Where they apply:
        "n_outputs", the outputs of a classifier's network; "removed", the parameters that training
        removed; "added", the buffers that it added; "frozen", the parameters without a gradient.

    Raises
    ------
    ValueError
        If the estimator's parameters do not describe the network.
    """
    module = estimator.module_
    name = type(estimator).__name__
    record: dict[str, Any] = {}
    if isinstance(estimator, NeuralClassifier):
        record["n_outputs"] = last_linear(module).out_features
    try:
        made = _made(estimator, record.get("n_outputs"))
    except Exception as error:
        raise ValueError(
            f"the network of {name} cannot be made again with its parameters: {error}; if "
            "parameters were set after fit, fit again"
        ) from error
    tensors, expected = _tensors(estimator, module), _tensors(estimator, made)
    removed = [key for key in expected if key not in tensors]
    added = [key for key in tensors if key not in expected]
    _apply_changes(made, removed, {key: tensors[key] for key in added})
    expected = _tensors(estimator, made)
    if (
        _kinds(module) != _kinds(made)
        or _forms(tensors) != _forms(expected)
        or not _same_derived(estimator, module, made)
    ):
        raise ValueError(
            f"the network of {name} is not the one that its parameters describe: "
            f"{_difference(tensors, expected)}; if parameters or module_ were set after fit, fit "
            "again"
        )
    for part, attribute in _unregistered(module):
        raise ValueError(
            f"the layer {part!r} of the network of {name} has the tensor {attribute!r}, which is "
            "not a parameter or a buffer; use register_buffer"
        )
    if removed:
        record["removed"] = removed
    if added:
        record["added"] = added
    frozen = [key for key, tensor in tensors.items() if _is_frozen(tensor)]
    if frozen != [key for key, tensor in expected.items() if _is_frozen(tensor)]:
        record["frozen"] = frozen
    record["tensors"] = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    return record


def restored_network(estimator: NeuralEstimator, record: dict[str, Any]) -> nn.Module:
    """Build the network of an estimator, and fill in stored tensors.

    Parameters
    ----------
    estimator : NeuralEstimator
        With parameters and fitted attributes, without ``module_``.
    record : dict
        As :func:`network_record` returns it; may be hostile. Its tensors are removed one by one.

    Returns
    -------
    Module
        On the CPU, in eval mode, in the memory format of `fit`.

    Raises
    ------
    DamagedFile
        If the tensors do not fit the network.
    """
    tensors = _checked(record, "tensors", dict, Tensor)
    n_outputs = record.get("n_outputs")
    if n_outputs is not None and type(n_outputs) is not int:
        raise DamagedFile("the number of outputs of a network is not an integer")
    removed = _checked(record, "removed", list, str)
    added = _checked(record, "added", list, str)
    frozen = _checked(record, "frozen", list, str) if "frozen" in record else None
    if isinstance(estimator, NeuralSplineFlow):
        _check_sizes(estimator, tensors)
    module = _made(estimator, n_outputs, limit=_CALLS + _CALLS_A_TENSOR * len(tensors))
    if not set(added) <= tensors.keys():
        raise DamagedFile("a network has additional buffers without values")
    _apply_changes(module, removed, {key: tensors[key] for key in added})
    expected = _tensors(estimator, module)
    if _forms(tensors) != _forms(expected):
        raise DamagedFile(
            f"its tensors do not fit the network of {type(estimator).__name__} in this version of "
            f"skood: {_difference(tensors, expected)}"
        )
    made: dict[int, Tensor] = {}
    for key, place in expected.items():
        value = torch.empty_strided(place.shape, place.stride(), dtype=place.dtype)
        value.copy_(tensors.pop(key).detach())
        if isinstance(place, nn.Parameter):
            has_gradient = place.requires_grad if frozen is None else key not in frozen
            value = nn.Parameter(value, requires_grad=has_gradient)
        made[id(place)] = value
    for part in module.modules():
        for registry in (part._parameters, part._buffers):
            for key, old in registry.items():
                if old is not None:
                    registry[key] = made.get(id(old), old)
    return module.eval()


def _checked(record: dict[str, Any], key: str, kind: type, of: type) -> Any:
    value = record.get(key, kind())
    items = value.values() if isinstance(value, dict) else value
    if type(value) is not kind or not all(isinstance(item, of) for item in items):
        raise DamagedFile(f"the {key!r} of a network is not a {kind.__name__} of {of.__name__}s")
    return value


def _made(
    estimator: NeuralEstimator, n_outputs: int | None, *, limit: int | None = None
) -> nn.Module:
    """Return the network as `fit` makes it, untrained."""
    if not isinstance(estimator, (NeuralClassifier, NeuralModel)):
        raise ValueError(f"skood does not know how {type(estimator).__name__} makes its network")
    shape = estimator._preprocessing.item_shape
    if type(shape) is not tuple or not all(type(n) is int and n > 0 for n in shape):
        raise DamagedFile(f"{shape!r} is not the shape of an item")
    with contextlib.ExitStack() as stack:
        if isinstance(estimator, NeuralSplineFlow):
            # zuko derives masks from values, which the "meta" device has not.
            stack.enter_context(_WithoutDraws())
        elif type(estimator).__module__.startswith("skood."):
            stack.enter_context(torch.device("meta"))
        else:
            # The code of a user may read values.
            stack.enter_context(isolated_rng(torch.device("cpu"), 0))
        if limit is not None:
            stack.enter_context(_Limit(limit))
        if isinstance(estimator, NeuralClassifier):
            if n_outputs is None:
                raise DamagedFile("the number of outputs of a classifier's network is absent")
            return estimator._make_network(shape, n_outputs)
        return estimator._trained(estimator._make_network(shape))


class _Limit(TorchFunctionMode):
    """Raises after a number of new tensors, since a file may describe a network of any depth."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.left = limit

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # Other functions must not raise: `no_grad` calls one of them to turn gradients on again.
        self.left -= function in _FACTORIES
        if function in _FACTORIES and self.left < 0:
            raise DamagedFile("the network has more layers than the file has tensors for")
        return function(*args, **(kwargs or {}))


class _WithoutDraws(TorchFunctionMode):
    """Leaves out the random initial values, on the CPU."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        if function is torch.randn:
            function = torch.zeros
        return function(*args, **kwargs)


def _apply_changes(module: nn.Module, removed: list[str], added: dict[str, Tensor]) -> None:
    """Remove parameters from an untrained network, and add buffers, as an objective did."""
    for name in removed:
        layer, own = _owner(module, name)
        if own not in layer._parameters:
            raise DamagedFile(f"the network has no parameter {name!r} to remove")
        layer.register_parameter(own, None)
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            layer.affine = False
    for name, tensor in added.items():
        layer, own = _owner(module, name)
        if isinstance(tensor, nn.Parameter):
            raise DamagedFile(f"{name!r} of the network is not a buffer")
        # Raises if the layer has an attribute of this name.
        layer.register_buffer(own, torch.empty_like(tensor, device="meta"))


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own = name.rpartition(".")
    layers = dict(module.named_modules())
    if path not in layers:
        raise DamagedFile(f"the network has no layer {path!r}")
    return layers[path], own


def _tensors(estimator: NeuralEstimator, module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network by their names in a file."""
    if isinstance(estimator, NeuralSplineFlow):
        return dict(_spline_tensors(module))
    return tensors_of(module)


def _spline_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of zuko's neural spline flow, under names of our own.

    Of each transform, the weight, bias and mask of each linear layer. In one dimension the splines
    do not depend on x: their widths, heights and derivatives.
    """
    transforms: Any = module.get_submodule("transform.transforms")
    for k, transform in enumerate(transforms):
        if hasattr(transform, "hyper"):
            layers = [layer for layer in transform.hyper if isinstance(layer, nn.Linear)]
            for j, layer in enumerate(layers):
                for name in ("weight", "bias", "mask"):
                    yield f"transforms.{k}.layers.{j}.{name}", getattr(layer, name)
        else:
            names = ("widths", "heights", "derivatives")
            for name, tensor in zip(names, transform.phi, strict=True):
                yield f"transforms.{k}.{name}", tensor


def _check_sizes(flow: NeuralSplineFlow, tensors: dict[str, Tensor]) -> None:
    """Raise if a flow is much larger than its stored tensors, before memory is allocated."""
    n_features = flow._preprocessing.item_shape[0]
    n_parameters = n_features * (3 * flow.n_bins - 1)
    n_values = sum(tensor.numel() for tensor in tensors.values())
    widths = (n_features, *flow.hidden_features, n_parameters)
    n_weights = sum(a * b for a, b in pairwise(widths)) if n_features > 1 else n_parameters
    n_entries = n_features * n_parameters
    if (
        flow.n_transforms * n_weights > n_values
        or n_entries > _ENTRIES_A_VALUE * n_values + _ENTRIES
    ):
        raise DamagedFile("it has fewer values than the parameters of its NeuralSplineFlow need")


def _same_derived(estimator: NeuralEstimator, module: nn.Module, made: nn.Module) -> bool:
    """Whether the tensors that a file does not hold equal the ones of an untrained network."""
    if not isinstance(estimator, NeuralSplineFlow):
        return True
    stored = {id(tensor) for tensor in _tensors(estimator, module).values()}
    expected = tensors_of(made)
    return all(
        id(tensor) in stored or torch.equal(tensor.cpu(), expected[name])
        for name, tensor in tensors_of(module).items()
    )


def _kinds(module: nn.Module) -> list[tuple[str, str]]:
    """Return the names and classes of all layers."""
    return [(name, type(layer).__qualname__) for name, layer in module.named_modules()]


def _forms(tensors: dict[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def _is_frozen(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and not tensor.requires_grad


def _difference(given: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """Describe the first tensor that does not fit."""
    came, wanted = _forms(given), _forms(expected)
    for name in {**wanted, **came}:
        if came.get(name) != wanted.get(name):
            parts = [
                f"{forms[name][1]} of shape {forms[name][0]}" if name in forms else "absent"
                for forms in (came, wanted)
            ]
            return f"{name!r} is {parts[0]}, expected {parts[1]}"
    return "its layers are of other kinds"


def _unregistered(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield layers and attributes of tensors that are no parameters or buffers."""
    for name, layer in module.named_modules():
        for attribute, value in vars(layer).items():
            items = value if isinstance(value, (list, tuple)) else [value]
            if any(isinstance(item, Tensor) for item in items):
                yield name, attribute
