"""What an estimator shows: a short text, and in HTML a link to its documentation page."""

from __future__ import annotations

from typing import Any

from skood._estimator.printing import EstimatorText

__all__ = ["DOCS_URL", "DocumentationLinkMixin"]

# Address of the published documentation, without a trailing slash; None: no links.
DOCS_URL: str | None = None


class DocumentationLinkMixin:
    """Adds scikit-learn's documentation link, and a short text, to the estimators of this package.

    Must precede ``BaseEstimator`` among the bases of a class. Scikit-learn fills the template with
    the public module and name of the class, and omits the link for classes of other packages.
    """

    _doc_link_module = "skood"
    __repr__: Any = EstimatorText()

    @property
    def _doc_link_template(self) -> str:
        if DOCS_URL is None:
            # scikit-learn makes no link of an empty address.
            return ""
        return f"{DOCS_URL}/generated/{{estimator_module}}.{{estimator_name}}.html"
