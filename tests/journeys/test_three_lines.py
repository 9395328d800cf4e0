"""A journey is what a stranger has, then at most three statements of skood, then the first result.

Three comments divide each journey. This test counts the statements after the second comment.
"""

import ast
from pathlib import Path

import pytest

HAS, SKOOD, TRUE = "# The stranger has:", "# With skood:", "# It is true that:"
MOST_STATEMENTS = 3


def journeys():
    """Yield each test function of the other files of this folder, with its module."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path == Path(__file__):
            continue
        source = path.read_text()
        module = ast.parse(source)
        for node in module.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield pytest.param(source.splitlines(), module, node, id=node.name)


JOURNEYS = list(journeys())


def names_of_skood(module):
    """Return the names that a module imports from skood."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            home = getattr(node, "module", None)
            for alias in node.names:
                if (home or alias.name).split(".")[0] == "skood":
                    found.add(alias.asname or alias.name)
    return found


def uses(node, names):
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)} & names


def test_there_are_ten():
    assert len(JOURNEYS) >= 10


@pytest.mark.parametrize(("lines", "module", "function"), JOURNEYS)
def test_at_most_three_statements_before_the_first_result(lines, module, function):
    places = [
        [n for n in range(function.lineno, function.end_lineno + 1) if mark in lines[n - 1]]
        for mark in (HAS, SKOOD, TRUE)
    ]
    assert [len(place) for place in places] == [1, 1, 1], "a comment is missing"
    (has,), (skood,), (true,) = places
    assert has < skood < true
    statements = [node for node in ast.walk(function) if isinstance(node, ast.stmt)]
    counted = [node for node in statements if skood < node.lineno < true]
    assert 1 <= len(counted) <= MOST_STATEMENTS
    names = names_of_skood(module)
    assert any(uses(node, names) for node in counted)
    # Nothing of skood is prepared elsewhere: before the comment, or in a function that helps.
    before = [node for node in statements if has < node.lineno < skood]
    helpers = [
        node
        for node in module.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("test_")
    ]
    for node in before + helpers:
        assert not uses(node, names), f"line {node.lineno} uses skood"
