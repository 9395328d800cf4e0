"""Links from the HTML representation of an estimator to its documentation page."""

from __future__ import annotations

__all__ = ["DOCS_URL", "DocumentationLinkMixin"]

# Address of the published documentation, without a trailing slash; None: no links.
DOCS_URL: str | None = None


class DocumentationLinkMixin:
    """Adds scikit-learn's documentation link to the estimators of this package.

    Must precede ``BaseEstimator`` among the bases of a class. Scikit-learn fills the template with
    the public module and name of the class, and omits the link for classes of other packages.
    """

    _doc_link_module = "skood"

    @property
    def _doc_link_template(self) -> str:
        if DOCS_URL is None:
            # scikit-learn makes no link of an empty address.
            return ""
        return f"{DOCS_URL}/generated/{{estimator_module}}.{{estimator_name}}.html"
