"""Links from HTML representations to the documentation."""

import importlib
import re

import pytest
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_html_repr

import skood
from skood._estimator import docs_link

URL = "https://docs.invalid/skood"
ESTIMATORS = [
    value
    for value in (getattr(skood, name) for name in skood.__all__ if not name.startswith("_"))
    if isinstance(value, type) and issubclass(value, BaseEstimator)
]


@pytest.fixture
def published(monkeypatch):
    monkeypatch.setattr(docs_link, "DOCS_URL", URL)


def links(estimator):
    return re.findall(r'href="(https://docs\.invalid[^"#]*)"', estimator_html_repr(estimator))


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
def test_every_estimator_has_a_page(cls, published):
    """The address is that of the page which docs/generate.py asks for."""
    estimator = cls.__new__(cls)
    home = skood._HOMES[cls.__name__]
    assert estimator._get_doc_link() == f"{URL}/generated/{home}.{cls.__name__}.html"
    assert cls.__name__ in importlib.import_module(home).__all__


def test_links_of_what_is_shown(published):
    detector = skood.ConformalDetector(make_pipeline(skood.Mahalanobis()))
    found = links(detector)
    assert f"{URL}/generated/skood.calibration.ConformalDetector.html" in found
    assert f"{URL}/generated/skood.posthoc.Mahalanobis.html" in found
    # Scikit-learn's own keep theirs.
    assert not links(skood.MSP(FrozenEstimator(LogisticRegression())))[1:]
    assert "scikit-learn.org" in estimator_html_repr(skood.MSP(LogisticRegression()))


def test_no_link_before_there_is_a_site(monkeypatch):
    monkeypatch.setattr(docs_link, "DOCS_URL", None)
    shown = estimator_html_repr(skood.ConformalDetector(skood.KNN()))
    assert skood.KNN()._get_doc_link() == ""
    assert "KNN" in shown
    assert "Documentation for" not in shown


def test_no_link_for_classes_of_users(published):
    class Own(skood.KNN):
        pass

    assert Own()._get_doc_link() == ""
