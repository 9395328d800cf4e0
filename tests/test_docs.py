"""The examples in the pages of the documentation."""

import doctest
import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest

# Compares numbers at the precision that a page gives them, where it says so: +NUMBER.
from _pytest.doctest import _get_checker

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page.relative_to(DOCS) for page in DOCS.rglob("*.rst") if ">>>" in page.read_text())
WRITTEN = [page for page in PAGES if page.parts[0] in ("getting_started.rst", "user_guide")]


@pytest.mark.parametrize("page", WRITTEN, ids=str)
def test_examples_of_a_page(page, monkeypatch):
    # In a module, so that the classes of a page can be pickled.
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    text = (DOCS / page).read_text()
    checker = _get_checker()  # registers NUMBER
    test = doctest.DocTestParser().get_doctest(text, {}, str(page), str(page), 0)
    test.globs = module.__dict__
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(checker, optionflags=flags)
    runner.run(test, clear_globs=False)
    assert runner.tries > 0
    assert runner.failures == 0


def test_every_example_has_a_place_in_the_gallery_and_was_executed():
    specification = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
    gallery = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(gallery)
    scripts = gallery.EXAMPLES.rglob("*.py")
    found = sorted(script.relative_to(gallery.EXAMPLES).as_posix() for script in scripts)
    assert found == sorted(gallery.SCRIPTS), "docs/gallery.py orders the examples"
    stored = json.loads(gallery.TIMES.read_text())["processor_seconds"]
    assert sorted(stored) == found, "docs/run_gallery.py executes the examples"
