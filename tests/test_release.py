"""What a release states in several files agrees."""

import json
import re
import sys
from pathlib import Path

import pytest

import skood

ROOT = Path(__file__).parent.parent
# The names of conda-forge, where they differ.
CONDA = {"torch": "pytorch"}


@pytest.fixture(scope="module")
def project():
    if sys.version_info < (3, 11):
        pytest.skip("tomllib is part of Python 3.11")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_same_everywhere():
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited.group(1) == skood.__version__
    if "dev" not in skood.__version__:
        assert f'version: "{skood.__version__}"' in (ROOT / "docs/release/recipe.yaml").read_text()
        dated = rf"^## \[{re.escape(skood.__version__)}\] - \d{{4}}-\d\d-\d\d$"
        assert re.search(dated, (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_the_conda_recipe_requires_what_the_wheel_requires(project):
    recipe = (ROOT / "docs/release/recipe.yaml").read_text()
    run = re.search(r"^  run:\n((?:    - .*\n)+)", recipe, re.M).group(1)
    listed = {line.strip().removeprefix("- ") for line in run.splitlines()}
    required = [re.fullmatch(r"(.+?)(>=.+)", line).groups() for line in project["dependencies"]]
    expected = {f"{CONDA.get(name, name)} {bound}" for name, bound in required}
    assert listed == expected | {f"python {project['requires-python']}"}


def test_the_oldest_pins_are_the_lower_bounds(project):
    lines = (ROOT / "tests/constraints-oldest.txt").read_text().splitlines()
    pins = {line.replace("==", ">=") for line in lines if not line.startswith("#")}
    assert pins == set(project["dependencies"])


def test_the_matrix_covers_the_pythons_that_the_classifiers_name(project):
    prefix = "Programming Language :: Python :: 3."
    named = [line for line in project["classifiers"] if line.startswith(prefix)]
    versions = {line.rpartition(" ")[2] for line in named}
    workflow = (ROOT / ".github/workflows/tests.yml").read_text()
    assert versions == set(re.findall(r"3\.\d\d", workflow))
    assert project["requires-python"] == ">=" + min(versions, key=lambda v: int(v[2:]))


def test_zenodo_and_the_citation_name_the_same_work(project):
    record = json.loads((ROOT / ".zenodo.json").read_text())
    citation = (ROOT / "CITATION.cff").read_text()
    assert f'title: "{record["title"]}"' in citation
    assert record["license"] == project["license"]
    assert [author["name"] for author in project["authors"]] == [
        author["name"] for author in record["creators"]
    ]
