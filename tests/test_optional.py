"""The error where an optional package is missing."""

import sys
import types

import pytest

from skood._optional import import_optional


def test_an_installed_package_is_imported():
    assert import_optional("json.decoder", "This test", "json") is sys.modules["json.decoder"]


def test_a_missing_package_is_named_with_its_user_and_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "absent", None)
    message = r"^PixelMapsDisplay needs absent: pip install the-package\. Rows work without it$"
    with pytest.raises(ImportError, match=message):
        import_optional("absent.part", "PixelMapsDisplay", "the-package", "Rows work without it")


def test_a_missing_dependency_of_the_package_is_named_itself(monkeypatch, tmp_path):
    (tmp_path / "needy.py").write_text("import absent_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="absent_dependency") as caught:
        import_optional("needy", "This test", "needy")
    assert "pip install" not in str(caught.value)


def test_a_display_without_matplotlib_names_the_command(monkeypatch):
    from skood.inspection import ScoreDistributionDisplay

    display = ScoreDistributionDisplay({"id": [0.0, 1.0]}, threshold=0.5)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="A display needs matplotlib: pip install matplotlib"):
        display.plot()


def test_to_frame_without_pandas(monkeypatch):
    from skood.evaluation import Table

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_frame needs pandas.*pip install pandas"):
        Table([{"detector": "KNN"}]).to_frame()
    fake = types.SimpleNamespace(DataFrame=lambda rows: ("frame", rows))
    monkeypatch.setitem(sys.modules, "pandas", fake)
    assert Table([{"detector": "KNN"}]).to_frame() == ("frame", [{"detector": "KNN"}])
