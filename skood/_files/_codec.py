"""How objects become a tree of JSON and named arrays, and how kinds of object plug in.

A :class:`Codec` declares which objects it encodes, the tag under which they are stored, and two
functions. Each module of this folder with codecs lists them as ``CODECS``; `_api.py` joins the
lists, and the first codec that accepts an object encodes it::

    def _encode(value: Fraction, writer: Writer) -> dict[str, Any]:
        return {"parts": writer.node((value.numerator, value.denominator), "parts")}


    def _decode(node: dict[str, Any], reader: Reader) -> Fraction:
        return Fraction(*reader.value(field(node, "parts", dict), tuple))


    CODECS = [Codec("fraction", lambda value: type(value) is Fraction, _encode, _decode)]

- `encode` returns the fields of the node, without ``"is"`` (the tag) and ``"id"``. Children are
  encoded with ``writer.node(child, "name")``, where the name is the child's place in its parent,
  for the names of arrays and for error messages.
- ``writer.array(array)`` and ``writer.tensor(tensor)`` store a numpy array or a torch tensor of a
  dtype that safetensors has, and return its name. ``reader.array(name)`` and
  ``reader.tensor(name)`` hand over the stored values without a copy, each name once, so that only
  one copy of large weights is in memory. ``writer.node(array)`` stores an array of any dtype, with
  its layout.
- An object that occurs twice is encoded once; both places get one object again, since pickles and
  :func:`joblib.hash` depend on it even for tuples. A codec of values without identity (numbers,
  functions) sets ``shared=False``.
- ``writer.refuse(reason)`` raises an error that names the place of the object.
  ``writer.note(text)`` adds a line to the file's card. A node that names a class or function
  outside this package has the name in the field ``"needs"``; ``reader.trusted(name)`` returns it if
  the caller of `load` trusts it.

A file may be hostile, even with a correct checksum. A decoder therefore imports nothing that the
file names, calls nothing but known classes, takes fields through :func:`field`, checks the names
of attributes with :func:`check_attribute`, and allocates no more than the arrays of the file hold.
A network is built on the "meta" device, and its parameters are counted while it is built, since
the file states the number of layers. A decoder may raise any exception; `load` turns it into one
error.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field as dataclass_field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._files._container import Array, array_of, tensor_of

__all__ = ["Codec", "DamagedFile", "Reader", "Writer", "check_attribute", "field"]

_DEEPEST = 100
# Objects that a tree may stand for, for each of its nodes and in any case: a shared object counts
# wherever it occurs, since printing or comparing the whole takes that time.
_OBJECTS_A_NODE, _OBJECTS = 10, 2_000_000


class DamagedFile(ValueError):
    """Content that `save` does not write; `load` adds the path of the file."""


@dataclass(frozen=True)
class Codec:
    """Encoding of one kind of object, see the top of this module.

    Attributes
    ----------
    tag : str
        Name of the kind in a file; never reused for another kind.
    accepts : callable
        Whether an object is of this kind.
    encode : callable
        From the object and a :class:`Writer` to the fields of a node, which JSON can hold.
    decode : callable
        From the node and a :class:`Reader` to the object.
    shared : bool
        Whether two places with the same object get the same object again.
    """

    tag: str
    accepts: Callable[[Any], bool]
    encode: Callable[[Any, Writer], dict[str, Any]]
    decode: Callable[[dict[str, Any], Reader], Any]
    shared: bool = True


@dataclass
class Writer:
    """Encodes objects; collects their arrays and the notes of the card.

    Attributes
    ----------
    codecs : sequence of Codec
    root : str
        Name of the estimator in error messages.
    modules : {"program", "weights"}
        How a user's own network is stored.
    estimator : estimator or None
        What is saved as a whole.
    kept : dict
        What codecs have made of parts of the estimator.
    """

    codecs: Sequence[Codec]
    root: str
    modules: str = "program"
    estimator: Any = None
    kept: dict[Any, Any] = dataclass_field(default_factory=dict)
    arrays: dict[str, Array] = dataclass_field(default_factory=dict)
    notes: list[str] = dataclass_field(default_factory=list)
    _place: list[str] = dataclass_field(default_factory=list)
    # Node and object by id; the reference keeps the id from being used again.
    _known: dict[int, tuple[dict[str, Any], Any]] = dataclass_field(default_factory=dict)
    _open: set[int] = dataclass_field(default_factory=set)
    _n_ids: int = 0

    @property
    def place(self) -> str:
        """Where in the estimator the current object is."""
        return ".".join([self.root, *self._place])

    def node(self, value: Any, name: str = "") -> Any:
        """Encode an object, which is `name` in the object that is being encoded."""
        if value is None or type(value) in (bool, str):
            return value
        if type(value) is int and abs(value) < 2**63:
            return value
        if type(value) is float and math.isfinite(value):
            return value
        if name:
            self._place.append(name)
        try:
            return self._compound(value)
        finally:
            if name:
                self._place.pop()

    def _compound(self, value: Any) -> dict[str, Any]:
        if id(value) in self._known:
            node, _ = self._known[id(value)]
            if "id" not in node:
                node["id"] = self._n_ids
                self._n_ids += 1
            return {"is": "same", "as": node["id"]}
        if id(value) in self._open:
            self.refuse("contains itself, which a file cannot hold")
        if len(self._place) > _DEEPEST:
            self.refuse(f"is nested more than {_DEEPEST} levels deep, which a file cannot hold")
        codec = next((codec for codec in self.codecs if codec.accepts(value)), None)
        if codec is None:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            remedy = getattr(type(value), "_instead_of_saving", "")
            self.refuse(f"is a {kind}, which skood.save does not store{remedy}")
        self._open.add(id(value))
        try:
            node = {"is": codec.tag, **codec.encode(value, self)}
        finally:
            self._open.discard(id(value))
        if codec.shared:
            self._known[id(value)] = node, value
        return node

    def array(self, array: npt.NDArray[Any]) -> str:
        """Store an array in native byte order, of a dtype that safetensors has; return its name."""
        return self._store(array_of(np.ascontiguousarray(array).reshape(array.shape)))

    def tensor(self, tensor: Tensor) -> str:
        """Store the values of a dense tensor, in row-major order; return its name."""
        return self._store(tensor_of(tensor))

    def _store(self, array: Array) -> str:
        place = ".".join(self._place) or "value"
        name, number = place, 1
        while name in self.arrays or name == "__metadata__":
            number += 1
            name = f"{place}-{number}"
        self.arrays[name] = array
        return name

    def note(self, text: str) -> None:
        """Add a line to the card, once."""
        if text not in self.notes:
            self.notes.append(text)

    def refuse(self, reason: str) -> NoReturn:
        """Raise an error about the object that is being encoded."""
        raise ValueError(f"{self.place} {reason}")


@dataclass
class Reader:
    """Decodes a tree that may be hostile.

    Attributes
    ----------
    codecs : mapping of str to Codec
        By tag.
    arrays : dict of str to Array
        Those not handed over yet.
    allowed : mapping of str to object
        Classes and functions that the caller trusts, by "module.name".
    device : torch.device or None
        Device for networks; None keeps the `device` parameters of estimators, and puts a user's
        own network on the CPU.
    modules : mapping of str to Module
        Networks for files that hold only their weights.
    """

    codecs: Mapping[str, Codec]
    arrays: dict[str, Array]
    allowed: Mapping[str, Any] = dataclass_field(default_factory=dict)
    device: torch.device | None = None
    modules: Mapping[str, nn.Module] = dataclass_field(default_factory=dict)
    _made: dict[int, tuple[Any, int]] = dataclass_field(default_factory=dict)
    _n_nodes: int = 0
    _n_objects: int = 0

    def value(self, node: Any, *kinds: type) -> Any:
        """Decode a node; raise if the object is of none of the `kinds` that are given."""
        value = self._decoded(node)
        if kinds and not isinstance(value, kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise DamagedFile(f"it has a {type(value).__name__} in the place of {expected}")
        return value

    def _decoded(self, node: Any) -> Any:
        self._n_nodes += 1
        self._count(1)
        if node is None or type(node) in (bool, int, str):
            return node
        if type(node) is float and math.isfinite(node):
            return node
        tag = field(node, "is", str)
        if tag == "same":
            return self._same(field(node, "as", int))
        if tag not in self.codecs:
            raise DamagedFile(f"it has an object of the unknown kind {_shown(tag)}")
        before = self._n_objects
        value = self.codecs[tag].decode(node, self)
        if "id" in node:
            number = field(node, "id", int)
            if number in self._made:
                raise DamagedFile(f"two objects have the number {number}")
            self._made[number] = value, self._n_objects - before
        return value

    def _same(self, number: int) -> Any:
        if number not in self._made:
            raise DamagedFile(f"it refers to object {number} before that object is complete")
        value, size = self._made[number]
        self._count(size)
        return value

    def _count(self, n_objects: int) -> None:
        self._n_objects += n_objects
        if self._n_objects > _OBJECTS_A_NODE * self._n_nodes + _OBJECTS:
            raise DamagedFile(f"its {self._n_nodes:,} values stand for {self._n_objects:,}")

    def array(self, name: str) -> npt.NDArray[Any]:
        """Hand over a stored array, once; it is writable and has its own memory."""
        return self._take(name).numpy()

    def tensor(self, name: str) -> Tensor:
        """Hand over a stored tensor, once; on the CPU and with its own memory."""
        return self._take(name).tensor()

    def _take(self, name: str) -> Array:
        if type(name) is not str or name not in self.arrays:
            raise DamagedFile(f"it lacks the array {_shown(name)}, or uses it twice")
        return self.arrays.pop(name)

    def trusted(self, name: str) -> Any:
        """Return the class or function of a "module.name" that the caller of `load` trusts."""
        if name not in self.allowed:
            raise DamagedFile(f"it needs {_shown(name)} without declaring it")
        return self.allowed[name]


def field(node: Any, name: str, *kinds: type) -> Any:
    """Return a field of a node; raise if it is absent or of none of the JSON `kinds`."""
    if type(node) is not dict:
        raise DamagedFile(f"it has a {type(node).__name__} in the place of an object")
    if name not in node or (kinds and type(node[name]) not in kinds):
        raise DamagedFile(f"the field {name!r} of {_shown(node.get('is'))} is absent or wrong")
    return node[name]


def check_attribute(cls: type, name: str, allowed: Iterable[str] = ()) -> None:
    """Raise if an attribute may not be set on an instance.

    Its name has to be an identifier that is neither special to Python nor an attribute of the class
    (a method, a property or a constant), unless it is among the `allowed`.
    """
    taken = inspect.getattr_static(cls, name, None) is not None
    if not name.isidentifier() or name.startswith("__") or (taken and name not in allowed):
        raise DamagedFile(f"{_shown(name)} is not an attribute of an instance of {cls.__name__}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
