"""Docstrings of the public classes: complete, true to the signature, and in the same words."""

import ast
import importlib
import inspect
import re

import pytest
from numpydoc.validate import validate

import skood

PACKAGES = sorted(name for name in skood.__all__ if inspect.ismodule(getattr(skood, name)))
CLASSES = {
    f"{package}.{name}": member
    for package in PACKAGES
    for name in importlib.import_module(f"skood.{package}").__all__
    if inspect.isclass(member := getattr(importlib.import_module(f"skood.{package}"), name))
    and not inspect.isabstract(member)
    # `skood.base` also exports classes of scikit-learn.
    and member.__module__.startswith("skood.")
}
each_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)


def documented(cls):
    """Type and text of each parameter."""
    text = inspect.cleandoc(cls.__doc__) + "\n"
    section = re.search(r"^Parameters\n-+\n((?:.*\n)*?)(?=\n\S|\Z)", text, re.MULTILINE)[1]
    entries = re.findall(r"^(\S.*?) : (.*)\n((?: .*\n|\n(?= ))*)", section, re.MULTILINE)
    return {
        name: (kind, " ".join(words.split()))
        for names, kind, words in entries
        for name in names.split(", ")
    }


@each_class
def test_every_parameter_is_documented_with_its_default(cls):
    found = documented(cls)
    parameters = inspect.signature(cls).parameters
    assert set(found) == set(parameters)
    for name, parameter in parameters.items():
        kind, words = found[name]
        assert words, f"{name} is not described"
        # Sphinx would begin a list.
        assert not re.match(r"\w\.( |$)", words), f"{name}: {words}"
        if parameter.default is parameter.empty:
            assert "default" not in kind
        else:
            stated = kind.rpartition("default=")[2]
            assert ast.literal_eval(stated) == parameter.default, name


@each_class
def test_sections(cls):
    text = inspect.cleandoc(cls.__doc__)
    assert text.split("\n")[0].endswith(".")
    if "skood.density" in cls.__module__ or "Display" not in cls.__name__:
        assert "Examples\n--------\n>>> " in text


# What numpydoc asks for, and we do not.
NOT_ASKED = {
    "ES01",  # a second paragraph: the first often says it all
    "SA01",  # a section See Also
    "EX01",  # examples of methods; those of classes are asked for above
    "PR07",  # words on an array whose shape says what it is
    "RT03",  # the same of a returned one
    "PR08",  # a capital letter, where a text begins with a formula
    "RT04",
    "SS05",  # plurals are taken for verbs in the third person
}


def public_objects():
    """Names of public functions, concrete classes, and their methods that users call."""
    for package in PACKAGES:
        module = importlib.import_module(f"skood.{package}")
        for name in module.__all__:
            member = getattr(module, name)
            if not callable(member):
                continue
            if not inspect.isabstract(member):
                yield f"skood.{package}.{name}"
            if not inspect.isclass(member):
                continue
            for method in sorted({n for n in dir(member) if not n.startswith("_")}):
                value = getattr(member, method)
                of_skood = (getattr(value, "__module__", None) or "").startswith("skood")
                if callable(value) and of_skood and not hasattr(value, "is_internal"):
                    yield f"skood.{package}.{name}.{method}"


@pytest.mark.parametrize("name", list(public_objects()))
def test_numpydoc_finds_nothing_wrong(name):
    found = validate(name)["errors"]
    assert [error for error in found if error[0] not in NOT_ASKED] == []


# What each of them says of it is for the class to say.
OWN_WORDS = {"max_steps", "batch_size", "lr_schedule", "precision", "validation_fraction"}


@pytest.mark.parametrize("package", ["density", "classifiers"])
def test_training_is_described_in_the_same_words(package):
    base = {
        "density": skood.density.NeuralDensity,
        "classifiers": skood.classifiers.NeuralClassifier,
    }
    expected = documented(base[package])
    for cls in CLASSES.values():
        if issubclass(cls, base[package]):
            found = documented(cls)
            for name in set(expected) & set(found) - OWN_WORDS:
                assert found[name][1] == expected[name][1], (cls.__name__, name)


@pytest.mark.parametrize("name", ["verbose", "contamination"])
def test_what_detectors_share_is_described_in_the_same_words(name):
    words = {}
    for label, cls in CLASSES.items():
        if name in inspect.signature(cls).parameters:
            words.setdefault(documented(cls)[name][1], []).append(label)
    most = max(words.values(), key=len)
    # Detectors whose threshold is not read from all training data say from what it is.
    few = [label for labels in words.values() if labels is not most for label in labels]
    if name == "verbose":
        assert few == []
    else:
        assert len(few) < len(most) / 3, few
