"""The examples in the pages of the documentation."""

import doctest
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page.relative_to(DOCS) for page in DOCS.rglob("*.rst") if ">>>" in page.read_text())
WRITTEN = [page for page in PAGES if page.parts[0] in ("getting_started.rst", "user_guide")]


@pytest.mark.parametrize("page", WRITTEN, ids=str)
def test_examples_of_a_page(page):
    failed, tried = doctest.testfile(
        str(DOCS / page),
        module_relative=False,
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert tried > 0
    assert failed == 0
