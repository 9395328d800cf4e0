"""Parameters as fields: the constructor, the checks and the docstring that a class gets of them."""

import dataclasses
import importlib
import inspect
import numbers
import pkgutil
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.preprocessing import StandardScaler

import skood
from skood.base import Interval, StrOptions, estimator, parameter


@estimator
class Base(BaseEstimator):
    """Base.

    Parameters
    ----------
    model : object, default=None
        The model.
    rate : float, default=0.1
        Learning rate.

        In a second paragraph.
    seed : int, default=0
        Seed.

    Attributes
    ----------
    _hidden : int
        For subclasses.
    offset_ : float
        Threshold.
    """

    model: object = parameter(default=None)
    rate: float = parameter(Interval(numbers.Real, 0, 1, closed="both"), default=0.1, kw_only=True)
    seed: int = parameter(int, default=0, kw_only=True)

    _hidden: ClassVar[int] = 3

    def fit(self, X, y=None):
        self._validate_params()
        return self


@estimator
class Method(Base):
    """Method.

    Parameters
    ----------
    kind : {"a", "b"}, default="a"
        Kind.

    Notes
    -----
    The end.
    """

    kind: str = parameter(StrOptions({"a", "b"}), default="a")
    n: int = parameter(int, default=2, kw_only=True)
    rate: float = parameter(default=0.5, kw_only=True)


class Same(Method):
    """A subclass without parameters of its own needs no decorator."""


def test_order_of_parameters():
    """Own parameters, positional ones first; those of the base are given by name and stand last."""
    assert list(inspect.signature(Method).parameters) == ["model", "kind", "n", "rate", "seed"]
    method = Method(None, "b", seed=4)
    assert method.get_params() == {"model": None, "kind": "b", "n": 2, "rate": 0.5, "seed": 4}
    with pytest.raises(TypeError):
        Method(None, "b", 3)
    assert clone(Same(kind="b")).kind == "b"
    assert repr(Same(kind="b")) == "Same(kind='b')"


def test_constraints_are_inherited():
    Method().fit(None)
    for wrong in {"kind": "c"}, {"rate": 2.0}, {"seed": 0.5}:
        with pytest.raises(ValueError, match=f"The '{next(iter(wrong))}' parameter of Method"):
            Method(**wrong).fit(None)


def test_docstring_is_completed():
    expected = """Method.

        Parameters
        ----------
        model : object, default=None
            The model.
        kind : {"a", "b"}, default="a"
            Kind.
        rate : float, default=0.5
            Learning rate.

            In a second paragraph.
        seed : int, default=0
            Seed.

        Attributes
        ----------
        offset_ : float
            Threshold.

        Notes
        -----
        The end.
        """
    assert inspect.getdoc(Method) == inspect.cleandoc(expected)


def test_a_fixed_parameter_is_none():
    @estimator
    class Fixed(Base):
        """Its rate is fixed."""

        rate: float = parameter(default=0.2, init=False)

    assert Fixed().rate == 0.2
    assert "rate" not in Fixed().get_params()
    assert "rate" not in Fixed._parameter_constraints
    assert "Learning rate" not in Fixed.__doc__


def test_a_constructor_written_by_hand():
    """A class of the old style on a base of the new one."""

    class Old(Base):
        _parameter_constraints: dict = {**Base._parameter_constraints, "size": [int]}

        def __init__(self, size=1, *, rate=0.3):
            super().__init__(rate=rate)
            self.size = size

    assert Old(2).get_params() == {"size": 2, "rate": 0.3}
    with pytest.raises(ValueError, match="The 'size' parameter of Old"):
        Old("wide").fit(None)


@pytest.mark.parametrize("name", ["_private", "constant"])
def test_what_is_annotated_is_a_parameter(name):
    field = parameter(default=1) if name == "_private" else 1
    wrong = type("Wrong", (Base,), {name: field, "__annotations__": {name: int}})
    with pytest.raises(TypeError, match=f"Wrong.{name} is annotated but no parameter"):
        estimator(wrong)


@pytest.mark.parametrize("name", [name for name in skood.__all__ if name[0].isupper()])
def test_every_parameter_is_checked(name):
    """A default without a constraint, that no base has either, would be checked by nothing."""
    cls = getattr(skood, name)
    if issubclass(cls, BaseEstimator):
        assert set(cls._parameter_constraints) == set(inspect.signature(cls).parameters)


def test_a_detector_of_others_that_lacks_the_decorator():
    class Bare(skood.KNN):
        power: float = parameter(default=2.0)

    with pytest.raises(TypeError, match=r"Bare declares power.*write @skood\.base\.estimator"):
        Bare().fit([[0.0], [1.0]])


@pytest.mark.parametrize("detector", [skood.KNN, skood.MSP])
def test_a_method_in_place_of_its_network(detector):
    """As other libraries take it."""
    with pytest.raises(ValueError, match=r"torch module is given as a whole.*bound method"):
        detector(torch.nn.Linear(1, 2).forward).fit([[0.0], [1.0]], [0, 1])


def test_a_class_in_place_of_an_object():
    for wrong in (skood.ConformalDetector(skood.KNN), skood.KNN(StandardScaler)):
        with pytest.raises(ValueError, match=r"must be an object implementing .* Got <class"):
            wrong.fit(np.ones((50, 2)))


def classes():
    """Yield every class of the package."""
    for module in pkgutil.walk_packages(skood.__path__, "skood."):
        for value in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(value) and value.__module__ == module.name:
                yield value


def test_no_class_lacks_the_decorator():
    """Without the decorator, fields would stay what they are, and the constructor ignore them."""
    for cls in classes():
        fields = [name for name, v in vars(cls).items() if isinstance(v, dataclasses.Field)]
        assert fields == [], cls
