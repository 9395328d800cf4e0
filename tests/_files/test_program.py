"""Programs compute what their networks compute, and hostile ones are refused."""

import copy
import json
import pickle

import joblib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skood._files._export import to_program
from skood._files._program import Program
from skood._files._tracing import NotExportable
from skood._torch.batching import _AlignedRows
from skood._torch.packing import tensors_of
from skood.classifiers._forward import ForwardPass


class Function(nn.Module):
    """A forward pass as a function of the module and its input."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def linear(n_in=6, n_out=4):
    return nn.Linear(n_in, n_out)


def program_of(module, x):
    return to_program(ForwardPass(module.eval(), lambda *_: None), x)


def rows(n):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(n))


def sequences(n):
    return torch.randn(n, 5, 6, generator=torch.Generator().manual_seed(n))


def images(n):
    return torch.rand(n, 3, 9, 9, generator=torch.Generator().manual_seed(n))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.GroupNorm(2, 8),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        linear(8),
    )


def frozen_part(module, x):
    with torch.no_grad():
        z = module.part(x).tanh()
    z = z + x
    z += torch.arange(6, device=x.device)
    z[:, 0] = 0
    return module.head(z.masked_fill(z > 3, -torch.inf).softmax(1))


def attention(module, x):
    z, _ = module.attention(x, x, x)
    return module.head(module.layers(z).mean(1))


def tied():
    module = Function(lambda m, x: m.head(m.first(m.second(x).relu())))
    module.first, module.second, module.head = linear(6, 6), linear(6, 6), linear()
    module.second.weight = module.first.weight
    return module


NETWORKS = {
    "rows": (lambda: nn.Sequential(linear(6, 8), nn.ReLU(), linear(8)), rows),
    "one layer": (linear, rows),
    "convolutions": (convolutions, images),
    "channels last": (lambda: convolutions().to(memory_format=torch.channels_last), images),
    "LSTM": (
        lambda: Function(
            lambda m, x: m.head(m.cell(x)[0][:, -1]),
            cell=nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True),
            head=linear(10),
        ),
        sequences,
    ),
    "attention": (
        lambda: Function(
            attention,
            attention=nn.MultiheadAttention(6, 2, batch_first=True),
            layers=nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 1),
            head=linear(),
        ),
        sequences,
    ),
    "no gradient": (lambda: Function(frozen_part, part=linear(6, 6), head=linear()), rows),
    "tied": (tied, rows),
    "twice": (
        lambda: Function(lambda m, x: m.b(m.a(m.a(x).relu())), a=linear(6, 6), b=linear()),
        rows,
    ),
    "parametrised": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(linear(6, 8)),
            nn.ReLU(),
            nn.utils.parametrizations.spectral_norm(linear(8)),
        ),
        rows,
    ),
    "names": (
        lambda: Function(lambda m, x: m.structure(x) + m.tensors, structure=linear(), tensors=1.0),
        rows,
    ),
}


@pytest.fixture(scope="module")
def made():
    """Return a network, its program, and a function that makes its input, once for each."""
    known = {}

    def make(name):
        if name not in known:
            network, items = NETWORKS[name]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                module = network().eval()
            known[name] = module, program_of(module, items(3)), items
        return known[name]

    return make


@pytest.mark.parametrize("name", NETWORKS)
def test_same_bits(made, name):
    module, program, items = made(name)
    stored = json.loads(json.dumps(program.program_structure, allow_nan=False))
    again = Program(stored, tensors_of(program))
    for n in (1, 2, 33):
        x = items(n)
        with torch.inference_mode(), _AlignedRows():
            expected = module(x.clone())
            assert torch.equal(program(x.clone()), expected)
            assert torch.equal(again(x.clone()), expected)
        copies = [items(n).requires_grad_() for _ in range(2)]
        ours, theirs = (
            torch.autograd.grad(network(x).sum(), x)[0]
            for network, x in zip((program, module), copies, strict=True)
        )
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["convolutions", "tied", "LSTM"])
def test_copies(made, name):
    _, program, items = made(name)
    for again in (copy.deepcopy(program), pickle.loads(pickle.dumps(program))):
        assert torch.equal(again(items(3)), program(items(3)))
        assert [p.stride() for p in again.parameters()] == [
            p.stride() for p in program.parameters()
        ]
    assert joblib.hash(program.program_structure) == joblib.hash(again.program_structure)
    assert len([*again.parameters()]) == len([*program.parameters()])


def test_layers_keep_their_names_and_hooks(made):
    module, program, items = made("convolutions")
    seen = {}
    for key, network in {"program": program, "module": module}.items():
        hooks = [
            layer.register_forward_hook(
                lambda layer, args, out, key=key, name=name: seen.setdefault(name, {}).update(
                    {key: (args[0].detach().clone(), out.detach().clone())}
                )
            )
            for name, layer in network.named_modules()
            if name
        ]
        with torch.no_grad():
            network(items(2))
        for hook in hooks:
            hook.remove()
    assert len(seen) == len(module)
    for values in seen.values():
        for ours, theirs in zip(values["program"], values["module"], strict=True):
            assert torch.equal(ours, theirs)
    # What a hook returns takes the place of the output.
    hook = program.get_submodule("9").register_forward_hook(lambda layer, args, out: 0 * out)
    assert torch.equal(program(items(2)), module[-1].bias.expand(2, -1))
    hook.remove()


def test_other_precision(made):
    module, program, items = made("convolutions")
    for dtype in (torch.float64, torch.bfloat16):
        expected = copy.deepcopy(module).to(dtype)(items(2).to(dtype))
        found = copy.deepcopy(program).to(dtype)(items(2).to(dtype))
        assert found.dtype == dtype
        assert torch.equal(found, expected)


def test_half_precision_stays_when_converted():
    module = Function(lambda m, x: m.a(x.float().softmax(1).to(torch.float16)), a=linear().half())
    program = program_of(module, rows(3).half())
    assert torch.equal(program(rows(4).half()), module(rows(4).half()))
    assert program.float()(rows(4)).dtype == torch.float32


def test_shapes_are_checked(made):
    _, program, _ = made("convolutions")
    with pytest.raises(ValueError, match=r"takes shape \(any, 3, 9, 9\), but \(2, 3, 8, 9\) came"):
        program(torch.rand(2, 3, 8, 9))
    with pytest.raises(ValueError, match=r"takes one tensor, but the fields \['x'\] came"):
        program(x=torch.rand(2, 3, 9, 9))


def test_fields():
    module = Function(
        lambda m, tokens, mask: m.b((m.a(tokens) * mask[..., None]).sum(1) / mask.sum(1)[:, None]),
        a=nn.Embedding(20, 6),
        b=linear(),
    )
    tokens = torch.arange(15).reshape(3, 5)
    program = program_of(module, {"tokens": tokens, "mask": (tokens > 2).long()})
    for shape in ((1, 5), (4, 7), (2, 1)):
        fields = {"tokens": torch.ones(shape, dtype=torch.int64)}
        fields["mask"] = fields["tokens"]
        assert torch.equal(program(**fields), module(**fields))
    with pytest.raises(ValueError, match=r"takes the fields \['mask', 'tokens'\], but .*'tokens'"):
        program(tokens=tokens)


def counting(module, x):
    module.seen += 1
    return module.a(x)


def counter():
    module = Function(counting, a=linear())
    module.register_buffer("seen", torch.zeros(()))
    return module


REFUSED = {
    "branches on the values": lambda: Function(
        lambda m, x: m.a(x) if x.sum() > 0 else m.a(-x), a=linear()
    ),
    r"fixes the number of items in a batch, as len\(x\)": lambda: Function(
        lambda m, x: m.a(x).reshape(len(x), 4), a=linear()
    ),
    "uses the operator aten.randn": lambda: Function(
        lambda m, x: m.a(x + torch.randn(6)), a=linear()
    ),
    "uses the operator aten.bernoulli|draws random masks": lambda: Function(
        lambda m, x: m.a(F.dropout(x, 0.5, training=True)), a=linear()
    ),
    "changes its buffer 'seen'": counter,
    "scripted": lambda: torch.jit.script(nn.Sequential(linear())),
    r"ended in RuntimeError: .*numpy": lambda: Function(
        lambda m, x: m.a(torch.from_numpy(x.numpy())), a=linear()
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("reason", REFUSED)
def test_refused_with_a_reason(reason, capfd):
    with pytest.raises(NotExportable, match=reason):
        program_of(REFUSED[reason](), rows(3))
    assert capfd.readouterr() == ("", "")


VALUE = {"value": 0}
HUGE = 10**15


def structure(*nodes, **changes):
    """Describe a program on one input of 6 columns, whose output is its last value."""
    nodes = [{"kwargs": {}, "tracks": True, **node} for node in nodes]
    return {
        "name": "Hostile",
        "inputs": [{"name": None, "shape": [None, 6]}],
        "tensors": [],
        "nodes": nodes,
        "output": {"value": len(nodes)},
        **changes,
    }


HOSTILE = {
    "file": structure({"op": "aten.from_file.default", "args": ["/etc/passwd"]}),
    "other library": structure({"op": "skood.layer.default", "args": [VALUE, VALUE, "a"]}),
    "python": structure({"op": "builtins.eval", "args": ["1"]}),
    "dunder": structure({"op": "aten.__class__.default", "args": []}),
    "attribute": structure({"op": "aten.abs.__class__", "args": [VALUE]}),
    "out": structure({"op": "aten.add.out", "args": [VALUE, VALUE], "kwargs": {"out": VALUE}}),
    "set": structure({"op": "aten.set_.source_Tensor", "args": [VALUE, VALUE]}),
    "resize": structure({"op": "aten.resize_.default", "args": [VALUE, [HUGE]]}),
    "memory without values": structure({"op": "aten.empty.memory_format", "args": [[6]]}),
    "random": structure({"op": "aten.rand_like.default", "args": [VALUE]}),
    "masks": structure({"op": "aten.dropout.default", "args": [VALUE, 0.5, True]}),
    "power": structure({"op": "number.pow", "args": [9, 9]}),
    "call": structure({"op": "number.__call__", "args": [9, 9]}),
    "itself": structure({"op": "layer", "args": [VALUE, VALUE, ""]}),
    "forward": structure({"op": "layer", "args": [VALUE, VALUE, "forward"]}),
    "class": structure({"op": "layer", "args": [VALUE, VALUE, "__class__"]}),
    "code": structure({"op": "layer", "args": [VALUE, VALUE, "a; import os"]}),
    "cycle": structure({"op": "aten.abs.default", "args": [{"value": 1}]}),
    "later": structure({"op": "aten.abs.default", "args": [{"value": 9}]}),
    "negative": structure({"op": "aten.abs.default", "args": [{"value": -1}]}),
    "too few": structure({"op": "aten.add.Tensor", "args": [VALUE]}),
    "too many": structure({"op": "aten.abs.default", "args": [VALUE, VALUE]}),
    "unknown name": structure(
        {"op": "aten.abs.default", "args": [VALUE], "kwargs": {"generator": None}}
    ),
    "unknown kind": structure({"op": "aten.abs.default", "args": [{"pickle": "x"}]}),
    "dtype": structure({"op": "aten.to.dtype", "args": [VALUE, {"dtype": "__loader__"}]}),
    "deep": structure({"op": "aten.cat.default", "args": [json.loads("[" * 99 + "]" * 99)]}),
    "no list": structure(nodes={}),
    "item": structure({"op": "getitem", "args": [VALUE, "shape"]}),
    "dropout": structure({"op": "dropout", "args": [VALUE, "__class__", 0.5, False]}),
    "no inputs": structure(inputs=[], output=1),
    "tensor twice": structure(tensors=[["a", "buffer"], ["a", "buffer"]]),
    "tensor of torch": structure(tensors=[["_parameters", "buffer"]]),
    "kind of tensor": structure(tensors=[["a", "hook"]]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_programs_are_refused(what):
    tensors = {"a": torch.zeros(()), "_parameters": torch.zeros(())}
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        Program(json.loads(json.dumps(HOSTILE[what])), tensors)


def test_numbers_cannot_grow():
    square = [{"op": "number.mul", "args": [{"value": k}, {"value": k}]} for k in range(1, 99)]
    size = {"op": "aten.sym_size.int", "args": [VALUE, 1]}
    program = Program(structure(size, *square), {})
    with pytest.raises(OverflowError, match="too large"):
        program(rows(2))
    program = Program(structure({"op": "number.mul", "args": [[0], HUGE]}), {})
    with pytest.raises(TypeError, match="takes numbers"):
        program(rows(2))


def test_values_are_freed():
    """An operator's result stays in memory only until its last use."""
    nodes = [{"op": "aten.add.Tensor", "args": [{"value": k}, 1]} for k in range(50)]
    program = Program(structure(*nodes), {})
    steps, *_ = program._steps()
    assert [step.finished for step in steps[:3]] == [(), (1,), (2,)]
    assert torch.equal(program(torch.zeros(2, 6)), torch.full((2, 6), 50.0))
    assert np.isfinite(program(rows(2)).numpy()).all()
