"""Parameters of estimators: declared once, as fields of the class."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import numbers
import re
from typing import TYPE_CHECKING, Any, TypeVar

from sklearn.base import _fit_context as fit_context

# The private parts of scikit-learn's parameter checking are imported in this module alone.
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from skood._estimator.deprecation import keep_old_parameters

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Any:
        """Tell type checkers, which alone read it, that a decorator makes dataclasses."""
        return lambda decorator: decorator


__all__ = [
    "EXTERNAL",
    "FRACTION",
    "NONNEGATIVE",
    "POSITIVE",
    "Contamination",
    "HasMethods",
    "Interval",
    "IsDetector",
    "IsModel",
    "StrOptions",
    "at_least",
    "check_decorated",
    "estimator",
    "fit_context",
    "parameter",
]

_Class = TypeVar("_Class", bound=type)


def parameter(
    *allowed: Any, default: Any = dataclasses.MISSING, kw_only: bool = False, init: bool = True
) -> Any:
    """Declare a parameter of a class that :func:`estimator` decorates.

    Parameters
    ----------
    *allowed : object
        What `fit` accepts, in any form that scikit-learn's ``_parameter_constraints`` take: a type,
        an ``Interval``, ``StrOptions``, "boolean", "random_state", None, ... Without,
        what the base class accepts, or anything.
    default : object
        Without a default, the parameter is required.
    kw_only : bool, default=False
        Whether the parameter is given by its name alone.
    init : bool, default=True
        False fixes a parameter of the base class at `default`; users cannot set it.

    Returns
    -------
    dataclasses.Field
    """
    return dataclasses.field(
        default=default, kw_only=kw_only, init=init, metadata={"allowed": list(allowed)}
    )


@dataclass_transform(eq_default=False, field_specifiers=(parameter,))
def estimator(class_: _Class) -> _Class:
    """Make ``__init__`` of the fields of a class, check them in `fit`, and complete its docstring.

    Every annotated attribute of the class is a field and has to be a :func:`parameter`. The
    ``__init__`` only stores the parameters. Parameters and attributes that a base class documents
    need not be documented again.

    Parameters
    ----------
    class_ : type
        A subclass of scikit-learn's ``BaseEstimator``. A subclass of `class_` without fields of its
        own does not need the decorator.

    Returns
    -------
    type
        The same class.

    Raises
    ------
    TypeError
        When an annotated attribute is no parameter, or a parameter's name begins with an
        underscore.
    """
    own = [
        name
        for name, kind in inspect.get_annotations(class_).items()
        if "ClassVar" not in str(kind)
    ]
    for name in own:
        if name.startswith("_") or not isinstance(class_.__dict__.get(name), dataclasses.Field):
            raise TypeError(
                f"{class_.__name__}.{name} is annotated but no parameter; give it as "
                f"{name}: ... = parameter(...), or leave the annotation out"
            )
    allowed = {name: class_.__dict__[name].metadata["allowed"] for name in own}
    dataclasses.dataclass(eq=False, repr=False)(class_)
    signature = _in_order(class_)
    initialize: Any = class_.__dict__["__init__"]
    initialize.__signature__ = signature
    constraints: dict[str, Any] = {}
    for base in class_.__mro__[:0:-1]:
        constraints |= base.__dict__.get("_parameter_constraints", {})
    constraints |= {name: values for name, values in allowed.items() if values}
    known = {k: v for k, v in constraints.items() if k in signature.parameters}
    setattr(class_, "_parameter_constraints", known)  # noqa: B010 (mypy knows no such attribute)
    if class_.__dict__["__doc__"] is not None:
        class_.__doc__ = _completed(class_, signature)
    keep_old_parameters(class_)
    return class_


def check_decorated(cls: type) -> None:
    """Raise an error if a class declares parameters, and :func:`estimator` does not decorate it."""
    for base in cls.__mro__:
        for name, value in vars(base).items():
            if isinstance(value, dataclasses.Field):
                raise TypeError(
                    f"{base.__name__} declares {name} = parameter(...), but has no decorator that "
                    "makes it a parameter; write @skood.base.estimator above the class"
                )


def _in_order(cls: Any) -> inspect.Signature:
    """Order the keyword-only parameters: the class's own, then the inherited ones."""
    made = inspect.signature(cls.__init__)
    declared: dict[str, None] = {}
    for base in cls.__mro__:
        for name in inspect.get_annotations(base):
            # A parameter that is declared again stays where it is declared first.
            declared.pop(name, None)
            declared[name] = None
    position = {name: number for number, name in enumerate(declared)}
    parameters = sorted(
        made.parameters.values(),
        key=lambda p: (p.kind, position[p.name] if p.kind == p.KEYWORD_ONLY else 0),
    )
    return made.replace(parameters=parameters)


# A section of a docstring, and an entry of such a section: "name : type" and indented lines.
_SECTION = r"^{}\n-+\n((?:.*\n)*?)(?=\n?[A-Z][A-Za-z ]*\n-+\n|\n*\Z)"
_ENTRY = re.compile(r"^\S.*\n(?:[ ]+.*\n|\n(?=[ ]))*", re.MULTILINE)


@functools.cache
def _entries(docstring: str, title: str) -> dict[str, str]:
    """Return the entry of each name in a section of a docstring."""
    docstring = inspect.cleandoc(docstring) + "\n"
    section = re.search(_SECTION.format(title), docstring, re.MULTILINE)
    entries = _ENTRY.findall(section[1]) if section else []
    return {
        name.strip(): entry
        for entry in entries
        for name in entry.split(" : ", 1)[0].strip().split(",")
    }


def _completed(cls: type, signature: inspect.Signature) -> str:
    """Return the docstring with the entries that only the docstrings of the bases have."""
    docstring = inspect.cleandoc(cls.__doc__ or "") + "\n"
    for title, previous in (("Parameters", None), ("Attributes", "Parameters")):
        known = _entries(docstring, title)
        inherited: dict[str, str] = {}
        for base in cls.__mro__[:0:-1]:
            inherited |= _entries(base.__doc__ or "", title)
        if title == "Parameters":
            names = list(signature.parameters)
            inherited = {
                name: _with_default(entry, signature.parameters[name].default)
                for name, entry in inherited.items()
                if name in names
            }
        else:
            names = [*known, *(name for name in inherited if not name.startswith("_"))]
        entries = inherited | known
        text = "".join(dict.fromkeys(entries[name] for name in names if name in entries))
        docstring = _with_section(docstring, title, text, previous)
    return docstring


def _with_default(entry: str, default: Any) -> str:
    """Return the entry of a parameter with the default that a subclass gives it."""
    stated = re.search(r"default=(.*)", entry)
    if stated is None or ast.literal_eval(stated[1]) == default:
        return entry
    value = f'"{default}"' if isinstance(default, str) else repr(default)
    return f"{entry[: stated.start(1)]}{value}{entry[stated.end(1) :]}"


def _with_section(docstring: str, title: str, text: str, previous: str | None) -> str:
    """Return the docstring with another text in a section, which a new one has after `previous`."""
    if not text:
        return docstring
    section = f"{title}\n{'-' * len(title)}\n{text}"
    known = re.search(_SECTION.format(title), docstring, re.MULTILINE)
    if known:
        return docstring[: known.start()] + section + docstring[known.end() :]
    before = re.search(_SECTION.format(previous), docstring, re.MULTILINE) if previous else None
    first = re.search(r"^[A-Z][A-Za-z ]*\n-+\n", docstring, re.MULTILINE)
    place = before.end() if before else first.start() if first else len(docstring)
    return f"{docstring[:place].rstrip()}\n\n{section}\n{docstring[place:].lstrip()}"


def at_least(fewest: int) -> Interval:
    """Allow integers from `fewest`, as the constraint of a :func:`parameter`.

    Parameters
    ----------
    fewest : int

    Returns
    -------
    Interval
    """
    return Interval(numbers.Integral, fewest, None, closed="left")


# Numbers above 0, from 0 on, and between 0 and 1 exclusive.
POSITIVE = Interval(numbers.Real, 0, None, closed="neither")
NONNEGATIVE = Interval(numbers.Real, 0, None, closed="left")
FRACTION = Interval(numbers.Real, 0, 1, closed="neither")


# What to do with a detector of another library.
EXTERNAL = (
    "wrap a detector with decision_function alone, such as one of PyOD, in "
    "skood.ExternalDetector(detector, higher=...)"
)


class _IsInstance(HasMethods):
    """An object with some methods; a class has the methods, too, but is no such object."""

    def is_satisfied_by(self, val: Any) -> bool:
        return not isinstance(val, type) and super().is_satisfied_by(val)


class IsModel(_IsInstance):
    """A model with ``fit`` and another method; a torch module is converted to one."""

    def __init__(self, method: str) -> None:
        super().__init__(["fit", method])

    def __str__(self) -> str:
        return (
            f"{super().__str__()} (a trained torch module is given as a whole: the detector finds "
            "the logits and the features)"
        )


class IsDetector(_IsInstance):
    """A detector with ``fit`` and ``score_samples``."""

    def __init__(self) -> None:
        super().__init__(["fit", "score_samples"])

    def __str__(self) -> str:
        return f"{super().__str__()} ({EXTERNAL})"


class Contamination(Interval):
    """The fraction of the in-distribution data that a threshold rejects, in (0, 0.5]."""

    def __init__(self) -> None:
        super().__init__(numbers.Real, 0, 0.5, closed="right")

    def __str__(self) -> str:
        return (
            f"{super().__str__()} (if no row of X is an outlier, ConformalDetector(detector, "
            "alpha=0.05) bounds the rate at which new in-distribution rows are rejected)"
        )
