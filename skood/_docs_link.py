"""Links from the HTML representation of an estimator to its page of the documentation."""

from __future__ import annotations

__all__ = ["DOCS_URL", "DocumentationLinkMixin"]

# Address of the published documentation, without a slash at its end. While it is None, estimators
# have no link.
DOCS_URL: str | None = None


class DocumentationLinkMixin:
    """Gives the estimators of this package a link where scikit-learn's have one.

    Comes before ``BaseEstimator`` among the bases of a class. Scikit-learn fills the template with
    the public module and the name of the class, and leaves out classes of other packages.
    """

    _doc_link_module = "skood"

    @property
    def _doc_link_template(self) -> str:
        if DOCS_URL is None:
            # An empty address is no link.
            return ""
        return f"{DOCS_URL}/generated/{{estimator_module}}.{{estimator_name}}.html"
