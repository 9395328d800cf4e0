"""From a network to a program: its forward pass as a list of operators."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

from skood._files._operators import NUMBERS, is_known
from skood._files._program import Program
from skood._files._structure import OWN_DEVICE, OWN_DTYPE
from skood._files._tracing import NotExportable, exported
from skood._torch.packing import tensors_of
from skood.classifiers._forward import ForwardPass
from skood.classifiers._inputs import dtype_of

__all__ = ["to_program"]

_GRAD_MODE = "wrap_with_set_grad_enabled"
_AUTOCAST = "wrap_with_autocast"
_BATCH_NORM = torch.ops.aten._native_batch_norm_legit_no_training.default

# No number of items is larger.
_ANY = 2**31

# Checks of the example's sizes and dtypes, which return nothing.
_CHECKS = ("_assert", "sym_constrain_range", "_check")


def to_program(network: ForwardPass, example: Any, *, fixed_batch: bool = False) -> Program:
    """Export a network.

    Parameters
    ----------
    network : ForwardPass
        Its output may be chosen by a function, and its features too; the program then has the
        results of these functions.
    example : Tensor or dict of Tensor
        At least two items.
    fixed_batch : bool, default=False
        Whether the network takes only batches of the size of the example.

    Returns
    -------
    Program
        Returns the chosen output: as the only item of a list if `network.output` is not None.

    Raises
    ------
    NotExportable
        With the reason.
    """
    if any(isinstance(layer, torch.jit.ScriptModule) for layer in network.module.modules()):
        raise NotExportable("it is a scripted module, which torch.export does not read")
    if isinstance(example, dict):
        example = {name: example[name] for name in sorted(example)}
    graph = exported(network, example, fixed_batch)
    structure, tensors = _Encoder(network, example, graph).encode()
    try:
        return Program(structure, tensors)
    except ValueError as error:
        raise NotExportable(str(error)) from error


class _Encoder:
    """Converts an exported graph to the structure of a :class:`Program`."""

    def __init__(self, network: ForwardPass, example: Any, exported: Any) -> None:
        self._network = network
        self._example = example
        self._exported = exported
        self._nodes: list[dict[str, Any]] = []
        self._tensors: dict[str, Tensor] = {}
        self._kinds: list[list[str]] = []
        self._n_known = 0
        self._dtype = dtype_of(network.module)

    def encode(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        graph, signature = self._exported.graph, self._exported.graph_signature
        known = {**self._module_tensors(), **self._constants()}
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        specs = list(zip(placeholders, signature.input_specs, strict=True))
        users = [node for node, spec in specs if spec.target is None]
        used = [(node, spec) for node, spec in specs if spec.target is not None and node.users]
        names = [*self._example] if isinstance(self._example, dict) else [None]
        bound: dict[Any, Any] = {node: {"value": i} for i, node in enumerate(users)}
        for node, spec in used:
            if spec.target not in known:
                raise NotExportable(f"it has the constant {spec.target!r}, which is no tensor")
            name, kind, tensor = known[spec.target]
            bound[node] = {"value": len(users) + self._add_tensor(name, kind, tensor)}
        self._add_head(specs)
        self._n_known = len(users) + len(self._kinds)
        outputs = self._emit(graph, bound, tracks=True)
        for spec in signature.output_specs:
            if spec.kind.name == "BUFFER_MUTATION":
                name, *_ = known[spec.target]
                raise NotExportable(f"its forward pass changes its buffer {name!r}")
        n_mutated = sum(spec.kind.name != "USER_OUTPUT" for spec in signature.output_specs)
        output = outputs[n_mutated]
        output = output if self._network.output is None else [output]
        structure = {
            "name": self._network.name,
            "inputs": [
                {"name": name, "shape": self._shape(node)}
                for name, node in zip(names, users, strict=True)
            ],
            "tensors": self._kinds,
            "nodes": self._nodes,
            "output": output,
        }
        return structure, self._tensors

    def _shape(self, node: Any) -> list[Any]:
        """Return the shape of an input: numbers, ranges, and None for any number."""
        ranges = self._exported.range_constraints
        shape: list[Any] = []
        for n in node.meta["val"].shape:
            known = None if isinstance(n, int) else ranges.get(n.node.expr)
            low, high = (0, _ANY) if known is None else (int(known.lower), min(_ANY, known.upper))
            # torch.export takes 0 and 1 for other cases than any number.
            limited = low > 2 or high < _ANY
            shape.append(n if isinstance(n, int) else [low, int(high)] if limited else None)
        return shape

    def _module_tensors(self) -> dict[str, tuple[str, str, Tensor]]:
        return {
            f"module.{name}": (name, _kind(tensor), tensor)
            for name, tensor in tensors_of(self._network.module).items()
        }

    def _constants(self) -> dict[str, tuple[str, str, Tensor]]:
        constants = {
            **{k: v for k, v in self._exported.constants.items() if isinstance(v, Tensor)},
            **self._exported.state_dict,
        }
        return {
            target: (f"constants.{target.replace('.', '_')}", "buffer", tensor.detach())
            for target, tensor in constants.items()
            if target not in self._module_tensors()
        }

    def _add_tensor(self, name: str, kind: str, tensor: Tensor) -> int:
        self._kinds.append([name, kind])
        self._tensors[name] = tensor
        return len(self._kinds) - 1

    def _add_head(self, specs: Any) -> None:
        """Add the weight and bias of the last layer if they are computed from parameters."""
        layer = self._network.last_layer if self._network.reading is not None else None
        head = self._network.reading and self._network.reading.head
        if layer is None or not head:
            return
        for leaf in ("weight", "bias"):
            name = f"{head.name}.{leaf}" if head.name else leaf
            tensor = getattr(layer, leaf, None)
            if isinstance(tensor, Tensor) and name not in self._tensors:
                self._add_tensor(name, "buffer", tensor.detach())

    def _emit(self, graph: Any, bound: dict[Any, Any], tracks: bool) -> list[Any]:
        """Add the operators of a graph; return its outputs.

        Parameters
        ----------
        graph : torch.fx.Graph
        bound : dict
            References to the values of placeholders; the values of all nodes are added.
        tracks : bool
            Whether gradients pass.
        """
        for node in graph.nodes:
            if node.op == "get_attr":
                bound[node] = getattr(graph.owning_module, node.target)
                if isinstance(bound[node], Tensor):
                    raise NotExportable(f"it has the constant {node.target!r} inside a block")
            elif node.op == "output":
                return self._encoded(node.args[0], bound)
            elif node.op == "call_function":
                self._emit_call(node, bound, tracks)
        raise NotExportable("its graph has no output")

    def _emit_call(self, node: Any, bound: dict[Any, Any], tracks: bool) -> None:
        target = node.target
        name = getattr(target, "__name__", str(target))
        if name in (_GRAD_MODE, _AUTOCAST):
            bound[node] = self._inline(name, node, bound, tracks)
            return
        if isinstance(target, torch._ops.OpOverload) and target._schema.name.startswith("aten::"):
            name = str(target)
        if any(name.removeprefix("aten.").startswith(check) for check in _CHECKS):
            return
        args, kwargs = self._encoded([*node.args], bound), self._encoded(dict(node.kwargs), bound)
        op = self._op(node, name)
        if isinstance(target, torch._ops.OpOverload):
            self._refuse_changes(target, args)
        if op == "getitem" and isinstance(args[0], list):
            bound[node] = args[0][args[1]]
            return
        if op == "aten._native_batch_norm_legit_no_training.default":
            # How torch 2.4 exports it, without a gradient.
            op, args = "aten.batch_norm.default", [*args[:5], False, *args[5:], True]
        if op == "getitem" and node.args[0].target is _BATCH_NORM and args[1] == 0:
            bound[node] = args[0]
            return
        kwargs = kwargs["fields"] if kwargs else {}
        self._nodes.append({"op": op, "args": args, "kwargs": kwargs, "tracks": tracks})
        bound[node] = {"value": self._n_known + len(self._nodes) - 1}

    def _refuse_changes(self, target: Any, args: list[Any]) -> None:
        """Raise an error for an operation that changes a parameter or buffer in place."""
        first, end = self._n_known - len(self._kinds), self._n_known
        for argument, value in zip(target._schema.arguments, args, strict=False):
            writes = argument.alias_info is not None and argument.alias_info.is_write
            if writes and isinstance(value, dict) and first <= value.get("value", -1) < end:
                name, _ = self._kinds[value["value"] - first]
                raise NotExportable(f"its forward pass changes its buffer {name!r}")

    def _op(self, node: Any, name: str) -> str:
        target = node.target
        if target is operator.getitem:
            return "getitem"
        if target is torch.ops.skood.layer.default:
            return "layer"
        if target is torch.ops.skood.linear.default:
            return "linear"
        if target is torch.ops.skood.dropout.default:
            return "dropout"
        number = next((key for key, function in NUMBERS.items() if function is target), None)
        if number is not None:
            return f"number.{number}"
        if not is_known(name):
            raise NotExportable(f"it uses the operator {name}, which a file does not hold")
        return name

    def _inline(self, name: str, node: Any, bound: dict[Any, Any], tracks: bool) -> list[Any]:
        """Add the operators of a block with another gradient mode or precision."""
        if name == _GRAD_MODE:
            tracks = tracks and bool(node.args[0])
            body, values = node.args[1], node.args[2:]
        else:
            if node.args[2]:
                raise NotExportable("it runs a block under autocast, whose precision varies")
            body, values = node.args[4], node.args[5:]
        inner = bound[body].graph
        places = [part for part in inner.nodes if part.op == "placeholder"]
        given = zip(places, self._encoded([*values], bound), strict=True)
        return self._emit(inner, dict(given), tracks)

    def _encoded(self, value: Any, bound: dict[Any, Any]) -> Any:
        """Encode an argument for JSON."""
        if isinstance(value, torch.fx.Node):
            return bound[value]
        if isinstance(value, (list, tuple)):
            return [self._encoded(part, bound) for part in value]
        if isinstance(value, dict):
            fields = {name: self._encoded(part, bound) for name, part in value.items()}
            return {"fields": fields} if fields else {}
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            finite = value - value == 0
            return value if finite else {"float": str(value)}
        if isinstance(value, torch.device):
            return OWN_DEVICE
        if isinstance(value, torch.dtype):
            return OWN_DTYPE if value == self._dtype else {"dtype": str(value)[len("torch.") :]}
        if value is torch.strided:
            return {"layout": "strided"}
        if isinstance(value, torch.memory_format):
            return {"memory_format": str(value).removeprefix("torch.").removesuffix("_format")}
        raise NotExportable(f"an operator takes a {type(value).__name__}, which a file cannot hold")


def _kind(tensor: Tensor) -> str:
    if not isinstance(tensor, nn.Parameter):
        return "buffer"
    return "parameter" if tensor.requires_grad else "frozen"
