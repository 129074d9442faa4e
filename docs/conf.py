"""Configuration of Sphinx: `python -m sphinx -W -n docs docs/_build/html`."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

import reference

from lml_jax import __version__

reference.write(Path(__file__).parent / "api")

project = "lml_jax"
author = "The lml_jax developers"
copyright = author
version = release = __version__

extensions = ["docstrings", "mathml", "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = True
# Names of other libraries: their documentation is not at hand in a build without network.
# Private modules have no page.
nitpick_ignore_regex = [("py:.*", r"(?!lml_jax).*"), ("py:.*", r"lml_jax(\.\w+)*\._\w+\..*")]
suppress_warnings = ["ref.python"]  # two classes of one name: each is found by its full name
default_role = "code"

autodoc_default_options = {
    "member-order": "bysource",
    "undoc-members": True,
    "special-members": "__call__",
    "no-value": True,
}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
# As text: napoleon would read `A state. Its fields: ...` as a type and its description.
napoleon_custom_sections = ["Source", "Reference", ("Returns", "text"), ("Yields", "text")]

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "lml_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
