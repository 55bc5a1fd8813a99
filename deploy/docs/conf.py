"""Settings of Sphinx: pages in MyST, examples that run, and reference pages made from the code."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "cdi-stream"
author = "The cdi-stream developers"
project_copyright = "The cdi-stream developers, BSD 3-Clause"
version = release = installed_version("cdi-stream")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "from_code"]
exclude_patterns = ["build"]
myst_enable_extensions = ["deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 4

nb_execution_mode = "force"
nb_execution_timeout = 100
nb_execution_raise_on_error = True
nb_ipywidgets_js = {}  # nothing is loaded from the internet

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
default_role = "literal"
smartquotes = False  # two dashes begin an option

html_theme = "furo"
html_title = f"cdi-stream {version}"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_show_copyright = False
