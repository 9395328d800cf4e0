"""The report of versions and hardware."""

import re
from pathlib import Path

import pytest

import skood
from skood import _show_versions

PYPROJECT = Path(skood.__file__).parent.parent / "pyproject.toml"


def report(capsys):
    skood.show_versions()
    lines = capsys.readouterr().out.splitlines()
    return dict(re.split(r"\s+", line, maxsplit=1) for line in lines)


def test_versions_and_hardware_are_reported(capsys):
    from importlib.metadata import version

    entries = report(capsys)
    assert entries["skood"] == skood.__version__
    for name in ("torch", "scikit-learn", "numpy", "safetensors"):
        assert entries[name] == version(name)
    assert re.match(
        r"\d+ cores, \d+ threads of torch, .*, bfloat16 (native|emulated)", entries["cpu"]
    )
    assert "torch is built for" in entries["gpu"]


def test_a_missing_package_is_reported_as_such(capsys, monkeypatch):
    monkeypatch.setattr(_show_versions, "_OPTIONAL", ("a-package-that-nobody-wrote",))
    assert report(capsys)["a-package-that-nobody-wrote"] == "not installed"


@pytest.mark.skipif(not PYPROJECT.exists(), reason="the package is installed without its sources")
def test_the_report_covers_every_dependency():
    text = PYPROJECT.read_text()
    names = {
        extra: set(
            re.findall(r'"([\w-]+)[>=~]', re.search(rf"^{extra} = \[(.*?)\]", text, re.M | re.S)[1])
        )
        for extra in ("dependencies", "plot", "onnx", "embeddings", "index")
    }
    assert set(_show_versions._REQUIRED) == names.pop("dependencies")
    assert set().union(*names.values()) <= set(_show_versions._OPTIONAL)
