"""Configuration of the documentation: ``python -m sphinx -W docs docs/_build/html``.

``generate.py`` writes the API reference, the table of methods, the change log and the decision
chart before each build. ``gallery.py`` has the order of the examples.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import gallery
import generate
import inventories

import skood
from skood._estimator.docs_link import DOCS_URL

project = "skood"
author = "the skood developers"
copyright = "2026, the skood developers"
version = release = skood.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    # A bundled MathJax, so that formulas need no network.
    "sphinx-mathjax-offline",
    "matplotlib.sphinxext.plot_directive",
    "numpydoc",
    # Markdown: the change log, the benchmarks, the contract.
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "pictures", "release"]
myst_heading_anchors = 3
default_role = "code"
templates_path = ["_templates"]

autosummary_generate = True
autodoc_typehints = "none"
# Every reference must resolve. References to other packages need no network.
nitpicky = True
intersphinx_mapping = inventories.write(HERE / "generated" / "inventories")
numpydoc_show_class_members = False
# The pictures of pages, from the code that they show.
plot_basedir = str(HERE)
plot_html_show_formats = False
plot_html_show_source_link = False
plot_formats = [("png", 150)]
numpydoc_xref_param_type = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "subsection_order": [f"../examples/{section}" for section in gallery.SECTIONS],
    "within_subsection_order": "gallery.rank",
    "reset_modules": ("matplotlib", "seaborn", "gallery.use_palette"),
    "filename_pattern": r"plot_",
    "abort_on_example_error": True,
    "show_memory": False,
    "write_computation_times": False,
    "download_all_examples": False,
    "remove_config_comments": True,
    # A display shows itself as a picture.
    "ignore_repr_types": r"skood\.inspection",
    "doc_module": ("skood",),
    "backreferences_dir": "generated/backreferences",
    "reference_url": {"skood": None},
}

html_extra_path = ["llms.txt"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["tables.js"]
html_theme = "pydata_sphinx_theme"
html_baseurl = DOCS_URL or ""
html_title = f"skood {version}"
html_show_sourcelink = False
# These pages have no siblings to navigate to.
html_sidebars = {
    name: []
    for name in (
        *("getting_started", "generated/methods", "promises", "glossary"),
        *("generated/whats_new", "generated/benchmarks", "generated/contributing", "design"),
    )
}
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": {"**": ["page-toc"], "generated/methods": []},
}


def skip_members(app, what, name, member, skip, options):
    """Omit scikit-learn's methods, and internal methods."""
    if what == "class" and callable(member):
        module = getattr(member, "__module__", None) or ""
        if not module.startswith("skood") or getattr(member, "is_internal", False):
            return True
    return skip


def setup(app):
    app.connect("autodoc-skip-member", skip_members)
    generate.write(HERE)
