"""The examples in the pages of the documentation."""

import doctest
import sys
import types
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page.relative_to(DOCS) for page in DOCS.rglob("*.rst") if ">>>" in page.read_text())
WRITTEN = [page for page in PAGES if page.parts[0] in ("getting_started.rst", "user_guide")]


@pytest.mark.parametrize("page", WRITTEN, ids=str)
def test_examples_of_a_page(page, monkeypatch):
    # In a module, so that the classes of a page can be pickled.
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    text = (DOCS / page).read_text()
    test = doctest.DocTestParser().get_doctest(text, {}, str(page), str(page), 0)
    test.globs = module.__dict__
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, clear_globs=False)
    assert runner.tries > 0
    assert runner.failures == 0
